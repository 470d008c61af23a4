//! Guarded writes (compare and swap): create, replace and delete only what is as it was seen, and find out what became
//! of a write whose answer was lost.

use std::sync::Arc;

use etcd_client::{Compare, CompareOp, Txn, TxnOp, WatchOptions};

use crate::client::{Call, Client, RequestError};
use crate::endpoint::{Connection, Member};
use crate::error::{CallError, Error};
use crate::failure::{Failure, classify_cancel};
use crate::kv::{KeyValue, Store, check, entry, get_at, put_options};
use crate::lease::LeaseId;

/// How a guarded write ended.
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use = "a conflict means that nothing was written"]
pub enum Cas {
    /// It was made.
    Done {
        /// The revision it made: the key's `mod_revision`.
        revision: i64,
    },
    /// The key was not as expected, and nothing was written. What it is now; `None` if it does not exist.
    Conflict(Option<KeyValue>),
}

/// What must hold for the write to be made.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Guard {
    Absent,
    At(i64),
}

#[derive(Clone, Debug)]
enum Write {
    Put { value: Vec<u8>, lease: Option<LeaseId> },
    Delete,
}

impl Write {
    /// Whether this is what it would have written.
    fn is(&self, entry: &KeyValue) -> bool {
        matches!(self, Write::Put { value, lease } if *value == entry.value && *lease == entry.lease)
    }
}

/// The first thing that happened to a key after a revision.
#[derive(Debug)]
enum FirstChange {
    Put(KeyValue),
    Deleted(i64),
    /// The history begins with this revision.
    Forgotten(i64),
}

/// # Guarded writes
///
/// They are repeated when an answer is lost, and never made twice: the guard sees to that. When the repetition is refused
/// because the guard does not hold any more, the key's history tells whether the first attempt was made after
/// all. It is known by its value and lease, so writers that contend for a key must write different values: the writer's
/// name or a random number among them. When the history cannot tell (compacted meanwhile) the error is
/// [`CallError::Ambiguous`].
///
/// An attempt that a frozen member still holds may be made when it thaws, if the guard holds then: a key that was
/// created by the repetition and deleted may be there again. With a lease that has ended it is not.
impl Client {
    /// Writes `key` if it does not exist.
    ///
    /// # Errors
    /// [`Error::Create`].
    pub async fn create(
        &self,
        key: &str,
        value: impl Into<Vec<u8>>,
        lease: Option<LeaseId>,
    ) -> Result<Cas, Error> {
        let value = value.into();
        self.guarded(key, Guard::Absent, Write::Put { value, lease })
            .await
            .map_err(|source| Error::Create {
                key: key.to_owned(),
                source,
            })
    }

    /// Writes `key` if it is still what was written at `mod_revision`; 0 is for a key that does not exist.
    ///
    /// # Errors
    /// [`Error::Replace`].
    pub async fn replace(
        &self,
        key: &str,
        value: impl Into<Vec<u8>>,
        mod_revision: i64,
        lease: Option<LeaseId>,
    ) -> Result<Cas, Error> {
        let value = value.into();
        self.guarded(key, Guard::of(mod_revision), Write::Put { value, lease })
            .await
            .map_err(|source| Error::Replace {
                key: key.to_owned(),
                mod_revision,
                source,
            })
    }

    /// Deletes `key` if it is still what was written at `mod_revision`.
    ///
    /// When an answer is lost, a deletion by somebody else is taken for this one.
    ///
    /// # Errors
    /// [`Error::DeleteIf`].
    pub async fn delete_if(&self, key: &str, mod_revision: i64) -> Result<Cas, Error> {
        self.guarded(key, Guard::At(mod_revision), Write::Delete)
            .await
            .map_err(|source| Error::DeleteIf {
                key: key.to_owned(),
                mod_revision,
                source,
            })
    }

    async fn guarded(&self, key: &str, guard: Guard, write: Write) -> Result<Cas, CallError> {
        check(key, write.value())?;
        let mut call = self.begin();
        let answer = call
            .run(|connection: Arc<Connection>| {
                let txn = Txn::new()
                    .when([guard.compare(key)])
                    .and_then([write.operation(key)]);
                async move { connection.kv().txn(txn).await }
            })
            .await?;
        if answer.succeeded() {
            return Ok(Cas::Done {
                revision: Store::of(answer.header()).revision,
            });
        }
        let ambiguous = call.is_ambiguous();
        let current = get_at(&mut call, key, None)
            .await
            .map_err(|error| error.or_ambiguous(ambiguous))?;
        if !ambiguous {
            return Ok(Cas::Conflict(current));
        }
        what_became_of_it(&mut call, key, guard, &write, current)
            .await
            .map_err(|error| error.or_ambiguous(true))
    }
}

impl Guard {
    pub(crate) fn of(mod_revision: i64) -> Guard {
        if mod_revision <= 0 {
            Guard::Absent
        } else {
            Guard::At(mod_revision)
        }
    }

    pub(crate) fn compare(self, key: &str) -> Compare {
        match self {
            Guard::Absent => Compare::create_revision(key, CompareOp::Equal, 0),
            Guard::At(revision) => Compare::mod_revision(key, CompareOp::Equal, revision),
        }
    }
}

impl Write {
    fn value(&self) -> &[u8] {
        match self {
            Write::Put { value, .. } => value,
            Write::Delete => &[],
        }
    }

    fn operation(&self, key: &str) -> TxnOp {
        match self {
            Write::Put { value, lease } => TxnOp::put(key, value.clone(), Some(put_options(*lease))),
            Write::Delete => TxnOp::delete(key, None),
        }
    }
}

/// Whether an earlier attempt, whose answer was lost, is why the guard holds no more.
async fn what_became_of_it(
    call: &mut Call<'_>,
    key: &str,
    guard: Guard,
    write: &Write,
    current: Option<KeyValue>,
) -> Result<Cas, CallError> {
    let after = match (guard, &current) {
        // It was there, whoever wrote it, and is there no more.
        (Guard::Absent, None) => return Ok(Cas::Conflict(None)),
        // The write that created the key is the only one that can have been ours.
        (Guard::Absent, Some(entry)) => entry.create_revision - 1,
        (Guard::At(revision), _) => revision,
    };
    // The usual case needs no history: it is there as we wrote it.
    if let Some(entry) = &current
        && write.is(entry)
        && (matches!(guard, Guard::At(_)) || entry.create_revision == entry.mod_revision)
    {
        return Ok(Cas::Done {
            revision: entry.mod_revision,
        });
    }
    let mut first = first_change(call, key, after).await?;
    if let (FirstChange::Forgotten(since), Guard::At(revision)) = (&first, guard) {
        // If the key was still the same then, nothing that counts is forgotten.
        let since = *since;
        let then = get_at(call, key, Some(since)).await?;
        if then.is_some_and(|entry| entry.mod_revision == revision) {
            first = first_change(call, key, since).await?;
        }
    }
    match (first, write) {
        (FirstChange::Put(entry), Write::Put { .. }) if write.is(&entry) => Ok(Cas::Done {
            revision: entry.mod_revision,
        }),
        (FirstChange::Deleted(revision), Write::Delete) => Ok(Cas::Done { revision }),
        (FirstChange::Put(_) | FirstChange::Deleted(_), _) => Ok(Cas::Conflict(current)),
        (FirstChange::Forgotten(_), _) => Err(CallError::Ambiguous {
            reason: "the history that would tell is compacted".to_owned(),
        }),
    }
}

/// What happened first to `key` after revision `after`. Only for a key to which something did.
async fn first_change(call: &mut Call<'_>, key: &str, after: i64) -> Result<FirstChange, CallError> {
    let answer = call
        .run_with(|member: Arc<Member>, connection: Arc<Connection>| async move {
            let options = WatchOptions::new().with_start_revision(after + 1);
            let mut stream = connection.watch().watch(key, Some(options)).await?;
            loop {
                let Some(message) = stream.message().await? else {
                    return Err(retry("the watch of the key's history ended"));
                };
                if message.compact_revision() > 0 {
                    return Ok(FirstChange::Forgotten(message.compact_revision()));
                }
                if message.canceled() {
                    return Err(RequestError::Failure(classify_cancel(
                        member.url(),
                        message.cancel_reason(),
                    )));
                }
                let Some(kv) = message.events().iter().find_map(|event| event.kv()) else {
                    continue;
                };
                // A deletion leaves a version of 0 (etcd's `mvccpb.KeyValue`).
                if kv.version() == 0 {
                    return Ok(FirstChange::Deleted(kv.mod_revision()));
                }
                return match entry(kv.clone()) {
                    Ok(entry) => Ok(FirstChange::Put(entry)),
                    Err(key) => Err(retry(&format!("a change of another key came: {key}"))),
                };
            }
        })
        .await?;
    Ok(answer.value)
}

fn retry(problem: &str) -> RequestError {
    RequestError::Failure(Failure::Retry {
        problem: problem.to_owned(),
        ambiguous: false,
        disconnect: true,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_write_is_known_by_value_and_lease() {
        let entry = KeyValue {
            key: "k".to_owned(),
            value: b"v".to_vec(),
            create_revision: 2,
            mod_revision: 3,
            lease: LeaseId::from_wire(7),
        };
        let put = |value: &str, lease| Write::Put {
            value: value.into(),
            lease: LeaseId::from_wire(lease),
        };
        assert!(put("v", 7).is(&entry));
        assert!(!put("w", 7).is(&entry) && !put("v", 0).is(&entry) && !Write::Delete.is(&entry));
    }

    #[test]
    fn revision_zero_is_a_key_that_does_not_exist() {
        assert!(matches!(Guard::of(0), Guard::Absent));
        assert!(matches!(Guard::of(5), Guard::At(5)));
    }
}
