//! The floor: the same Consul, configured as consul-bootstrapper does it, but by somebody who knows all addresses from the
//! start.
//!
//! For forming it is no hard bound: a server that finds nobody yet tries again after a second, and how long it waits before
//! it calls an election is drawn at random. So a ratio about 1 says that consul-bootstrapper costs less than these.

use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use consul::RaftPeer;
use integration_tests::docker::{LABEL, try_docker, unique};
use integration_tests::wait::until;

use crate::Result;
use crate::clock::Moment;
use crate::servers::{Server, only_start};

const IMAGE: &str = "colossus/consul";
const DATA: &str = "/var/lib/colossus/consul";
/// How many servers form the cluster.
const FIRST: usize = 3;
/// What consul-bootstrapper sets, too.
const SETTINGS: &str = "disable_update_check = true performance { raft_multiplier = 1 } \
                        autopilot { cleanup_dead_servers = false }";
/// How long Consul may take to elect another leader and to obey.
const OBEYS: Duration = Duration::from_secs(30);

/// A network with Consul servers, removed as a whole when dropped.
#[derive(Debug)]
pub(crate) struct ByHand {
    name: String,
    /// The first three parts of its addresses.
    prefix: String,
    gossip_key: String,
    /// The servers that live, the oldest first.
    servers: Vec<Server>,
    /// How many there have been.
    count: usize,
}

impl ByHand {
    /// A network, and no server yet.
    pub(crate) fn new() -> Result<Self> {
        let name = unique("colossus-by-hand");
        let label = format!("{LABEL}={}", std::process::id());
        let random = [fastrand::u128(..), fastrand::u128(..)].map(u128::to_be_bytes);
        for _ in 0..50 {
            let prefix = format!("10.{}.{}", fastrand::u8(130..230), fastrand::u8(..));
            let subnet = format!("{prefix}.0/24");
            match try_docker(&["network", "create", "--label", &label, "--subnet", &subnet, &name]) {
                Ok(_) => {
                    return Ok(Self {
                        name,
                        prefix,
                        gossip_key: STANDARD.encode(random.concat()),
                        servers: Vec::new(),
                        count: 0,
                    });
                }
                Err(error) if error.contains("overlap") => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err("no subnet is free".into())
    }

    /// Those that live, the oldest first.
    pub(crate) fn servers(&self) -> &[Server] {
        &self.servers
    }

    /// Starts the first three at once, each told of the others and to expect three.
    ///
    /// Gives the moment before Docker was asked for the last, and the one at which its process began.
    pub(crate) fn form(&mut self) -> Result<(Moment, Moment)> {
        for _ in 0..FIRST {
            self.add_machine()?;
        }
        let (this, expect) = (&*self, &format!("-bootstrap-expect={FIRST}"));
        let starts: Vec<Result<_>> = std::thread::scope(|scope| {
            let running: Vec<_> = (1..=FIRST)
                .map(|number| scope.spawn(move || this.launch(number, Some(expect))))
                .collect();
            let ended = running.into_iter().map(std::thread::ScopedJoinHandle::join);
            ended
                .map(|start| start.unwrap_or_else(|_| Err("a start panicked".into())))
                .collect()
        });
        let starts = starts.into_iter().collect::<Result<Vec<_>>>()?;
        let called = starts.iter().map(|(called, _)| *called).max();
        let began = starts.iter().map(|(_, began)| *began).max();
        called.zip(began).ok_or_else(|| "nothing was started".into())
    }

    /// Ends the oldest as a power cut does.
    pub(crate) fn lose_oldest(&mut self) -> Result<Server> {
        let number = self.count - self.servers.len() + 1;
        let (agent, machine) = (self.agent(number), self.machine(number));
        try_docker(&["rm", "-f", "-v", &agent, &machine])?;
        Ok(self.servers.remove(0))
    }

    /// Takes a dead server out of raft, as `consul operator raft remove-peer` does.
    pub(crate) async fn remove_peer(&self, dead: &Server) {
        let peer = format!("{}:8300", dead.address);
        until(&format!("{peer} is taken out"), OBEYS, || async {
            let asked = self.servers.first().ok_or("no server lives")?;
            let done = asked.consul.raft_remove_peer(RaftPeer::Address(&peer)).await;
            done.map(drop).map_err(|error| error.to_string())
        })
        .await;
    }

    /// Starts another one, told of those that live. Gives the moment at which its process began.
    pub(crate) fn add(&mut self) -> Result<Moment> {
        self.add_machine()?;
        let (_, began) = self.launch(self.count, None)?;
        Ok(began)
    }

    /// As in the test kit a container that only sleeps holds the network, so that Docker has the same to do on both sides
    /// when Consul is started.
    fn add_machine(&mut self) -> Result<()> {
        let number = self.count + 1;
        let address = format!("{}.{}", self.prefix, 10 + number);
        let options = ["--network", &self.name, "--ip", &address, "--entrypoint=sleep"];
        self.run(&self.machine(number), &options, &["infinity"])?;
        self.servers.push(Server::open(address)?);
        self.count = number;
        Ok(())
    }

    fn launch(&self, number: usize, expect: Option<&str>) -> Result<(Moment, Moment)> {
        let network = format!("--network=container:{}", self.machine(number));
        let own = format!("{}.{}", self.prefix, 10 + number);
        let mut arguments = vec![
            "agent".to_owned(),
            "-server".to_owned(),
            format!("-node=n{number}"),
            format!("-data-dir={DATA}"),
            format!("-bind={own}"),
            "-client=0.0.0.0".to_owned(),
            format!("-encrypt={}", self.gossip_key),
            "-serf-wan-port=-1".to_owned(),
            "-grpc-port=-1".to_owned(),
            "-retry-interval=1s".to_owned(),
            format!("-hcl={SETTINGS}"),
        ];
        let others = self.servers.iter().filter(|server| server.address != own);
        arguments.extend(others.map(|other| format!("-retry-join={}", other.address)));
        arguments.extend(expect.map(str::to_owned));
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let called = Moment::now();
        let agent = self.agent(number);
        self.run(&agent, &["--entrypoint=consul", &network, "-v", DATA], &arguments)?;
        let starts = try_docker(&["inspect", "-f", "{{.State.StartedAt}} {{.RestartCount}}", &agent])?;
        Ok((called, only_start(&starts)?))
    }

    fn run(&self, name: &str, options: &[&str], command: &[&str]) -> Result<()> {
        let (test, own) = (format!("{LABEL}={}", std::process::id()), self.label());
        let labels = ["--name", name, "--label", &test, "--label", &own];
        try_docker(&[&["run", "-d"], labels.as_slice(), options, &[IMAGE], command].concat())?;
        Ok(())
    }

    fn label(&self) -> String {
        format!("colossus.by-hand={}", self.name)
    }

    fn machine(&self, number: usize) -> String {
        format!("{}-n{number}-machine", self.name)
    }

    fn agent(&self, number: usize) -> String {
        format!("{}-n{number}-consul", self.name)
    }
}

impl Drop for ByHand {
    fn drop(&mut self) {
        // By the label: so it finds also what was being made when something failed.
        let filter = format!("label={}", self.label());
        let ids = try_docker(&["ps", "-aq", "--filter", &filter]).unwrap_or_default();
        let ids: Vec<&str> = ids.split_whitespace().collect();
        let mut removed = Ok(String::new());
        if !ids.is_empty() {
            removed = try_docker(&[&["rm", "-f", "-v"], ids.as_slice()].concat());
        }
        if let Err(error) = removed.and_then(|_| try_docker(&["network", "rm", &self.name])) {
            crate::progress(&format!("cannot remove {}: {error}", self.name));
        }
    }
}
