//! The keys in etcd: where they are, and what they hold, as plain values.

use std::net::IpAddr;

use contract::{ClusterName, DnsLabel, vip_prefix};
use etcd::{Change, KeyValue};
use serde::{Deserialize, Serialize};

use crate::election::{Answer, Found, ProcessId, Record, RecordError};
use crate::vip::VipName;

/// Where the keys of one cluster's keepers are.
#[derive(Clone, Debug)]
pub struct Keys {
    prefix: String,
}

/// What a keeper says of itself, under a lease: who could take an address. Nothing that must be safe rests on it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Presence {
    /// Its process.
    pub process: ProcessId,
    /// Where its host is.
    pub address: IpAddr,
    /// Its priority.
    pub priority: u8,
    /// Which addresses it could hold now: its proxy is well, and the link is up.
    pub ready: Vec<VipName>,
    /// Which it is configured with.
    pub vips: Vec<VipName>,
    /// Why it is not ready for all of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub because: Option<String>,
}

/// What an operator asks of the holder.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    /// Tells it from another.
    pub id: String,
    /// To whom the address shall go; none for the best.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<DnsLabel>,
}

/// What came of the last change, told by the holder.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// The request that it answers, if it is one's refusal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request: Option<String>,
    /// Why nothing moved.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub because: Option<String>,
    /// The number of the holder that tells.
    pub epoch: u64,
    /// From seeing the record that named it to the first announcement, in microseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub up_us: Option<u64>,
}

/// What a key says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Told {
    /// Who holds an address.
    Record(VipName, Result<Found, RecordError>),
    /// What a node says of an offer.
    Answer(VipName, Answer),
    /// What an operator wants.
    Request(VipName, Request),
    /// What came of a change.
    Report(VipName, Report),
    /// A keeper; none if it is gone.
    Keeper(DnsLabel, Option<Presence>),
    /// Something that concerns nobody here.
    Other,
}

/// A key that holds something else than it should.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{key}: {reason}")]
pub struct Rejected {
    /// The key.
    pub key: String,
    /// What is wrong with what it holds.
    pub reason: String,
}

impl Keys {
    /// Those of a cluster.
    pub fn new(cluster: &ClusterName) -> Self {
        Self {
            prefix: vip_prefix(cluster),
        }
    }

    /// What all of them begin with.
    pub fn prefix(&self) -> &str {
        &self.prefix
    }

    /// Who holds an address.
    pub fn record(&self, vip: &VipName) -> String {
        format!("{}vips/{vip}/record", self.prefix)
    }

    /// The answer to an offer.
    pub fn answer(&self, vip: &VipName) -> String {
        format!("{}vips/{vip}/answer", self.prefix)
    }

    /// What an operator wants.
    pub fn request(&self, vip: &VipName) -> String {
        format!("{}vips/{vip}/request", self.prefix)
    }

    /// What came of it.
    pub fn report(&self, vip: &VipName) -> String {
        format!("{}vips/{vip}/report", self.prefix)
    }

    /// A keeper.
    pub fn keeper(&self, node: &DnsLabel) -> String {
        format!("{}nodes/{node}", self.prefix)
    }

    /// The secret that keepers know each other by.
    pub fn secret(&self) -> String {
        format!("{}secret", self.prefix)
    }

    /// Reads a key and its value; `None` if it was deleted.
    ///
    /// # Errors
    /// [`Rejected`] for what cannot be understood. The record of an address is never rejected: see [`Told::Record`].
    pub fn read(&self, key: &str, value: Option<&[u8]>) -> Result<Told, Rejected> {
        let Some(path) = key.strip_prefix(&self.prefix) else {
            return Ok(Told::Other);
        };
        let reject = |reason: String| Rejected {
            key: key.to_owned(),
            reason,
        };
        if let Some(node) = path.strip_prefix("nodes/") {
            let node = node.parse().map_err(|error| reject(format!("{error}")))?;
            let presence = value.map(json).transpose().map_err(reject)?;
            return Ok(Told::Keeper(node, presence));
        }
        let Some((vip, what)) = path.strip_prefix("vips/").and_then(|path| path.rsplit_once('/')) else {
            return Ok(Told::Other);
        };
        let vip: VipName = vip.parse().map_err(|error| reject(format!("{error}")))?;
        match (what, value) {
            ("record", None) => Ok(Told::Record(vip, Ok(Found::Absent))),
            ("record", Some(value)) => Ok(Told::Record(vip, found(value))),
            ("answer", Some(value)) => Ok(Told::Answer(vip, json(value).map_err(reject)?)),
            ("request", Some(value)) => Ok(Told::Request(vip, json(value).map_err(reject)?)),
            ("report", Some(value)) => Ok(Told::Report(vip, json(value).map_err(reject)?)),
            _ => Ok(Told::Other),
        }
    }

    /// [`Keys::read`] for an entry of a listing.
    ///
    /// # Errors
    /// The same.
    pub fn read_entry(&self, entry: &KeyValue) -> Result<Told, Rejected> {
        self.read(&entry.key, Some(&entry.value))
    }

    /// [`Keys::read`] for a change.
    ///
    /// # Errors
    /// The same.
    pub fn read_change(&self, change: &Change) -> Result<Told, Rejected> {
        match change {
            Change::Put(entry) => self.read_entry(entry),
            Change::Deleted { key, .. } => self.read(key, None),
        }
    }
}

/// What a record's value is. Garbage is something that can be written over; another version is not.
pub fn found(value: &[u8]) -> Result<Found, RecordError> {
    match Record::read(value) {
        Ok(record) => Ok(Found::Record(record)),
        Err(RecordError::Garbled(reason)) => {
            tracing::warn!(reason, "what is in etcd in the place of a record is none");
            Ok(Found::Garbled)
        }
        Err(error @ RecordError::Version(_)) => Err(error),
    }
}

fn json<T: for<'de> Deserialize<'de>>(value: &[u8]) -> Result<T, String> {
    serde_json::from_slice(value).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::election::{Holder, VERSION};

    fn keys() -> Keys {
        Keys::new(&"main".parse().expect("a name"))
    }

    fn vip() -> VipName {
        "10.0.0.100".parse().expect("a name")
    }

    fn record() -> Record {
        Record {
            version: VERSION,
            holder: Some(Holder {
                node: "n1".parse().expect("a label"),
                process: ProcessId("p".to_owned()),
            }),
            epoch: 3,
            seq: 9,
            hold_ms: 1200,
            offer: None,
            given: None,
        }
    }

    #[test]
    fn every_key_is_read_as_what_it_was_written_for() {
        let (keys, vip) = (keys(), vip());
        let read = |key: String, value: &[u8]| keys.read(&key, Some(value)).expect("readable");
        assert_eq!(
            read(keys.record(&vip), &record().write()),
            Told::Record(vip.clone(), Ok(Found::Record(record())))
        );
        assert_eq!(
            keys.read(&keys.record(&vip), None),
            Ok(Told::Record(vip.clone(), Ok(Found::Absent)))
        );
        let request = Request {
            id: "x".to_owned(),
            to: None,
        };
        let value = serde_json::to_vec(&request).expect("JSON");
        assert_eq!(
            read(keys.request(&vip), &value),
            Told::Request(vip.clone(), request)
        );
        let node: DnsLabel = "n2".parse().expect("a label");
        assert_eq!(keys.read(&keys.keeper(&node), None), Ok(Told::Keeper(node, None)));
        assert_eq!(keys.read("/elsewhere", Some(b"{}")), Ok(Told::Other));
        assert_eq!(keys.read(&keys.secret(), Some(b"s")), Ok(Told::Other));
    }

    #[test]
    fn a_record_of_another_version_is_told_from_garbage() {
        let (keys, vip) = (keys(), vip());
        let read = |value: &[u8]| match keys.read(&keys.record(&vip), Some(value)) {
            Ok(Told::Record(_, found)) => found,
            other => panic!("{other:?}"),
        };
        assert_eq!(
            read(br#"{"version":2,"whatever":[]}"#),
            Err(RecordError::Version(2))
        );
        for garbage in [&b""[..], b"{", b"null", b"{\"version\":1}", b"\xff\xfe"] {
            assert_eq!(read(garbage), Ok(Found::Garbled), "{garbage:?}");
        }
        let mut endless = record();
        endless.hold_ms = u64::MAX;
        assert_eq!(read(&endless.write()), Ok(Found::Garbled));
    }

    #[test]
    fn what_cannot_be_understood_is_rejected_by_its_key() {
        let (keys, vip) = (keys(), vip());
        for key in [
            keys.answer(&vip),
            keys.request(&vip),
            format!("{}nodes/n1", keys.prefix()),
        ] {
            let error = keys
                .read(&key, Some(b"garbage"))
                .expect_err("garbage")
                .to_string();
            assert!(error.starts_with(&key), "{error}");
        }
        let error = keys
            .read("/colossus/vip/main/vips/A B/record", Some(b""))
            .expect_err("no name");
        assert!(error.to_string().contains("is no name"), "{error}");
    }

    proptest! {
        #[test]
        fn no_key_and_no_value_panics(path in "\\PC{0,60}", value in proptest::option::of(proptest::collection::vec(any::<u8>(), 0..200))) {
            let keys = keys();
            for key in [path.clone(), format!("{}{path}", keys.prefix()), format!("{}vips/{path}/record", keys.prefix())] {
                let _ = keys.read(&key, value.as_deref());
            }
        }

        #[test]
        fn a_record_is_read_back(epoch: u64, seq: u64, hold_ms in 0_u64..3_600_000, released: bool, given: Option<u64>) {
            let mut record = Record { epoch, seq, hold_ms, given, ..record() };
            if released {
                record.holder = None;
            }
            prop_assert_eq!(Record::read(&record.write()), Ok(record));
        }
    }
}
