//! consul-bootstrapper: the Consul cluster of these hosts, formed and kept through etcd.
//!
//! observe ([`cluster_view`], [`consul_view`], [`files`]) → decide ([`step`]: pure, one step at a time) → do it
//! ([`reconciler`]). What all nodes agree on is one record in etcd ([`record`]), changed by compare-and-swap; that a node
//! lives is a key under a lease ([`presence`]). Consul runs only with this node's permit ([`files`]), so never before it is
//! decided what it may be.

pub mod acl;
pub mod args;
pub mod clients;
pub mod cluster_view;
pub mod commands;
pub mod config;
pub mod consul_view;
pub mod error;
pub mod explain;
pub mod files;
pub mod keys;
pub mod metrics;
pub mod observed;
pub mod presence;
pub mod reconciler;
pub mod record;
pub mod role;
pub mod secrets;
pub mod setup;
pub mod step;
pub mod tasks;
pub mod tls;

use std::io::Write;
use std::time::Duration;

use daemon::{Backoff, LoopSettings, Process, ReconcileLoop, RunError};
use serde_json::json;
use tokio::sync::watch;

use crate::args::{Args, Command};
use crate::metrics::Metrics;
use crate::reconciler::{Bootstrapper, Parts};
use crate::setup::Setup;

/// Between the starts of two runs: a burst of changes in etcd is handled a few times, not once for each.
const MIN_GAP: Duration = Duration::from_millis(50);
/// How often to look at Consul when nothing seems to happen: it tells nobody of a lost leader.
const RESYNC: Duration = Duration::from_secs(5);

/// Runs the service, or an operator's command.
///
/// # Errors
/// When the configuration is wrong, a command fails, or a task that must live has died.
pub async fn run(args: Args, mut process: Process) -> Result<(), RunError> {
    if let Some(Command::Inspect(command)) = args.command {
        return command.run(&args.common).await;
    }
    let setup = Setup::new(&args).await?;
    if let Some(command) = args.command {
        return operate(setup, command).await;
    }
    let metrics = Metrics::new(&process.registry)?;
    let settled = process.readiness.gate("a settled part in the Consul cluster");
    let (lease, held) = watch::channel(None);
    let (etcd, keys, ttl) = (setup.etcd.clone(), setup.keys.clone(), setup.presence_ttl);
    if args.dry_run {
        let (mut bootstrapper, _) = Bootstrapper::new(setup.into_parts(held, metrics, settled)?);
        return dry_run(&mut bootstrapper).await;
    }

    process.serve_admin().await?;
    let _lock = setup.files.prepare().map_err(RunError::failed)?;
    let parts: Parts = setup.into_parts(held, metrics, settled)?;
    let (bootstrapper, view) = Bootstrapper::new(parts);
    let settings = LoopSettings {
        name: "cluster",
        resync: RESYNC,
        min_gap: MIN_GAP,
        retry: Backoff::new(Duration::from_millis(300), Duration::from_secs(5)),
    };
    let (cluster, waker) = ReconcileLoop::new(bootstrapper, settings, &process.registry);
    cluster.status().register_on(&process.status);
    process
        .status
        .register("consul_cluster", move || json!(&*view.borrow()));

    let token = process.shutdown.token();
    process.tasks.spawn("cluster", cluster.run(token.clone()));
    process.tasks.spawn(
        "lease",
        tasks::keep_lease(etcd.clone(), ttl, lease, waker.clone(), token.clone()),
    );
    process
        .tasks
        .spawn("etcd watch", tasks::watch_etcd(etcd, keys, waker, token));
    // Consul goes on running, and a server stays one: only this node's key in etcd ends, with its lease.
    process.run_until_shutdown(async {}).await
}

async fn operate(setup: Setup, command: Command) -> Result<(), RunError> {
    let operator = setup.into_operator()?;
    match command {
        Command::Recover {
            new_cluster: true, ..
        } => operator.new_cluster().await?,
        Command::Recover { lost, .. } => operator.recover(&lost).await?,
        Command::Decommission { node, undo, wait } => {
            let node = node.unwrap_or_else(|| operator.node.clone());
            operator.decommission(&node, undo, wait).await?;
        }
        Command::Restart => operator.restart().await?,
        Command::Snapshot(command) => operator.snapshot(&command).await?,
        // Answered before anything was set up.
        Command::Inspect(_) => {}
    }
    Ok(())
}

async fn dry_run(bootstrapper: &mut Bootstrapper) -> Result<(), RunError> {
    let step = bootstrapper.dry_run().await.map_err(RunError::failed)?;
    writeln!(std::io::stdout().lock(), "{step}").map_err(RunError::failed)
}
