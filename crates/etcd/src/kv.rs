//! Reading, and writing without a guard.

use std::fmt;
use std::sync::Arc;

use etcd_client::{GetOptions, PutOptions, ResponseHeader};

use crate::client::{Call, Client};
use crate::endpoint::{Connection, MAX_KEYS};
use crate::error::{CallError, Error};
use crate::lease::LeaseId;

/// The most bytes that key and value may have together: etcd's limit for a request (`--max-request-bytes`, 1.5 MiB by
/// default), less what the request needs itself.
pub const MAX_REQUEST: usize = 1536 * 1024 - 1024;

/// The most bytes of a listing, keys and values together.
pub const MAX_LISTING: usize = 64 * 1024 * 1024;

/// How many keys of a listing are asked for at a time, at first. Too large an answer makes it fewer.
const PAGE: i64 = 1000;

/// A key with its value. Its `Debug` form does not show the value, which may be a secret.
#[derive(Clone, PartialEq, Eq)]
pub struct KeyValue {
    /// The key.
    pub key: String,
    /// The value.
    pub value: Vec<u8>,
    /// The store's revision at which the key was created, anew if it had been deleted.
    pub create_revision: i64,
    /// The store's revision at which the value was written: what [`Client::replace`] compares.
    pub mod_revision: i64,
    /// The lease with which the key ends.
    pub lease: Option<LeaseId>,
}

impl fmt::Debug for KeyValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyValue")
            .field("key", &self.key)
            .field("value", &format_args!("{} bytes", self.value.len()))
            .field("create_revision", &self.create_revision)
            .field("mod_revision", &self.mod_revision)
            .field("lease", &self.lease)
            .finish()
    }
}

/// All keys under a prefix, as they were at one revision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listing {
    /// The store's revision.
    pub revision: i64,
    /// The entries in the order of their keys.
    pub entries: Vec<KeyValue>,
    /// Keys that are not UTF-8, and so none of ours; shown with replacement characters.
    pub rejected: Vec<String>,
}

/// What every answer says of the store it is from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Store {
    pub(crate) cluster_id: u64,
    pub(crate) revision: i64,
}

impl Store {
    pub(crate) fn of(header: Option<&ResponseHeader>) -> Store {
        Store {
            cluster_id: header.map_or(0, ResponseHeader::cluster_id),
            revision: header.map_or(0, ResponseHeader::revision),
        }
    }
}

/// An entry as etcd gave it; the key, shown with replacement characters, when that is not UTF-8.
pub(crate) fn entry(kv: etcd_client::KeyValue) -> Result<KeyValue, String> {
    let (create_revision, mod_revision) = (kv.create_revision(), kv.mod_revision());
    let lease = LeaseId::from_wire(kv.lease());
    let (key, value) = kv.into_key_value();
    match String::from_utf8(key) {
        Ok(key) => Ok(KeyValue {
            key,
            value,
            create_revision,
            mod_revision,
            lease,
        }),
        Err(error) => Err(String::from_utf8_lossy(error.as_bytes()).into_owned()),
    }
}

/// Refuses what etcd would refuse, by a name.
pub(crate) fn check(key: &str, value: &[u8]) -> Result<(), CallError> {
    if key.is_empty() {
        return Err(CallError::Key {
            problem: "it is empty",
        });
    }
    let bytes = key.len() + value.len();
    if bytes > MAX_REQUEST {
        return Err(CallError::TooLarge {
            problem: format!("key and value have {bytes} bytes together; etcd takes {MAX_REQUEST}"),
        });
    }
    Ok(())
}

/// The range of all keys that begin with `prefix`: its first key, and the first behind it, both as etcd wants them.
pub(crate) fn prefix_range(prefix: &str) -> (Vec<u8>, Vec<u8>) {
    let mut end = prefix.as_bytes().to_vec();
    match end.last_mut() {
        // UTF-8 has no byte 0xff.
        Some(last) => *last += 1,
        // All keys: from the least one, and a zero byte for no end.
        None => return (vec![0], vec![0]),
    }
    (prefix.as_bytes().to_vec(), end)
}

/// How a listing goes on after a page.
struct Pages {
    range: (Vec<u8>, Vec<u8>),
    limit: i64,
    /// The revision of the first page, at which the others are read, and its cluster.
    store: Option<Store>,
    bytes: usize,
    listing: Listing,
}

impl Pages {
    fn new(prefix: &str) -> Pages {
        Pages {
            range: prefix_range(prefix),
            limit: PAGE,
            store: None,
            bytes: 0,
            listing: Listing {
                revision: 0,
                entries: Vec::new(),
                rejected: Vec::new(),
            },
        }
    }
}

impl Client {
    /// The value of `key`, if there is one. Linearizable: no older than when the call began.
    ///
    /// # Errors
    /// [`Error::Get`].
    pub async fn get(&self, key: &str) -> Result<Option<KeyValue>, Error> {
        let read = async {
            check(key, &[])?;
            get_at(&mut self.begin(), key, None).await
        };
        read.await.map_err(|source| Error::Get {
            key: key.to_owned(),
            source,
        })
    }

    /// All keys that begin with `prefix`, all as they were at the same time, no earlier than when the call began. A long
    /// listing is read in pages; each has a deadline of its own.
    ///
    /// # Errors
    /// [`Error::List`], also for a listing of more than [`MAX_LISTING`] bytes.
    pub async fn list(&self, prefix: &str) -> Result<Listing, Error> {
        match self.list_store(prefix).await {
            Ok((listing, _)) => Ok(listing),
            Err(source) => Err(Error::List {
                prefix: prefix.to_owned(),
                source,
            }),
        }
    }

    /// [`Client::list`], with whose answer it is.
    pub(crate) async fn list_store(&self, prefix: &str) -> Result<(Listing, Store), CallError> {
        let began = self.begin();
        loop {
            match self.list_once(prefix).await {
                // The history went, or the store was replaced, between two pages.
                Err(error) if error.is_revision_gone() && !began.is_over() => {}
                result => return result,
            }
        }
    }

    async fn list_once(&self, prefix: &str) -> Result<(Listing, Store), CallError> {
        let mut pages = Pages::new(prefix);
        loop {
            match self.page(&mut pages).await {
                Ok(Some(store)) => return Ok((pages.listing, store)),
                Ok(None) => {}
                Err(CallError::TooLarge { .. }) if pages.limit > 1 => pages.limit = (pages.limit / 8).max(1),
                Err(error) => return Err(error),
            }
        }
    }

    /// Reads one page; gives whose it is when it was the last.
    async fn page(&self, pages: &mut Pages) -> Result<Option<Store>, CallError> {
        let revision = pages.store.map_or(0, |store| store.revision);
        let options = GetOptions::new()
            .with_range(pages.range.1.clone())
            .with_limit(pages.limit)
            .with_revision(revision);
        let first = pages.range.0.clone();
        let mut answer = self
            .begin()
            .run(|connection| {
                let (first, options) = (first.clone(), options.clone());
                async move { connection.kv().get(first, Some(options)).await }
            })
            .await?;
        let store = *pages.store.get_or_insert(Store::of(answer.header()));
        let more = answer.more();
        let mut last = None;
        for kv in answer.take_kvs() {
            pages.bytes += kv.key().len() + kv.value().len();
            last = more.then(|| kv.key().to_vec());
            match entry(kv) {
                Ok(entry) => pages.listing.entries.push(entry),
                Err(key) => pages.listing.rejected.push(key),
            }
        }
        if pages.bytes > MAX_LISTING {
            return Err(CallError::TooLarge {
                problem: format!("the listing has more than {MAX_LISTING} bytes"),
            });
        }
        match last {
            Some(mut next) => {
                next.push(0);
                pages.range.0 = next;
                Ok(None)
            }
            None => {
                pages.listing.revision = store.revision;
                Ok(Some(store))
            }
        }
    }

    /// Writes `key` whatever it was; gives the new revision.
    ///
    /// When an answer is lost the write is repeated, so it may be made twice, and what somebody else wrote in between
    /// is lost; an attempt that a frozen member still holds may even be made later. Where that matters use
    /// [`Client::create`] and [`Client::replace`].
    ///
    /// # Errors
    /// [`Error::Put`].
    pub async fn put(
        &self,
        key: &str,
        value: impl Into<Vec<u8>>,
        lease: Option<LeaseId>,
    ) -> Result<i64, Error> {
        let value = value.into();
        let write = async {
            check(key, &value)?;
            let answer = self
                .begin()
                .run(|connection| {
                    let (value, options) = (value.clone(), put_options(lease));
                    async move { connection.kv().put(key, value, Some(options)).await }
                })
                .await?;
            Ok(Store::of(answer.header()).revision)
        };
        write.await.map_err(|source| Error::Put {
            key: key.to_owned(),
            source,
        })
    }

    /// Deletes `key` whatever it was; it is no error if there is none.
    ///
    /// # Errors
    /// [`Error::Delete`].
    pub async fn delete(&self, key: &str) -> Result<(), Error> {
        let delete = async {
            check(key, &[])?;
            let mut call = self.begin();
            call.run(|connection| async move { connection.kv().delete(key, None).await })
                .await
        };
        match delete.await {
            Ok(_) => Ok(()),
            Err(source) => Err(Error::Delete {
                key: key.to_owned(),
                source,
            }),
        }
    }
}

pub(crate) fn put_options(lease: Option<LeaseId>) -> PutOptions {
    PutOptions::new().with_lease(lease.map_or(0, LeaseId::to_wire))
}

/// Reads one key, now or as it was at a revision.
pub(crate) async fn get_at(
    call: &mut Call<'_>,
    key: &str,
    revision: Option<i64>,
) -> Result<Option<KeyValue>, CallError> {
    let answer = call.run(|connection: Arc<Connection>| async move {
        let options = GetOptions::new().with_revision(revision.unwrap_or(0));
        connection.kv().get(key, Some(options)).await
    });
    Ok(answer.await?.take_kvs().pop().and_then(|kv| entry(kv).ok()))
}

// However large the values are, a page of one of them is read.
const _: () = assert!(2 * MAX_REQUEST < MAX_KEYS);

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_etcd_would_refuse_is_refused_by_name() {
        let error = check("", b"").expect_err("empty").to_string();
        assert!(error.contains("empty"), "{error}");
        let error = check("k", &vec![0; MAX_REQUEST]).expect_err("large").to_string();
        assert!(error.contains(&MAX_REQUEST.to_string()), "{error}");
        assert!(check("k", &vec![0; MAX_REQUEST - 1]).is_ok());
    }

    #[test]
    fn a_value_is_not_in_debug_output() {
        let entry = KeyValue {
            key: "k".to_owned(),
            value: b"hunter2".to_vec(),
            create_revision: 1,
            mod_revision: 2,
            lease: None,
        };
        let shown = format!("{entry:?}");
        let bytes = format!("{:?}", entry.value);
        assert!(
            !shown.contains("hunter2") && !shown.contains(&bytes) && shown.contains("7 bytes"),
            "{shown}"
        );
    }

    proptest! {
        #[test]
        fn a_prefix_range_holds_what_begins_with_the_prefix_and_nothing_else(
            prefix in "\\PC{0,8}", key in "\\PC{1,12}", rest in "\\PC{0,4}",
        ) {
            let (first, end) = prefix_range(&prefix);
            let within = |key: &str| {
                first.as_slice() <= key.as_bytes() && (end == [0] || key.as_bytes() < end.as_slice())
            };
            prop_assert_eq!(within(&key), key.starts_with(&prefix));
            let longer = format!("{prefix}{rest}");
            prop_assert!(longer.is_empty() || within(&longer));
        }
    }
}
