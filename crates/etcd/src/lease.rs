//! Leases: keys written with one are gone when nobody keeps it alive.

use std::fmt;
use std::num::NonZeroI64;
use std::time::Duration;

use etcd_client::{Error as ClientError, LeaseGrantOptions};

use crate::client::{Client, RequestError};
use crate::error::{CallError, Error};
use crate::failure::Failure;

/// The longest TTL that etcd grants (`lease/lessor.go`, `MaxLeaseTTL`).
const TTL_MAX: u64 = 9_000_000_000;

/// What etcd-client says when etcd answers that a lease does not exist (`src/rpc/lease.rs`).
const LEASE_NOT_FOUND: &str = "lease not found";

/// The ID of a lease; never 0, which is etcd's word for none. Shown in hexadecimal, as `etcdctl` does.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LeaseId(NonZeroI64);

impl LeaseId {
    pub(crate) fn from_wire(id: i64) -> Option<LeaseId> {
        NonZeroI64::new(id).map(LeaseId)
    }

    pub(crate) fn to_wire(self) -> i64 {
        self.0.get()
    }

    /// One that is hardly in use.
    fn random() -> LeaseId {
        LeaseId(NonZeroI64::new(fastrand::i64(1..)).unwrap_or(NonZeroI64::MAX))
    }
}

impl fmt::Display for LeaseId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl fmt::Debug for LeaseId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "LeaseId({self})")
    }
}

/// A lease as it was granted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lease {
    /// Its ID.
    pub id: LeaseId,
    /// How long it lives without being kept alive: what was asked for, or etcd's least.
    pub ttl: Duration,
}

/// How a request for a lease ended.
enum Grant {
    Granted(Lease),
    /// There is one with this ID.
    Exists,
}

impl Client {
    /// A new lease of `ttl`, rounded up to whole seconds. etcd grants more when that is under its least, which is one and
    /// a half election timeouts.
    ///
    /// # Errors
    /// [`Error::LeaseGrant`].
    pub async fn lease_grant(&self, ttl: Duration) -> Result<Lease, Error> {
        self.grant(seconds(ttl))
            .await
            .map_err(|source| Error::LeaseGrant { ttl, source })
    }

    async fn grant(&self, seconds: i64) -> Result<Lease, CallError> {
        let mut call = self.begin();
        loop {
            // Chosen here, so that a repetition after a lost answer finds the lease instead of making a second one.
            let id = LeaseId::random();
            let grant = call
                .run_with(|_, connection| async move {
                    let options = LeaseGrantOptions::new().with_id(id.to_wire());
                    match connection.lease().grant(seconds, Some(options)).await {
                        Ok(answer) => Ok(Grant::Granted(Lease {
                            id,
                            ttl: ttl_of(answer.ttl()),
                        })),
                        Err(ClientError::GRpcStatus(status))
                            if status.message() == "etcdserver: lease already exists" =>
                        {
                            Ok(Grant::Exists)
                        }
                        Err(error) => Err(RequestError::Client(error)),
                    }
                })
                .await?
                .value;
            match grant {
                Grant::Granted(lease) => return Ok(lease),
                // Ours, from an attempt whose answer was lost. It is as good as new once kept alive.
                Grant::Exists if call.is_ambiguous() => {
                    let ttl = keep_alive(&mut call, id).await?;
                    return ttl.map(|ttl| Lease { id, ttl }).ok_or(CallError::LeaseNotFound);
                }
                Grant::Exists => {}
            }
        }
    }

    /// Ends a lease and deletes its keys. One that is gone already is no error.
    ///
    /// # Errors
    /// [`Error::LeaseRevoke`].
    pub async fn lease_revoke(&self, id: LeaseId) -> Result<(), Error> {
        let mut call = self.begin();
        let revoke = call.run(|connection| async move { connection.lease().revoke(id.to_wire()).await });
        match revoke.await {
            Ok(_) | Err(CallError::LeaseNotFound) => Ok(()),
            Err(source) => Err(Error::LeaseRevoke { id, source }),
        }
    }

    /// Keeps a lease alive for another TTL, which is given; `None` when it has expired or was revoked.
    ///
    /// # Errors
    /// [`Error::LeaseKeepAlive`].
    pub async fn lease_keep_alive_once(&self, id: LeaseId) -> Result<Option<Duration>, Error> {
        keep_alive(&mut self.begin(), id)
            .await
            .map_err(|source| Error::LeaseKeepAlive { id, source })
    }
}

async fn keep_alive(call: &mut crate::client::Call<'_>, id: LeaseId) -> Result<Option<Duration>, CallError> {
    let answer = call.run_with(|_, connection| async move {
        let (mut keeper, mut answers) = match connection.lease().keep_alive(id.to_wire()).await {
            Ok(streams) => streams,
            Err(ClientError::LeaseKeepAliveError(problem)) if problem == LEASE_NOT_FOUND => return Ok(None),
            Err(error) => return Err(RequestError::Client(error)),
        };
        // etcd-client keeps the TTL of the first answer to itself, so that is asked for again.
        keeper.keep_alive().await?;
        match answers.message().await? {
            Some(answer) if answer.ttl() > 0 => Ok(Some(ttl_of(answer.ttl()))),
            Some(_) => Ok(None),
            None => Err(RequestError::Failure(Failure::Retry {
                problem: "the stream ended without an answer".to_owned(),
                ambiguous: true,
                disconnect: true,
            })),
        }
    });
    Ok(answer.await?.value)
}

/// Whole seconds, rounded up, as etcd takes them.
fn seconds(ttl: Duration) -> i64 {
    let whole = ttl.as_secs().saturating_add(u64::from(ttl.subsec_nanos() > 0));
    i64::try_from(whole.clamp(1, TTL_MAX)).unwrap_or(1)
}

fn ttl_of(seconds: i64) -> Duration {
    // More than any clock can be asked to wait for.
    Duration::from_secs(u64::try_from(seconds).unwrap_or(0).min(TTL_MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ttl_is_rounded_up_to_whole_seconds_within_what_etcd_takes() {
        for (ttl, whole) in [
            (Duration::ZERO, 1),
            (Duration::from_millis(1), 1),
            (Duration::from_secs(5), 5),
            (Duration::from_millis(5001), 6),
            (Duration::MAX, 9_000_000_000),
        ] {
            assert_eq!(seconds(ttl), whole, "{ttl:?}");
        }
    }

    #[test]
    fn a_lease_is_shown_as_etcdctl_does_and_zero_is_none() {
        let id = LeaseId::from_wire(0x7587_8a4b_3f0f).expect("an ID");
        assert_eq!(
            (id.to_string(), format!("{id:?}")),
            (
                "000075878a4b3f0f".to_owned(),
                "LeaseId(000075878a4b3f0f)".to_owned()
            )
        );
        assert_eq!(LeaseId::from_wire(0), None);
        assert_ne!(LeaseId::random(), LeaseId::random());
    }
}
