//! The loop's body: read the directory and HAProxy, plan, apply.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use daemon::{Activation, Gate, Outcome, Reconcile, error_chain};
use serde::{Serialize, Serializer};
use tokio::sync::watch;
use tokio::time::{Instant, sleep};
use tracing::{info, warn};

use crate::directory::{Directory, View};
use crate::error::Error;
use crate::haproxy::config::{Generation, Rendered, Settings, render};
use crate::haproxy::files::Files;
use crate::haproxy::master::{Master, MasterError};
use crate::instance::ServiceInstance;
use crate::metrics::Metrics;
use crate::plan::{Plan, Running, plan};
use crate::table::{Conflict, RoutingTable, routing_table};

/// How long the new worker may take to answer for itself after a reload.
const VERIFY_DEADLINE: Duration = Duration::from_secs(5);
/// How long a configuration that HAProxy did not take is not offered again: what is wrong may lie outside of it, as a port
/// in use does.
const FAILED_RELOAD_PAUSE: Duration = Duration::from_secs(15);

const VERIFY_EVERY: Duration = Duration::from_millis(1);

/// What `/status` shows of a change.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// What was done, and why.
    #[serde(flatten)]
    pub plan: Plan,
    /// The generation that HAProxy runs now.
    pub generation: Generation,
    /// How long writing took, in milliseconds.
    pub write_ms: u64,
    /// How long the reload took until the new worker was verified, in milliseconds; absent without a reload.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reload_ms: Option<u64>,
}

/// What is routed, for `/status`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Routing {
    /// The generation of the configuration that should run.
    pub generation: Option<Generation>,
    /// The table.
    #[serde(flatten, serialize_with = "shared")]
    pub table: Arc<RoutingTable>,
}

fn shared<S: Serializer>(table: &Arc<RoutingTable>, serializer: S) -> Result<S::Ok, S::Error> {
    RoutingTable::serialize(table, serializer)
}

/// Keeps HAProxy routing as the directory says.
pub struct RouterReconciler {
    directory: Directory,
    settings: Settings,
    master: Master,
    files: Files,
    metrics: Metrics,
    synced: Gate,
    routing: watch::Sender<Routing>,
    /// What this process applied last.
    applied: Option<Arc<RoutingTable>>,
    /// The last reload, if it failed.
    failed_reload: Option<FailedReload>,
    /// What was written to be known by the next process.
    kept: Option<BTreeMap<String, Vec<ServiceInstance>>>,
}

struct FailedReload {
    generation: Generation,
    at: Instant,
    error: String,
}

/// What the reconciler works on.
pub struct Parts {
    /// Where services come from.
    pub directory: Directory,
    /// The fixed part of HAProxy's configuration.
    pub settings: Settings,
    /// HAProxy's command line.
    pub master: Master,
    /// HAProxy's files.
    pub files: Files,
    /// Metrics of this service.
    pub metrics: Metrics,
    /// Opened once HAProxy runs what it should.
    pub synced: Gate,
}

/// What a run found out before it changes anything.
struct Observed {
    view: View,
    table: Arc<RoutingTable>,
    wanted: Rendered,
    plan: Plan,
    /// The file that HAProxy would start from now.
    file: Option<String>,
    /// Why HAProxy does not answer, if it does not.
    away: Option<MasterError>,
}

impl RouterReconciler {
    /// A reconciler and a view on what it routes.
    pub fn new(parts: Parts) -> (Self, watch::Receiver<Routing>) {
        let Parts {
            directory,
            settings,
            master,
            files,
            metrics,
            synced,
        } = parts;
        let (routing, view) = watch::channel(Routing::default());
        let reconciler = Self {
            directory,
            settings,
            master,
            files,
            metrics,
            synced,
            routing,
            applied: None,
            failed_reload: None,
            kept: None,
        };
        (reconciler, view)
    }

    /// Says what would be done, and the configuration it would lead to; `None` while Consul has not answered.
    ///
    /// # Errors
    /// When HAProxy's file cannot be read.
    pub async fn observe_and_plan(&mut self) -> Result<Option<(Plan, Rendered)>, Error> {
        Ok(self
            .observe()
            .await?
            .map(|observed| (observed.plan, observed.wanted)))
    }

    async fn observe(&mut self) -> Result<Option<Observed>, Error> {
        self.metrics.show_consul(&self.directory.status());
        let Some(view) = self.directory.view(Instant::now()) else {
            return Ok(None);
        };
        let table = self.shared(routing_table(&view.services, &self.settings.naming));
        let wanted = render(&table, &self.settings);
        let (running, away) = match self.master.running_generation().await {
            Ok(generation) => (Running::Generation(generation), None),
            Err(error) => (Running::Away, Some(error)),
        };
        let file = self.files.config().await;
        let plan = plan(
            &table,
            &wanted,
            &running,
            file.as_deref(),
            self.applied.as_deref(),
        );
        self.publish(&table, &wanted.generation);
        Ok(Some(Observed {
            view,
            table,
            wanted,
            plan,
            file,
            away,
        }))
    }

    /// With many services a table takes megabytes: one that is the same as the last one is not kept twice.
    fn shared(&self, table: RoutingTable) -> Arc<RoutingTable> {
        let last = Arc::clone(&self.routing.borrow().table);
        if *last == table { last } else { Arc::new(table) }
    }

    fn publish(&self, table: &Arc<RoutingTable>, generation: &Generation) {
        self.metrics.show_routing(table);
        self.routing.send_if_modified(|routing| {
            if routing.generation.as_ref() == Some(generation) && Arc::ptr_eq(&routing.table, table) {
                return false;
            }
            for Conflict { service, reason } in table.conflicts.difference(&routing.table.conflicts) {
                warn!(service, "{reason}");
            }
            for (node, reason) in &table.rejected_nodes {
                if routing.table.rejected_nodes.get(node) != Some(reason) {
                    warn!(node, "{reason}");
                }
            }
            *routing = Routing {
                generation: Some(generation.clone()),
                table: Arc::clone(table),
            };
            true
        });
    }

    /// Carries out the plan. An error leaves HAProxy, and the file it would start from, at what worked.
    async fn apply(&mut self, plan: Plan, wanted: &Rendered, file: Option<&str>) -> Result<Report, Error> {
        // Asking again does not make it better, and each time leaves a moment in which the refused file is in place.
        if let Some(failed) = &self.failed_reload
            && failed.generation == wanted.generation
            && failed.at.elapsed() < FAILED_RELOAD_PAUSE
        {
            return Err(Error::Repeated(failed.error.clone()));
        }
        let started = Instant::now();
        self.files.write(wanted).await?;
        let written = Instant::now();
        let reload_ms = if matches!(plan, Plan::Reload { .. }) {
            if let Err(error) = self.reload(&wanted.generation).await {
                self.metrics.reload(false);
                // Whether HAProxy refused it or something else went wrong: at its next start it must find one that works.
                if let Err(restore) = self.files.restore(file).await {
                    warn!(
                        error = error_chain(&restore),
                        "cannot put the last good configuration back"
                    );
                }
                // One that died meanwhile has not said what it thinks of it.
                if !matches!(error, Error::Master(MasterError::Exchange { .. })) {
                    self.failed_reload = Some(FailedReload {
                        generation: wanted.generation.clone(),
                        at: Instant::now(),
                        error: error_chain(&error),
                    });
                }
                return Err(error);
            }
            self.failed_reload = None;
            self.metrics.reload(true);
            Some(millis(written.elapsed()))
        } else {
            None
        };
        for reason in plan.reasons() {
            info!(generation = %wanted.generation, reload_ms, "applied: {reason}");
        }
        let generation = wanted.generation.clone();
        Ok(Report {
            plan,
            generation,
            write_ms: millis(written - started),
            reload_ms,
        })
    }

    async fn reload(&self, generation: &Generation) -> Result<(), Error> {
        self.master.reload().await?;
        let deadline = Instant::now() + VERIFY_DEADLINE;
        loop {
            let running = self.master.running_generation().await;
            match running {
                Ok(Some(running)) if running == *generation => return Ok(()),
                // Between two workers the master may have none to ask.
                _ if Instant::now() < deadline => sleep(VERIFY_EVERY).await,
                Ok(running) => {
                    return Err(Error::NotVerified {
                        wanted: generation.clone(),
                        running: running.map(|r| r.to_string()),
                    });
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// After HAProxy was seen to run `wanted`: keeps it, and what led to it, for the next start of either.
    async fn keep(&mut self, view: View, wanted: &Rendered) -> Result<(), Error> {
        if self.kept.as_ref() != Some(&view.services) {
            self.files.keep_as_last_good(wanted).await?;
            self.files.keep_known(view.services.clone()).await?;
            self.kept = Some(view.services);
        }
        Ok(())
    }
}

impl Reconcile for RouterReconciler {
    type Report = Report;

    async fn reconcile(&mut self, _activation: &Activation) -> Outcome<Report> {
        let observed = match self.observe().await {
            Ok(Some(observed)) => observed,
            Ok(None) => return Outcome::unchanged(),
            Err(error) => return Outcome::failed(error),
        };
        let Observed {
            view,
            table,
            wanted,
            plan,
            file,
            away,
        } = observed;
        let delay = view
            .next_end
            .map(|end| end.saturating_duration_since(Instant::now()));
        let mut outcome = if plan == Plan::Unchanged {
            Outcome::unchanged()
        } else {
            let changes = plan.reasons().len();
            match self.apply(plan, &wanted, file.as_deref()).await {
                Ok(report) => Outcome::changed(changes, report),
                Err(error) => return Outcome::failed(error),
            }
        };
        outcome.retry_after = delay;
        if let Some(error) = away {
            return outcome.with_error(error);
        }
        self.applied = Some(table);
        self.synced.open();
        match self.keep(view, &wanted).await {
            Ok(()) => outcome,
            Err(error) => outcome.with_error(error),
        }
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
