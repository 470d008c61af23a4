//! Making metrics and registering them in one step, with errors instead of panics.

use std::collections::HashMap;

use prometheus::{
    CounterVec, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts,
    Registry, core::Collector,
};

/// Upper bounds in seconds for things that take from a millisecond to half a minute.
pub const DURATION_BUCKETS: &[f64] = &[
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0,
];

/// A metric could not be made or registered: its name or labels are malformed, or taken.
#[derive(Debug, thiserror::Error)]
#[error("cannot register the metric {name}")]
pub struct MetricsError {
    /// The metric's name.
    pub name: String,
    /// What the library says.
    pub source: prometheus::Error,
}

/// Registers a counter.
///
/// # Errors
/// When the name is malformed or taken.
pub fn counter(registry: &Registry, name: &str, help: &str) -> Result<IntCounter, MetricsError> {
    register(registry, name, IntCounter::new(name, help))
}

/// Registers a counter with labels. Every label's set of values must be bounded.
///
/// # Errors
/// When the name or a label is malformed or taken.
pub fn counter_vec(
    registry: &Registry,
    name: &str,
    help: &str,
    labels: &[&str],
) -> Result<IntCounterVec, MetricsError> {
    register(registry, name, IntCounterVec::new(Opts::new(name, help), labels))
}

/// Registers a counter of what is no whole number, such as seconds, with labels. Every label's set of values must be
/// bounded.
///
/// # Errors
/// When the name or a label is malformed or taken.
pub fn float_counter_vec(
    registry: &Registry,
    name: &str,
    help: &str,
    labels: &[&str],
) -> Result<CounterVec, MetricsError> {
    register(registry, name, CounterVec::new(Opts::new(name, help), labels))
}

/// Registers a gauge of whole numbers.
///
/// # Errors
/// When the name is malformed or taken.
pub fn gauge(registry: &Registry, name: &str, help: &str) -> Result<IntGauge, MetricsError> {
    register(registry, name, IntGauge::new(name, help))
}

/// Registers a gauge of whole numbers with labels. Every label's set of values must be bounded.
///
/// # Errors
/// When the name or a label is malformed or taken.
pub fn gauge_vec(
    registry: &Registry,
    name: &str,
    help: &str,
    labels: &[&str],
) -> Result<IntGaugeVec, MetricsError> {
    register(registry, name, IntGaugeVec::new(Opts::new(name, help), labels))
}

/// Registers a histogram with the upper bounds `buckets`, such as [`DURATION_BUCKETS`].
///
/// # Errors
/// When the name or the buckets are malformed, or the name is taken.
pub fn histogram(
    registry: &Registry,
    name: &str,
    help: &str,
    buckets: &[f64],
) -> Result<prometheus::Histogram, MetricsError> {
    let options = HistogramOpts::new(name, help).buckets(buckets.to_vec());
    register(registry, name, prometheus::Histogram::with_opts(options))
}

/// Registers a histogram with labels. Every label's set of values must be bounded.
///
/// # Errors
/// When the name, the buckets or a label is malformed, or the name is taken.
pub fn histogram_vec(
    registry: &Registry,
    name: &str,
    help: &str,
    labels: &[&str],
    buckets: &[f64],
) -> Result<HistogramVec, MetricsError> {
    let options = HistogramOpts::new(name, help).buckets(buckets.to_vec());
    register(registry, name, HistogramVec::new(options, labels))
}

/// Registers what every process shows: its build, and its own use of CPU, memory and file descriptors.
pub(crate) fn process_metrics(registry: &Registry, service: &str, version: &str) -> Result<(), MetricsError> {
    let build = gauge_vec(
        registry,
        "colossus_build_info",
        "The service and its version.",
        &["service", "version"],
    )?;
    build.with_label_values(&[service, version]).set(1);
    let collector = prometheus::process_collector::ProcessCollector::for_self();
    registry
        .register(Box::new(collector))
        .map_err(|source| MetricsError {
            name: "process_*".to_owned(),
            source,
        })
}

/// The metrics of one reconcile loop. The loop's name is a constant label, so that each loop registers its own.
#[derive(Debug)]
pub(crate) struct LoopMetrics {
    runs: IntCounterVec,
    changes: IntCounter,
    duration: prometheus::Histogram,
    last_success: IntGauge,
    failing: IntGauge,
}

impl LoopMetrics {
    /// # Errors
    /// When a loop of this name has been registered.
    pub(crate) fn new(registry: &Registry, loop_name: &str) -> Result<Self, MetricsError> {
        let label = HashMap::from([("loop".to_owned(), loop_name.to_owned())]);
        let options = |name: &str, help: &str| Opts::new(name, help).const_labels(label.clone());

        let name = "colossus_reconcile_runs_total";
        let runs = IntCounterVec::new(options(name, "Runs of the loop, by result."), &["result"]);
        let runs = register(registry, name, runs)?;
        // Present from the start, so that a rate over the first error is seen.
        for result in ["ok", "error"] {
            runs.with_label_values(&[result]).reset();
        }

        let name = "colossus_reconcile_changes_total";
        let changes = IntCounter::with_opts(options(name, "Changes the loop has made."));
        let changes = register(registry, name, changes)?;

        let name = "colossus_reconcile_duration_seconds";
        let duration = prometheus::Histogram::with_opts(HistogramOpts {
            common_opts: options(name, "How long runs of the loop take."),
            buckets: DURATION_BUCKETS.to_vec(),
        });
        let duration = register(registry, name, duration)?;

        let name = "colossus_reconcile_last_success_timestamp_seconds";
        let help =
            "When a run of the loop last ended without an error, in seconds since 1970; 0 when none has.";
        let last_success = register(registry, name, IntGauge::with_opts(options(name, help)))?;

        let name = "colossus_reconcile_failing";
        let failing = IntGauge::with_opts(options(
            name,
            "1 when the last run of the loop ended with an error.",
        ));
        let failing = register(registry, name, failing)?;

        Ok(Self {
            runs,
            changes,
            duration,
            last_success,
            failing,
        })
    }

    /// Counts one run.
    pub(crate) fn record(&self, took: std::time::Duration, changes: usize, failed: bool) {
        self.runs
            .with_label_values(&[if failed { "error" } else { "ok" }])
            .inc();
        self.changes.inc_by(u64::try_from(changes).unwrap_or(u64::MAX));
        self.duration.observe(took.as_secs_f64());
        self.failing.set(i64::from(failed));
        if !failed {
            let now = std::time::SystemTime::now()
                .duration_since(std::time::UNIX_EPOCH)
                .unwrap_or_default();
            self.last_success
                .set(i64::try_from(now.as_secs()).unwrap_or(i64::MAX));
        }
    }
}

fn register<C: Collector + Clone + 'static>(
    registry: &Registry,
    name: &str,
    collector: prometheus::Result<C>,
) -> Result<C, MetricsError> {
    collector
        .and_then(|collector| {
            registry.register(Box::new(collector.clone()))?;
            Ok(collector)
        })
        .map_err(|source| MetricsError {
            name: name.to_owned(),
            source,
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_taken_name_and_a_bad_name_are_errors_that_name_the_metric() {
        let registry = Registry::new();
        counter(&registry, "things_total", "Things.").unwrap();
        let error = counter(&registry, "things_total", "Things.").unwrap_err();
        assert_eq!(error.to_string(), "cannot register the metric things_total");
        assert!(gauge_vec(&registry, "no spaces", "Bad.", &["a"]).is_err());
        assert!(histogram(&registry, "falling", "Bad.", &[2.0, 1.0]).is_err());
    }

    #[test]
    fn loops_share_metric_names_and_differ_by_label() {
        let registry = Registry::new();
        let first = LoopMetrics::new(&registry, "first").unwrap();
        LoopMetrics::new(&registry, "second").unwrap();
        assert!(LoopMetrics::new(&registry, "first").is_err());
        first.record(std::time::Duration::from_millis(3), 2, true);

        let text = prometheus::TextEncoder::new()
            .encode_to_string(&registry.gather())
            .unwrap();
        assert!(
            text.contains(r#"colossus_reconcile_runs_total{loop="first",result="error"} 1"#),
            "{text}"
        );
        assert!(
            text.contains(r#"colossus_reconcile_runs_total{loop="second",result="ok"} 0"#),
            "{text}"
        );
        assert!(
            text.contains(r#"colossus_reconcile_changes_total{loop="first"} 2"#),
            "{text}"
        );
        assert!(
            text.contains(r#"colossus_reconcile_failing{loop="first"} 1"#),
            "{text}"
        );
        assert_eq!(
            text.matches("# TYPE colossus_reconcile_failing").count(),
            1,
            "{text}"
        );
    }
}
