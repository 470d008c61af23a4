//! The running process: what its parts share, and its orderly end.

use std::{borrow::Cow, future::Future, net::SocketAddr, time::Duration};

use prometheus::Registry;
use tokio::time::timeout_at;
use tracing::{error, info};

use crate::{
    AdminError, BoxError, CommonArgs, Gate, MetricsError, Readiness, RunError, Shutdown, StatusBoard,
    Supervisor, TaskError, TaskResult, admin, after, error_chain, metrics, supervise::TaskEnd,
};

/// What the parts of a service share. [`crate::main`] makes one and hands it to the service's `run`.
#[derive(Debug)]
pub struct Process {
    /// Where metrics are registered; served at `/metrics`.
    pub registry: Registry,
    /// The conditions of being ready; served at `/ready`. Until [`Process::run_until_shutdown`] is reached, one of them,
    /// `startup`, is not met.
    pub readiness: Readiness,
    /// The shutdown, to be watched by tasks.
    pub shutdown: Shutdown,
    /// The tasks that must live as long as the process.
    pub tasks: Supervisor,
    /// What `/status` shows.
    pub status: StatusBoard,
    startup: Gate,
    admin_addr: SocketAddr,
    shutdown_deadline: Duration,
}

/// Why a process did not end cleanly.
#[derive(Debug, thiserror::Error)]
pub enum ProcessError {
    /// A critical task ended before the shutdown, or with an error during it.
    #[error("the task `{name}` ended")]
    Task {
        /// The task's name.
        name: String,
        /// How it ended.
        source: TaskError,
    },
    /// The drain failed.
    #[error("the drain failed")]
    Drain(#[source] BoxError),
    /// The shutdown was cut short.
    #[error(
        "the shutdown was cut short after {}, still running: {}; a longer --shutdown-deadline gives it more time",
        humantime::format_duration(*deadline), unfinished.join(", ")
    )]
    Deadline {
        /// The value of `--shutdown-deadline`.
        deadline: Duration,
        /// What had not ended: tasks by name, `drain`, or `run`.
        unfinished: Vec<String>,
    },
}

impl Process {
    /// A process that has bound nothing and started nothing.
    ///
    /// # Errors
    /// When the metrics that every process has cannot be registered.
    pub fn new(service: &'static str, version: &str, args: &CommonArgs) -> Result<Self, MetricsError> {
        let registry = Registry::new();
        metrics::process_metrics(&registry, service, version)?;
        let shutdown = Shutdown::new();
        let readiness = Readiness::new(shutdown.clone());
        Ok(Self {
            registry,
            startup: readiness.gate("startup"),
            status: StatusBoard::new(service, version, readiness.clone()),
            readiness,
            shutdown,
            tasks: Supervisor::default(),
            admin_addr: args.admin_addr,
            shutdown_deadline: args.shutdown_deadline,
        })
    }

    /// Binds the admin server's port and serves it as a supervised task until the drain is over.
    ///
    /// Call it before anything else is bound or changed: a port in use then costs nothing. From here on the process is
    /// shut down in order; before, a signal ends it at once. Gives the address bound, which tells the port when
    /// `--admin-addr` has port 0.
    ///
    /// # Errors
    /// When the port cannot be bound, with the flag, its value and the mend.
    pub async fn serve_admin(&mut self) -> Result<SocketAddr, AdminError> {
        let listener = admin::bind(self.admin_addr).await?;
        let addr = listener
            .local_addr()
            .map_err(|source| AdminError::LocalAddr { source })?;
        self.shutdown.engage();
        let router = admin::router(self.readiness.clone(), self.status.clone(), self.registry.clone());
        self.tasks
            .spawn("admin", admin::serve(listener, router, self.shutdown.token()));
        info!(%addr, "the admin server listens");
        Ok(addr)
    }

    /// Runs until a signal, or until a critical task ends, then stops in order: not ready, `drain`, tasks.
    ///
    /// The drain is what must happen while the tasks still run: handing over, waiting for work in flight. Then
    /// [`Shutdown::token`] is cancelled and the tasks are waited for. All of it may take `--shutdown-deadline` since the
    /// request; the last fifth of it (at most a second) is kept from the drain, so that a hung drain still leaves the tasks
    /// time to end. A second signal ends the process at once, with 128 and the signal's number.
    ///
    /// # Errors
    /// [`ProcessError`]: when a critical task ended early or failed, the drain failed, or the deadline cut the shutdown
    /// short. Of several, the first is given and the others are logged.
    pub async fn run_until_shutdown<F>(mut self, drain: F) -> Result<(), RunError>
    where
        F: Future<Output: TaskResult>,
    {
        self.shutdown.engage();
        self.startup.open();
        let mut errors = Vec::new();

        // Both arms may be cancelled: a request stays requested, and a task that ends is still found by `finish`.
        tokio::select! {
            biased;
            () = self.shutdown.requested() => {}
            end = self.tasks.next_end() => {
                // Requesting the shutdown makes `/ready` say no, as a signal does.
                self.shutdown.request(format!("the task `{}` ended", end.name));
                errors.push(early_end(end));
            }
        }

        let deadline = after(self.shutdown.requested_at(), self.shutdown_deadline);
        let reserve = (self.shutdown_deadline / 5).min(Duration::from_secs(1));
        let mut unfinished: Vec<Cow<'static, str>> = Vec::new();
        match timeout_at(deadline - reserve, drain).await {
            Ok(result) => errors.extend(result.into_result().err().map(ProcessError::Drain)),
            Err(_) => unfinished.push("drain".into()),
        }

        self.shutdown.stop_tasks();
        let (failed, stuck) = self.tasks.finish(deadline).await;
        errors.extend(failed.into_iter().map(early_end));
        unfinished.extend(stuck.into_iter().map(Cow::from));
        if !unfinished.is_empty() {
            let unfinished = unfinished.into_iter().map(Cow::into_owned).collect();
            errors.push(ProcessError::Deadline {
                deadline: self.shutdown_deadline,
                unfinished,
            });
        }
        first_of(errors)?;
        info!("stopped");
        Ok(())
    }
}

fn early_end(end: TaskEnd) -> ProcessError {
    ProcessError::Task {
        name: end.name,
        source: end.error.unwrap_or(TaskError::Returned),
    }
}

fn first_of(errors: Vec<ProcessError>) -> Result<(), ProcessError> {
    let mut errors = errors.into_iter();
    let Some(first) = errors.next() else { return Ok(()) };
    for other in errors {
        error!("{}", error_chain(&other));
    }
    Err(first)
}

#[cfg(test)]
mod tests;
