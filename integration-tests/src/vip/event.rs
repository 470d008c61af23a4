//! What an observer tells of each thing that it sees: one line of JSON.

use std::net::Ipv4Addr;

use serde::{Deserialize, Serialize};

use super::frames::Mac;
use super::moment::Moment;

/// One thing that was seen.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "seen", rename_all = "snake_case")]
pub enum Event {
    /// The observer has begun; the first of all.
    Began {
        /// Its own network card.
        mac: Mac,
    },
    /// Somebody answered a question who has an address.
    Answer(Answer),
    /// Somebody told everybody that it has an address.
    Announced(Announced),
    /// A request has ended.
    Request(Request),
    /// The observer has told all that it saw; the last of all.
    Ended,
}

/// An answer to an ARP request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer {
    /// The address.
    pub vip: Ipv4Addr,
    /// Who has it.
    pub mac: Mac,
    /// When the request was sent which this answers. Two answers with the same moment are to the same request.
    pub asked: Moment,
    /// When the answer came.
    pub at: Moment,
}

/// A gratuitous ARP.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Announced {
    /// The address.
    pub vip: Ipv4Addr,
    /// Who has it.
    pub mac: Mac,
    /// When it came.
    pub at: Moment,
}

/// A request of the client, with up to two attempts to connect.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    /// Where to.
    pub vip: Ipv4Addr,
    /// When it began.
    pub started: Moment,
    /// When it ended, one way or the other.
    pub ended: Moment,
    /// Whether the first attempt to connect failed.
    pub retried: bool,
    /// What came of it.
    pub outcome: Outcome,
    /// Where the client's kernel had the address when it ended (its neighbour cache): who answered.
    pub mac: Option<Mac>,
}

/// What came of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// Answered with this status; 200 is a good answer.
    Answered(u16),
    /// No connection, also at the second attempt.
    Unconnected,
    /// Connected, and no complete answer.
    Unanswered,
}

impl Request {
    /// Whether the client got what it wanted.
    pub fn is_good(&self) -> bool {
        self.outcome == Outcome::Answered(200)
    }
}
