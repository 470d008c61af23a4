//! What Prometheus can ask registrator, beside what every reconcile loop tells.

use daemon::metrics::{MetricsError, counter_vec, gauge};
use prometheus::{IntCounterVec, IntGauge, Registry};

use crate::reconciler::HostState;

/// The metrics of this service.
#[derive(Debug, Clone)]
pub struct Metrics {
    writes: IntCounterVec,
    containers: IntGauge,
    services: IntGauge,
    rejected: IntGauge,
    foreign: IntGauge,
}

impl Metrics {
    /// Registers the metrics.
    ///
    /// # Errors
    /// When one of the names is taken in `registry`.
    pub fn new(registry: &Registry) -> Result<Self, MetricsError> {
        let writes = counter_vec(
            registry,
            "registrator_writes_total",
            "Writes to the Consul agent, by operation (register, deregister) and result (ok, error).",
            &["operation", "result"],
        )?;
        // There from the start, so that a rate sees the first one.
        for operation in ["register", "deregister"] {
            for result in ["ok", "error"] {
                writes.with_label_values(&[operation, result]).reset();
            }
        }
        Ok(Self {
            writes,
            containers: gauge(
                registry,
                "registrator_containers",
                "Running containers of this host.",
            )?,
            services: gauge(
                registry,
                "registrator_services",
                "Services that this host should have registered.",
            )?,
            rejected: gauge(
                registry,
                "registrator_rejected",
                "Variables, ports and services that could not be used; /status names them.",
            )?,
            foreign: gauge(
                registry,
                "registrator_foreign_ids",
                "Service IDs that somebody else has registered and that are left alone.",
            )?,
        })
    }

    /// Counts one write.
    pub fn write(&self, operation: &'static str, ok: bool) {
        self.writes
            .with_label_values(&[operation, if ok { "ok" } else { "error" }])
            .inc();
    }

    /// Shows what the host has.
    pub fn show(&self, state: &HostState) {
        let count = |n: usize| i64::try_from(n).unwrap_or(i64::MAX);
        self.containers.set(count(state.containers));
        self.services.set(count(state.services.len()));
        self.rejected.set(count(state.rejected.len()));
        self.foreign.set(count(state.foreign.len()));
    }
}
