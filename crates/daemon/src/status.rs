//! What `/status` shows: the process, and what each part of it has to say.

use std::{
    borrow::Cow,
    collections::BTreeMap,
    fmt,
    sync::{Arc, Mutex},
    time::SystemTime,
};

use serde_json::{Map, Value, json};
use tokio::time::Instant;

use crate::{Readiness, lock, rfc3339};

type Source = Arc<dyn Fn() -> Value + Send + Sync>;

/// The parts of `/status`. Clones share them.
#[derive(Clone)]
pub struct StatusBoard {
    inner: Arc<Inner>,
}

struct Inner {
    service: &'static str,
    version: String,
    started_at: SystemTime,
    started: Instant,
    readiness: Readiness,
    sources: Mutex<BTreeMap<Cow<'static, str>, Source>>,
}

impl StatusBoard {
    pub(crate) fn new(service: &'static str, version: &str, readiness: Readiness) -> Self {
        let inner = Inner {
            service,
            version: version.to_owned(),
            started_at: SystemTime::now(),
            started: Instant::now(),
            readiness,
            sources: Mutex::default(),
        };
        Self {
            inner: Arc::new(inner),
        }
    }

    /// Shows `value()` under `name`, in place of an earlier one of that name. The process's own fields cannot be replaced.
    ///
    /// It is called for each request on a worker of the runtime, so it must be quick and must not block; and it must not
    /// show secrets.
    pub fn register(
        &self,
        name: impl Into<Cow<'static, str>>,
        value: impl Fn() -> Value + Send + Sync + 'static,
    ) {
        lock(&self.inner.sources).insert(name.into(), Arc::new(value));
    }

    /// The whole status now.
    #[must_use]
    pub fn snapshot(&self) -> Value {
        // Copied out, so that a slow part does not hold the lock against `register`.
        let sources: Vec<(String, Source)> = lock(&self.inner.sources)
            .iter()
            .map(|(name, source)| (name.to_string(), Arc::clone(source)))
            .collect();
        let mut status: Map<String, Value> = sources
            .into_iter()
            .map(|(name, source)| (name, source()))
            .collect();

        let readiness = self.inner.readiness.report();
        let own = [
            ("service", json!(self.inner.service)),
            ("version", json!(self.inner.version)),
            ("started_at", json!(rfc3339(self.inner.started_at))),
            ("uptime_seconds", json!(self.inner.started.elapsed().as_secs())),
            ("ready", json!(readiness.ready)),
            ("stopping", json!(readiness.stopping)),
            ("waiting_for", json!(readiness.waiting_for)),
        ];
        status.extend(own.map(|(name, value)| (name.to_owned(), value)));
        Value::Object(status)
    }
}

impl fmt::Debug for StatusBoard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<_> = lock(&self.inner.sources).keys().cloned().collect();
        f.debug_struct("StatusBoard")
            .field("service", &self.inner.service)
            .field("sources", &names)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Shutdown;

    #[test]
    fn shows_the_process_and_its_parts() {
        let readiness = Readiness::new(Shutdown::new());
        let gate = readiness.gate("consul");
        let board = StatusBoard::new("keeper", "1.2.3", readiness);
        board.register("routes", || json!({ "count": 2 }));
        board.register("service", || json!("an impostor"));

        let status = board.snapshot();
        assert_eq!(status["service"], "keeper");
        assert_eq!(status["version"], "1.2.3");
        assert_eq!(status["ready"], false);
        assert_eq!(status["waiting_for"], json!(["consul"]));
        assert_eq!(status["routes"]["count"], 2);
        assert_eq!(status["uptime_seconds"], 0);
        assert!(humantime::parse_rfc3339(status["started_at"].as_str().unwrap()).is_ok());

        gate.open();
        board.register("routes", || json!({ "count": 3 }));
        assert_eq!(board.snapshot()["ready"], true);
        assert_eq!(board.snapshot()["routes"]["count"], 3);
    }
}
