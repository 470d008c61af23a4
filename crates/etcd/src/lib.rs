//! etcd v3 done right: endpoint fail-over, a deadline on every call, TLS and auth, compare-and-swap records, leases,
//! and watches that resume.

mod args;
mod backoff;
mod cas;
mod client;
mod cluster;
mod config;
mod endpoint;
mod error;
mod failure;
mod keeper;
mod kv;
mod lease;
mod record;
mod tls;
mod watch;

pub use args::EtcdArgs;
pub use cas::Cas;
pub use client::Client;
pub use cluster::{Member, MemberStatus};
pub use config::{Config, ConfigError, Credentials, Endpoint, Password, TlsConfig};
pub use error::{AttemptError, CallError, Error};
pub use keeper::{LeaseKeeper, LeaseState};
pub use kv::{KeyValue, Listing, MAX_LISTING, MAX_REQUEST};
pub use lease::{Lease, LeaseId};
pub use record::{Record, Update, Versioned};
pub use watch::{Change, Watch, WatchEvent};
