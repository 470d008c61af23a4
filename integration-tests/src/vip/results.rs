//! What came of many drills, as a table.

use std::fmt::{self, Display, Formatter};
use std::time::Duration;

use serde_json::{Value, json};

use super::{Daemon, Outcome};

/// Outcomes by daemon and scenario, in the order in which they first appeared.
#[derive(Debug, Default)]
pub struct Results {
    rows: Vec<Row>,
}

/// Of one daemon and one scenario.
#[derive(Debug)]
struct Row {
    name: String,
    daemon: Daemon,
    /// The scenario's own bound.
    bound: Duration,
    outcomes: Vec<Outcome>,
    /// What could not be done at all, and why.
    broken: Vec<String>,
}

impl Row {
    fn each(&self, of: impl Fn(&Outcome) -> Duration) -> Vec<Duration> {
        let mut each: Vec<Duration> = self.outcomes.iter().map(of).collect();
        each.sort_unstable();
        each
    }
}

/// The middle one, or the lower of the two.
fn median<T: Copy>(sorted: &[T]) -> Option<T> {
    sorted.get(sorted.len().checked_sub(1)? / 2).copied()
}

fn ms(duration: Option<Duration>) -> String {
    duration.map_or_else(
        || "-".to_owned(),
        |duration| format!("{:.0}", duration.as_secs_f64() * 1_000.0),
    )
}

/// With a + when it would have gone on.
fn two_owners(row: &Row) -> String {
    let longest = ms(row.each(Outcome::two_owners).last().copied());
    let lasted = row.outcomes.iter().any(Outcome::two_owners_lasted);
    format!("{longest}{}", if lasted { "+" } else { "" })
}

impl Results {
    /// Adds what came of one; `name` is the scenario's, or says more.
    pub fn add(&mut self, name: &str, daemon: Daemon, bound: Duration, outcome: Result<Outcome, String>) {
        let at = self
            .rows
            .iter()
            .position(|row| row.name == name && row.daemon == daemon);
        let at = at.unwrap_or_else(|| {
            self.rows.push(Row {
                name: name.to_owned(),
                daemon,
                bound,
                outcomes: Vec::new(),
                broken: Vec::new(),
            });
            self.rows.len() - 1
        });
        match outcome {
            Ok(outcome) => self.rows[at].outcomes.push(outcome),
            Err(error) => self.rows[at].broken.push(error),
        }
    }

    /// The median and the worst outage.
    pub fn outage(&self, name: &str, daemon: Daemon) -> Option<(Duration, Duration)> {
        let row = self.row(name, daemon)?;
        let each = row.each(Outcome::outage);
        Some((median(&each)?, *each.last()?))
    }

    /// How many requests failed over all runs, and how many of them had connected and were cut off.
    pub fn failed(&self, name: &str, daemon: Daemon) -> Option<(usize, usize)> {
        let row = self.row(name, daemon)?;
        let sum = |of: fn(&Outcome) -> usize| row.outcomes.iter().map(of).sum();
        Some((sum(Outcome::failed), sum(Outcome::cut)))
    }

    /// Whatever was not as it must be, with the bounds of the scenarios.
    pub fn complaints(&self) -> Vec<String> {
        let missed = |row: &Row| {
            let bounded = row.outcomes.iter().filter_map(|o| o.within(row.bound).err());
            bounded.chain(row.broken.iter().cloned()).collect::<Vec<_>>()
        };
        self.rows.iter().flat_map(missed).collect()
    }

    /// Every figure of every run.
    pub fn to_json(&self) -> Value {
        let millis = |duration: Duration| duration.as_secs_f64() * 1_000.0;
        let outcome = |outcome: &Outcome| {
            json!({
                "outage_ms": millis(outcome.outage()),
                "latest_ms": millis(outcome.latest()),
                "two_owners_ms": millis(outcome.two_owners()),
                "two_owners_lasted": outcome.two_owners_lasted(),
                "let_go_after_ms": outcome.let_go_after().map(millis),
                "failed": outcome.failed(),
                "cut": outcome.cut(),
                "holder": outcome.holder,
            })
        };
        let row = |row: &Row| {
            let runs: Vec<Value> = row.outcomes.iter().map(outcome).collect();
            json!({
                "scenario": row.name,
                "daemon": row.daemon.to_string(),
                "bound_ms": millis(row.bound),
                "runs": runs,
                "broken": row.broken,
            })
        };
        self.rows.iter().map(row).collect()
    }

    fn row(&self, name: &str, daemon: Daemon) -> Option<&Row> {
        self.rows
            .iter()
            .find(|row| row.name == name && row.daemon == daemon)
    }
}

/// Markdown; times in milliseconds. Two owners with a + were there until the fault was undone.
impl Display for Results {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "| scenario | kept by | runs | outage, median | worst | bound | any time without a good answer, worst | two owners, worst | \
             holder's last answer, worst | failed requests, median | most | of them cut off, in all | outside the bounds |"
        )?;
        writeln!(f, "|---|---|---|---|---|---|---|---|---|---|---|---|---|")?;
        for row in &self.rows {
            let outages = row.each(Outcome::outage);
            let mut failed: Vec<usize> = row.outcomes.iter().map(Outcome::failed).collect();
            failed.sort_unstable();
            let count =
                |count: Option<usize>| count.map_or_else(|| "-".to_owned(), |count| count.to_string());
            let outside = row.outcomes.iter().filter(|o| o.within(row.bound).is_err());
            writeln!(
                f,
                "| {} | {} | {} | {} | {} | {} | {} | {} | {} | {} | {} | {} | {} |",
                row.name,
                row.daemon,
                row.outcomes.len(),
                ms(median(&outages)),
                ms(outages.last().copied()),
                ms(Some(row.bound)),
                ms(row.each(Outcome::latest).last().copied()),
                two_owners(row),
                ms(row.outcomes.iter().filter_map(Outcome::let_go_after).max()),
                count(median(&failed)),
                count(failed.last().copied()),
                row.outcomes.iter().map(Outcome::cut).sum::<usize>(),
                outside.count() + row.broken.len(),
            )?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vip::Scenario;

    #[test]
    fn the_median_is_one_of_the_runs() {
        assert_eq!(median(&[1, 2, 3, 4]), Some(2));
        assert_eq!(median(&[1, 2, 3]), Some(2));
        assert_eq!(median::<u8>(&[]), None);
    }

    #[test]
    fn what_could_not_be_done_is_in_the_table() {
        let mut results = Results::default();
        let Scenario { name, outage, .. } = Scenario::KILL;
        results.add(name, Daemon::Keeper, outage, Err("no host".to_owned()));
        assert_eq!(results.complaints(), ["no host"]);
        assert_eq!(results.outage(name, Daemon::Keeper), None);
        assert!(
            results
                .to_string()
                .contains("| kill -9 of the daemon | vip-keeper | 0 | - | - | 2500 |")
        );
    }
}
