//! What is in etcd about one virtual IP: the record that says who holds it, and the answer to an offer.

use std::fmt;
use std::time::Duration;

use contract::DnsLabel;
use serde::{Deserialize, Serialize};

/// The version of the format; another one is not read.
pub const VERSION: u32 = 1;

/// The longest right that a record may speak of. More is a mistake, or somebody else's key.
pub const HOLD_MAX: Duration = Duration::from_secs(3600);

/// One life of one keeper: two processes on one node are two holders. Random, so that nobody takes a record that was
/// written before a restart, or by a node with the same name, for its own.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ProcessId(pub String);

impl fmt::Display for ProcessId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Who holds an address.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holder {
    /// Its node.
    pub node: DnsLabel,
    /// Which process there.
    pub process: ProcessId,
}

/// A hand-over that the holder has begun. It goes on holding until the other has accepted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Offer {
    /// Who shall have it.
    pub to: DnsLabel,
    /// The record's `seq` when it was first made: tells this offer from an earlier one.
    pub id: u64,
}

/// Who holds one virtual IP. Written only by compare-and-swap.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// [`VERSION`].
    pub version: u32,
    /// The holder; none after a release.
    pub holder: Option<Holder>,
    /// Counts the holders: each change of `holder` is the next one.
    pub epoch: u64,
    /// Counts the writes of this record.
    pub seq: u64,
    /// F in milliseconds: until when after the sending of this write its holder may have the address.
    pub hold_ms: u64,
    /// The hand-over that is under way.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub offer: Option<Offer>,
    /// With a record that gave the address to its holder: the offer that this one had accepted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub given: Option<u64>,
}

/// What a node says of an offer to it, in a key of its own.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer {
    /// Who answers.
    pub by: Holder,
    /// [`Offer::id`].
    pub offer: u64,
    /// Why not; none if it accepts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refused: Option<String>,
}

/// Why a value is no record.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// It is none. Whoever holds the address writes its record over it; others may after O.
    #[error("it is no record of a virtual IP: {0}")]
    Garbled(String),
    /// It is of another version of this program, which knows better.
    #[error(
        "its version is {0}, and this keeper knows {VERSION}; it takes no part until the record is of its version again"
    )]
    Version(u32),
}

/// What is where the record should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    /// Nothing.
    Absent,
    /// Something that is no record.
    Garbled,
    /// A record.
    Record(Record),
}

impl Found {
    /// The record, if it is one.
    pub fn record(&self) -> Option<&Record> {
        match self {
            Self::Record(record) => Some(record),
            Self::Absent | Self::Garbled => None,
        }
    }
}

impl Record {
    /// F.
    pub fn hold(&self) -> Duration {
        Duration::from_millis(self.hold_ms)
    }

    /// Reads the value of a key.
    ///
    /// # Errors
    /// With what is wrong with it.
    pub fn read(value: &[u8]) -> Result<Self, RecordError> {
        /// What every version has.
        #[derive(Deserialize)]
        struct Versioned {
            version: u32,
        }
        let garbled = |error: serde_json::Error| RecordError::Garbled(error.to_string());
        let Versioned { version } = serde_json::from_slice(value).map_err(garbled)?;
        if version != VERSION {
            return Err(RecordError::Version(version));
        }
        let record: Self = serde_json::from_slice(value).map_err(garbled)?;
        if record.hold() > HOLD_MAX {
            return Err(RecordError::Garbled(format!(
                "it speaks of a right of {} ms, more than an hour",
                record.hold_ms
            )));
        }
        Ok(record)
    }

    /// The value of the key.
    pub fn write(&self) -> Vec<u8> {
        // Nothing in it can fail to be JSON: no maps, no floats. An empty value would be read as a broken record.
        serde_json::to_vec(self).unwrap_or_default()
    }
}
