//! `make bench`: how long it takes from a container's start to the first answer through HAProxy, and until Consul has formed
//! and has healed, each with the floor beside it.
//!
//! The one-machine platform is measured in one run on one platform of its own, in rounds: each round starts a new service,
//! another instance of a known one, takes both away again, and measures each part of the floor alone. The cluster of hosts
//! comes after it, in rounds likewise: with consul-bootstrapper, then by hand. So all figures that are compared come from
//! the same minutes of the same machine, and drift hits them alike. Targets are told as text; a missed one is no failure.
//!
//! Times of one event at different processes are compared by the system's clock, which all of them share.
// Only JSON is indexed here, and serde_json answers null for what is not there.
#![allow(clippy::indexing_slicing)]

mod by_hand;
mod clock;
mod events;
mod figures;
mod floor;
mod formation;
mod haproxy;
mod hosts;
mod idle;
mod lab;
mod machine;
mod many;
mod probe;
mod reloads;
mod replacement;
mod report;
mod routed;
mod servers;
mod steps;

use std::future::Future;
use std::io::Write;
use std::time::Duration;

use clap::{Parser, ValueEnum};
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::lab::Lab;
use crate::machine::Machine;
use crate::report::Report;

/// What goes wrong here is told to a person and ends the run.
type Error = Box<dyn std::error::Error + Send + Sync>;
type Result<T, E = Error> = std::result::Result<T, E>;

/// A part that can be measured alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Part {
    /// The one-machine platform: registrator, router-config.
    Platform,
    /// The cluster of Consul servers: consul-bootstrapper.
    Consul,
}

/// Container start to first answer, Consul's forming and healing, and the floor beside each.
#[derive(Debug, Parser)]
struct Options {
    /// Measure this part alone.
    #[arg(long, value_name = "PART")]
    only: Option<Part>,

    /// Rounds on the platform: samples of each of its figures [default: 50].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    runs: Option<u32>,

    /// Rounds of forming a Consul cluster, and of losing a server [default: 5].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    consul_runs: Option<u32>,

    /// Services started at once [default: 200].
    #[arg(long, value_name = "N")]
    many: Option<usize>,

    /// For a look in between: 5 rounds, 20 services at once, 2 rounds of Consul, 5 s of idling.
    #[arg(long)]
    quick: bool,

    /// The JSON goes to target/bench/NAME.json [default: the commit, and the part that was measured alone].
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
}

impl Options {
    fn pick<T>(&self, given: Option<T>, quick: T, full: T) -> T {
        given.unwrap_or(if self.quick { quick } else { full })
    }

    fn wants(&self, part: Part) -> bool {
        self.only.is_none_or(|only| only == part)
    }

    fn idle_for(&self) -> Duration {
        self.pick(None, Duration::from_secs(5), Duration::from_secs(30))
    }

    /// The name of the JSON: what only a part was measured for does not take the place of a whole.
    fn name(&self, commit: &str) -> String {
        let default = || match self.only {
            None => commit.to_owned(),
            Some(Part::Platform) => format!("{commit}-platform"),
            Some(Part::Consul) => format!("{commit}-consul"),
        };
        self.name.clone().unwrap_or_else(default)
    }
}

/// From its making on a signal ends no process on the spot: what was made is removed first.
struct Signals {
    interrupt: Signal,
    terminate: Signal,
}

impl Signals {
    fn new() -> Result<Self> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
        })
    }

    async fn unless_came<T>(&mut self, work: impl Future<Output = Result<T>>) -> Result<T> {
        tokio::select! {
            done = work => done,
            _ = self.interrupt.recv() => Err("interrupted".into()),
            _ = self.terminate.recv() => Err("terminated".into()),
        }
    }
}

#[tokio::main]
async fn main() -> Result<()> {
    let options = Options::parse();
    let mut signals = Signals::new()?;
    let docker = lab::connect().await?;
    let mut report = Report::about(Machine::here(&docker).await?);
    if options.wants(Part::Platform) {
        progress("starting a platform of its own");
        let lab = Lab::up(docker).await?;
        let done = signals
            .unless_came(measure_platform(&lab, &options, &mut report))
            .await;
        progress("removing everything that was made");
        // Its commands block; the runtime has nothing else to do.
        drop(lab);
        done?;
    }
    if options.wants(Part::Consul) {
        let runs = options.pick(options.consul_runs, 2, 5);
        let work = async {
            hosts::measure(runs, options.idle_for(), &mut report).await;
            Ok(())
        };
        signals.unless_came(work).await?;
    }
    let path = report.save(&options.name(&report.machine.commit))?;
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

async fn measure_platform(lab: &Lab, options: &Options, report: &mut Report) -> Result<()> {
    let (runs, idle_for) = (options.pick(options.runs, 5, 50), options.idle_for());
    report.runs = runs;
    let known = lab.known_service().await?;
    progress(&format!("idle, {idle_for:?}"));
    report.idle_before = idle::measure(lab, idle_for).await?;
    for round in 1..=runs {
        if round == 1 || round % 10 == 0 {
            progress(&format!("round {round} of {runs}"));
        }
        routed::round(lab, &known, &mut report.figures).await?;
        floor::round(lab, &mut report.figures).await?;
    }
    // What comes now is apart from the rounds: if one of it fails, the rest is still worth having.
    let failures = &mut report.failures;
    progress("reloads under load");
    report.reloads = kept(reloads::measure(lab, &known).await, failures);
    progress("many at once");
    let many = options.pick(options.many, 20, 200);
    report.many = kept(many::measure(lab, many, &mut report.figures).await, failures);
    progress(&format!("idle after all of it, {idle_for:?}"));
    report.idle_after = kept(idle::measure(lab, idle_for).await, failures).unwrap_or_default();
    report.foreign_events = lab.events().foreign();
    Ok(())
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
