//! The etcd of a site: one member, or three that can be cut off from each other.

use std::time::Duration;

use etcd::Client;

use super::site::Net;
use crate::docker::{docker, try_docker};
use crate::etcd::client_of;
use crate::wait::until;

/// Elections within a second, and no waiting for the disk: a killed process loses nothing that it has written.
const QUICK: &[&str] = &[
    "--heartbeat-interval=100",
    "--election-timeout=500",
    "--unsafe-no-fsync",
    "--logger=zap",
    "--log-level=error",
];
const DATA: &str = "/var/lib/colossus/etcd";

/// The members.
#[derive(Debug)]
pub struct Ring {
    net: Net,
    size: usize,
}

impl Ring {
    pub(super) fn start(net: &Net, size: usize) -> Self {
        let ring = Self {
            net: net.clone(),
            size,
        };
        std::thread::scope(|scope| {
            for index in 0..size {
                scope.spawn({
                    let ring = &ring;
                    move || {
                        ring.net.machine(&ring.machine(index), &ring.address(index), &[]);
                        ring.launch(index);
                    }
                });
            }
        });
        ring
    }

    fn launch(&self, index: usize) {
        let (client, peer) = (self.url(index), format!("http://{}:2380", self.address(index)));
        let members: Vec<_> = (0..self.size)
            .map(|member| format!("m{member}=http://{}:2380", self.address(member)))
            .collect();
        let arguments = [
            format!("--name=m{index}"),
            format!("--data-dir={DATA}"),
            "--listen-client-urls=http://0.0.0.0:2379".to_owned(),
            format!("--advertise-client-urls={client}"),
            format!("--listen-peer-urls={peer}"),
            format!("--initial-advertise-peer-urls={peer}"),
            format!("--initial-cluster={}", members.join(",")),
        ];
        let arguments: Vec<&str> = arguments
            .iter()
            .map(String::as_str)
            .chain(QUICK.iter().copied())
            .collect();
        let network = format!("--network=container:{}", self.machine(index));
        let volume = format!("--volume={DATA}");
        self.net.run(
            &self.member(index),
            &["--entrypoint=etcd", &network, &volume],
            "colossus/etcd",
            &arguments,
        );
    }

    fn machine(&self, index: usize) -> String {
        self.net.container(&format!("etcd{index}-machine"))
    }

    fn member(&self, index: usize) -> String {
        self.net.container(&format!("etcd{index}"))
    }

    /// The names of the members' containers.
    pub(super) fn members(&self) -> Vec<String> {
        (0..self.size).map(|index| self.member(index)).collect()
    }

    /// The address of a member.
    pub fn address(&self, index: usize) -> String {
        // 1 is this machine; hosts begin at 11.
        self.net.address(2 + index)
    }

    fn url(&self, index: usize) -> String {
        format!("http://{}:2379", self.address(index))
    }

    /// All URLs, as in `ETCD_ENDPOINTS`.
    pub fn endpoints(&self) -> String {
        let urls: Vec<_> = (0..self.size).map(|index| self.url(index)).collect();
        urls.join(",")
    }

    /// A client of all members.
    pub fn client(&self) -> Client {
        let urls: Vec<_> = (0..self.size).map(|index| self.url(index)).collect();
        client_of(&urls, |_| {})
    }

    /// `docker <verb> MEMBER` for all members: `kill`, `start`, `pause`, `unpause`.
    pub fn command(&self, verb: &[&str]) {
        let members = self.members();
        let members: Vec<&str> = members.iter().map(String::as_str).collect();
        docker(&[verb, &members].concat());
    }

    /// Replaces all members by ones at the same addresses that know nothing.
    ///
    /// # Panics
    /// When they do not answer within 30 s.
    pub async fn wipe(&self) {
        self.command(&["rm", "-f", "-v"]);
        for index in 0..self.size {
            self.launch(index);
        }
        self.until_answering().await;
    }

    /// Puts something at the address of the only member that speaks HTTP, and nothing that etcd's clients know.
    pub fn answer_nonsense(&self) {
        self.command(&["stop", "-t", "5"]);
        let network = format!("--network=container:{}", self.machine(0));
        self.net.run(
            &self.net.container("nonsense"),
            &[&network, "--env=PORT=2379", "--user=0"],
            "colossus/example-web",
            &[],
        );
    }

    /// Undoes [`Ring::answer_nonsense`].
    pub fn answer_sense(&self) {
        docker(&["rm", "-f", "-v", &self.net.container("nonsense")]);
        self.command(&["start"]);
    }

    /// Cuts a member off from the others; hosts still reach it.
    pub fn cut_from_peers(&self, index: usize) {
        let others = (0..self.size).filter(|other| *other != index);
        let others: Vec<_> = others.map(|other| self.address(other)).collect();
        self.net.cut(&self.machine(index), &others);
    }

    /// Undoes [`Ring::cut_from_peers`].
    pub fn mend(&self, index: usize) {
        self.net.mend(&self.machine(index));
    }

    /// Waits until a call succeeds.
    ///
    /// # Panics
    /// When none does within 30 s.
    pub async fn until_answering(&self) {
        let client = self.client();
        until("etcd answers", Duration::from_secs(30), || async {
            client
                .get("/nothing")
                .await
                .map(drop)
                .map_err(|error| error.to_string())
        })
        .await;
    }

    /// All keys with their values, as text.
    pub(super) fn dump(&self) -> String {
        let show = |member: &str| {
            try_docker(&[
                "exec",
                "-e",
                "ETCDCTL_API=3",
                member,
                "etcdctl",
                "--endpoints=http://127.0.0.1:2379",
                "--command-timeout=2s",
                "get",
                "--prefix",
                "/",
            ])
        };
        let dumps = self.members().into_iter().map(|member| match show(&member) {
            Ok(keys) => format!("--- etcd {member}:\n{keys}"),
            Err(error) => format!("--- etcd {member} does not answer: {error}"),
        });
        dumps.collect::<Vec<_>>().join("\n")
    }
}
