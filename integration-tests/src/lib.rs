//! The test kit: real containers, the whole platform, load, and waiting for conditions.
//!
//! Everything made here carries the label [`docker::LABEL`] and is removed when its guard is dropped, also when the
//! test fails. A test never waits for time to pass: it waits [`until`](wait::until) something holds.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

pub mod agent;
pub mod cluster;
pub mod consul_hosts;
pub mod docker;
pub mod engine;
pub mod etcd;
pub mod fleet;
pub mod http;
pub mod load;
pub mod platform;
pub mod router;
pub mod vip;
pub mod wait;
