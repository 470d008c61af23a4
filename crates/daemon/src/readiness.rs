//! Whether the process is ready: every named condition has been met once, and it is not shutting down.

use std::{
    borrow::Cow,
    collections::BTreeMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
};

use serde::Serialize;

use crate::{Shutdown, lock};

/// The conditions of being ready. Clones share them.
///
/// Conditions latch: an upstream that is lost later does not make the process unready, as it goes on serving the last good
/// state. What is wrong now belongs in `/status` and the metrics.
#[derive(Clone, Debug)]
pub struct Readiness {
    gates: Arc<Mutex<BTreeMap<Cow<'static, str>, Gate>>>,
    shutdown: Shutdown,
}

/// One condition. It starts closed; once open it stays open.
#[derive(Clone, Debug, Default)]
pub struct Gate {
    open: Arc<AtomicBool>,
}

/// The answer of `/ready`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ReadinessReport {
    /// Whether all conditions are met and no shutdown was requested.
    pub ready: bool,
    /// Whether a shutdown was requested.
    pub stopping: bool,
    /// The conditions not met yet, in the order of their names.
    pub waiting_for: Vec<String>,
}

impl Readiness {
    /// Ready until conditions are added or `shutdown` is requested.
    #[must_use]
    pub fn new(shutdown: Shutdown) -> Self {
        Self {
            gates: Arc::default(),
            shutdown,
        }
    }

    /// Adds a condition, or gives the one that has this name.
    #[must_use = "a gate that nobody opens keeps the process unready"]
    pub fn gate(&self, name: impl Into<Cow<'static, str>>) -> Gate {
        lock(&self.gates).entry(name.into()).or_default().clone()
    }

    /// Whether the process is ready now, and if not, why.
    #[must_use]
    pub fn report(&self) -> ReadinessReport {
        let stopping = self.shutdown.is_requested();
        let waiting_for: Vec<String> = lock(&self.gates)
            .iter()
            .filter(|(_, gate)| !gate.is_open())
            .map(|(name, _)| name.to_string())
            .collect();
        ReadinessReport {
            ready: !stopping && waiting_for.is_empty(),
            stopping,
            waiting_for,
        }
    }

    /// Whether the process is ready now.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.report().ready
    }
}

impl Gate {
    /// The condition is met, for good.
    pub fn open(&self) {
        self.open.store(true, Ordering::Release);
    }

    /// Whether it has been met.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.open.load(Ordering::Acquire)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ready_when_every_gate_is_open_and_until_shutdown() {
        let shutdown = Shutdown::new();
        let readiness = Readiness::new(shutdown.clone());
        assert!(readiness.is_ready());

        let (docker, consul) = (readiness.gate("docker"), readiness.gate("consul"));
        assert_eq!(readiness.report().waiting_for, ["consul", "docker"]);
        docker.open();
        assert!(!readiness.is_ready());
        consul.open();
        assert!(readiness.is_ready());

        shutdown.request("test");
        let report = readiness.report();
        assert_eq!(
            (report.ready, report.stopping, report.waiting_for),
            (false, true, vec![])
        );
    }

    #[test]
    fn a_gate_of_the_same_name_is_the_same_gate_and_stays_open() {
        let readiness = Readiness::new(Shutdown::new());
        readiness.gate("consul").open();
        assert!(readiness.gate("consul").is_open());
        assert!(readiness.is_ready());
    }
}
