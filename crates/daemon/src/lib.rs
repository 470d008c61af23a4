//! What every Colossus process has in common: arguments, telemetry, the admin server, readiness, supervised tasks,
//! an orderly shutdown, and the loop that drives observe, plan and apply.
//!
//! A service's `main.rs` hands its `run` to [`main`] and gets a [`Process`]:
//!
//! ```no_run
//! use daemon::{Activation, Backoff, CommonArgs, HasCommon, LoopSettings, Outcome, Process, Reconcile, ReconcileLoop, RunError};
//! use std::time::Duration;
//!
//! /// Keeps nothing in order, as an example.
//! #[derive(clap::Parser)]
//! #[command(version)]
//! struct Args {
//!     #[command(flatten)]
//!     common: CommonArgs,
//! }
//!
//! impl HasCommon for Args {
//!     const DEFAULT_ADMIN_ADDR: &'static str = "0.0.0.0:9501";
//!     fn common(&self) -> &CommonArgs {
//!         &self.common
//!     }
//! }
//!
//! struct Keeper;
//!
//! impl Reconcile for Keeper {
//!     type Report = Vec<String>;
//!     async fn reconcile(&mut self, _activation: &Activation) -> Outcome<Self::Report> {
//!         Outcome::unchanged()
//!     }
//! }
//!
//! async fn run(_args: Args, mut process: Process) -> Result<(), RunError> {
//!     process.serve_admin().await?;
//!     let settings = LoopSettings {
//!         name: "keep",
//!         resync: Duration::from_secs(60),
//!         min_gap: Duration::from_millis(50),
//!         retry: Backoff::new(Duration::from_millis(500), Duration::from_secs(30)),
//!     };
//!     let (keep, waker) = ReconcileLoop::new(Keeper, settings, &process.registry);
//!     keep.status().register_on(&process.status);
//!     waker.wake("an event");
//!     process.tasks.spawn("keep", keep.run(process.shutdown.token()));
//!     process.run_until_shutdown(async {}).await
//! }
//!
//! fn main() -> std::process::ExitCode {
//!     daemon::main("keeper", run)
//! }
//! ```
//!
//! Deliberately absent: a plug-in system, configuration files, and reloading. A process is configured by its
//! arguments and environment, and a new configuration is a new process.

pub mod admin;
pub mod args;
pub mod backoff;
pub mod entry;
pub mod error;
pub mod files;
pub mod host;
pub mod metrics;
pub mod probe;
pub mod process;
pub mod readiness;
pub mod reconcile;
pub mod shutdown;
mod signals;
pub mod status;
pub mod supervise;
pub mod telemetry;

pub use admin::AdminError;
pub use args::{CommonArgs, HasCommon, LogFilter, LogFormat, parse_duration};
pub use backoff::Backoff;
pub use entry::main;
pub use error::{BoxError, RunError, error_chain};
pub use metrics::MetricsError;
pub use probe::{InspectCommand, ProbeError};
pub use process::{Process, ProcessError};
pub use readiness::{Gate, Readiness};
pub use reconcile::{
    Activation, LoopSettings, LoopStatus, LoopStatusHandle, Outcome, Reconcile, ReconcileLoop, Waker,
};
pub use shutdown::Shutdown;
pub use status::StatusBoard;
pub use supervise::{Supervisor, TaskError, TaskResult};

/// Wall-clock times in logs and `/status` are RFC 3339 in UTC with milliseconds.
pub(crate) fn rfc3339(time: std::time::SystemTime) -> String {
    humantime::format_rfc3339_millis(time).to_string()
}

/// Whole milliseconds of a duration, saturating: for JSON and logs.
pub(crate) fn millis(duration: std::time::Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// The instant `delay` after `start`, or one so far away that it never comes.
///
/// `Instant + Duration` panics on overflow, and delays come from the command line.
pub(crate) fn after(start: tokio::time::Instant, delay: std::time::Duration) -> tokio::time::Instant {
    const FAR: std::time::Duration = std::time::Duration::from_secs(30 * 365 * 24 * 3600);
    start.checked_add(delay.min(FAR)).unwrap_or(start)
}

/// Locks a mutex whose data is valid after every single statement, so that a panic elsewhere does not spread.
pub(crate) fn lock<T>(mutex: &std::sync::Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}
