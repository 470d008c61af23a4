//! A stand-in for fleet, which has ended and is not packaged: its API and its scheduling as they were measured with
//! fleet 1.0.0, its machines in memory or the hosts of a [`Cluster`](crate::cluster::Cluster).
//!
//! On hosts it does what fleet's agent does: it writes a unit's file to `/run/fleet/units`, links it for systemd and starts
//! it. What it does not have is fleet's own store and its leader: it is one process, and never in doubt.

mod api;
mod engine;
mod host;
mod registry;

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use fleet::{Client, Config, UnitName};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::Notify;
use tokio::task::JoinSet;

use crate::cluster::Node;
use registry::Registry;

/// A machine: a host of the test bed, or one in memory that runs whatever it is told.
#[derive(Debug, Clone)]
pub struct Host {
    /// What is in its `/etc/machine-id`.
    pub id: String,
    /// The address that it publishes.
    pub ip: String,
    /// What its operator says of it.
    pub metadata: BTreeMap<String, String>,
    /// The container that it is; `None` for one in memory.
    container: Option<String>,
}

impl Host {
    /// A machine in memory, whose ID is made of its number.
    pub fn in_memory(number: u8, metadata: &[(&str, &str)]) -> Self {
        Self {
            id: format!("{number:032x}"),
            ip: format!("192.0.2.{number}"),
            metadata: pairs(metadata),
            container: None,
        }
    }

    /// A host of the test bed.
    ///
    /// # Panics
    /// When it does not tell its machine ID.
    pub async fn of(node: &Node, metadata: &[(&str, &str)]) -> Self {
        Self {
            id: node.sh("cat /etc/machine-id").await,
            ip: node.address().to_string(),
            metadata: pairs(metadata),
            container: Some(node.container().to_owned()),
        }
    }
}

fn pairs(metadata: &[(&str, &str)]) -> BTreeMap<String, String> {
    let own = |(key, value): &(&str, &str)| ((*key).to_owned(), (*value).to_owned());
    metadata.iter().map(own).collect()
}

struct Shared {
    registry: Mutex<Registry>,
    /// Something has changed, and the engine should look.
    wake: Notify,
}

impl Shared {
    fn registry(&self) -> MutexGuard<'_, Registry> {
        self.registry.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The stand-in. It ends when this is dropped; what it has started on hosts goes on running, as with fleet.
pub struct Fleet {
    address: SocketAddr,
    shared: Arc<Shared>,
    tasks: JoinSet<()>,
}

impl std::fmt::Debug for Fleet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Fleet")
            .field("address", &self.address)
            .finish_non_exhaustive()
    }
}

impl Fleet {
    /// Starts one for these machines, its API on a free port of every address of this machine, so that hosts of the test
    /// bed reach it, too.
    ///
    /// # Panics
    /// When no port is to be had.
    pub async fn start(hosts: Vec<Host>) -> Self {
        let any = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0);
        Self::start_at(any, hosts).await.expect("a port")
    }

    /// The same at an address of one's own choice.
    ///
    /// # Errors
    /// When it cannot be listened on.
    pub async fn start_at(address: SocketAddr, hosts: Vec<Host>) -> io::Result<Self> {
        let listener = TcpListener::bind(address).await?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared {
            registry: Mutex::new(Registry::new(hosts)),
            wake: Notify::new(),
        });
        let mut tasks = JoinSet::new();
        let api = api::router(Arc::clone(&shared));
        tasks.spawn(async move { drop(axum::serve(listener, api).await) });
        tasks.spawn(engine::run(Arc::clone(&shared)));
        Ok(Self {
            address,
            shared,
            tasks,
        })
    }

    /// Adds a machine.
    pub fn join(&self, host: Host) {
        self.shared.registry().join(host);
        self.shared.wake.notify_one();
    }

    /// Serves the API on a Unix socket as well.
    ///
    /// # Panics
    /// When the socket cannot be made.
    pub fn listen_on(&mut self, socket: &Path) {
        let listener = UnixListener::bind(socket).expect("a socket");
        let api = api::router(Arc::clone(&self.shared));
        self.tasks
            .spawn(async move { drop(axum::serve(listener, api).await) });
    }

    /// The API's port.
    pub fn port(&self) -> u16 {
        self.address.port()
    }

    /// The API, for clients on this machine.
    pub fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.port())
    }

    /// A client of it.
    ///
    /// # Panics
    /// Never: it is a stand-in for tests, and its endpoint is one.
    pub fn client(&self) -> Client {
        Client::new(Config::new(self.endpoint().parse().expect("an endpoint"))).expect("a client")
    }

    /// How long a machine may be silent before its units move. fleet took 23 to 31 s, and so does this by default.
    pub fn set_ttl(&self, ttl: Duration) {
        self.shared.registry().ttl = ttl;
    }

    /// Takes a machine in memory away, or gives it back.
    pub fn set_reachable(&self, number: u8, reachable: bool) {
        self.shared
            .registry()
            .set_reachable(&format!("{number:032x}"), reachable);
        self.shared.wake.notify_one();
    }

    /// Lets a unit fail on the machines in memory.
    pub fn fail(&self, unit: &UnitName) {
        self.shared.registry().failing.insert(unit.clone());
    }
}
