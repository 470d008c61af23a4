//! Where the time of one change went, as the services themselves tell it in `/status`.
//!
//! Their moments are cut to the millisecond, so a single step is exact to 1 or 2 ms only.

use serde_json::Value;

use crate::Result;
use crate::clock::Moment;
use crate::figures::Figures;
use crate::lab::Lab;

/// What is known from outside about the change.
pub(crate) struct Change<'a> {
    pub(crate) group: &'static str,
    pub(crate) service: &'a str,
    /// Docker's event.
    pub(crate) event: Moment,
    /// When a watch of our own on the service was answered with the change, if there was one.
    pub(crate) in_consul: Option<Moment>,
    /// When it had its effect.
    pub(crate) effect: Moment,
}

/// A run of a service's loop.
struct Run<'a> {
    status: &'a Value,
    started: Moment,
}

impl<'a> Run<'a> {
    /// The last one that changed something, if it was about `service`.
    fn about(loop_status: &'a Value, service: &str) -> Option<Self> {
        let status = &loop_status["last_change"];
        let finished = Moment::from_rfc3339(status["finished_at"].as_str()?)?;
        let started = finished.earlier_by(status["took_ms"].as_u64()?);
        status["report"]
            .to_string()
            .contains(service)
            .then_some(Self { status, started })
    }

    fn millis(&self, field: &str) -> Option<f64> {
        self.status[field].as_f64()
    }

    fn reported(&self, field: &str) -> Option<f64> {
        self.status["report"][field].as_f64()
    }
}

/// Notes the steps of a change that both services have finished. A run that something else has joined is left out.
pub(crate) async fn record(lab: &Lab, change: &Change<'_>, figures: &mut Figures) -> Result<()> {
    let registrator = lab.platform().registrator_status().await?;
    let router = lab.platform().router_status().await?;
    let mut note = |name, sample: Option<f64>| {
        if let Some(sample) = sample {
            figures.record(change.group, name, sample);
        }
    };
    let (Some(registered), Some(routed)) = (
        Run::about(&registrator["containers"], change.service),
        Run::about(&router["routes"], change.service),
    ) else {
        return Ok(());
    };
    note(
        "  event -> registrator's run begins",
        Some(registered.started.since(change.event)),
    );
    note(
        "    of that, waiting for its turn",
        registered.millis("waited_ms"),
    );
    note(
        "  registrator's run (inspect, list, write)",
        registered.millis("took_ms"),
    );
    let in_consul = change.in_consul;
    note(
        "  event -> a watch on Consul sees it",
        in_consul.map(|at| at.since(change.event)),
    );
    note(
        "  that -> router-config's run begins",
        in_consul.map(|at| routed.started.since(at)),
    );
    note(
        "    of that, router-config waits for its turn",
        routed.millis("waited_ms"),
    );
    note("  router-config writes the files", routed.reported("write_ms"));
    note(
        "  router-config reloads and verifies",
        routed.reported("reload_ms"),
    );
    note("  router-config's run in all", routed.millis("took_ms"));
    note(
        "  router-config's run begins -> effect",
        Some(change.effect.since(routed.started)),
    );
    Ok(())
}
