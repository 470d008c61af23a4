//! etcd v3 done right: endpoint fail-over, a deadline on every call, TLS and auth, compare-and-swap records, leases,
//! and watches that resume.
//!
//! For etcd 3.5 (tested with 3.5.16), on top of the package `etcd-client`, of which it uses the generated protocol and
//! neither the balancer nor the keeping of tokens. What holds everywhere:
//!
//! - **A failed call is an [`Error`], never an empty value.** Reads are linearizable: what is read is no older than the
//!   call. A member without a leader is not taken for one that knows nothing; it refuses, and another is asked.
//! - **Every call has a deadline**, [`Config::timeout`], and each attempt at one endpoint a shorter one. A member that is
//!   dead, frozen, cut off or no etcd at all costs one attempt; the calls after that go elsewhere ([`Client`]).
//! - **Guarded writes are made once**, also when an answer is lost: what became of the write is looked up in the key's
//!   history ([`Client::create`], [`Client::replace`], [`Record`]). When that cannot be found out the error says so
//!   ([`Error::is_ambiguous`]), and so does every write that failed and may have been made all the same.
//! - **A lease is relied on no longer than is certain**: counted from before the request was sent ([`LeaseKeeper`]).
//! - **A watch never ends and misses nothing** ([`Watch`]): it goes on after the last change, or says everything anew.
//! - Nothing is spawned: what goes on, goes on while its future is polled. (The HTTP/2 connections below have tasks of
//!   their own, which end with them.)
//! - Passwords and values of keys are in no `Debug` output and no error.
//!
//! ```no_run
//! # async fn example(args: etcd::EtcdArgs) -> Result<(), Box<dyn std::error::Error>> {
//! use etcd::{Client, Record, Update, WatchEvent};
//!
//! let client = Client::new(args.config()?)?;
//! let slot = Record::<String>::new(&client, "/example/slot");
//! match slot.create("n1".to_owned(), None).await? {
//!     Update::Done(mine) => println!("claimed at revision {}", mine.mod_revision),
//!     Update::Conflict(theirs) => println!("taken: {theirs:?}"),
//! }
//! let mut watch = client.watch("/example/");
//! loop {
//!     match watch.next().await {
//!         WatchEvent::Snapshot(listing) => println!("{} keys", listing.entries.len()),
//!         WatchEvent::Changes(changes) => println!("{} changes", changes.len()),
//!         WatchEvent::Unavailable { error, attempts } => eprintln!("attempt {attempts}: {error}"),
//!         WatchEvent::Resumed => eprintln!("etcd answers again"),
//!     }
//! }
//! # }
//! ```
//!
//! Deliberately absent: transactions that hold over several keys, locks and elections (a guarded write and a lease make one),
//! serializable reads, the administration of users and members.

mod args;
mod backoff;
mod batch;
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
pub use batch::{MAX_BATCH, Replaced, Replacement};
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
