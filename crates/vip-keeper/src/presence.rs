//! Makes this keeper known to the others, under a lease that ends with it.

use std::time::Duration;

use daemon::{Backoff, error_chain};
use etcd::LeaseKeeper;
use tokio::sync::watch;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::store::Presence;

/// How long a keeper that has gone silent is still thought to be there. It matters to who is offered an address, and to
/// nothing that must be safe.
const TTL: Duration = Duration::from_secs(5);

/// Keeps `key` as `presence` says, until the shutdown; then removes it. `None` is for "not yet".
pub async fn keep(
    client: etcd::Client,
    key: String,
    mut presence: watch::Receiver<Option<Presence>>,
    shutdown: CancellationToken,
) {
    let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(2));
    let mut lost = false;
    loop {
        // Cancelling a grant may leave a lease without keys, which ends by itself.
        let granted = tokio::select! {
            () = shutdown.cancelled() => return,
            granted = LeaseKeeper::grant(&client, TTL) => granted,
        };
        let ended = match granted {
            Ok(mut keeper) => {
                let lease = keeper.id();
                // Keeping alive and writing may be cancelled: what was not written is written under the next lease.
                let ended = tokio::select! {
                    () = keeper.run() => Err("the lease was lost".to_owned()),
                    result = write(&client, &key, &mut presence, lease, &mut lost, &mut backoff) => result,
                    () = shutdown.cancelled() => {
                        if let Err(error) = keeper.shutdown().await {
                            info!("this node's key goes from etcd with its lease: {}", error_chain(&error));
                        }
                        return;
                    }
                };
                ended.err()
            }
            Err(error) => Some(error_chain(&error).to_string()),
        };
        if let Some(because) = ended
            && !std::mem::replace(&mut lost, true)
        {
            warn!(
                because,
                "this node cannot make itself known in etcd; it goes on trying"
            );
        }
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = sleep(backoff.next_delay()) => {}
        }
    }
}

/// Writes what is said and every change of it, until that fails.
async fn write(
    client: &etcd::Client,
    key: &str,
    presence: &mut watch::Receiver<Option<Presence>>,
    lease: etcd::LeaseId,
    lost: &mut bool,
    backoff: &mut Backoff,
) -> Result<(), String> {
    presence.mark_changed();
    loop {
        if presence.changed().await.is_err() {
            // Nobody will say anything more: what was said stands.
            std::future::pending::<()>().await;
        }
        let value = match presence.borrow_and_update().as_ref() {
            Some(presence) => serde_json::to_vec(presence).map_err(|error| error.to_string())?,
            None => continue,
        };
        client
            .put(key, value, Some(lease))
            .await
            .map_err(|error| error_chain(&error).to_string())?;
        backoff.reset();
        if std::mem::take(lost) {
            info!("this node is known in etcd again");
        }
    }
}
