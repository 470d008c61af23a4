//! registrator: the containers of this host, as services of the local Consul agent.
//!
//! observe ([`docker`], the agent's listing) → plan ([`definitions`], [`plan`]: pure) → apply ([`reconciler`]).
//! Docker's events and [`agent_watch`] only *wake* the loop; the truth is read afresh each time.

pub mod agent_watch;
pub mod args;
pub mod definitions;
pub mod docker;
pub mod error;
pub mod metrics;
pub mod plan;
pub mod policy;
pub mod reconciler;
pub mod rejection;
pub mod snapshot;
pub mod variables;

use std::io::Write;
use std::time::Duration;

use daemon::{Backoff, LoopSettings, Process, ReconcileLoop, RunError};
use serde_json::json;

use crate::agent_watch::watch_agent;
use crate::args::Args;
use crate::docker::{Engine, EventStreamHandle, StaleMark, follow_events};
use crate::metrics::Metrics;
use crate::reconciler::{HostReconciler, Planned};

/// Between the starts of two runs: a burst of events is handled a few times, not once for each.
const MIN_GAP: Duration = Duration::from_millis(10);

/// Runs the service, or answers an operator's command.
///
/// # Errors
/// When the configuration is wrong, or a task that must live has died.
pub async fn run(args: Args, mut process: Process) -> Result<(), RunError> {
    if let Some(command) = args.command {
        return command.run(&args.common).await;
    }
    let engine = Engine::new(args.docker_host.as_deref()).map_err(RunError::config)?;
    // clap has seen to it that there is a registry when there is no command.
    let Some(registry) = args.consul_config() else {
        return Err(RunError::config("REGISTRY is missing"));
    };
    let agent = consul::Client::new(registry).map_err(RunError::config)?;
    let metrics = Metrics::new(&process.registry)?;
    let stale = StaleMark::new();
    let synced = process
        .readiness
        .gate("first synchronisation of Docker and Consul");
    let internal = args.internal;
    let (mut reconciler, state) = HostReconciler::new(
        engine.clone(),
        stale.clone(),
        agent.clone(),
        args.policy_source().map_err(RunError::config)?,
        metrics,
        synced,
    );
    if args.dry_run {
        return dry_run(&mut reconciler).await;
    }

    process.serve_admin().await?;
    let settings = LoopSettings {
        name: "containers",
        resync: args.resync,
        min_gap: MIN_GAP,
        retry: Backoff::new(Duration::from_millis(100), Duration::from_secs(2)),
    };
    let (containers, waker) = ReconcileLoop::new(reconciler, settings, &process.registry);
    containers.status().register_on(&process.status);
    let events = EventStreamHandle::default();
    let (host, stream) = (state.clone(), events.clone());
    process.status.register("host", move || json!(&*host.borrow()));
    process
        .status
        .register("docker_events", move || json!(stream.snapshot()));

    let token = process.shutdown.token();
    process.tasks.spawn("containers", containers.run(token.clone()));
    process.tasks.spawn(
        "docker events",
        follow_events(engine, stale, waker.clone(), events, internal, token.clone()),
    );
    process
        .tasks
        .spawn("agent watch", watch_agent(agent, state, waker, token));
    // Services stay registered when registrator stops: the containers go on running.
    process.run_until_shutdown(async {}).await
}

async fn dry_run(reconciler: &mut HostReconciler) -> Result<(), RunError> {
    let Planned {
        desired,
        plan,
        partial,
    } = reconciler
        .observe_and_plan(true)
        .await
        .map_err(RunError::failed)?;
    let mut out = std::io::stdout().lock();
    for rejection in &desired.rejections {
        writeln!(out, "! reject     {rejection}").map_err(RunError::failed)?;
    }
    writeln!(out, "{plan}").map_err(RunError::failed)?;
    partial.map_or(Ok(()), |error| Err(RunError::failed(error)))
}
