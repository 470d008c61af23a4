//! The other keepers, asked directly: for `hold-if-alone`, when etcd answers nobody.
//!
//! A holder that cannot renew asks each of them to promise not to take the address for a while. Only if all of them do
//! may it go on, until the time at which it *began* to ask plus what they promised. A keeper that reaches etcd promises
//! nothing. They know each other by a secret that is in etcd.

use std::net::SocketAddr;
use std::time::Duration;

use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::routing::post;
use axum::{Json, Router};
use daemon::error_chain;
use etcd::Cas;
use futures_util::future::{BoxFuture, join_all};
use serde::{Deserialize, Serialize};
use tokio::net::TcpListener;
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::election::{HOLD_MAX, Holder};
use crate::error::Error;
use crate::keeper::Order;
use crate::vip::VipName;

/// What is asked.
#[derive(Debug, Serialize, Deserialize)]
struct Ask {
    vip: VipName,
    holder: Holder,
    epoch: u64,
    time_ms: u64,
}

/// How the others are asked.
#[derive(Clone, Debug)]
pub struct PeerClient {
    peers: Vec<SocketAddr>,
    http: reqwest::Client,
    secret: watch::Receiver<Option<String>>,
}

impl PeerClient {
    /// For these peers: all other keepers of the cluster.
    ///
    /// # Errors
    /// When no HTTP client can be had.
    pub fn new(peers: Vec<SocketAddr>, secret: watch::Receiver<Option<String>>) -> Result<Self, String> {
        let http = crate::http::client(Duration::from_secs(2), false)?;
        Ok(Self { peers, http, secret })
    }

    /// Whether all of them promise not to take `vip` for `time`, counted from now on at the earliest.
    pub fn ask(
        &self,
        vip: &VipName,
        holder: &Holder,
        epoch: u64,
        time: Duration,
        within: Duration,
    ) -> BoxFuture<'static, bool> {
        let secret = self.secret.borrow().clone().unwrap_or_default();
        let asked = self.peers.iter().map(|peer| {
            let ask = Ask {
                vip: vip.clone(),
                holder: holder.clone(),
                epoch,
                time_ms: u64::try_from(time.as_millis()).unwrap_or(u64::MAX),
            };
            let request = self.http.post(format!("http://{peer}/promise"));
            let sent = request.bearer_auth(&secret).timeout(within).json(&ask).send();
            async move { sent.await.is_ok_and(|answer| answer.status() == StatusCode::OK) }
        });
        let all = join_all(asked.collect::<Vec<_>>());
        Box::pin(async move { all.await.into_iter().all(|promised| promised) })
    }
}

#[derive(Clone)]
struct Door {
    orders: mpsc::Sender<Order>,
    secret: watch::Receiver<Option<String>>,
}

/// Answers the others, until the shutdown.
///
/// # Errors
/// When the listener fails.
pub async fn serve(
    listener: TcpListener,
    orders: mpsc::Sender<Order>,
    secret: watch::Receiver<Option<String>>,
    shutdown: CancellationToken,
) -> std::io::Result<()> {
    let router = Router::new()
        .route("/promise", post(promise))
        .layer(axum::extract::DefaultBodyLimit::max(4096))
        .with_state(Door { orders, secret });
    axum::serve(listener, router)
        .with_graceful_shutdown(shutdown.cancelled_owned())
        .await
}

async fn promise(State(door): State<Door>, headers: HeaderMap, Json(ask): Json<Ask>) -> StatusCode {
    let known = door.secret.borrow().clone();
    let given = headers
        .get("authorization")
        .and_then(|value| value.to_str().ok()?.strip_prefix("Bearer "));
    if !known.is_some_and(|known| given.is_some_and(|given| same(&known, given))) {
        return StatusCode::FORBIDDEN;
    }
    let time = Duration::from_millis(ask.time_ms);
    if time > HOLD_MAX {
        return StatusCode::BAD_REQUEST;
    }
    let (answer, answered) = oneshot::channel();
    let order = Order::Promise {
        vip: ask.vip,
        holder: ask.holder,
        epoch: ask.epoch,
        time,
        answer,
    };
    if door.orders.try_send(order).is_err() {
        return StatusCode::SERVICE_UNAVAILABLE;
    }
    match answered.await {
        Ok(true) => StatusCode::OK,
        Ok(false) => StatusCode::CONFLICT,
        Err(_) => StatusCode::SERVICE_UNAVAILABLE,
    }
}

/// In a time that does not tell where they differ.
fn same(a: &str, b: &str) -> bool {
    let differ = a
        .bytes()
        .zip(b.bytes())
        .fold(0, |differ, (a, b)| differ | (a ^ b));
    a.len() == b.len() && differ == 0
}

/// Learns the secret that keepers know each other by, or makes it; tries until it has it.
pub async fn learn_secret(
    client: etcd::Client,
    key: String,
    secret: watch::Sender<Option<String>>,
    shutdown: CancellationToken,
) {
    let mut backoff = daemon::Backoff::new(Duration::from_millis(200), Duration::from_secs(5));
    loop {
        // May be cancelled: what was written is found by the next one.
        let learned = tokio::select! {
            () = shutdown.cancelled() => return,
            learned = secret_of(&client, &key) => learned,
        };
        match learned {
            Ok(value) => {
                secret.send_replace(Some(value));
                shutdown.cancelled().await;
                return;
            }
            Err(because) => warn!(
                because,
                "the secret that keepers know each other by is not known yet"
            ),
        }
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = tokio::time::sleep(backoff.next_delay()) => {}
        }
    }
}

async fn secret_of(client: &etcd::Client, key: &str) -> Result<String, String> {
    let said = |error: etcd::Error| error_chain(&error).to_string();
    let text = |value: Vec<u8>| String::from_utf8(value).map_err(|_| format!("{key} holds no text"));
    if let Some(entry) = client.get(key).await.map_err(said)? {
        return text(entry.value);
    }
    let made = random_word().map_err(|error| error.to_string())?;
    match client.create(key, made.clone(), None).await.map_err(said)? {
        Cas::Done { .. } => Ok(made),
        Cas::Conflict(Some(entry)) => text(entry.value),
        Cas::Conflict(None) => Err(format!("{key} was removed while it was read")),
    }
}

/// 128 bits that nobody can guess.
///
/// # Errors
/// [`Error::Random`].
pub fn random_word() -> Result<String, Error> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).map_err(|error| Error::Random(error.to_string()))?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

#[cfg(test)]
mod tests {
    use crate::election::ProcessId;

    use super::*;

    const F: Duration = Duration::from_millis(1200);
    const WITHIN: Duration = Duration::from_secs(5);

    fn secret(value: &str) -> watch::Receiver<Option<String>> {
        watch::channel(Some(value.to_owned())).1
    }

    /// A keeper that answers every order with `promises`, for as long as the set lives.
    async fn keeper(tasks: &mut tokio::task::JoinSet<()>, promises: bool) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let addr = listener.local_addr().expect("bound");
        let (orders, mut heard) = mpsc::channel(4);
        tasks.spawn(async move {
            let served = serve(listener, orders, secret("s"), CancellationToken::new()).await;
            served.expect("served");
        });
        tasks.spawn(async move {
            while let Some(order) = heard.recv().await {
                let Order::Promise {
                    epoch, time, answer, ..
                } = order
                else {
                    panic!("{order:?}");
                };
                assert_eq!((epoch, time), (7, F));
                let _ = answer.send(promises);
            }
        });
        addr
    }

    async fn ask(peers: Vec<SocketAddr>, known: &str, within: Duration) -> bool {
        let holder = Holder {
            node: "n1".parse().expect("a label"),
            process: ProcessId("p".to_owned()),
        };
        let client = PeerClient::new(peers, secret(known)).expect("a client");
        let vip = "web".parse().expect("a name");
        client.ask(&vip, &holder, 7, F, within).await
    }

    #[tokio::test]
    async fn only_if_all_promise_is_it_promised() {
        let mut tasks = tokio::task::JoinSet::new();
        let (first, second) = (keeper(&mut tasks, true).await, keeper(&mut tasks, true).await);
        let refuses = keeper(&mut tasks, false).await;
        assert!(ask(vec![first, second], "s", WITHIN).await);
        assert!(!ask(vec![first, refuses, second], "s", WITHIN).await);
    }

    #[tokio::test]
    async fn one_that_is_away_or_silent_promises_nothing() {
        let mut tasks = tokio::task::JoinSet::new();
        let there = keeper(&mut tasks, true).await;
        // Bound and never accepted: the kernel connects, and nobody answers.
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let silent = listener.local_addr().expect("bound");
        assert!(!ask(vec![there, silent], "s", Duration::from_millis(50)).await);
        drop(listener);
        assert!(!ask(vec![there, silent], "s", WITHIN).await);
    }

    #[tokio::test]
    async fn nobody_promises_anything_to_a_stranger() {
        let mut tasks = tokio::task::JoinSet::new();
        let there = keeper(&mut tasks, true).await;
        for known in ["", "t", "ss"] {
            assert!(!ask(vec![there], known, WITHIN).await, "{known:?}");
        }
    }
}
