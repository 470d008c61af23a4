//! The loop that drives observe, plan and apply.
//!
//! It is level-triggered: an event only wakes it, and each run reads the truth afresh. So wakes may be coalesced without
//! loss, as long as one that comes during a run causes another run. Why each run happened and what came of it is kept for
//! `/status`.

mod inbox;
mod schedule;
mod status;

use std::{
    error::Error,
    future::Future,
    time::{Duration, SystemTime},
};

use prometheus::Registry;
use serde::Serialize;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, info, warn};

pub use inbox::Waker;
use schedule::Schedule;
pub use status::{LoopStatus, LoopStatusHandle, Reported, RunRecord};

use crate::{Backoff, BoxError, error_chain, metrics::LoopMetrics, millis, rfc3339};

/// The reason of a run for which nothing but time was needed.
const RESYNC: &str = "resync";

/// Brings something into its desired state, as often as it is asked to.
pub trait Reconcile: Send {
    /// What a run has to tell an operator. It is shown in `/status`, so it must hold no secrets.
    type Report: Serialize + Clone + Send + Sync + 'static;

    /// Observes, plans and applies once. Infallible: errors are part of the outcome.
    fn reconcile(&mut self, activation: &Activation) -> impl Future<Output = Outcome<Self::Report>> + Send;
}

/// Why a run happens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Activation {
    /// The first eight distinct reasons, in order of arrival. The loop's own are `start`, `resync`, `retry` and `again`.
    pub reasons: Vec<String>,
    /// How many wakes are not listed, as their reason was already there or there were too many.
    pub suppressed: usize,
    /// When the first of the wakes came.
    pub first_wake: Instant,
    /// 1, and 1 more for each run in a row that has failed before this one.
    pub attempt: u32,
    /// Whether it is time to look at everything afresh, whatever else woke the loop: an event may have been lost. True
    /// of the first run, and then once in each resync interval, however often the loop is woken.
    pub resync: bool,
}

/// What came of a run.
#[derive(Debug)]
#[must_use]
pub struct Outcome<R> {
    /// How many things were changed.
    pub changes: usize,
    /// What there is to tell.
    pub report: Option<R>,
    /// Why the state is not yet the desired one, if so: the run is tried again after a back-off.
    pub error: Option<BoxError>,
    /// To be run again then, without its being an error: as when a hold ends. The reason is `again`.
    pub retry_after: Option<Duration>,
}

impl<R> Outcome<R> {
    /// All was as desired.
    pub fn unchanged() -> Self {
        Self {
            changes: 0,
            report: None,
            error: None,
            retry_after: None,
        }
    }

    /// `changes` things were changed, and now all is as desired.
    pub fn changed(changes: usize, report: R) -> Self {
        Self {
            changes,
            report: Some(report),
            ..Self::unchanged()
        }
    }

    /// The run failed. Add what it did before that with [`Outcome::with_changes`].
    pub fn failed(error: impl Into<BoxError>) -> Self {
        Self {
            error: Some(error.into()),
            ..Self::unchanged()
        }
    }

    /// Sets how many things were changed.
    pub fn with_changes(self, changes: usize) -> Self {
        Self { changes, ..self }
    }

    /// Sets what there is to tell.
    pub fn with_report(self, report: R) -> Self {
        Self {
            report: Some(report),
            ..self
        }
    }

    /// Says that, all the same, not everything is as desired.
    pub fn with_error(self, error: impl Into<BoxError>) -> Self {
        Self {
            error: Some(error.into()),
            ..self
        }
    }

    /// Asks to be run again after `delay`.
    pub fn with_retry_after(self, delay: Duration) -> Self {
        Self {
            retry_after: Some(delay),
            ..self
        }
    }
}

/// When a loop runs.
#[derive(Clone, Debug)]
pub struct LoopSettings {
    /// The loop's name in logs, metrics and `/status`; unique in the process.
    pub name: &'static str,
    /// How long after a run to run again although nothing woke the loop, ±10 %. Zero means never.
    pub resync: Duration,
    /// The least time from the start of one run to the start of the next. A lone wake after quiet runs at once.
    pub min_gap: Duration,
    /// The delays after failures.
    pub retry: Backoff,
}

/// Runs a [`Reconcile`] when it is woken, and when it is time.
#[derive(Debug)]
pub struct ReconcileLoop<R: Reconcile> {
    reconciler: R,
    name: &'static str,
    waker: Waker,
    schedule: Schedule,
    metrics: Option<LoopMetrics>,
    status: LoopStatusHandle<R::Report>,
    consecutive_failures: u32,
    /// The error last logged, so that a lasting one is not logged at every retry.
    logged_error: Option<String>,
}

impl<R: Reconcile> ReconcileLoop<R> {
    /// A loop that has not run yet, and what wakes it. The waker may be cloned and used before the loop runs.
    ///
    /// A second loop of the same name in one registry is a mistake in the program: it is logged, and that loop has no
    /// metrics.
    pub fn new(reconciler: R, settings: LoopSettings, registry: &Registry) -> (Self, Waker) {
        let LoopSettings {
            name,
            resync,
            min_gap,
            retry,
        } = settings;
        let metrics = LoopMetrics::new(registry, name)
            .inspect_err(|cause| error!(r#loop = name, "this loop has no metrics: {}", error_chain(cause)))
            .ok();
        let waker = Waker::new();
        let reconcile_loop = Self {
            reconciler,
            name,
            waker: waker.clone(),
            schedule: Schedule::new(resync, min_gap, retry),
            metrics,
            status: LoopStatusHandle::new(name, waker.clone()),
            consecutive_failures: 0,
            logged_error: None,
        };
        (reconcile_loop, waker)
    }

    /// The loop's status, to be shown while it runs.
    #[must_use]
    pub fn status(&self) -> LoopStatusHandle<R::Report> {
        self.status.clone()
    }

    /// Runs until `shutdown`, once at the start with the reason `start`. A run under way is never cancelled: the
    /// supervisor's deadline bounds it.
    pub async fn run(mut self, shutdown: CancellationToken) {
        self.waker.wake("start");
        while let Some(activation) = self.next_activation(&shutdown).await {
            self.run_once(&activation).await;
        }
        self.status.waiting(None);
        debug!(r#loop = self.name, "the loop has ended");
    }

    /// Waits until the next run is due; `None` at shutdown.
    async fn next_activation(&self, shutdown: &CancellationToken) -> Option<Activation> {
        let attempt = self.consecutive_failures.saturating_add(1);
        loop {
            let woken = self.waker.is_pending();
            let due = self.schedule.due(woken);
            self.status.waiting(due.map(|due| due.at));
            // All arms may be cancelled: a shutdown stays requested, a wake stays in the inbox (and its notice is kept),
            // and the timer is set afresh from the schedule.
            tokio::select! {
                biased;
                () = shutdown.cancelled() => return None,
                () = sleep_until_some(due.map(|due| due.at)) => {
                    let own_reason = due.map_or(RESYNC, |due| due.reason);
                    let resync = self.schedule.is_resync_due();
                    return Some(self.waker.take(own_reason, attempt, resync));
                }
                // A wake changes what is due only if none was pending; others gather until the run.
                () = self.waker.woken(), if !woken => {}
            }
        }
    }

    async fn run_once(&mut self, activation: &Activation) {
        let start = Instant::now();
        self.status.running(start);
        let outcome = self.reconciler.reconcile(activation).await;
        let end = Instant::now();

        let error = outcome
            .error
            .as_deref()
            .map(|error: &(dyn Error + Send + Sync + 'static)| error_chain(error));
        self.schedule.ran(
            start,
            end,
            activation.resync,
            error.is_some(),
            outcome.retry_after,
        );
        self.consecutive_failures = if error.is_some() {
            self.consecutive_failures.saturating_add(1)
        } else {
            0
        };
        let record = RunRecord {
            reasons: activation.reasons.clone(),
            suppressed: activation.suppressed,
            waited_ms: millis(start.saturating_duration_since(activation.first_wake)),
            took_ms: millis(end.saturating_duration_since(start)),
            changes: outcome.changes,
            error,
            finished_at: rfc3339(SystemTime::now()),
        };
        if let Some(metrics) = &self.metrics {
            metrics.record(
                end.saturating_duration_since(start),
                record.changes,
                record.error.is_some(),
            );
        }
        self.log(&record);
        self.status.ran(record, outcome.report, self.consecutive_failures);
    }

    /// One line when an error appears or its text changes, one when it is gone, one for each run that changed something.
    fn log(&mut self, record: &RunRecord) {
        let RunRecord { changes, took_ms, .. } = *record;
        let (name, reasons) = (self.name, record.reasons.join(", "));
        match (&record.error, self.logged_error.as_deref()) {
            (Some(error), Some(logged)) if error == logged => {
                debug!(
                    r#loop = name,
                    failures = self.consecutive_failures,
                    "still failing: {error}"
                );
            }
            (Some(error), _) => {
                warn!(
                    r#loop = name,
                    reasons,
                    failures = self.consecutive_failures,
                    "failed, will retry: {error}"
                );
                self.logged_error = Some(error.clone());
            }
            (None, Some(_)) => {
                info!(r#loop = name, "recovered");
                self.logged_error = None;
            }
            (None, None) => {}
        }
        if changes > 0 {
            info!(r#loop = name, reasons, changes, took_ms, "changed");
        } else {
            debug!(r#loop = name, reasons, took_ms, "unchanged");
        }
    }
}

/// Sleeps until `at`, or for ever.
async fn sleep_until_some(at: Option<Instant>) {
    match at {
        Some(at) => sleep_until(at).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests;
