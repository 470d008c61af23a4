//! The smallest service, with a few ways to misbehave: what the tests of the process's life run.

use std::{process::ExitCode, time::Duration};

use daemon::{
    Activation, Backoff, CommonArgs, HasCommon, InspectCommand, LoopSettings, Outcome, Process, Reconcile,
    ReconcileLoop, RunError,
};

/// Does nothing, in an orderly way
#[derive(clap::Parser)]
#[command(version)]
struct Args {
    #[command(flatten)]
    common: CommonArgs,
    /// How the service behaves
    #[arg(long, value_enum, default_value_t = Mode::Good)]
    mode: Mode,
    #[command(subcommand)]
    command: Option<InspectCommand>,
}

#[derive(clap::ValueEnum, Clone, Copy, PartialEq)]
enum Mode {
    /// Drains until its standard input is closed
    Good,
    /// Never ends its drain
    HungDrain,
    /// Blocks the main thread for ever instead of draining
    BlockedDrain,
    /// Has a task that panics
    Panic,
    /// Never comes to an end of its startup
    HungStart,
}

impl HasCommon for Args {
    const DEFAULT_ADMIN_ADDR: &'static str = "127.0.0.1:0";

    fn common(&self) -> &CommonArgs {
        &self.common
    }
}

struct Idle;

impl Reconcile for Idle {
    type Report = &'static str;

    async fn reconcile(&mut self, _activation: &Activation) -> Outcome<Self::Report> {
        Outcome::changed(1, "nothing at all")
    }
}

async fn run(args: Args, mut process: Process) -> Result<(), RunError> {
    if let Some(command) = args.command {
        return command.run(&args.common).await;
    }
    process.serve_admin().await?;
    let gate = process.readiness.gate("upstream");
    let settings = LoopSettings {
        name: "idle",
        resync: Duration::from_secs(60),
        min_gap: Duration::from_millis(50),
        retry: Backoff::new(Duration::from_millis(500), Duration::from_secs(30)),
    };
    let (idle, _waker) = ReconcileLoop::new(Idle, settings, &process.registry);
    idle.status().register_on(&process.status);
    process.tasks.spawn("idle", idle.run(process.shutdown.token()));
    if args.mode == Mode::Panic {
        process
            .tasks
            .spawn("shaky", async { std::panic::resume_unwind(Box::new("boom")) });
    }
    if args.mode == Mode::HungStart {
        std::future::pending::<()>().await;
    }
    gate.open();
    process.run_until_shutdown(drain(args.mode)).await
}

async fn drain(mode: Mode) {
    match mode {
        Mode::HungDrain => std::future::pending().await,
        Mode::BlockedDrain => loop {
            std::thread::park();
        },
        _ => {
            let wait = || std::io::copy(&mut std::io::stdin(), &mut std::io::sink());
            // The result does not matter: what counts is that the tests decide when the drain is over.
            let _ = tokio::task::spawn_blocking(wait).await;
        }
    }
}

fn main() -> ExitCode {
    daemon::main("lifecycle", run)
}
