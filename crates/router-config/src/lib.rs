//! router-config: host names, routed to the healthy instances in Consul by the HAProxy of this node.
//!
//! observe ([`follow`] into the [`directory`]; HAProxy's own word) → plan ([`table`], [`haproxy::config`], [`plan`]:
//! pure) → apply ([`reconciler`]). What is known survives every outage: see [`last_good`].

pub mod args;
pub mod directory;
pub mod error;
pub mod follow;
pub mod haproxy;
pub mod instance;
pub mod last_good;
pub mod metrics;
pub mod plan;
pub mod reconciler;
pub mod table;

use std::collections::BTreeMap;
use std::io::Write;
use std::time::Duration;

use consul::Client;
use daemon::{Backoff, LoopSettings, Process, ReconcileLoop, RunError, error_chain};
use serde_json::json;
use tokio::time::Instant;
use tracing::warn;

use crate::args::{Args, Switch};
use crate::directory::Directory;
use crate::follow::{follow_services, read_once};
use crate::haproxy::config::Settings;
use crate::haproxy::files::Files;
use crate::haproxy::master::Master;
use crate::last_good::{LastGood, Retention};
use crate::metrics::Metrics;
use crate::reconciler::{Parts, RouterReconciler};
use crate::table::Naming;

/// Between the starts of two runs. A lone change is applied at once; in a burst each reload, some 30 ms of work and a
/// worker more, takes along what came in the meantime.
const MIN_GAP: Duration = Duration::from_millis(100);

/// Runs the service, or answers an operator's command.
///
/// # Errors
/// When the configuration is wrong, or a task that must live has died.
pub async fn run(args: Args, mut process: Process) -> Result<(), RunError> {
    if let Some(command) = args.command {
        return command.run(&args.common).await;
    }
    let settings = settings(&args)?;
    let client = Client::new(args.consul.config()).map_err(RunError::config)?;
    let files = Files::new(args.state_dir.clone());
    // A dry run only looks, also beside one that works.
    let _lock = if args.dry_run {
        None
    } else {
        Some(files.lock().map_err(RunError::failed)?)
    };
    let known = match files.known().await {
        Ok(known) => known,
        Err(error) => {
            warn!("{}", error_chain(&error));
            BTreeMap::new()
        }
    };
    let retention = Retention {
        hold: args.hold,
        remember: args.remember,
    };
    let directory = Directory::new(LastGood::new(retention, known, Instant::now()));
    let (mut reconciler, routing) = RouterReconciler::new(Parts {
        directory: directory.clone(),
        settings,
        master: Master::new(args.master_socket.clone()),
        files,
        metrics: Metrics::new(&process.registry)?,
        synced: process
            .readiness
            .gate("first synchronisation of Consul and HAProxy"),
    });
    let loop_settings = LoopSettings {
        name: "routes",
        resync: args.resync,
        min_gap: MIN_GAP,
        retry: Backoff::new(Duration::from_millis(100), Duration::from_secs(2)),
    };
    if args.dry_run {
        return dry_run(&mut reconciler, &client, &directory).await;
    }

    process.serve_admin().await?;
    let (routes, waker) = ReconcileLoop::new(reconciler, loop_settings, &process.registry);
    routes.status().register_on(&process.status);
    let consul = directory.clone();
    process.status.register("consul", move || json!(consul.status()));
    process
        .status
        .register("routing", move || json!(&*routing.borrow()));

    let token = process.shutdown.token();
    process.tasks.spawn("routes", routes.run(token.clone()));
    process
        .tasks
        .spawn("consul", follow_services(client, directory, waker, token));
    // HAProxy goes on with what it has when router-config stops.
    process.run_until_shutdown(async {}).await
}

fn settings(args: &Args) -> Result<Settings, RunError> {
    let mut addresses: Vec<String> = args.http_addr.iter().map(ToString::to_string).collect();
    addresses.push(args.stats_addr.to_string());
    addresses.sort();
    if let Some([twice, _]) = addresses.array_windows().find(|[one, other]| one == other) {
        return Err(RunError::config(format!(
            "--http-addr and --stats-addr have {twice} twice: give each its own port"
        )));
    }
    Ok(Settings {
        naming: Naming {
            domain: args.domain.clone(),
            node_routes: args.node_routes == Switch::On,
        },
        http: args.http_addr.clone(),
        stats: args.stats_addr.clone(),
        user: args.haproxy_user.clone(),
        max_connections: args.max_connections,
        connect_timeout: Duration::from_secs(1),
        server_timeout: Duration::from_secs(60),
        client_timeout: Duration::from_secs(30),
        keep_alive: Duration::from_secs(15),
        hard_stop_after: Duration::from_secs(60),
    })
}

async fn dry_run(
    reconciler: &mut RouterReconciler,
    client: &Client,
    directory: &Directory,
) -> Result<(), RunError> {
    read_once(client, directory).await.map_err(RunError::failed)?;
    let planned = reconciler.observe_and_plan().await.map_err(RunError::failed)?;
    if let Some((plan, wanted)) = planned {
        let mut out = std::io::stdout().lock();
        writeln!(out, "{plan}\n\n--- {}\n{}", haproxy::files::CONFIG, wanted.config)
            .map_err(RunError::failed)?;
    }
    Ok(())
}
