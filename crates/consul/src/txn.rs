//! Transactions on the key/value store: all or nothing (page "Transactions HTTP Endpoint" of Consul's API
//! documentation).

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use reqwest::StatusCode;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::error::Error;
use crate::json::null_default;
use crate::kv::KvPair;
use crate::transport::{Call, Client};

/// One operation of a transaction. Keys travel in the body, so any key will do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KvOp {
    /// Write a key.
    Set {
        /// The key.
        key: String,
        /// The value.
        value: Bytes,
        /// A number to store beside it.
        flags: u64,
    },
    /// Write a key only if its `modify_index` is `index`; 0: only if there is no such key.
    Cas {
        /// The key.
        key: String,
        /// The value.
        value: Bytes,
        /// A number to store beside it.
        flags: u64,
        /// The index.
        index: u64,
    },
    /// Write a key and take its lock, if the session can.
    Lock {
        /// The key.
        key: String,
        /// The value.
        value: Bytes,
        /// The session's ID.
        session: String,
    },
    /// Write a key and release its lock, if the session has it.
    Unlock {
        /// The key.
        key: String,
        /// The value.
        value: Bytes,
        /// The session's ID.
        session: String,
    },
    /// Read a key; fails if there is none.
    Get {
        /// The key.
        key: String,
    },
    /// Read all keys that begin with this.
    GetTree {
        /// The prefix.
        prefix: String,
    },
    /// Fail unless the key's `modify_index` is `index`.
    CheckIndex {
        /// The key.
        key: String,
        /// The index.
        index: u64,
    },
    /// Fail unless the session has the key's lock.
    CheckSession {
        /// The key.
        key: String,
        /// The session's ID.
        session: String,
    },
    /// Fail if the key exists.
    CheckNotExists {
        /// The key.
        key: String,
    },
    /// Delete a key.
    Delete {
        /// The key.
        key: String,
    },
    /// Delete a key only if its `modify_index` is `index`.
    DeleteCas {
        /// The key.
        key: String,
        /// The index.
        index: u64,
    },
    /// Delete all keys that begin with this.
    DeleteTree {
        /// The prefix.
        prefix: String,
    },
}

impl KvOp {
    fn body(&self) -> Value {
        let fields = match self {
            KvOp::Set { key, value, flags } => {
                json!({ "Verb": "set", "Key": key, "Value": STANDARD.encode(value), "Flags": flags })
            }
            KvOp::Cas {
                key,
                value,
                flags,
                index,
            } => json!({
                "Verb": "cas", "Key": key, "Value": STANDARD.encode(value), "Flags": flags, "Index": index,
            }),
            KvOp::Lock { key, value, session } => {
                json!({ "Verb": "lock", "Key": key, "Value": STANDARD.encode(value), "Session": session })
            }
            KvOp::Unlock { key, value, session } => {
                json!({ "Verb": "unlock", "Key": key, "Value": STANDARD.encode(value), "Session": session })
            }
            KvOp::Get { key } => json!({ "Verb": "get", "Key": key }),
            KvOp::GetTree { prefix } => json!({ "Verb": "get-tree", "Key": prefix }),
            KvOp::CheckIndex { key, index } => json!({ "Verb": "check-index", "Key": key, "Index": index }),
            KvOp::CheckSession { key, session } => {
                json!({ "Verb": "check-session", "Key": key, "Session": session })
            }
            KvOp::CheckNotExists { key } => json!({ "Verb": "check-not-exists", "Key": key }),
            KvOp::Delete { key } => json!({ "Verb": "delete", "Key": key }),
            KvOp::DeleteCas { key, index } => json!({ "Verb": "delete-cas", "Key": key, "Index": index }),
            KvOp::DeleteTree { prefix } => json!({ "Verb": "delete-tree", "Key": prefix }),
        };
        json!({ "KV": fields })
    }
}

/// An operation that made a transaction fail.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct TxnFailure {
    /// Its place in the transaction, from 0.
    #[serde(deserialize_with = "null_default")]
    pub op_index: usize,
    /// What Consul says is wrong.
    #[serde(deserialize_with = "null_default")]
    pub what: String,
}

impl fmt::Display for TxnFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "operation {}: {}", self.op_index, self.what)
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct TxnAnswer {
    #[serde(default, deserialize_with = "null_default")]
    results: Vec<TxnResult>,
    #[serde(default, deserialize_with = "null_default")]
    errors: Vec<TxnFailure>,
}

#[derive(Deserialize)]
struct TxnResult {
    #[serde(rename = "KV", default)]
    kv: Option<KvPair>,
}

impl Client {
    /// Does all operations or none, in order: at most 64, at most 512 KiB.
    ///
    /// The results are those of the operations that have one, in order: reads give the pair with its value, writes give
    /// it without, deletes and `CheckNotExists` give nothing. Consul turns a transaction of nothing but reads into a
    /// stale-proof read.
    ///
    /// # Errors
    /// [`Error::RolledBack`] when an operation failed; those of every call.
    pub async fn txn(&self, operations: &[KvOp]) -> Result<Vec<KvPair>, Error> {
        let operation = "run a transaction".to_owned();
        let body: Vec<Value> = operations.iter().map(KvOp::body).collect();
        let call = Call::put(operation.clone(), "/v1/txn")
            .with(self.datacenter_pair())
            .json(&body)?;
        let answer = call.send(self).await?;
        if answer.status == StatusCode::CONFLICT {
            let answer: TxnAnswer = answer.json()?;
            return Err(Error::RolledBack {
                operation,
                failures: answer.errors,
            });
        }
        let answer: TxnAnswer = answer.ok()?.json()?;
        if !answer.errors.is_empty() {
            return Err(Error::RolledBack {
                operation,
                failures: answer.errors,
            });
        }
        Ok(answer
            .results
            .into_iter()
            .filter_map(|result| result.kv)
            .collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_operation_is_written_as_consul_reads_it() {
        let op = KvOp::Cas {
            key: "a".into(),
            value: Bytes::from_static(b"hi"),
            flags: 0,
            index: 7,
        };
        assert_eq!(
            op.body(),
            json!({ "KV": { "Verb": "cas", "Key": "a", "Value": "aGk=", "Flags": 0, "Index": 7 } })
        );
    }

    #[test]
    fn both_answers_of_consul_are_read() {
        let failed: TxnAnswer =
            serde_json::from_str(r#"{"Results":null,"Errors":[{"OpIndex":1,"What":"no"}]}"#).expect("answer");
        assert_eq!(
            failed.errors,
            [TxnFailure {
                op_index: 1,
                what: "no".into()
            }]
        );
        let done: TxnAnswer =
            serde_json::from_str(r#"{"Results":[{"KV":{"Key":"a","Value":null}}],"Errors":null}"#)
                .expect("answer");
        assert_eq!(done.results.len(), 1);
    }
}
