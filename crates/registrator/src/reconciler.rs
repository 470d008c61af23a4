//! The loop's body: observe Docker and the agent, plan, apply.

use std::collections::{BTreeMap, BTreeSet};

use consul::ServiceRegistration;
use contract::ServiceId;
use daemon::{Activation, Gate, Outcome, Reconcile};
use futures_util::stream::{self, StreamExt};
use serde::Serialize;
use tokio::sync::watch;
use tracing::{info, warn};

use crate::definitions::{Policy, ServiceRecord, service_definitions};
use crate::docker::{Engine, Inventory, StaleMark};
use crate::error::Error;
use crate::metrics::Metrics;
use crate::plan::{Desired, Plan, plan};
use crate::policy::PolicySource;
use crate::rejection::Rejection;

/// Writes to the agent at the same time. It handles each in about a millisecond; more would only queue there.
const CONCURRENCY: usize = 8;

/// What `/status` shows of a change.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Report {
    /// Service IDs that were registered or rewritten, with `name address:port`.
    pub registered: BTreeMap<ServiceId, String>,
    /// Service IDs that were taken out.
    pub deregistered: BTreeSet<ServiceId>,
}

/// What this host has and wants, for `/status`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct HostState {
    /// Containers that run.
    pub containers: usize,
    /// Services that should be registered.
    pub services: BTreeMap<ServiceId, ServiceRecord>,
    /// What could not be used, and why.
    pub rejected: BTreeSet<Rejection>,
    /// IDs that somebody else has registered: left alone.
    pub foreign: BTreeSet<ServiceId>,
}

impl HostState {
    /// The IDs that the agent should hold for us.
    pub fn registered(&self) -> impl Iterator<Item = &ServiceId> {
        self.services.keys().filter(|id| !self.foreign.contains(*id))
    }
}

/// What a look at Docker and the agent led to.
#[derive(Debug)]
pub struct Planned {
    /// What should be registered.
    pub desired: Desired,
    /// What would have to be done.
    pub plan: Plan,
    /// A partial failure: some containers could not be read and count as they were.
    pub partial: Option<Error>,
}

/// Keeps the agent's services equal to the containers of this host.
pub struct HostReconciler {
    engine: Engine,
    inventory: Inventory,
    agent: consul::Client,
    policy_source: PolicySource,
    policy: Option<Policy>,
    metrics: Metrics,
    synced: Gate,
    state: watch::Sender<HostState>,
    reported: BTreeSet<Rejection>,
}

impl HostReconciler {
    /// A reconciler and a view on what it knows. `synced` is opened once agent and host agree.
    pub fn new(
        engine: Engine,
        stale: StaleMark,
        agent: consul::Client,
        policy_source: PolicySource,
        metrics: Metrics,
        synced: Gate,
    ) -> (Self, watch::Receiver<HostState>) {
        let (state, view) = watch::channel(HostState::default());
        let reconciler = Self {
            inventory: Inventory::new(engine.clone(), stale),
            engine,
            agent,
            policy_source,
            policy: None,
            metrics,
            synced,
            state,
            reported: BTreeSet::new(),
        };
        (reconciler, view)
    }

    /// Reads Docker and the agent and says what would be done; changes nothing. `afresh`: all of it, and the host's own
    /// name and address too.
    ///
    /// # Errors
    /// When either cannot be read: nothing is known then, so nothing is planned.
    pub async fn observe_and_plan(&mut self, afresh: bool) -> Result<Planned, Error> {
        if afresh {
            self.inventory.mark_all();
        }
        let policy = self.policy(afresh).await?;
        let (inventory, observed) = tokio::join!(self.inventory.refresh(), observe_agent(&self.agent));
        let partial = match inventory {
            Ok(()) => None,
            Err(error @ Error::Inspect { .. }) => Some(error),
            Err(error) => return Err(error),
        };
        let observed = observed?;
        let desired = self.desired(&policy, &observed);
        let plan = plan(&desired.services, &observed);
        Ok(Planned {
            desired,
            plan,
            partial,
        })
    }

    /// The policy of this host, resolved again when `afresh`: a host may get another address. What was good stays good
    /// while it cannot be.
    async fn policy(&mut self, afresh: bool) -> Result<Policy, Error> {
        if let Some(policy) = self.policy.as_ref().filter(|_| !afresh) {
            return Ok(policy.clone());
        }
        match (self.policy_source.resolve(&self.engine).await, &self.policy) {
            (Ok(policy), _) => Ok(self.policy.insert(policy).clone()),
            (Err(_), Some(policy)) => Ok(policy.clone()),
            (Err(error), None) => Err(error),
        }
    }

    fn desired(&self, policy: &Policy, observed: &BTreeMap<String, ServiceRecord>) -> Desired {
        let definitions = self.inventory.containers().map(|(container, rejections)| {
            let mut definitions = service_definitions(container, policy);
            definitions.rejections.extend_from_slice(rejections);
            (&container.id, container.name.as_str(), definitions)
        });
        Desired::merge(definitions, observed)
    }

    fn publish(&mut self, desired: Desired, foreign: BTreeSet<ServiceId>) {
        for rejection in desired.rejections.difference(&self.reported) {
            warn!(
                container = rejection.container,
                subject = rejection.subject,
                "{}",
                rejection.reason
            );
        }
        let state = HostState {
            containers: self.inventory.containers().count(),
            services: desired.services,
            rejected: desired.rejections.clone(),
            foreign,
        };
        self.reported = desired.rejections;
        for id in state.foreign.difference(&self.state.borrow().foreign) {
            warn!(%id, "this ID is registered by somebody else and is left alone: give the container another with SERVICE_ID");
        }
        self.metrics.show(&state);
        self.state.send_if_modified(|current| {
            let changed = *current != state;
            *current = state;
            changed
        });
    }

    async fn apply(&self, plan: Plan) -> (Report, Option<Error>) {
        let total = plan.len();
        // Registrations first: where a container replaces another, its service is never without an instance.
        let registrations = plan
            .register
            .into_iter()
            .map(|(id, record)| Write::Register(id, record))
            .collect();
        let deregistrations = plan.deregister.into_iter().map(Write::Deregister).collect();
        let mut report = Report::default();
        let mut failures = Vec::new();
        for writes in [registrations, deregistrations] {
            for (write, result) in self.write_all(writes).await {
                self.metrics.write(write.operation(), result.is_ok());
                match (write, result) {
                    (
                        Write::Register(
                            id,
                            ServiceRecord {
                                name, address, port, ..
                            },
                        ),
                        Ok(()),
                    ) => {
                        info!(%id, name, address, port, "registered");
                        report.registered.insert(id, format!("{name} {address}:{port}"));
                    }
                    (Write::Deregister(id), Ok(())) => {
                        info!(%id, "deregistered");
                        report.deregistered.insert(id);
                    }
                    (_, Err(error)) => failures.push(error),
                }
            }
        }
        let failed = failures.len();
        let first = failures.into_iter().next();
        (
            report,
            first.map(|source| Error::Apply {
                failed,
                total,
                source: Box::new(source),
            }),
        )
    }

    /// Each write with its own outcome: one that fails does not stop the others.
    async fn write_all(&self, writes: Vec<Write>) -> Vec<(Write, Result<(), Error>)> {
        let mut outcomes: Vec<_> = stream::iter(writes)
            .map(|write| async move {
                let result = match &write {
                    Write::Register(id, record) => register(&self.agent, id, record).await,
                    Write::Deregister(id) => deregister(&self.agent, id).await,
                };
                (write, result)
            })
            .buffer_unordered(CONCURRENCY)
            .collect()
            .await;
        // In an order that does not depend on who was quicker, so that the same failure reads the same.
        outcomes.sort_by(|(one, _), (other, _)| one.id().cmp(other.id()));
        outcomes
    }
}

impl Reconcile for HostReconciler {
    type Report = Report;

    async fn reconcile(&mut self, activation: &Activation) -> Outcome<Report> {
        // An event that was lost is made good by looking at everything now and then.
        let Planned {
            desired,
            plan,
            partial,
        } = match self.observe_and_plan(activation.resync).await {
            Ok(planned) => planned,
            Err(error) => return Outcome::failed(error),
        };
        let foreign = plan.foreign.clone();
        let (report, error) = if plan.is_empty() {
            (Report::default(), None)
        } else {
            self.apply(plan).await
        };
        // Only now: whoever watches the agent for these services must find them there.
        self.publish(desired, foreign);
        let done = report.registered.len() + report.deregistered.len();
        let outcome = if done == 0 {
            Outcome::unchanged()
        } else {
            Outcome::changed(done, report)
        };
        // The agent answered and was told: a single item that it refuses must not make the whole host unready.
        self.synced.open();
        match error.or(partial) {
            Some(error) => outcome.with_error(error),
            None => outcome,
        }
    }
}

/// One change of the agent.
enum Write {
    Register(ServiceId, ServiceRecord),
    Deregister(ServiceId),
}

impl Write {
    fn id(&self) -> &ServiceId {
        match self {
            Self::Register(id, _) | Self::Deregister(id) => id,
        }
    }

    fn operation(&self) -> &'static str {
        match self {
            Self::Register(..) => "register",
            Self::Deregister(_) => "deregister",
        }
    }
}

/// Every service the agent holds, whoever registered it.
async fn observe_agent(agent: &consul::Client) -> Result<BTreeMap<String, ServiceRecord>, Error> {
    let services = agent.agent_services(None).await.map_err(Error::ListServices)?;
    let record = |service: consul::AgentService| ServiceRecord {
        name: service.service,
        tags: service.tags,
        address: service.address,
        port: service.port,
        meta: service.meta,
    };
    Ok(services
        .into_iter()
        .map(|(id, service)| (id, record(service)))
        .collect())
}

async fn register(agent: &consul::Client, id: &ServiceId, record: &ServiceRecord) -> Result<(), Error> {
    let registration = ServiceRegistration {
        id: id.to_string(),
        name: record.name.clone(),
        tags: record.tags.clone(),
        address: record.address.clone(),
        port: record.port,
        meta: record.meta.clone(),
        ..ServiceRegistration::default()
    };
    agent
        .register_service(&registration)
        .await
        .map_err(|source| Error::Register {
            id: id.to_string(),
            source,
        })
}

async fn deregister(agent: &consul::Client, id: &ServiceId) -> Result<(), Error> {
    match agent.deregister_service(id.as_str()).await {
        // Somebody was faster, or the agent was wiped in between: it is gone, which is what was wanted.
        Err(error) if error.is_not_found() => Ok(()),
        other => other.map_err(|source| Error::Deregister {
            id: id.to_string(),
            source,
        }),
    }
}
