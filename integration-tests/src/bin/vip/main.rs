//! Virtual IPs under all that can happen, on hosts of their own: many times each (`soak`), and side by side with keepalived
//! (`bench`). Also the observer that the tests start in a container (`observe`).

mod bench;
mod lab;
mod soak;

use std::future::Future;
use std::io::Write;
use std::net::Ipv4Addr;

use clap::{Parser, Subcommand};
use tokio::signal::unix::{SignalKind, signal};

/// What goes wrong here is told to a person and ends the run.
type Error = Box<dyn std::error::Error + Send + Sync>;
type Result<T, E = Error> = std::result::Result<T, E>;

/// Virtual IPs as a client on the network sees them.
#[derive(Debug, Parser)]
struct Options {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Does each thing that can happen to the holder of a virtual IP many times, and tells what a client saw
    Soak(soak::Options),
    /// Measures outages side by side with keepalived, and what vip-keeper costs
    Bench(bench::Options),
    /// Watches addresses and asks them for a host until stdin ends; one line of JSON for each thing seen
    #[command(hide = true)]
    Observe {
        /// The host to ask for
        #[arg(long)]
        host: String,
        /// The addresses
        #[arg(required = true)]
        vips: Vec<Ipv4Addr>,
    },
}

#[tokio::main]
async fn main() -> Result<()> {
    match Options::parse().command {
        Command::Soak(options) => soak::run(options).await,
        Command::Bench(options) => bench::run(options).await,
        Command::Observe { host, vips } => Ok(integration_tests::vip::observe(vips, &host).await?),
    }
}

/// Does something until it is done or a signal asks to stop; then nothing of it goes on.
async fn unless_interrupted<T>(work: impl Future<Output = T>) -> Result<T> {
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    tokio::select! {
        done = work => Ok(done),
        _ = interrupt.recv() => Err("interrupted".into()),
        _ = terminate.recv() => Err("terminated".into()),
    }
}

/// One line for who waits; the results go to stdout, this does not.
fn progress(what: &str) {
    // Nobody may be listening, and that is no reason to stop.
    let _ = writeln!(std::io::stderr().lock(), "vip: {what}");
}

/// The results.
fn say(what: &str) {
    let _ = writeln!(std::io::stdout().lock(), "{what}");
}
