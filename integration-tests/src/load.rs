//! Keep-alive clients that send requests until they are told to stop, and count what came of each.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::http::Client;

/// The longest a load runs, whatever happens to the test that should stop it.
const BOUND: Duration = Duration::from_secs(180);

/// What came of a load.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tally {
    /// Answers with status 200.
    pub ok: u64,
    /// Everything else, by status or error.
    pub failed: BTreeMap<String, u64>,
    /// Answers by the host name of the `example-web` that gave them.
    pub by_host: BTreeMap<String, u64>,
    /// The slowest answer.
    pub slowest: Duration,
}

impl Tally {
    fn add(&mut self, other: Self) {
        self.ok += other.ok;
        for (what, count) in other.failed {
            *self.failed.entry(what).or_default() += count;
        }
        for (host, count) in other.by_host {
            *self.by_host.entry(host).or_default() += count;
        }
        self.slowest = self.slowest.max(other.slowest);
    }
}

/// A load under way.
#[derive(Debug)]
pub struct Load {
    clients: JoinSet<Tally>,
    stop: watch::Sender<bool>,
}

impl Load {
    /// Starts `clients` keep-alive clients that GET `http://host/` at `address`, each pausing `pause` after an answer.
    pub fn start(address: SocketAddr, host: &str, clients: usize, pause: Duration) -> Self {
        let (stop, stopped) = watch::channel(false);
        let mut tasks = JoinSet::new();
        for _ in 0..clients {
            tasks.spawn(client(address, host.to_owned(), pause, stopped.clone()));
        }
        Self { clients: tasks, stop }
    }

    /// Lets requests in flight end, and counts.
    pub async fn stop(mut self) -> Tally {
        self.stop.send_replace(true);
        let mut tally = Tally::default();
        while let Some(one) = self.clients.join_next().await {
            tally.add(one.expect("a client panicked"));
        }
        tally
    }
}

async fn client(address: SocketAddr, host: String, pause: Duration, stopped: watch::Receiver<bool>) -> Tally {
    let mut tally = Tally::default();
    let mut client = Client::new(address);
    let started = Instant::now();
    while !*stopped.borrow() && started.elapsed() < BOUND {
        let sent = Instant::now();
        match client.request("GET", &host, "/?json", "").await {
            Ok(answer) if answer.status == 200 => {
                tally.ok += 1;
                let json: serde_json::Value = serde_json::from_str(&answer.body).unwrap_or_default();
                let answered_by = json["host"].as_str().unwrap_or("?").to_owned();
                *tally.by_host.entry(answered_by).or_default() += 1;
            }
            Ok(answer) => *tally.failed.entry(answer.status.to_string()).or_default() += 1,
            Err(error) => *tally.failed.entry(error.to_string()).or_default() += 1,
        }
        tally.slowest = tally.slowest.max(sent.elapsed());
        tokio::time::sleep(pause).await;
    }
    tally
}
