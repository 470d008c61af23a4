//! Asking again and again, quickly enough to measure and slowly enough to leave the cores to who is measured.

use std::future::Future;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use integration_tests::http::{Answer, get};
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};

use crate::Result;
use crate::clock::Moment;

/// Pause between two questions. Tokio's timer makes 1 to 2 ms of it: that is the resolution of what is measured.
const PAUSE: Duration = Duration::from_millis(1);

/// After this long something is broken.
const DEADLINE: Duration = Duration::from_secs(60);

/// A single question that takes this long hangs in HAProxy's retries while the next one would be answered.
const PATIENCE: Duration = Duration::from_millis(100);

/// The moment at which `holds` first was true.
pub(crate) async fn until<F, Fut>(what: &str, mut holds: F) -> Result<Moment>
where
    F: FnMut() -> Fut,
    Fut: Future<Output = Result<bool>>,
{
    let began = Instant::now();
    loop {
        let complaint = match timeout(PATIENCE, holds()).await {
            Ok(Ok(true)) => return Ok(Moment::now()),
            Ok(Ok(false)) => "it does not".to_owned(),
            Ok(Err(error)) => error.to_string(),
            Err(_) => "no answer".to_owned(),
        };
        if began.elapsed() > DEADLINE {
            return Err(format!("not within {DEADLINE:?}: {what}: {complaint}").into());
        }
        sleep(PAUSE).await;
    }
}

/// Whether the instance with this host name gave the answer, and with 200.
pub(crate) fn is_from(answer: &Answer, hostname: &str) -> bool {
    let from = || {
        serde_json::from_str::<serde_json::Value>(&answer.body).ok()?["host"]
            .as_str()
            .map(str::to_owned)
    };
    answer.status == 200 && from().as_deref() == Some(hostname)
}

/// The moment at which the instance with this host name first answers to `host`.
///
/// Each question has a connection of its own, so `leastconn` takes the instances in turn: where there are two, the new
/// one answers the first or the second question after it is in.
pub(crate) async fn until_answers(address: SocketAddr, host: &str, hostname: &str) -> Result<Moment> {
    until(&format!("{hostname} answers to {host}"), || async {
        Ok(is_from(&get(address, host, "/?json").await?, hostname))
    })
    .await
}

/// The moment at which `host` first is answered with 503.
///
/// Asked every 5 ms without waiting for the answers: a request that is sent to an instance which has just died hangs in
/// HAProxy's retries for a second or more, and would hide that a later one was answered at once.
pub(crate) async fn until_unavailable(address: SocketAddr, host: &str) -> Result<Moment> {
    let mut asked = JoinSet::new();
    let mut tick = interval(Duration::from_millis(5));
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let began = Instant::now();
    while began.elapsed() < DEADLINE {
        tokio::select! {
            _ = tick.tick(), if asked.len() < 200 => {
                let host = host.to_owned();
                asked.spawn(async move { (get(address, &host, "/").await, Moment::now()) });
            }
            Some(Ok((Ok(answer), at))) = asked.join_next() => {
                if answer.status == 503 {
                    return Ok(at);
                }
            }
        }
    }
    Err(format!("{host} is not answered with 503 within {DEADLINE:?}").into())
}
