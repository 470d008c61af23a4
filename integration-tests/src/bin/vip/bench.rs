//! `make bench`, the part about virtual IPs: outages as a client sees them, side by side with keepalived on the same
//! hosts in the same run, and what vip-keeper costs. Targets are told as text; a missed one is no failure.

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use integration_tests::vip::{Daemon, Idle, Millis, Results, Scenario, idle};
use serde_json::{Value, json};

use crate::lab::Lab;
use crate::{Result, progress, say, unless_interrupted};

/// What is measured in each round with the profile `lan`.
const ROUND: [(Scenario, Daemon); 9] = [
    (Scenario::NOTHING, Daemon::Keeper),
    (Scenario::POWER_CUT, Daemon::Keeper),
    (Scenario::POWER_CUT, Daemon::Keepalived),
    (Scenario::POWER_CUT_OF_LEADER, Daemon::Keeper),
    (Scenario::KILL, Daemon::Keeper),
    (Scenario::KILL, Daemon::Keepalived),
    (Scenario::HAND_OVER, Daemon::Keeper),
    (Scenario::HAND_OVER, Daemon::Keepalived),
    (Scenario::KILL_PROXY, Daemon::Keeper),
];

/// And with etcd at its own defaults, under other names.
const WITH_DEFAULTS: [(Scenario, &str); 2] = [
    (
        Scenario::POWER_CUT,
        "power cut of the holder, etcd at its defaults",
    ),
    (
        Scenario::POWER_CUT_OF_LEADER,
        "power cut of the holder, etcd's leader, etcd at its defaults",
    ),
];

const ETCD_DEFAULTS: [(&str, &str); 3] = [
    ("ETCD_HEARTBEAT_INTERVAL", "100"),
    ("ETCD_ELECTION_TIMEOUT", "1000"),
    ("COLOSSUS_VIP_PROFILE", "default"),
];

/// The targets of the issue.
const POWER_CUT_MEDIAN: Duration = Duration::from_millis(1_600);
const POWER_CUT_WORST: Duration = Duration::from_millis(2_500);
const DEFAULTS_WORST: Duration = Duration::from_millis(4_000);
const IDLE_MIB: f64 = 15.0;
const IDLE_CPU_PERCENT: f64 = 1.0;

#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Rounds: samples of each figure [default: 10]
    #[arg(long, value_name = "N")]
    runs: Option<u32>,
    /// For a look in between: 2 rounds, 5 s of idling
    #[arg(long)]
    quick: bool,
    /// The JSON goes to target/bench/NAME.json
    #[arg(long, value_name = "NAME", default_value = "vip")]
    name: String,
}

/// All that was measured.
#[derive(Default)]
struct Report {
    runs: u32,
    results: Results,
    idle: Vec<Idle>,
}

pub(crate) async fn run(options: Options) -> Result<()> {
    let mut report = Report {
        runs: options.runs.unwrap_or(if options.quick { 2 } else { 10 }),
        ..Report::default()
    };
    let interrupted = unless_interrupted(measure(&options, &mut report)).await;
    // What was measured until then is worth having.
    say(&report.to_string());
    say(&format!(
        "every sample: {}",
        report.save(&options.name)?.display()
    ));
    interrupted?
}

async fn measure(options: &Options, report: &mut Report) -> Result<()> {
    let mut lab = Lab::up(1, &[], &[Daemon::Keeper, Daemon::Keepalived]).await?;
    let idle_for = Duration::from_secs(if options.quick { 5 } else { 30 });
    progress(&format!("idle, {idle_for:?}"));
    report.idle = idle(lab.cluster(), idle_for).await?;
    for round in 1..=report.runs {
        for (scenario, daemon) in ROUND {
            progress(&format!(
                "round {round} of {}: {}, {daemon}",
                report.runs, scenario.name
            ));
            let outcome = lab.drill(daemon, scenario).await;
            report
                .results
                .add(scenario.name, daemon, scenario.outage, outcome);
        }
    }
    drop(lab);
    progress("the same with etcd at its defaults");
    let mut lab = Lab::up(1, &ETCD_DEFAULTS, &[Daemon::Keeper]).await?;
    for round in 1..=report.runs {
        for (scenario, name) in WITH_DEFAULTS {
            progress(&format!("round {round} of {}: {name}", report.runs));
            let outcome = lab.drill(Daemon::Keeper, scenario).await;
            report.results.add(name, Daemon::Keeper, DEFAULTS_WORST, outcome);
        }
    }
    Ok(())
}

impl Report {
    /// Writes the JSON and says where.
    fn save(&self, name: &str) -> Result<PathBuf> {
        let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(
            || Path::new(env!("CARGO_MANIFEST_DIR")).join("../target"),
            PathBuf::from,
        );
        let directory = target.join("bench");
        std::fs::create_dir_all(&directory)?;
        let path = directory.join(format!("{name}.json"));
        std::fs::write(&path, serde_json::to_vec_pretty(&self.to_json())?)?;
        Ok(path.canonicalize()?)
    }

    fn to_json(&self) -> Value {
        let idle = |idle: &Idle| {
            json!({
                "node": idle.node,
                "holds": idle.holds,
                "memory_mib": idle.memory_mib,
                "cpu_percent": idle.cpu_percent,
            })
        };
        let verdict = |(target, found, holds): (String, String, bool)| json!({"target": target, "found": found, "holds": holds});
        json!({
            "runs": self.runs,
            "results": self.results.to_json(),
            "idle": self.idle.iter().map(idle).collect::<Vec<_>>(),
            "targets": self.verdicts().into_iter().map(verdict).collect::<Vec<_>>(),
        })
    }

    /// Each target, what was found, and whether it holds; what was not measured is not among them.
    fn verdicts(&self) -> Vec<(String, String, bool)> {
        let mut verdicts = Vec::new();
        let mut outage = |name: &str, median: Option<Duration>, worst: Duration| {
            if let Some((found, found_worst)) = self.results.outage(name, Daemon::Keeper) {
                let target = median.map_or(String::new(), |median| {
                    format!("median at most {}, ", Millis(median))
                });
                verdicts.push((
                    format!("{name}: {target}worst at most {}", Millis(worst)),
                    format!("{}, {}", Millis(found), Millis(found_worst)),
                    median.is_none_or(|median| found <= median) && found_worst <= worst,
                ));
            }
        };
        for scenario in [Scenario::POWER_CUT, Scenario::POWER_CUT_OF_LEADER] {
            outage(scenario.name, Some(POWER_CUT_MEDIAN), POWER_CUT_WORST);
        }
        for (_, name) in WITH_DEFAULTS {
            outage(name, None, DEFAULTS_WORST);
        }
        for scenario in [Scenario::HAND_OVER, Scenario::KILL_PROXY] {
            outage(scenario.name, None, scenario.outage);
        }
        if let Some((failed, cut)) = self.results.failed(Scenario::HAND_OVER.name, Daemon::Keeper) {
            verdicts.push((
                format!("{}: no failed request", Scenario::HAND_OVER.name),
                format!("{failed}, of which {cut} had connected and were cut off"),
                failed == 0,
            ));
        }
        verdicts.extend(self.idle.iter().map(|idle| {
            (
                format!(
                    "idle on {}{}: under {IDLE_MIB} MiB and {IDLE_CPU_PERCENT} % of a core",
                    idle.node,
                    if idle.holds { ", the holder" } else { "" },
                ),
                format!("{:.1} MiB, {:.2} %", idle.memory_mib, idle.cpu_percent),
                idle.memory_mib < IDLE_MIB && idle.cpu_percent < IDLE_CPU_PERCENT,
            )
        }));
        verdicts
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "virtual IPs as a client sees them, milliseconds, {} rounds\n",
            self.runs
        )?;
        writeln!(f, "{}", self.results)?;
        writeln!(f, "targets")?;
        for (target, found, holds) in self.verdicts() {
            let outcome = if holds { "holds" } else { "MISSED" };
            writeln!(f, "  {outcome:<8} {target:<90} {found}")?;
        }
        for complaint in self.results.complaints() {
            writeln!(f, "\n{complaint}")?;
        }
        Ok(())
    }
}
