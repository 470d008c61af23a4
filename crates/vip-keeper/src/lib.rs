//! vip-keeper: one address for the whole cluster, on exactly one healthy node.
//!
//! observe (etcd's watch in [`store`], the kernel in [`net`], the proxy in [`health`]) → decide ([`election`]: pure, one
//! machine for each address) → act ([`keeper`]). Who holds an address is a record in etcd whose age every observer measures
//! on its own clock; at the end of the holder's time its kernel takes the address away by itself. See decisions 0009 and 0010.

pub mod args;
pub mod commands;
pub mod doctor;
pub mod election;
pub mod error;
pub mod health;
pub mod hooks;
mod http;
pub mod keeper;
pub mod metrics;
pub mod net;
pub mod peers;
pub mod presence;
pub mod setup;
pub mod store;
pub mod vip;

use daemon::{Process, RunError};
use serde_json::json;
use tokio::sync::{mpsc, oneshot, watch};

use crate::args::{Args, Command};
use crate::commands::Operator;
use crate::error::Error;
use crate::health::Checker;
use crate::keeper::{Keeper, Order, Parts, View};
use crate::metrics::Metrics;
use crate::net::Kernel;
use crate::peers::PeerClient;
use crate::setup::Setup;

/// How many orders may wait.
const ORDERS: usize = 64;

/// Runs the service, or an operator's command.
///
/// # Errors
/// When the configuration is wrong, a command fails, or a task that must live has died.
pub async fn run(args: Args, mut process: Process) -> Result<(), RunError> {
    if let Some(Command::Inspect(command)) = args.command {
        return command.run(&args.common).await;
    }
    if let Some(Command::Explain { vip }) = &args.command {
        return commands::explain(args.common.admin_addr, vip.as_ref()).await;
    }
    let mut setup = Setup::new(&args)?;
    if let Some(command) = &args.command {
        return Operator::new(&setup).run(command).await;
    }
    if args.dry_run {
        return Operator::new(&setup).dry_run().await;
    }
    let metrics = Metrics::new(&process.registry, &setup.vips)?;
    let addr = process.serve_admin().await?;
    let peers_listener = setup.bind_peers().await?;
    let (kernel, events) = Kernel::open(&setup.vips, setup.kernel_options(addr))
        .await
        .map_err(|error| RunError::failed(Error::Open(error)))?;
    if !kernel.has_gate() {
        tracing::warn!(
            "the kernel has no nftables: a lost address is let go of in whole seconds, and taken over later"
        );
        setup.without_gate();
    }

    let token = process.shutdown.token();
    let (checker, health) = Checker::new(setup.checks.clone(), setup.check_every, setup.rise);
    process.tasks.spawn("health", checker.run(token.clone()));
    let (presence, presence_heard) = watch::channel(None);
    process.tasks.spawn(
        "presence",
        presence::keep(
            setup.slow.clone(),
            setup.keys.keeper(&setup.me.node),
            presence_heard,
            token.clone(),
        ),
    );
    let (notices, notices_heard) = mpsc::channel(hooks::QUEUE);
    process.tasks.spawn(
        "hooks",
        hooks::run(
            setup.hooks.clone(),
            notices_heard,
            metrics.hooks.clone(),
            token.clone(),
        ),
    );
    let (orders, orders_heard) = mpsc::channel(ORDERS);
    let (secret, secret_known) = watch::channel(None);
    if !setup.peers.is_empty() || peers_listener.is_some() {
        let learning = peers::learn_secret(setup.slow.clone(), setup.keys.secret(), secret, token.clone());
        process.tasks.spawn("secret", learning);
    }
    if let Some(listener) = peers_listener {
        let serving = peers::serve(listener, orders.clone(), secret_known.clone(), token.clone());
        process.tasks.spawn("peers", serving);
    }
    let peers = match setup.peers.as_slice() {
        [] => None,
        peers => Some(PeerClient::new(peers.to_vec(), secret_known).map_err(RunError::failed)?),
    };
    let (view, viewed) = watch::channel(View::default());
    show(&process, &viewed);
    let etcd = setup.slow.watch(setup.keys.prefix());
    let keeper = Keeper::new(Parts {
        me: setup.me,
        address: setup.address,
        settings: setup.settings,
        vips: setup.vips,
        keys: setup.keys,
        client: setup.fast,
        kernel,
        metrics,
        hooks: notices,
        presence,
        view,
        peers,
    });
    process
        .tasks
        .spawn("keeper", keeper.run(events, etcd, health, orders_heard, token));
    process.tasks.spawn(
        "ready",
        until_informed(
            viewed,
            process.readiness.gate("etcd's keys"),
            process.shutdown.token(),
        ),
    );
    process.run_until_shutdown(let_go(orders)).await
}

/// What `/status` shows of the keeper: each of its parts at the top.
fn show(process: &Process, view: &watch::Receiver<View>) {
    let part = |name: &'static str, of: fn(&View) -> serde_json::Value| {
        let view = view.clone();
        process.status.register(name, move || of(&view.borrow()));
    };
    part("node", |view| json!(view.node));
    part("vips", |view| json!(view.vips));
    part("keepers", |view| json!(view.keepers));
    part("not_well", |view| json!(view.health));
    part("etcd_error", |view| json!(view.etcd_error));
    part("rejected_keys", |view| json!(view.rejected));
}

/// Ready once etcd's keys were known.
async fn until_informed(
    mut view: watch::Receiver<View>,
    gate: daemon::Gate,
    shutdown: tokio_util::sync::CancellationToken,
) {
    // Both may be cancelled: this is the end.
    tokio::select! {
        () = shutdown.cancelled() => return,
        informed = view.wait_for(|view| !view.vips.is_empty() && view.etcd_error.is_none()) => {
            if informed.is_ok() {
                gate.open();
            }
        }
    }
    shutdown.cancelled().await;
}

/// Hands every address over, in order.
async fn let_go(orders: mpsc::Sender<Order>) -> Result<(), Error> {
    let (done, let_go) = oneshot::channel();
    orders.send(Order::Stop(done)).await.map_err(|_| Error::Gone)?;
    let_go.await.map_err(|_| Error::Gone)
}
