//! [`LeaseKeeper`]: keeps one lease alive and says until when it can be relied on.

use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep_until, timeout_at};

use crate::backoff::backoff;
use crate::client::Client;
use crate::error::Error;
use crate::lease::LeaseId;

/// The pause after the first failed attempt to keep a lease alive. It doubles, up to a sixth of the TTL.
const PAUSE_FIRST: Duration = Duration::from_millis(50);

/// What is known of a lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LeaseState {
    /// It lives.
    Alive {
        /// The lease.
        id: LeaseId,
        /// Until when at least, by this host's clock: counted from before the last successful request was sent, so
        /// etcd's own end of the lease comes later.
        until: Instant,
    },
    /// It has expired or was revoked, or it could not be kept alive in time and so cannot be relied on. Final.
    Lost,
}

impl LeaseState {
    /// The lease, if it lives now. Asks the clock: this process may have been frozen since the state was written.
    ///
    /// The clock does not run while the machine is suspended.
    #[must_use]
    pub fn alive(&self) -> Option<LeaseId> {
        match self {
            LeaseState::Alive { id, until } if Instant::now() < *until => Some(*id),
            LeaseState::Alive { .. } | LeaseState::Lost => None,
        }
    }
}

/// Keeps one lease alive, while [`LeaseKeeper::run`] is driven.
///
/// ```no_run
/// # async fn example(client: etcd::Client, stop: impl Future<Output = ()>) -> Result<(), etcd::Error> {
/// let mut keeper = etcd::LeaseKeeper::grant(&client, std::time::Duration::from_secs(10)).await?;
/// client.put("/example", "here", Some(keeper.id())).await?;
/// tokio::select! {
///     () = keeper.run() => eprintln!("lost: grant another and write again"),
///     () = stop => keeper.shutdown().await?,
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct LeaseKeeper {
    client: Client,
    id: LeaseId,
    ttl: Duration,
    /// When the last request that succeeded was sent.
    renewed: Instant,
    /// Failed attempts since.
    failures: u32,
    /// When to make the next.
    next: Instant,
    state: watch::Sender<LeaseState>,
}

impl LeaseKeeper {
    /// Gets a new lease of `ttl` (see [`Client::lease_grant`]). It is kept alive by [`LeaseKeeper::run`] and by nothing
    /// else.
    ///
    /// # Errors
    /// [`Error::LeaseGrant`].
    pub async fn grant(client: &Client, ttl: Duration) -> Result<LeaseKeeper, Error> {
        let sent = Instant::now();
        let lease = client.lease_grant(ttl).await?;
        Ok(LeaseKeeper {
            client: client.clone(),
            id: lease.id,
            ttl: lease.ttl,
            renewed: sent,
            failures: 0,
            next: sent + lease.ttl / 3,
            state: watch::Sender::new(LeaseState::Alive {
                id: lease.id,
                until: sent + lease.ttl,
            }),
        })
    }

    /// The lease.
    #[must_use]
    pub fn id(&self) -> LeaseId {
        self.id
    }

    /// How long it lives without being kept alive, as etcd granted it.
    #[must_use]
    pub fn ttl(&self) -> Duration {
        self.ttl
    }

    /// Its state, to be watched. When the keeper is dropped it stays what it was.
    #[must_use]
    pub fn state(&self) -> watch::Receiver<LeaseState> {
        self.state.subscribe()
    }

    /// Keeps the lease alive until it is lost: at every third of the TTL, and when that fails again and again until the
    /// TTL is over. At once if it was lost before.
    ///
    /// Cancel safe: dropping the future and calling again goes on. Meanwhile nobody keeps the lease alive.
    pub async fn run(&mut self) {
        loop {
            let until = self.renewed + self.ttl;
            if *self.state.borrow() == LeaseState::Lost {
                return;
            }
            sleep_until(self.next.min(until)).await;
            let sent = Instant::now();
            // Asked too late, or answered too late, is lost: it may have ended and nobody would know.
            match timeout_at(until, self.client.lease_keep_alive_once(self.id)).await {
                Ok(Ok(Some(ttl))) => self.renewed(sent, ttl),
                Ok(Ok(None)) | Err(_) => self.lost(),
                Ok(Err(_)) => {
                    self.failures = self.failures.saturating_add(1);
                    self.next = Instant::now() + backoff(self.failures, PAUSE_FIRST, self.ttl / 6);
                }
            }
        }
    }

    fn renewed(&mut self, sent: Instant, ttl: Duration) {
        self.ttl = ttl;
        self.renewed = sent;
        self.failures = 0;
        self.next = sent + ttl / 3;
        self.state.send_replace(LeaseState::Alive {
            id: self.id,
            until: sent + ttl,
        });
    }

    fn lost(&self) {
        self.state.send_replace(LeaseState::Lost);
    }

    /// Revokes the lease and with it deletes its keys. To be called when the process ends in good order; without it they
    /// stay until the TTL is over.
    ///
    /// # Errors
    /// [`Error::LeaseRevoke`].
    pub async fn shutdown(self) -> Result<(), Error> {
        self.lost();
        self.client.lease_revoke(self.id).await
    }
}
