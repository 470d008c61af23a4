//! Notices when the agent loses what was registered with it: a restart, a wipe, somebody's deregistration.
//!
//! A blocking query hangs on one of our services. Whatever makes the agent forget it, or go away, ends the
//! query at once; so nothing is polled while all is well. Services that vanish while that one stays are
//! found by the loop's resync.

use std::time::Duration;

use daemon::{Backoff, Waker};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::reconciler::HostState;

/// How long one blocking query may hang. Consul allows up to 10 minutes; a shorter one finds a peer that
/// vanished without a word sooner.
const WAIT: Duration = Duration::from_secs(60);

/// After an answer that was no news, so that a server which ignores the hash does not make us spin.
const MIN_GAP: Duration = Duration::from_millis(200);

/// Watches until `shutdown`.
pub async fn watch_agent(
    agent: consul::Client,
    mut state: watch::Receiver<HostState>,
    waker: Waker,
    shutdown: CancellationToken,
) {
    let mut backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(1));
    let mut lost = false;
    let mut hash: Option<String> = None;
    let mut watched = None;
    while !shutdown.is_cancelled() {
        let sample = state.borrow_and_update().registered().next().cloned();
        if sample != watched {
            (watched, hash) = (sample.clone(), None);
        }
        let Some(id) = sample else {
            // Cancelling this wait loses nothing: the state is read again on the next turn.
            tokio::select! {
                () = shutdown.cancelled() => return,
                changed = state.changed() => if changed.is_err() { return },
            }
            continue;
        };
        // The query is dropped when what to watch may have changed: it only reads.
        let answer = tokio::select! {
            () = shutdown.cancelled() => return,
            changed = changed_sample(&mut state, &id) => if changed { continue } else { return },
            answer = agent.agent_service_blocking(id.as_str(), hash.as_deref(), WAIT) => answer,
        };
        let pause = match answer {
            Ok(Some((_, new_hash))) => {
                if std::mem::take(&mut lost) {
                    info!("the Consul agent is back");
                    waker.wake("the Consul agent is back");
                } else if hash.as_ref().is_some_and(|hash| *hash != new_hash) {
                    waker.wake(format!("the agent changed service {id}"));
                }
                backoff.reset();
                hash = Some(new_hash);
                MIN_GAP
            }
            Ok(None) => {
                lost = false;
                hash = None;
                waker.wake(format!("the agent does not know service {id}"));
                // The registration that this causes is on its way; look again once it had time to arrive.
                backoff.next_delay()
            }
            Err(error) => {
                hash = None;
                if !std::mem::replace(&mut lost, true) {
                    warn!(
                        error = daemon::error_chain(&error),
                        "lost the Consul agent; trying again until it is back"
                    );
                }
                backoff.next_delay()
            }
        };
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = tokio::time::sleep(pause) => {}
        }
    }
}

/// Resolves when `id` is no longer what should be watched; `false` when there is nobody left to say so.
async fn changed_sample(state: &mut watch::Receiver<HostState>, id: &contract::ServiceId) -> bool {
    state
        .wait_for(|state| state.registered().next() != Some(id))
        .await
        .is_ok()
}
