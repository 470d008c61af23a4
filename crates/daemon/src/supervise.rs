//! The tasks the process cannot do without. When one ends early, the process ends, and its unit starts it again.

use std::{borrow::Cow, collections::HashMap, future::Future};

use tokio::{
    task::{Id, JoinError, JoinSet},
    time::{Instant, timeout_at},
};

use crate::BoxError;

/// Holds the critical tasks; dropping it aborts them.
#[derive(Debug, Default)]
pub struct Supervisor {
    tasks: JoinSet<Result<(), BoxError>>,
    names: HashMap<Id, Cow<'static, str>>,
}

/// What a task may end with: nothing, or a result whose error is any error.
pub trait TaskResult {
    /// The same as a result.
    ///
    /// # Errors
    /// The one that it holds.
    fn into_result(self) -> Result<(), BoxError>;
}

impl TaskResult for () {
    fn into_result(self) -> Result<(), BoxError> {
        Ok(())
    }
}

impl<E: Into<BoxError>> TaskResult for Result<(), E> {
    fn into_result(self) -> Result<(), BoxError> {
        self.map_err(Into::into)
    }
}

/// So that a task may be a plain `async { loop { … } }`, whose type is `!`, which stable Rust lets one write only as what a
/// function returns.
impl TaskResult for <fn() -> ! as Returns>::Value {
    fn into_result(self) -> Result<(), BoxError> {
        self
    }
}

/// What a function returns. Only for naming `!`.
#[doc(hidden)]
pub trait Returns {
    /// The type it returns.
    type Value;
}

impl<T> Returns for fn() -> T {
    type Value = T;
}

/// How a task ended that should not have ended so.
#[derive(Debug, thiserror::Error)]
pub enum TaskError {
    /// It returned before the shutdown, without an error.
    #[error("it returned before the shutdown")]
    Returned,
    /// It returned an error.
    #[error("it failed")]
    Failed(#[source] BoxError),
    /// It panicked.
    #[error("it panicked: {0}")]
    Panicked(String),
    /// It was aborted from outside.
    #[error("it was aborted")]
    Aborted,
}

/// A task's end.
#[derive(Debug)]
pub(crate) struct TaskEnd {
    pub(crate) name: String,
    /// `None` when it returned without an error.
    pub(crate) error: Option<TaskError>,
}

impl Supervisor {
    /// Starts a task that must live until the shutdown.
    ///
    /// If it returns or panics earlier, [`crate::Process::run_until_shutdown`] ends with an error that names it.
    pub fn spawn<F>(&mut self, name: impl Into<Cow<'static, str>>, task: F)
    where
        F: Future<Output: TaskResult> + Send + 'static,
    {
        let handle = self.tasks.spawn(async move { task.await.into_result() });
        self.names.insert(handle.id(), name.into());
    }

    /// Waits for any task to end; for ever when there is none. Dropping the future loses nothing.
    pub(crate) async fn next_end(&mut self) -> TaskEnd {
        match self.tasks.join_next_with_id().await {
            Some(Ok((id, result))) => self.end(id, result.err().map(TaskError::Failed)),
            Some(Err(error)) => self.end(error.id(), Some(join_error(error))),
            None => std::future::pending().await,
        }
    }

    /// Waits until all tasks have ended or `deadline` has come, then aborts what is left.
    ///
    /// Gives the tasks that ended with an error, and the names of those that did not end.
    pub(crate) async fn finish(&mut self, deadline: Instant) -> (Vec<TaskEnd>, Vec<String>) {
        let mut failed = Vec::new();
        while !self.tasks.is_empty() {
            match timeout_at(deadline, self.next_end()).await {
                Ok(end) if end.error.is_some() => failed.push(end),
                Ok(_) => {}
                Err(_) => break,
            }
        }
        // Not waited for: a task stuck in a blocking call would never let go.
        self.tasks.abort_all();
        let mut unfinished: Vec<String> = self.names.values().map(ToString::to_string).collect();
        unfinished.sort();
        (failed, unfinished)
    }

    fn end(&mut self, id: Id, error: Option<TaskError>) -> TaskEnd {
        let name = self
            .names
            .remove(&id)
            .map_or_else(|| "unnamed".to_owned(), Cow::into_owned);
        TaskEnd { name, error }
    }
}

fn join_error(error: JoinError) -> TaskError {
    match error.try_into_panic() {
        Ok(payload) => {
            let text = payload
                .downcast_ref::<&str>()
                .map(ToString::to_string)
                .or_else(|| payload.downcast_ref::<String>().cloned());
            TaskError::Panicked(text.unwrap_or_else(|| "without a message".to_owned()))
        }
        Err(_) => TaskError::Aborted,
    }
}

#[cfg(test)]
mod tests {
    use std::{future::pending, time::Duration};

    use super::*;

    fn soon() -> Instant {
        Instant::now() + Duration::from_secs(1)
    }

    #[tokio::test]
    async fn a_panic_is_caught_and_named() {
        let mut tasks = Supervisor::default();
        tasks.spawn("steady", pending::<()>());
        tasks.spawn("shaky", async {
            let count = 3;
            panic!("boom {count}");
        });
        let end = tasks.next_end().await;
        assert_eq!(end.name, "shaky");
        assert!(matches!(end.error, Some(TaskError::Panicked(text)) if text == "boom 3"));
    }

    #[tokio::test]
    async fn an_early_return_and_an_error_are_told_apart() {
        let mut tasks = Supervisor::default();
        tasks.spawn("quitter", async {});
        assert!(tasks.next_end().await.error.is_none());
        tasks.spawn("failer", async { Err::<(), _>("no luck") });
        let end = tasks.next_end().await;
        assert!(matches!(end.error, Some(TaskError::Failed(error)) if error.to_string() == "no luck"));
    }

    #[tokio::test(start_paused = true)]
    async fn finish_names_what_failed_and_what_did_not_end() {
        let mut tasks = Supervisor::default();
        tasks.spawn("done", async {});
        tasks.spawn("failer", async { Err::<(), _>("no luck") });
        tasks.spawn("stuck", pending::<()>());
        let (failed, unfinished) = tasks.finish(soon()).await;
        assert_eq!(
            failed.iter().map(|end| end.name.as_str()).collect::<Vec<_>>(),
            ["failer"]
        );
        assert_eq!(unfinished, ["stuck"]);
    }
}
