//! Virtual IPs as a client on the network sees them: who answers for an address, whether it answers, and what all that
//! can happen to its holder makes of it.
//!
//! The [`Observer`] is a host of its own on the cluster's network: a container with its own card and neighbour cache, in which
//! the program of this machine runs ([`observe()`]). So it needs no rights here, and learns that an address has moved as
//! every other client does. A [`Drill`] does to the holder of an address what a [`Scenario`] says, and tells as an
//! [`Outcome`] what the observer saw. The same is done to vip-keeper and, for comparison, to [keepalived](Daemon::Keepalived).

mod client;
mod daemon;
mod drill;
mod event;
mod fault;
mod frames;
mod idle;
mod moment;
mod observation;
mod observe;
mod observer;
mod results;
mod scenario;
mod service;
mod watcher;

use std::time::Duration;

pub use client::{ANSWER, CONNECT, PAUSE};
pub use daemon::Daemon;
pub use drill::{Drill, Outcome, run};
pub use event::{Announced, Answer, Event, Outcome as RequestOutcome, Request};
pub use fault::{Direction, Fault};
pub use frames::Mac;
pub use idle::{Idle, idle};
pub use moment::{Millis, Moment, Span};
pub use observation::{Observation, Owner, Requests, Sight};
pub use observe::observe;
pub use observer::{Observer, Place};
pub use results::Results;
pub use scenario::{ALL, Effect, Leader, Scenario};
pub use service::Service;

/// How often the observer asks who has an address, and makes a connection: what it can tell apart.
pub const EVERY: Duration = Duration::from_millis(10);
