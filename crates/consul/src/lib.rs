//! A typed client for the parts of Consul's HTTP API that Colossus uses, and [`Watch`], its blocking query.
//!
//! Works with Consul 1.8.7 and newer. What holds everywhere:
//!
//! - Every call has a deadline ([`Config::timeout`]; a blocking query has its wait on top) and reads at most
//!   [`MAX_ANSWER`] bytes.
//! - A failed call is an [`Error`], never an empty value: a caller cannot take a lost Consul for one that knows
//!   nothing.
//! - Redirects are not followed. Consul's mux answers 301 to a path that it would clean, and following it would
//!   act on another service or key than the one named. Names that would be cleaned are refused before they
//!   are sent ([`Error::Identifier`]).
//! - No proxy is taken from the environment. The client speaks to an agent on this host or one hop away; a
//!   `http_proxy` meant for the internet would send it, with its token, to a stranger.
//! - Nothing is read from the system unless an `https` address without a CA file asks for it: building a client
//!   works in a container FROM scratch.
//!
//! ```no_run
//! # async fn example() -> Result<(), consul::Error> {
//! use consul::{Client, Config, WatchEvent, WatchOptions};
//!
//! let client = Client::new(Config::new("http://127.0.0.1:8500".parse()?))?;
//! let mut services = client.watch_catalog_services(WatchOptions::default());
//! loop {
//!     match services.next().await {
//!         WatchEvent::Value(snapshot) => println!("{} services", snapshot.value.len()),
//!         WatchEvent::Unavailable { error, attempts } => eprintln!("attempt {attempts}: {error}"),
//!     }
//! }
//! # }
//! ```

mod acl;
mod agent;
mod args;
mod catalog;
mod config;
mod error;
mod health;
mod json;
mod kv;
mod operator;
mod path;
mod query;
mod session;
mod snapshot;
mod status;
mod tls;
mod token;
mod transport;
mod txn;
mod watch;

#[cfg(test)]
mod failure_tests;

pub use acl::{AclBootstrap, AclLink, AclPolicy, AclPolicyRequest, AclToken, AclTokenRequest};
pub use agent::{
    AgentConfig, AgentDebugConfig, AgentMember, AgentSelf, AgentService, CheckDefinition, CheckRegistration,
    MemberStatus, ServiceAddress, ServiceRegistration,
};
pub use args::{ConsulArgs, ConsulAuthArgs};
pub use catalog::{CatalogDeregistration, CatalogInstance, CatalogRegistration, NodeServices};
pub use config::{Address, Config, TlsConfig, TokenSource};
pub use error::Error;
pub use health::{CatalogService, CheckStatus, HealthCheck, Node, ServiceEntry, Weights};
pub use kv::{KvPair, PutOptions};
pub use operator::{
    AutopilotConfiguration, AutopilotHealth, AutopilotServer, Keyring, KeyringKey, RaftConfiguration,
    RaftPeer, RaftServer,
};
pub use query::{Consistency, QueryMeta, QueryOptions, Response};
pub use session::{Session, SessionBehavior, SessionRequest};
pub use snapshot::{SnapshotInfo, verify_snapshot};
pub use transport::{Client, MAX_ANSWER};
pub use txn::{KvOp, TxnFailure};
pub use watch::{Continuity, Snapshot, Watch, WatchEvent, WatchOptions};
