//! The two steps of stopping: it is requested, and then, once the drain is over, tasks are told to end.

use std::{
    future::Future,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, Ordering},
    },
};

use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

/// The process's shutdown, to be watched from any task. Clones are the same shutdown.
#[derive(Clone, Debug, Default)]
pub struct Shutdown {
    inner: Arc<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    requested: CancellationToken,
    stop: CancellationToken,
    request: OnceLock<Request>,
    /// Whether the process has begun to act, and so must be shut down in order.
    engaged: AtomicBool,
}

#[derive(Debug)]
struct Request {
    reason: String,
    at: Instant,
}

impl Shutdown {
    /// A shutdown that has not been requested.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Requests it, as a signal does. Only the first reason counts.
    pub fn request(&self, reason: impl Into<String>) {
        let mut first = false;
        self.inner.request.get_or_init(|| {
            first = true;
            Request {
                reason: reason.into(),
                at: Instant::now(),
            }
        });
        if first {
            self.inner.requested.cancel();
        }
    }

    /// Ready as soon as the shutdown is requested, before the drain: for what must take in no new work.
    pub fn requested(&self) -> impl Future<Output = ()> + Send + use<> {
        let wait: WaitForCancellationFutureOwned = self.inner.requested.clone().cancelled_owned();
        wait
    }

    /// Whether it was requested.
    #[must_use]
    pub fn is_requested(&self) -> bool {
        self.inner.requested.is_cancelled()
    }

    /// Why it was requested, once it was.
    #[must_use]
    pub fn reason(&self) -> Option<&str> {
        self.inner.request.get().map(|request| request.reason.as_str())
    }

    /// Cancelled after the drain, when every task is to end. Cancelling the token itself stops nothing else.
    #[must_use]
    pub fn token(&self) -> CancellationToken {
        self.inner.stop.child_token()
    }

    /// When it was requested; now, when it was not.
    pub(crate) fn requested_at(&self) -> Instant {
        self.inner
            .request
            .get()
            .map_or_else(Instant::now, |request| request.at)
    }

    /// Tells the tasks to end.
    pub(crate) fn stop_tasks(&self) {
        self.inner.stop.cancel();
    }

    pub(crate) fn engage(&self) {
        self.inner.engaged.store(true, Ordering::Release);
    }

    pub(crate) fn is_engaged(&self) -> bool {
        self.inner.engaged.load(Ordering::Acquire)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_request_comes_before_the_tasks_are_stopped() {
        let shutdown = Shutdown::new();
        let token = shutdown.token();
        shutdown.request("SIGTERM");
        shutdown.request("SIGINT");
        shutdown.requested().await;
        assert!(shutdown.is_requested());
        assert_eq!(shutdown.reason(), Some("SIGTERM"));
        assert!(!token.is_cancelled());

        shutdown.stop_tasks();
        assert!(token.is_cancelled());
    }

    #[tokio::test]
    async fn a_task_cannot_stop_the_others() {
        let shutdown = Shutdown::new();
        shutdown.token().cancel();
        assert!(!shutdown.token().is_cancelled());
    }
}
