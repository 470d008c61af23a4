//! The results: a table and the verdicts for people, every sample as JSON for programs.

use std::fmt;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::Result;
use crate::figures::{Figures, Series};
use crate::floor::{FLOOR, WITH_COMMAND, WITH_RELOAD};
use crate::formation::{FORMATION, FORMATION_FLOOR, START_TO_VOTERS};
use crate::idle::Idle;
use crate::machine::Machine;
use crate::many::Many;
use crate::reloads::Reloads;
use crate::replacement::{
    ADDED_TO_VOTERS, POSSIBLE_TO_VOTERS, REPLACEMENT, REPLACEMENT_FLOOR, TAKEN_TO_VOTERS,
};
use crate::routed::{DIE_TO_503, DIE_TO_OUT, KILLED, KNOWN, NEW, START_TO_200, STOPPED};

/// The targets of the issue "The main job on one machine".
const NEW_SERVICE_MS: f64 = 50.0;
const KNOWN_TO_FLOOR: f64 = 1.5;
const MANY_MS: f64 = 2_000.0;
/// Those of the issue about consul-bootstrapper.
const FORMATION_S: f64 = 10.0;
const REPLACEMENT_S: f64 = 30.0;
/// Those of every service.
const IDLE_MIB: f64 = 20.0;
const IDLE_CPU_PERCENT: f64 = 1.0;

/// All that was measured.
#[derive(Debug)]
pub(crate) struct Report {
    pub(crate) machine: Machine,
    /// Rounds on the platform; 0 when it was not measured.
    pub(crate) runs: u32,
    /// Rounds on the cluster of hosts; 0 when it was not measured.
    pub(crate) cluster_runs: u32,
    pub(crate) figures: Figures,
    pub(crate) many: Option<Many>,
    pub(crate) idle_before: Vec<Idle>,
    pub(crate) idle_after: Vec<Idle>,
    /// consul-bootstrapper on a cluster of hosts.
    pub(crate) idle_hosts: Vec<Idle>,
    pub(crate) reloads: Option<Reloads>,
    /// Starts and ends of others' containers while the platform was measured: each may have disturbed a sample.
    pub(crate) foreign_events: u64,
    /// What could not be measured, and why.
    pub(crate) failures: Vec<String>,
}

/// A target and whether it was met.
struct Verdict {
    target: String,
    found: String,
    outcome: &'static str,
}

const HOLDS: &str = "holds";
const MISSED: &str = "MISSED";
/// The floor alone is above the target, which the target excepts.
const NO_ROOM: &str = "no room";

fn by_hand(slowest_ms: Option<f64>) -> String {
    slowest_ms.map_or_else(String::new, |ms| format!(", by hand {:.1} s", ms / 1_000.0))
}

fn outcome(holds: bool) -> &'static str {
    if holds { HOLDS } else { MISSED }
}

impl Report {
    /// One in which nothing was measured yet.
    pub(crate) fn about(machine: Machine) -> Self {
        Self {
            machine,
            runs: 0,
            cluster_runs: 0,
            figures: Figures::default(),
            many: None,
            idle_before: Vec::new(),
            idle_after: Vec::new(),
            idle_hosts: Vec::new(),
            reloads: None,
            foreign_events: 0,
            failures: Vec::new(),
        }
    }

    /// Writes the JSON under this name and says where.
    pub(crate) fn save(&self, name: &str) -> Result<PathBuf> {
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
        let ratio = |(name, ratio): (&'static str, f64)| (name.to_owned(), json!(ratio));
        let verdict = |verdict: Verdict| json!({"target": verdict.target, "found": verdict.found, "outcome": verdict.outcome});
        json!({
            "machine": self.machine,
            "runs": self.runs,
            "cluster_runs": self.cluster_runs,
            "foreign_events": self.foreign_events,
            "milliseconds": self.figures.series().iter().map(Series::to_json).collect::<Vec<_>>(),
            "many": self.many,
            "idle_before": self.idle_before,
            "idle_after": self.idle_after,
            "idle_hosts": self.idle_hosts,
            "reloads": self.reloads,
            "failures": self.failures,
            "ratios": self.ratios().into_iter().map(ratio).collect::<serde_json::Map<_, _>>(),
            "targets": self.verdicts().into_iter().map(verdict).collect::<Vec<_>>(),
        })
    }

    fn median(&self, group: &str, name: &str) -> Option<f64> {
        self.figures.median(group, name)
    }

    fn idle(&self) -> [(&'static str, &[Idle]); 3] {
        [
            ("at first", &self.idle_before),
            ("at the end", &self.idle_after),
            ("on hosts", &self.idle_hosts),
        ]
    }

    /// Ratios of what was measured.
    fn ratios(&self) -> Vec<(&'static str, f64)> {
        let (reload, command) = (self.median(FLOOR, WITH_RELOAD), self.median(FLOOR, WITH_COMMAND));
        let (new, known) = (self.median(NEW, START_TO_200), self.median(KNOWN, START_TO_200));
        let ratios = [
            ("new service / floor with a reload", new, reload),
            ("known service / floor with a reload", known, reload),
            ("known service / floor with a command", known, command),
            (
                "removal of one of two / floor with a reload",
                self.median(STOPPED, DIE_TO_OUT),
                reload,
            ),
            (
                "removal of the last one until 503 / floor with a reload",
                self.median(KILLED, DIE_TO_503),
                reload,
            ),
            (
                "Consul formed with consul-bootstrapper / by hand",
                self.median(FORMATION, START_TO_VOTERS),
                self.median(FORMATION_FLOOR, START_TO_VOTERS),
            ),
            (
                "lost server replaced from the take-over / by hand",
                self.median(REPLACEMENT, TAKEN_TO_VOTERS),
                self.median(REPLACEMENT_FLOOR, ADDED_TO_VOTERS),
            ),
        ];
        let measured = |(name, above, below): (_, Option<f64>, Option<f64>)| Some((name, above? / below?));
        ratios.into_iter().filter_map(measured).collect()
    }

    fn verdicts(&self) -> Vec<Verdict> {
        let mut verdicts: Vec<Verdict> = self.new_service_verdict().into_iter().collect();
        for (what, ratio) in self.ratios() {
            if what.starts_with("known") {
                verdicts.push(Verdict {
                    target: format!("{what}: at most {KNOWN_TO_FLOOR}"),
                    found: format!("{ratio:.2}"),
                    outcome: outcome(ratio <= KNOWN_TO_FLOOR),
                });
            }
        }
        verdicts.extend(self.many.as_ref().map(|many| Verdict {
            target: format!(
                "{} at once: all routed within {MANY_MS} ms of the last start",
                many.services
            ),
            found: format!("{:.0} ms", many.last_start_to_all_routed_ms),
            outcome: outcome(many.last_start_to_all_routed_ms <= MANY_MS),
        }));
        verdicts.extend(self.reloads.as_ref().map(|reloads| {
            let failed: u64 = reloads.failed.values().sum();
            Verdict {
                target: "reloads under load lose no request".to_owned(),
                found: format!("{failed} lost of {}", reloads.answered + failed),
                outcome: outcome(failed == 0),
            }
        }));
        verdicts.extend(self.formation_verdict());
        verdicts.extend(self.replacement_verdict());
        for (when, idle) in self.idle() {
            for idle in idle.iter().filter(|idle| idle.ours) {
                verdicts.push(Verdict {
                    target: format!(
                        "{} idle {when}: under {IDLE_MIB} MiB and {IDLE_CPU_PERCENT} % of a core",
                        idle.program
                    ),
                    found: format!("{:.1} MiB, {:.2} %", idle.memory_mib, idle.cpu_percent),
                    outcome: outcome(idle.memory_mib < IDLE_MIB && idle.cpu_percent < IDLE_CPU_PERCENT),
                });
            }
        }
        verdicts
    }

    fn new_service_verdict(&self) -> Option<Verdict> {
        let (floor, new) = (self.median(FLOOR, WITH_RELOAD)?, self.median(NEW, START_TO_200)?);
        Some(Verdict {
            target: format!("new service: median under {NEW_SERVICE_MS} ms where the floor allows"),
            found: format!("{new:.1} ms, floor {floor:.1} ms"),
            outcome: if new >= NEW_SERVICE_MS && floor >= NEW_SERVICE_MS {
                NO_ROOM
            } else {
                outcome(new < NEW_SERVICE_MS)
            },
        })
    }

    fn formation_verdict(&self) -> Option<Verdict> {
        let slowest = self.figures.slowest(FORMATION, START_TO_VOTERS)? / 1_000.0;
        let floor = self.figures.slowest(FORMATION_FLOOR, START_TO_VOTERS);
        Some(Verdict {
            target: format!(
                "three empty hosts: leader and three voters within {FORMATION_S} s of the last start"
            ),
            found: format!("slowest {slowest:.1} s{}", by_hand(floor)),
            outcome: outcome(slowest <= FORMATION_S),
        })
    }

    fn replacement_verdict(&self) -> Option<Verdict> {
        let slowest = self.figures.slowest(REPLACEMENT, TAKEN_TO_VOTERS)? / 1_000.0;
        let possible = self.figures.slowest(REPLACEMENT, POSSIBLE_TO_VOTERS)? / 1_000.0;
        let floor = self.figures.slowest(REPLACEMENT_FLOOR, ADDED_TO_VOTERS);
        Some(Verdict {
            target: format!(
                "lost server: three voters within {REPLACEMENT_S} s of the take-over of its slot"
            ),
            found: format!(
                "slowest {slowest:.1} s{}; {possible:.1} s from when the slot could be taken",
                by_hand(floor)
            ),
            outcome: outcome(slowest <= REPLACEMENT_S),
        })
    }

    fn fmt_figures(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut group = "";
        for series in self.figures.series() {
            if series.group != group {
                group = series.group;
                writeln!(
                    f,
                    "\n{group:<58} {:>5} {:>8} {:>8} {:>8} {:>8}",
                    "n", "min", "median", "p99", "max"
                )?;
            }
            let quantile = |q| format!("{:.1}", series.quantile(q));
            writeln!(
                f,
                "  {:<56} {:>5} {:>8} {:>8} {:>8} {:>8}",
                series.name,
                series.count(),
                quantile(0.0),
                quantile(0.5),
                quantile(0.99),
                quantile(1.0)
            )?;
        }
        Ok(())
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.machine)?;
        writeln!(
            f,
            "milliseconds, {} rounds on a platform, {} on a cluster of hosts; beside it on this machine: {} other \
             registrators, {} starts and ends of others' containers",
            self.runs, self.cluster_runs, self.machine.other_registrators, self.foreign_events
        )?;
        self.fmt_figures(f)?;
        writeln!(f)?;
        if let Some(many) = &self.many {
            writeln!(
                f,
                "{} services at once: Docker started them within {:.0} ms; {:.0} ms after the last start all were \
                 routed ({} reloads)",
                many.services, many.starting_ms, many.last_start_to_all_routed_ms, many.reloads
            )?;
        }
        if let Some(loaded) = &self.reloads {
            writeln!(
                f,
                "{} reloads under {} keep-alive clients: {} answered, failed {:?}, slowest {:.0} ms",
                loaded.reloads, loaded.clients, loaded.answered, loaded.failed, loaded.slowest_ms
            )?;
        }
        for (when, idle) in self.idle().into_iter().filter(|(_, idle)| !idle.is_empty()) {
            let one = |i: &Idle| format!("{} {:.1} MiB {:.2} %", i.program, i.memory_mib, i.cpu_percent);
            writeln!(
                f,
                "idle {when}: {}",
                idle.iter().map(one).collect::<Vec<_>>().join(", ")
            )?;
        }
        for failure in &self.failures {
            writeln!(f, "not measured: {failure}")?;
        }
        writeln!(f, "\nratios of medians")?;
        for (name, ratio) in self.ratios() {
            writeln!(f, "  {name:<72} {ratio:>6.2}")?;
        }
        writeln!(f, "\ntargets")?;
        for verdict in self.verdicts() {
            let Verdict {
                target,
                found,
                outcome,
            } = verdict;
            writeln!(f, "  {outcome:<8} {target:<73} {found}")?;
        }
        Ok(())
    }
}
