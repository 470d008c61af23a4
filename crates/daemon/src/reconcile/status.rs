//! What a loop shows of itself in `/status`.

use std::sync::{Arc, Mutex};

use serde::Serialize;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::Waker;
use crate::{StatusBoard, lock, millis};

/// A loop's status at one moment.
#[derive(Clone, Debug, Serialize)]
pub struct LoopStatus<R> {
    /// The loop's name.
    pub name: &'static str,
    /// How many runs have ended.
    pub runs: u64,
    /// How many of the last runs in a row ended with an error.
    pub consecutive_failures: u32,
    /// For how many milliseconds a run has been under way, if one is.
    pub running_for_ms: Option<u64>,
    /// In how many milliseconds the next run is due, as far as is known; `None` while one is under way and after the end.
    pub next_run_in_ms: Option<u64>,
    /// Why there will be another run, when the loop has been woken already.
    pub pending_reasons: Vec<String>,
    /// The last run.
    pub last_run: Option<RunRecord>,
    /// The last run that changed something, with its report.
    pub last_change: Option<Reported<R>>,
    /// The last run that changed nothing and brought a report all the same, if it is newer than `last_change`.
    pub last_report: Option<Reported<R>>,
    /// The last run that ended with an error, also when that is over.
    pub last_error: Option<RunRecord>,
}

/// One run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RunRecord {
    /// Why it ran: the first eight distinct reasons.
    pub reasons: Vec<String>,
    /// How many wakes are not listed.
    pub suppressed: usize,
    /// Milliseconds from the first wake to the start.
    pub waited_ms: u64,
    /// Milliseconds from start to end.
    pub took_ms: u64,
    /// How many things it changed.
    pub changes: usize,
    /// Why it failed, with all sources, if it did.
    pub error: Option<String>,
    /// When it ended, in RFC 3339.
    pub finished_at: String,
}

/// One run and its report.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Reported<R> {
    /// The run.
    #[serde(flatten)]
    pub run: RunRecord,
    /// What it had to tell.
    pub report: Option<R>,
}

/// Gives a loop's status while it runs. Clones are of the same loop.
#[derive(Debug)]
pub struct LoopStatusHandle<R> {
    name: &'static str,
    waker: Waker,
    state: Arc<Mutex<State<R>>>,
}

#[derive(Debug)]
struct State<R> {
    runs: u64,
    consecutive_failures: u32,
    running_since: Option<Instant>,
    next_run: Option<Instant>,
    last_run: Option<RunRecord>,
    last_change: Option<Reported<R>>,
    last_report: Option<Reported<R>>,
    last_error: Option<RunRecord>,
}

// Derived, these would ask the same of `R`.
impl<R> Clone for LoopStatusHandle<R> {
    fn clone(&self) -> Self {
        Self {
            name: self.name,
            waker: self.waker.clone(),
            state: Arc::clone(&self.state),
        }
    }
}

impl<R> Default for State<R> {
    fn default() -> Self {
        Self {
            runs: 0,
            consecutive_failures: 0,
            running_since: None,
            next_run: None,
            last_run: None,
            last_change: None,
            last_report: None,
            last_error: None,
        }
    }
}

impl<R: Serialize + Clone + Send + Sync + 'static> LoopStatusHandle<R> {
    pub(super) fn new(name: &'static str, waker: Waker) -> Self {
        Self {
            name,
            waker,
            state: Arc::default(),
        }
    }

    /// The status now.
    #[must_use]
    pub fn snapshot(&self) -> LoopStatus<R> {
        let pending_reasons = self.waker.reasons();
        let state = lock(&self.state);
        LoopStatus {
            name: self.name,
            runs: state.runs,
            consecutive_failures: state.consecutive_failures,
            running_for_ms: state.running_since.map(|since| millis(since.elapsed())),
            next_run_in_ms: state
                .next_run
                .map(|at| millis(at.saturating_duration_since(Instant::now()))),
            pending_reasons,
            last_run: state.last_run.clone(),
            last_change: state.last_change.clone(),
            last_report: state.last_report.clone(),
            last_error: state.last_error.clone(),
        }
    }

    /// The status now, as JSON.
    #[must_use]
    pub fn to_json(&self) -> Value {
        serde_json::to_value(self.snapshot()).unwrap_or_else(
            |error| json!({ "name": self.name, "error": format!("cannot be shown: {error}") }),
        )
    }

    /// Shows the status on `board` under the loop's name.
    pub fn register_on(&self, board: &StatusBoard) {
        let handle = self.clone();
        board.register(self.name, move || handle.to_json());
    }

    /// The loop waits for its next run.
    pub(super) fn waiting(&self, next_run: Option<Instant>) {
        lock(&self.state).next_run = next_run;
    }

    /// A run has begun.
    pub(super) fn running(&self, since: Instant) {
        let mut state = lock(&self.state);
        state.running_since = Some(since);
        state.next_run = None;
    }

    /// The run has ended.
    pub(super) fn ran(&self, run: RunRecord, report: Option<R>, consecutive_failures: u32) {
        let mut state = lock(&self.state);
        state.running_since = None;
        state.runs += 1;
        state.consecutive_failures = consecutive_failures;
        if run.error.is_some() {
            state.last_error = Some(run.clone());
        }
        if run.changes > 0 {
            state.last_change = Some(Reported {
                run: run.clone(),
                report,
            });
            state.last_report = None;
        } else if report.is_some() {
            state.last_report = Some(Reported {
                run: run.clone(),
                report,
            });
        }
        state.last_run = Some(run);
    }
}
