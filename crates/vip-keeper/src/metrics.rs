//! What is measured.

use std::time::Duration;

use daemon::MetricsError;
use daemon::metrics::{counter_vec, float_counter_vec, gauge_vec, histogram};
use prometheus::{CounterVec, Histogram, IntCounterVec, IntGaugeVec, Registry};

use crate::election::Change;
use crate::vip::Vip;

/// Bounds of the time that a renewal takes, in seconds: a put takes 3 to 5 ms.
const RENEWAL_BUCKETS: &[f64] = &[0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.4, 0.8, 1.6];

/// Every change and reason there is: shown from the start, so that the first one is a change of its counter.
const CHANGES: [(&str, &str); 18] = [
    ("took", "claimed"),
    ("took", "free"),
    ("took", "given"),
    ("took", "again"),
    ("expired", "no_renewal"),
    ("lost", "another_holder"),
    ("gave", "operator"),
    ("gave", "stop"),
    ("gave", "unhealthy"),
    ("gave", "preempted"),
    ("released", "stop"),
    ("released", "unhealthy"),
    ("stays", "operator"),
    ("stays", "stop"),
    ("stays", "unhealthy"),
    ("stays", "preempted"),
    ("conflict", "another_speaker"),
    ("failed", "kernel"),
];

/// The metrics of this service. The label `vip` takes the configured names only.
#[derive(Clone, Debug)]
pub struct Metrics {
    /// Whether this node holds an address.
    pub holds: IntGaugeVec,
    /// The number of the present holder.
    pub epoch: IntGaugeVec,
    /// Changes here, by kind and reason.
    pub changes: IntCounterVec,
    /// How long a guarded write took.
    pub renewal: Histogram,
    /// Writes, by result.
    pub writes: IntCounterVec,
    /// Seconds during which nobody could prove to hold an address.
    pub without_holder: CounterVec,
    /// How many hosts spoke for an address on the link during the last 10 s.
    pub speakers: IntGaugeVec,
    /// Whether this node could hold an address.
    pub healthy: IntGaugeVec,
    /// Addresses that were put back after something else had removed them.
    pub restored: IntCounterVec,
    /// Hooks, by result.
    pub hooks: IntCounterVec,
    /// Whether etcd's watch is up.
    pub etcd: prometheus::IntGauge,
    /// Keys in etcd that cannot be understood.
    pub rejected: prometheus::IntCounter,
}

impl Metrics {
    /// Registers them.
    ///
    /// # Errors
    /// When a name is taken.
    pub fn new(registry: &Registry, vips: &[Vip]) -> Result<Self, MetricsError> {
        let vip = &["vip"];
        let metrics = Self {
            holds: gauge_vec(
                registry,
                "vip_keeper_holds",
                "Whether this node holds the address.",
                vip,
            )?,
            epoch: gauge_vec(
                registry,
                "vip_keeper_epoch",
                "The number of the present holder, as etcd says it.",
                vip,
            )?,
            changes: counter_vec(
                registry,
                "vip_keeper_changes_total",
                "What became of the address on this node, and why.",
                &["vip", "change", "reason"],
            )?,
            renewal: histogram(
                registry,
                "vip_keeper_write_seconds",
                "How long a write of the record took.",
                RENEWAL_BUCKETS,
            )?,
            writes: counter_vec(
                registry,
                "vip_keeper_writes_total",
                "Writes of the record by result (done, conflict, unknown).",
                &["result"],
            )?,
            without_holder: float_counter_vec(
                registry,
                "vip_keeper_without_holder_seconds_total",
                "Seconds during which the record named nobody, or nobody in time.",
                vip,
            )?,
            speakers: gauge_vec(
                registry,
                "vip_keeper_speakers",
                "How many hosts have spoken for the address by ARP or ND during the last 10 s, this one included.",
                vip,
            )?,
            healthy: gauge_vec(
                registry,
                "vip_keeper_healthy",
                "Whether this node could hold the address.",
                vip,
            )?,
            restored: counter_vec(
                registry,
                "vip_keeper_restored_total",
                "How often the address was put back after something else had removed it.",
                vip,
            )?,
            hooks: counter_vec(
                registry,
                "vip_keeper_hooks_total",
                "Hooks told, by result (ok, error, dropped).",
                &["result"],
            )?,
            etcd: daemon::metrics::gauge(
                registry,
                "vip_keeper_etcd_available",
                "Whether etcd's watch is up.",
            )?,
            rejected: daemon::metrics::counter(
                registry,
                "vip_keeper_rejected_keys_total",
                "Keys in etcd that could not be understood.",
            )?,
        };
        for vip in vips {
            let name = &[vip.name.as_str()];
            metrics.holds.with_label_values(name).set(0);
            metrics.epoch.with_label_values(name).set(0);
            metrics.healthy.with_label_values(name).set(0);
            metrics.speakers.with_label_values(name).set(0);
            metrics.without_holder.with_label_values(name).inc_by(0.0);
            metrics.restored.with_label_values(name).inc_by(0);
            for (change, reason) in CHANGES {
                metrics
                    .changes
                    .with_label_values(&[vip.name.as_str(), change, reason])
                    .inc_by(0);
            }
        }
        for result in ["done", "conflict", "unknown"] {
            metrics.writes.with_label_values(&[result]).inc_by(0);
        }
        for result in ["ok", "error", "dropped"] {
            metrics.hooks.with_label_values(&[result]).inc_by(0);
        }
        Ok(metrics)
    }

    /// Counts a change.
    pub fn changed(&self, vip: &Vip, change: &Change) {
        let (kind, reason) = words(change);
        self.changes
            .with_label_values(&[vip.name.as_str(), kind, reason])
            .inc();
    }

    /// Counts time in which nobody holds.
    pub fn without(&self, vip: &Vip, time: Duration) {
        self.without_holder
            .with_label_values(&[vip.name.as_str()])
            .inc_by(time.as_secs_f64());
    }
}

/// A change in two words of a bounded set.
pub fn words(change: &Change) -> (&'static str, &'static str) {
    match change {
        Change::Took { how, .. } => ("took", how.as_str()),
        Change::Expired { .. } => ("expired", "no_renewal"),
        Change::Lost { .. } => ("lost", "another_holder"),
        Change::Gave { why, .. } => ("gave", why.as_str()),
        Change::Released { why } => ("released", why.as_str()),
        Change::Stays { why, .. } => ("stays", why.as_str()),
        Change::Conflict => ("conflict", "another_speaker"),
        Change::Failed { .. } => ("failed", "kernel"),
    }
}
