//! Several guarded writes in one request, each with its own guard and its own outcome.

use std::sync::Arc;

use etcd_client::{Compare, CompareOp, GetOptions, Txn, TxnOp, TxnOpResponse, TxnResponse};

use crate::cas::Guard;
use crate::client::Client;
use crate::endpoint::Connection;
use crate::error::{CallError, Error};
use crate::kv::{KeyValue, Store, check, entry, put_options};
use crate::lease::LeaseId;

/// The most writes of one call: a half of what etcd takes in a transaction by default (`--max-txn-ops` 128).
pub const MAX_BATCH: usize = 64;

/// One write of [`Client::replace_each`].
#[derive(Clone, PartialEq, Eq)]
pub struct Replacement {
    /// The key.
    pub key: String,
    /// The revision at which it must still be; 0 is for a key that must not exist.
    pub mod_revision: i64,
    /// What it must still hold, if that is known. A store that was wiped or restored may have the same revisions, but not
    /// the same values.
    pub was: Option<Vec<u8>>,
    /// What is written.
    pub value: Vec<u8>,
    /// The lease with which the key ends.
    pub lease: Option<LeaseId>,
}

/// How one of these writes ended.
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use = "it may not have been made"]
pub enum Replaced {
    /// It was made.
    Done {
        /// The key's `mod_revision` now.
        revision: i64,
    },
    /// The key was not as expected. What it is now; `None` if it does not exist.
    ///
    /// When an answer was lost, that may be because an earlier attempt of this very write was made. If it is what the
    /// key holds now, its value tells.
    Differs(Option<KeyValue>),
}

impl Replacement {
    fn operation(&self) -> TxnOp {
        let mut guards = vec![Guard::of(self.mod_revision).compare(&self.key)];
        if let (Some(was), 1..) = (&self.was, self.mod_revision) {
            guards.push(Compare::value(self.key.as_str(), CompareOp::Equal, was.clone()));
        }
        let put = TxnOp::put(
            self.key.as_str(),
            self.value.clone(),
            Some(put_options(self.lease)),
        );
        let get = TxnOp::get(self.key.as_str(), Some(GetOptions::new()));
        TxnOp::txn(Txn::new().when(guards).and_then([put]).or_else([get]))
    }
}

impl Client {
    /// Makes several guarded writes in one request, one commit of etcd's log. Each is made or not by its own guard.
    ///
    /// Repeated when an answer is lost, as a single guarded write is, but nothing is looked up in the history: see
    /// [`Replaced::Differs`]. For writers that renew again and again, and know their own values.
    ///
    /// # Errors
    /// [`Error::ReplaceEach`]; then any of them may have been made if [`Error::is_ambiguous`]. Also for no writes, more than
    /// [`MAX_BATCH`], or two of the same key.
    pub async fn replace_each(&self, writes: &[Replacement]) -> Result<Vec<Replaced>, Error> {
        self.replace_each_once(writes)
            .await
            .map_err(|source| Error::ReplaceEach {
                keys: writes.iter().map(|write| write.key.clone()).collect(),
                source,
            })
    }

    async fn replace_each_once(&self, writes: &[Replacement]) -> Result<Vec<Replaced>, CallError> {
        if writes.is_empty() || writes.len() > MAX_BATCH {
            return Err(CallError::TooLarge {
                problem: format!("{} writes at once; 1 to {MAX_BATCH} can be made", writes.len()),
            });
        }
        for write in writes {
            check(&write.key, &write.value)?;
        }
        let mut call = self.begin();
        let answer = call
            .run(|connection: Arc<Connection>| {
                let operations: Vec<_> = writes.iter().map(Replacement::operation).collect();
                async move { connection.kv().txn(Txn::new().and_then(operations)).await }
            })
            .await?;
        let revision = Store::of(answer.header()).revision;
        let outcomes: Vec<_> = answer
            .op_responses()
            .into_iter()
            .filter_map(|response| match response {
                TxnOpResponse::Txn(inner) => Some(outcome(&inner, revision)),
                _ => None,
            })
            .collect();
        if outcomes.len() != writes.len() {
            return Err(CallError::Refused {
                endpoint: self.current_endpoint(),
                code: "Malformed".to_owned(),
                message: format!("{} outcomes of {} writes", outcomes.len(), writes.len()),
            });
        }
        Ok(outcomes)
    }
}

fn outcome(inner: &TxnResponse, revision: i64) -> Replaced {
    if inner.succeeded() {
        return Replaced::Done { revision };
    }
    let current = inner
        .op_responses()
        .into_iter()
        .find_map(|response| match response {
            TxnOpResponse::Get(mut get) => get.take_kvs().pop(),
            _ => None,
        });
    Replaced::Differs(current.and_then(|kv| entry(kv).ok()))
}
