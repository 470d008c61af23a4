//! [`Record`]: one key that holds a value as JSON.

use std::fmt;
use std::marker::PhantomData;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::cas::Cas;
use crate::client::Client;
use crate::error::Error;
use crate::failure::one_line;
use crate::kv::KeyValue;
use crate::lease::LeaseId;

/// One key that holds a `T` as JSON.
///
/// What cannot be understood is an error that names the key, never a missing record: nobody may take a garbled one for a
/// place that is free. Values of writers that contend must differ; see [`Client`]'s guarded writes.
pub struct Record<T> {
    client: Client,
    key: String,
    of: PhantomData<fn() -> T>,
}

impl<T> Clone for Record<T> {
    fn clone(&self) -> Record<T> {
        Record {
            client: self.client.clone(),
            key: self.key.clone(),
            of: PhantomData,
        }
    }
}

impl<T> fmt::Debug for Record<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Record")
            .field("key", &self.key)
            .finish_non_exhaustive()
    }
}

/// A value and the revision that holds it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Versioned<T> {
    /// The value.
    pub value: T,
    /// The key's `create_revision`.
    pub create_revision: i64,
    /// The key's `mod_revision`.
    pub mod_revision: i64,
    /// The lease with which it ends.
    pub lease: Option<LeaseId>,
}

/// How a guarded write of a record ended.
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use = "a conflict means that nothing was written"]
pub enum Update<T> {
    /// It was made; this is the record now.
    Done(Versioned<T>),
    /// The record was not as expected, and nothing was written. What it is now; `None` if it does not exist.
    Conflict(Option<Versioned<T>>),
}

impl<T: DeserializeOwned> Versioned<T> {
    /// What a key from [`Client::list`] or a watch holds.
    ///
    /// # Errors
    /// [`Error::Decode`].
    pub fn decode(entry: &KeyValue) -> Result<Versioned<T>, Error> {
        match serde_json::from_slice(&entry.value) {
            Ok(value) => Ok(Versioned {
                value,
                create_revision: entry.create_revision,
                mod_revision: entry.mod_revision,
                lease: entry.lease,
            }),
            Err(error) => Err(Error::Decode {
                key: entry.key.clone(),
                mod_revision: entry.mod_revision,
                reason: reason(&error),
            }),
        }
    }
}

impl<T: Serialize + DeserializeOwned> Record<T> {
    /// The record at `key`.
    #[must_use]
    pub fn new(client: &Client, key: impl Into<String>) -> Record<T> {
        Record {
            client: client.clone(),
            key: key.into(),
            of: PhantomData,
        }
    }

    /// Its key.
    #[must_use]
    pub fn key(&self) -> &str {
        &self.key
    }

    /// What it holds; `None` if it does not exist.
    ///
    /// # Errors
    /// [`Error::Get`], and [`Error::Decode`] when it holds something else than a `T`.
    pub async fn read(&self) -> Result<Option<Versioned<T>>, Error> {
        let entry = self.client.get(&self.key).await?;
        entry.as_ref().map(Versioned::decode).transpose()
    }

    /// Writes it if it does not exist.
    ///
    /// # Errors
    /// [`Error::Create`], [`Error::Encode`], and [`Error::Decode`] when it exists and holds something else than a `T`.
    pub async fn create(&self, value: T, lease: Option<LeaseId>) -> Result<Update<T>, Error> {
        let cas = self.client.create(&self.key, self.encode(&value)?, lease).await?;
        let mut update = update(cas, value, lease)?;
        if let Update::Done(now) = &mut update {
            now.create_revision = now.mod_revision;
        }
        Ok(update)
    }

    /// Writes `new` if the record is still as it was `seen`. The lease stays what it was.
    ///
    /// # Errors
    /// [`Error::Replace`], [`Error::Encode`], and [`Error::Decode`] when it now holds something else than a `T`.
    pub async fn update(&self, seen: &Versioned<T>, new: T) -> Result<Update<T>, Error> {
        self.update_with_lease(seen, new, seen.lease).await
    }

    /// The same with another lease, or none.
    ///
    /// # Errors
    /// As [`Record::update`].
    pub async fn update_with_lease(
        &self,
        seen: &Versioned<T>,
        new: T,
        lease: Option<LeaseId>,
    ) -> Result<Update<T>, Error> {
        let json = self.encode(&new)?;
        let cas = self
            .client
            .replace(&self.key, json, seen.mod_revision, lease)
            .await?;
        let mut update = update(cas, new, lease)?;
        if let Update::Done(now) = &mut update {
            now.create_revision = seen.create_revision;
        }
        Ok(update)
    }

    /// Deletes it if it is still as it was `seen`; gives whether it was.
    ///
    /// # Errors
    /// [`Error::DeleteIf`].
    pub async fn delete(&self, seen: &Versioned<T>) -> Result<bool, Error> {
        let cas = self.client.delete_if(&self.key, seen.mod_revision).await?;
        Ok(matches!(cas, Cas::Done { .. }))
    }

    fn encode(&self, value: &T) -> Result<Vec<u8>, Error> {
        serde_json::to_vec(value).map_err(|source| Error::Encode {
            key: self.key.clone(),
            source,
        })
    }
}

/// The `create_revision` of what was written is for the caller to fill in.
fn update<T: DeserializeOwned>(cas: Cas, value: T, lease: Option<LeaseId>) -> Result<Update<T>, Error> {
    Ok(match cas {
        Cas::Done { revision } => Update::Done(Versioned {
            value,
            create_revision: 0,
            mod_revision: revision,
            lease,
        }),
        Cas::Conflict(entry) => Update::Conflict(entry.as_ref().map(Versioned::decode).transpose()?),
    })
}

/// What serde says, without the texts that it found: `invalid type: string "…", expected a map`.
fn reason(error: &serde_json::Error) -> String {
    let said = one_line(&error.to_string());
    match (said.find('"'), said.rfind('"')) {
        (Some(first), Some(last)) if first < last => {
            let (before, after) = (said.get(..=first), said.get(last..));
            format!("{}…{}", before.unwrap_or_default(), after.unwrap_or_default())
        }
        (Some(first), _) => format!("{}…", said.get(..=first).unwrap_or_default()),
        _ => said,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_such_value_is_an_error_that_names_the_key() {
        let entry = |value: &str| KeyValue {
            key: "/slots/1".to_owned(),
            value: value.into(),
            create_revision: 4,
            mod_revision: 5,
            lease: None,
        };
        let decoded = Versioned::<Vec<u8>>::decode(&entry("[1,2]")).expect("a list");
        assert_eq!((decoded.value, decoded.mod_revision), (vec![1, 2], 5));
        for garbled in ["", "[1", "null", "{}", "[1] x"] {
            let error = Versioned::<Vec<u8>>::decode(&entry(garbled)).expect_err(garbled);
            assert!(
                error.to_string().contains("\"/slots/1\" in etcd (revision 5)"),
                "{error}"
            );
            assert!(!error.is_unavailable());
        }
        for secret in ["\"hunter2\"", "\"hun\\\"ter2\"", "[\"hunter2\"]"] {
            let error = Versioned::<Vec<u8>>::decode(&entry(secret)).expect_err(secret);
            assert!(!format!("{error:?}").contains("ter2"), "{error:?}");
            assert!(error.to_string().contains("invalid type: string"), "{error}");
        }
    }
}
