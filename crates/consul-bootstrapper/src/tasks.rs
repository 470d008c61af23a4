//! What runs beside the loop: this node's lease, and the watch on etcd that wakes.

use std::time::Duration;

use daemon::{Backoff, Waker, error_chain};
use etcd::{LeaseId, LeaseKeeper, WatchEvent};
use tokio::sync::watch;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::keys::Keys;

/// Keeps a lease alive for this node's keys, and gets another when it is lost. Ends it at shutdown, and with it the keys.
pub async fn keep_lease(
    client: etcd::Client,
    ttl: Duration,
    lease: watch::Sender<Option<LeaseId>>,
    waker: Waker,
    shutdown: CancellationToken,
) {
    let mut backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(3));
    loop {
        // Cancelling a grant may leave a lease without keys, which ends by itself.
        let granted = tokio::select! {
            () = shutdown.cancelled() => return,
            granted = LeaseKeeper::grant(&client, ttl) => granted,
        };
        let mut keeper = match granted {
            Ok(keeper) => keeper,
            Err(error) => {
                warn!("no lease from etcd: {}", error_chain(&error));
                // Sleeping may be cancelled.
                tokio::select! {
                    () = shutdown.cancelled() => return,
                    () = sleep(backoff.next_delay()) => continue,
                }
            }
        };
        backoff.reset();
        lease.send_replace(Some(keeper.id()));
        waker.wake("this node has a lease");
        // Keeping alive may be cancelled: the lease is revoked right after.
        tokio::select! {
            () = keeper.run() => {
                warn!("this node's lease in etcd was lost; getting another");
                lease.send_replace(None);
            }
            () = shutdown.cancelled() => {
                match keeper.shutdown().await {
                    Ok(()) => info!("this node's key is gone from etcd"),
                    Err(error) => warn!("this node's key goes from etcd with its lease: {}", error_chain(&error)),
                }
                return;
            }
        }
    }
}

/// Wakes the loop at every change of the cluster's keys.
pub async fn watch_etcd(client: etcd::Client, keys: Keys, waker: Waker, shutdown: CancellationToken) {
    let mut watch = client.watch(keys.prefix());
    loop {
        // Both may be cancelled: this is the end.
        let event = tokio::select! {
            () = shutdown.cancelled() => return,
            event = watch.next() => event,
        };
        match event {
            WatchEvent::Snapshot(_) => waker.wake("etcd's keys were listed"),
            WatchEvent::Resumed => waker.wake("etcd's watch goes on"),
            WatchEvent::Changes(changes) => {
                for change in changes {
                    waker.wake(format!("{} changed", change.key()));
                }
            }
            WatchEvent::Unavailable { error, attempts } => {
                if attempts == 1 {
                    warn!("etcd's watch broke: {}", error_chain(&error));
                }
                waker.wake("etcd's watch broke");
            }
        }
    }
}
