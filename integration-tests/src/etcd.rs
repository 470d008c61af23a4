//! etcd: alone on the loopback address, as a cluster of three members on networks of their own, and a [`Proxy`] that
//! loses answers or falls silent.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use etcd::{Client, Config, Endpoint};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::docker::{Container, LABEL, docker, try_docker, unique};
use crate::platform::free_ports;
use crate::wait::until;

const IMAGE: &str = "colossus/etcd";
const DATA: &str = "/var/lib/colossus/etcd";

/// Elections within a second, and no waiting for the disk: a killed process loses nothing that it has written.
const QUICK: &[&str] = &[
    "--heartbeat-interval=100",
    "--election-timeout=500",
    "--unsafe-no-fsync",
    "--logger=zap",
    "--log-level=error",
];

/// A client of these URLs.
///
/// # Panics
/// When they are none.
pub fn client_of<U: AsRef<str>>(urls: &[U], change: impl FnOnce(&mut Config)) -> Client {
    let urls: Vec<&str> = urls.iter().map(AsRef::as_ref).collect();
    let mut config = Config::new(Endpoint::parse_list(&urls.join(",")).expect("endpoints"));
    change(&mut config);
    Client::new(config).expect("a client")
}

/// A client of these URLs that begins with the first of them.
///
/// # Panics
/// When chance will not have it so.
pub fn client_beginning_with_first<U: AsRef<str>>(urls: &[U], change: impl Fn(&mut Config)) -> Client {
    (0..10_000)
        .map(|_| client_of(urls, &change))
        .find(|client| client.current_endpoint() == urls[0].as_ref())
        .expect("each endpoint is begun with now and then")
}

/// One etcd on the loopback address; removed when dropped.
#[derive(Debug)]
pub struct Etcd {
    container: Container,
    options: Vec<String>,
    arguments: Vec<String>,
    port: u16,
}

impl Etcd {
    /// Starts one and waits until it answers.
    ///
    /// # Panics
    /// When it does not.
    pub async fn start() -> Self {
        Self::start_with(&[]).await
    }

    /// Starts one with more arguments and waits until it answers.
    ///
    /// # Panics
    /// When it does not.
    pub async fn start_with(arguments: &[&str]) -> Self {
        let etcd = Self::launch(&[], "http", arguments);
        until_answering(&etcd.client()).await;
        etcd
    }

    /// Starts one that speaks TLS with the certificates in `directory`, which is mounted at the path it has here.
    pub fn start_tls(directory: &Path, arguments: &[&str]) -> Self {
        let path = directory.display();
        Self::launch(&[format!("--volume={path}:{path}:ro")], "https", arguments)
    }

    fn launch(options: &[String], scheme: &str, arguments: &[&str]) -> Self {
        let [port, peer_port] = free_ports();
        let (client, peer) = (
            format!("{scheme}://127.0.0.1:{port}"),
            format!("http://127.0.0.1:{peer_port}"),
        );
        let mut all = vec![
            "--name=only".to_owned(),
            format!("--data-dir={DATA}"),
            format!("--listen-client-urls={client}"),
            format!("--advertise-client-urls={client}"),
            format!("--listen-peer-urls={peer}"),
            format!("--initial-advertise-peer-urls={peer}"),
            format!("--initial-cluster=only={peer}"),
        ];
        all.extend(QUICK.iter().chain(arguments).map(ToString::to_string));
        let mut options = options.to_vec();
        options.push("--network=host".to_owned());
        Self {
            container: run(&options, &all),
            options,
            arguments: all,
            port,
        }
    }

    /// Its URL, without TLS.
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.port).into()
    }

    /// A new client of it, patient enough for a busy machine: nothing is repeated, and so made twice, for want of time.
    pub fn client(&self) -> Client {
        client_of(&[self.url()], |config| config.timeout = Duration::from_secs(15))
    }

    /// Its container: to stop, freeze, kill, start.
    pub fn container(&self) -> &Container {
        &self.container
    }

    /// Runs `etcdctl` beside it and gives what it printed.
    ///
    /// # Panics
    /// When it fails.
    pub fn ctl(&self, arguments: &[&str]) -> String {
        ctl(&self.container, &self.url(), arguments)
    }

    /// Runs a shell's script beside it, in which `etcdctl` speaks to it, and gives what it printed.
    ///
    /// # Panics
    /// When it fails.
    pub fn sh(&self, script: &str) -> String {
        let endpoints = format!("ETCDCTL_ENDPOINTS={}", self.url());
        let container = self.container.id();
        docker(&[
            "exec",
            "-e",
            "ETCDCTL_API=3",
            "-e",
            &endpoints,
            container,
            "sh",
            "-c",
            script,
        ])
    }

    /// Ends it and starts one at the same address, with the same arguments and more, that knows nothing.
    ///
    /// # Panics
    /// When it does not start.
    pub async fn wipe(&mut self, more: &[&str]) {
        self.container.command(&["rm", "-f", "-v"]);
        let mut arguments = self.arguments.clone();
        arguments.extend(more.iter().map(ToString::to_string));
        self.container = run(&self.options, &arguments);
        until_answering(&self.client()).await;
    }
}

/// Waits until a call succeeds.
///
/// # Panics
/// When none does within 30 s.
pub async fn until_answering(client: &Client) {
    until("etcd answers", Duration::from_secs(30), || async {
        match client.get("/nothing").await {
            Ok(_) => Ok(()),
            Err(error) => Err(format!("{error}: {:?}", error.call())),
        }
    })
    .await;
}

fn run(options: &[String], arguments: &[String]) -> Container {
    let volume = format!("--volume={DATA}");
    let mut all = vec!["--entrypoint=etcd", &volume];
    all.extend(options.iter().map(String::as_str));
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    Container::run(&all, IMAGE, &arguments)
}

fn ctl(container: &Container, url: &str, arguments: &[&str]) -> String {
    let endpoints = format!("--endpoints={url}");
    docker(
        &[
            &[
                "exec",
                "-e",
                "ETCDCTL_API=3",
                container.id(),
                "etcdctl",
                &endpoints,
            ],
            arguments,
        ]
        .concat(),
    )
}

/// A Docker network; removed when dropped, so to be dropped after its containers.
#[derive(Debug)]
struct Network {
    name: String,
    /// The first three parts of its addresses.
    prefix: String,
}

impl Network {
    fn create(name: &str) -> Self {
        let label = format!("{LABEL}={}", std::process::id());
        let name = unique(name);
        for _ in 0..50 {
            let prefix = format!("10.{}.{}", fastrand::u8(130..230), fastrand::u8(..));
            let subnet = format!("{prefix}.0/24");
            match try_docker(&["network", "create", "--label", &label, "--subnet", &subnet, &name]) {
                Ok(_) => return Self { name, prefix },
                Err(error) if error.contains("overlap") => {}
                Err(error) => panic!("docker network create: {error}"),
            }
        }
        panic!("no subnet is free");
    }

    fn address(&self, index: usize) -> String {
        format!("{}.{}", self.prefix, 11 + index)
    }

    fn connect(&self, container: &Container, index: usize) {
        let address = self.address(index);
        docker(&["network", "connect", "--ip", &address, &self.name, container.id()]);
    }

    fn disconnect(&self, container: &Container) {
        docker(&["network", "disconnect", "-f", &self.name, container.id()]);
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        // One that stays carries the label.
        let _ = try_docker(&["network", "rm", &self.name]);
    }
}

/// Three members. Clients reach them on one network, they reach each other on another.
#[derive(Debug)]
pub struct EtcdCluster {
    members: Vec<Container>,
    urls: Vec<String>,
    // Behind the members, so that they are removed after them.
    clients: Network,
    peers: Network,
}

impl EtcdCluster {
    /// Starts three members and waits until they answer.
    ///
    /// # Panics
    /// When they do not.
    pub async fn start() -> Self {
        let (clients, peers) = (Network::create("etcd-clients"), Network::create("etcd-peers"));
        let peer_urls: Vec<String> = (0..3)
            .map(|index| format!("http://{}:2380", peers.address(index)))
            .collect();
        let list: Vec<String> = (0..3)
            .map(|index| format!("n{index}={}", peer_urls[index]))
            .collect();
        let list = list.join(",");
        let urls: Vec<String> = (0..3)
            .map(|index| format!("http://{}:2379", clients.address(index)))
            .collect();
        let start = |index: usize| {
            let mut arguments = vec![
                format!("--name=n{index}"),
                format!("--data-dir={DATA}"),
                "--listen-client-urls=http://0.0.0.0:2379".to_owned(),
                format!("--advertise-client-urls={}", urls[index]),
                "--listen-peer-urls=http://0.0.0.0:2380".to_owned(),
                format!("--initial-advertise-peer-urls={}", peer_urls[index]),
                format!("--initial-cluster={list}"),
            ];
            arguments.extend(QUICK.iter().map(ToString::to_string));
            let options = [
                format!("--network={}", clients.name),
                format!("--ip={}", clients.address(index)),
            ];
            let container = run(&options, &arguments);
            peers.connect(&container, index);
            container
        };
        let members = std::thread::scope(|scope| {
            let starting: Vec<_> = (0..3).map(|index| scope.spawn(move || start(index))).collect();
            starting
                .into_iter()
                .map(|member| member.join().expect("a member"))
                .collect()
        });
        let cluster = Self {
            members,
            urls,
            clients,
            peers,
        };
        for url in &cluster.urls {
            until_answering(&client_of(&[url], |_| {})).await;
        }
        cluster
    }

    /// The members' URLs.
    pub fn urls(&self) -> &[String] {
        &self.urls
    }

    /// The container of a member: to kill, freeze, start.
    pub fn member(&self, index: usize) -> &Container {
        &self.members[index]
    }

    /// The member that leads.
    ///
    /// # Panics
    /// When none does within 30 s.
    pub async fn leader(&self) -> usize {
        let client = client_of(&self.urls, |_| {});
        until("a leader that all know", Duration::from_secs(30), || async {
            let statuses: Vec<_> = client
                .status()
                .await
                .into_iter()
                .collect::<Result<_, _>>()
                .map_err(|error| error.to_string())?;
            let leader = statuses[0].leader;
            if statuses.iter().any(|status| status.leader != leader) {
                return Err(format!("{statuses:?}"));
            }
            let leads = |status: &etcd::MemberStatus| Some(status.member_id) == leader;
            statuses
                .iter()
                .position(leads)
                .ok_or_else(|| format!("{statuses:?}"))
        })
        .await
    }

    /// Cuts a member off from the other members; clients still reach it.
    pub fn cut_from_peers(&self, index: usize) {
        self.peers.disconnect(&self.members[index]);
    }

    /// Undoes [`EtcdCluster::cut_from_peers`].
    pub fn join_peers(&self, index: usize) {
        self.peers.connect(&self.members[index], index);
    }

    /// Cuts a member off from clients; the other members still reach it. Nobody is told: packets are lost.
    pub fn cut_from_clients(&self, index: usize) {
        self.clients.disconnect(&self.members[index]);
    }

    /// Undoes [`EtcdCluster::cut_from_clients`].
    pub fn join_clients(&self, index: usize) {
        self.clients.connect(&self.members[index], index);
    }

    /// Runs `etcdctl` beside a member and gives what it printed.
    ///
    /// # Panics
    /// When it fails.
    pub fn ctl(&self, index: usize, arguments: &[&str]) -> String {
        ctl(&self.members[index], "http://127.0.0.1:2379", arguments)
    }
}

/// What a [`Proxy`] does with what it gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// It is passed on.
    Pass,
    /// Requests are passed on, answers are held back.
    HoldAnswers,
    /// All is held back, and new connections are taken: a frozen process. What is held goes on when it thaws.
    Frozen,
    /// Connections are closed, and so are new ones.
    Closed,
}

#[derive(Debug, Clone, Copy)]
struct State {
    mode: Mode,
    /// How many connections were taken.
    taken: usize,
    /// The connections before this one are dead.
    dead: usize,
}

/// Stands between a client and one address; ends when dropped.
#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    state: watch::Sender<State>,
    // Ends its task, and with it those of the connections.
    _task: JoinSet<()>,
}

impl Proxy {
    /// Starts one in front of `target`.
    ///
    /// # Panics
    /// When there is no port.
    pub async fn start(target: SocketAddr) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a port");
        let address = listener.local_addr().expect("its address");
        let state = watch::Sender::new(State {
            mode: Mode::Pass,
            taken: 0,
            dead: 0,
        });
        let states = state.clone();
        let mut task = JoinSet::new();
        task.spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                let (client, _) = listener.accept().await.expect("a connection");
                let mut number = 0;
                states.send_modify(|state| {
                    number = state.taken;
                    state.taken += 1;
                });
                connections.spawn(connection(client, target, number, states.subscribe()));
            }
        });
        Self {
            address,
            state,
            _task: task,
        }
    }

    /// Its URL.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// How many connections it has taken.
    pub fn taken(&self) -> usize {
        self.state.borrow().taken
    }

    /// The connections it has are dead from now on, and nobody is told: as when a firewall has forgotten them.
    pub fn forget_connections(&self) {
        self.state.send_modify(|state| state.dead = state.taken);
    }

    /// From now on it does this.
    pub fn set(&self, mode: Mode) {
        self.state.send_modify(|state| state.mode = mode);
    }
}

async fn connection(client: TcpStream, target: SocketAddr, number: usize, states: watch::Receiver<State>) {
    let mut until_closed = states.clone();
    let pass = async {
        let Ok(server) = TcpStream::connect(target).await else {
            return;
        };
        let (client_reads, client_writes) = client.into_split();
        let (server_reads, server_writes) = server.into_split();
        let requests = |state: &State| state.mode != Mode::Frozen && state.dead <= number;
        let answers = |state: &State| state.mode == Mode::Pass && state.dead <= number;
        tokio::join!(
            copy(client_reads, server_writes, states.clone(), requests),
            copy(server_reads, client_writes, states.clone(), answers),
        );
    };
    tokio::select! {
        _ = until_closed.wait_for(|state| state.mode == Mode::Closed) => {}
        () = pass => {}
    }
}

async fn copy(
    mut from: impl AsyncReadExt + Unpin,
    mut to: impl AsyncWriteExt + Unpin,
    mut states: watch::Receiver<State>,
    passes: impl Fn(&State) -> bool,
) {
    let mut buffer = vec![0; 64 * 1024];
    while let Ok(length) = from.read(&mut buffer).await {
        if states.wait_for(|state| passes(state)).await.is_err() {
            return;
        }
        if length == 0 || to.write_all(&buffer[..length]).await.is_err() {
            break;
        }
    }
    let _ = to.shutdown().await;
}
