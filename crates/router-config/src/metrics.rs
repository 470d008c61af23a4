//! What Prometheus can ask router-config, beside what every reconcile loop tells.

use daemon::metrics::{MetricsError, counter_vec, gauge};
use prometheus::{IntCounterVec, IntGauge, Registry};

use crate::directory::ConsulStatus;
use crate::table::RoutingTable;

/// The metrics of this service.
#[derive(Debug, Clone)]
pub struct Metrics {
    reloads: IntCounterVec,
    routes: IntGauge,
    node_routes: IntGauge,
    empty_routes: IntGauge,
    servers: IntGauge,
    conflicts: IntGauge,
    available: IntGauge,
    index: IntGauge,
    held: IntGauge,
    rejected: IntGauge,
    rejected_nodes: IntGauge,
}

impl Metrics {
    /// Registers the metrics.
    ///
    /// # Errors
    /// When one of the names is taken in `registry`.
    pub fn new(registry: &Registry) -> Result<Self, MetricsError> {
        let gauge = |name: &str, help: &str| gauge(registry, name, help);
        let reloads = counter_vec(
            registry,
            "router_config_reloads_total",
            "Reloads of HAProxy, by result (ok, error).",
            &["result"],
        )?;
        // There from the start, so that a rate sees the first one.
        for result in ["ok", "error"] {
            reloads.with_label_values(&[result]).reset();
        }
        Ok(Self {
            reloads,
            routes: gauge(
                "router_config_routes",
                "Host names that should be routed, without those of single nodes.",
            )?,
            node_routes: gauge(
                "router_config_node_routes",
                "Host names of single nodes that should be routed.",
            )?,
            empty_routes: gauge(
                "router_config_empty_routes",
                "Host names answered with 503: nothing is healthy.",
            )?,
            servers: gauge("router_config_servers", "Instances that get requests.")?,
            conflicts: gauge(
                "router_config_conflicts",
                "Services that get no route; /status says why.",
            )?,
            available: gauge(
                "router_config_consul_available",
                "1 when the last answer of every watch was good.",
            )?,
            index: gauge("router_config_consul_index", "The highest Consul index seen.")?,
            held: gauge(
                "router_config_held_instances",
                "Instances kept in use although Consul does not confirm them, after an outage.",
            )?,
            rejected: gauge(
                "router_config_rejected_instances",
                "Instances that cannot be used; /status says why.",
            )?,
            rejected_nodes: gauge(
                "router_config_rejected_nodes",
                "Nodes whose name cannot be part of a host name; /status says why.",
            )?,
        })
    }

    /// Counts one reload.
    pub fn reload(&self, ok: bool) {
        self.reloads
            .with_label_values(&[if ok { "ok" } else { "error" }])
            .inc();
    }

    /// Shows what is routed.
    pub fn show_routing(&self, table: &RoutingTable) {
        self.routes.set(count(table.routes.len()));
        self.empty_routes.set(count(
            table
                .routes
                .values()
                .filter(|route| route.servers.is_empty())
                .count(),
        ));
        self.servers.set(count(table.servers()));
        self.conflicts.set(count(table.conflicts.len()));
        self.node_routes.set(count(table.node_routes()));
        self.rejected_nodes.set(count(table.rejected_nodes.len()));
    }

    /// Shows what Consul says.
    pub fn show_consul(&self, status: &ConsulStatus) {
        self.available.set(i64::from(status.available));
        self.index.set(i64::try_from(status.index).unwrap_or(i64::MAX));
        self.held.set(count(status.held.len()));
        self.rejected.set(count(status.rejected.len()));
    }
}

fn count(n: usize) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}
