//! HAProxy: its configuration as a function of the routing table, its master's command line, and its files.

pub mod config;
pub mod files;
pub mod master;
