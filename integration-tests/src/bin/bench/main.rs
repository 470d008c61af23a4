//! `make bench`: how long it takes from a container's start to the first answer through HAProxy, with the floor beside it.
//!
//! Everything is measured in one run on one platform of its own, in rounds: each round starts a new service, another
//! instance of a known one, takes both away again, and measures each part of the floor alone. So all figures come from
//! the same minutes of the same machine, and drift hits them alike. Targets are told as text; a missed one is no failure.
//!
//! Times of one event at different processes are compared by the system's clock, which all of them share.
// Only JSON is indexed here, and serde_json answers null for what is not there.
#![allow(clippy::indexing_slicing)]

mod clock;
mod events;
mod figures;
mod floor;
mod haproxy;
mod idle;
mod lab;
mod machine;
mod many;
mod probe;
mod reloads;
mod report;
mod routed;
mod steps;

use std::future::Future;
use std::io::Write;
use std::time::Duration;

use clap::Parser;
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::figures::Figures;
use crate::lab::Lab;
use crate::machine::Machine;
use crate::report::Report;

/// What goes wrong here is told to a person and ends the run.
type Error = Box<dyn std::error::Error + Send + Sync>;
type Result<T, E = Error> = std::result::Result<T, E>;

/// Container start to first answer, and the floor beside it.
#[derive(Debug, Parser)]
struct Options {
    /// Rounds: samples of each figure [default: 50].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    runs: Option<u32>,

    /// Services started at once [default: 200].
    #[arg(long, value_name = "N")]
    many: Option<usize>,

    /// For a look in between: 5 rounds, 20 services at once, 5 s of idling.
    #[arg(long)]
    quick: bool,

    /// The JSON goes to target/bench/NAME.json [default: the commit].
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
}

impl Options {
    fn pick<T>(&self, given: Option<T>, quick: T, full: T) -> T {
        given.unwrap_or(if self.quick { quick } else { full })
    }
}

#[tokio::main]
async fn main() -> Result<()> {
    let options = Options::parse();
    // From here on a signal ends no process on the spot: what was made is removed first.
    let (interrupt, terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    progress("starting a platform of its own");
    let lab = Lab::up().await?;
    let report = unless_interrupted(measure(&lab, &options), interrupt, terminate).await;
    progress("removing everything that was made");
    // Its commands block; the runtime has nothing else left to do.
    drop(lab);
    let report = report?;
    let path = report.save(options.name.as_deref())?;
    writeln!(
        std::io::stdout().lock(),
        "{report}\nevery sample: {}",
        path.display()
    )?;
    match report.failures.first() {
        None => Ok(()),
        Some(failure) => Err(failure.clone().into()),
    }
}

async fn unless_interrupted<T>(
    work: impl Future<Output = Result<T>>,
    mut interrupt: Signal,
    mut terminate: Signal,
) -> Result<T> {
    tokio::select! {
        done = work => done,
        _ = interrupt.recv() => Err("interrupted".into()),
        _ = terminate.recv() => Err("terminated".into()),
    }
}

async fn measure(lab: &Lab, options: &Options) -> Result<Report> {
    let runs = options.pick(options.runs, 5, 50);
    let idle_for = options.pick(None, Duration::from_secs(5), Duration::from_secs(30));
    let machine = Machine::here(lab).await?;
    let mut figures = Figures::default();

    let known = lab.known_service().await?;
    progress(&format!("idle, {idle_for:?}"));
    let idle_before = idle::measure(lab, idle_for).await?;
    for round in 1..=runs {
        if round == 1 || round % 10 == 0 {
            progress(&format!("round {round} of {runs}"));
        }
        routed::round(lab, &known, &mut figures).await?;
        floor::round(lab, &mut figures).await?;
    }
    // What comes now is apart from the rounds: if one of it fails, the rest is still worth having.
    let mut failures = Vec::new();
    progress("reloads under load");
    let reloads = kept(reloads::measure(lab, &known).await, &mut failures);
    progress("many at once");
    let many = options.pick(options.many, 20, 200);
    let many = kept(many::measure(lab, many, &mut figures).await, &mut failures);
    progress(&format!("idle after all of it, {idle_for:?}"));
    let idle_after = kept(idle::measure(lab, idle_for).await, &mut failures).unwrap_or_default();
    Ok(Report {
        machine,
        runs,
        figures,
        many,
        idle_before,
        idle_after,
        reloads,
        foreign_events: lab.events().foreign(),
        failures,
    })
}

/// The value; or nothing, and the error among the failures.
fn kept<T>(result: Result<T>, failures: &mut Vec<String>) -> Option<T> {
    result.map_err(|error| failures.push(error.to_string())).ok()
}

/// One line for who waits; the results go to stdout, this does not.
fn progress(what: &str) {
    // Nobody may be listening, and that is no reason to stop.
    let _ = writeln!(std::io::stderr().lock(), "bench: {what}");
}
