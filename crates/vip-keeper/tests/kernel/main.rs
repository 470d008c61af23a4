//! What the module `net` does, on a real kernel: two hosts (network namespaces) on one link, the one with the addresses and
//! one that observes.
//!
//! Needs root, and the program `ip`. Nothing is left behind: a namespace ends with its last user.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a test fails by panicking; clippy.toml exempts only the bodies of test functions"
)]

mod costs;
mod events;
mod gate;
mod holding;
mod hosts;
mod observer;
mod start_and_stop;
