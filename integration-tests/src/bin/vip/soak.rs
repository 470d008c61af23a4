//! `make soak`: each scenario many times. Ends with 1 if a bound was missed, two hosts ever answered at once for longer
//! than they may, or something did not become well again.

use clap::{Args, ValueEnum};
use integration_tests::vip::{ALL, Daemon, Results, Scenario};

use crate::lab::Lab;
use crate::{Result, progress, say, unless_interrupted};

#[derive(Debug, Args)]
pub(crate) struct Options {
    /// How often each
    #[arg(long, value_name = "N", env = "RUNS", default_value_t = 20)]
    runs: u32,
    /// Only scenarios whose name has this in it; may be repeated
    #[arg(long, value_name = "TEXT")]
    only: Vec<String>,
    /// To whom it is done
    #[arg(long, value_enum, default_value_t = Whom::Keeper)]
    daemon: Whom,
    /// How many virtual IPs there are
    #[arg(long, value_name = "N", default_value_t = 1)]
    vips: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Whom {
    Keeper,
    Keepalived,
}

impl From<Whom> for Daemon {
    fn from(whom: Whom) -> Self {
        match whom {
            Whom::Keeper => Self::Keeper,
            Whom::Keepalived => Self::Keepalived,
        }
    }
}

impl Options {
    fn scenarios(&self) -> Vec<Scenario> {
        let wanted = |scenario: &Scenario| {
            self.only.is_empty() || self.only.iter().any(|text| scenario.name.contains(text.as_str()))
        };
        ALL.into_iter().filter(wanted).collect()
    }
}

pub(crate) async fn run(options: Options) -> Result<()> {
    let scenarios = options.scenarios();
    if scenarios.is_empty() {
        let names: Vec<&str> = ALL.iter().map(|scenario| scenario.name).collect();
        return Err(format!(
            "no scenario has that in its name; there are: {}",
            names.join("; ")
        )
        .into());
    }
    let mut results = Results::default();
    let interrupted = unless_interrupted(soak(&options, &scenarios, &mut results)).await;
    // What was seen until then is worth having.
    say(&results.to_string());
    interrupted??;
    match results.complaints()[..] {
        [] => Ok(()),
        ref complaints => {
            for complaint in complaints {
                say(complaint);
            }
            Err(format!("{} runs were not as they must be", complaints.len()).into())
        }
    }
}

async fn soak(options: &Options, scenarios: &[Scenario], results: &mut Results) -> Result<()> {
    let daemon = options.daemon.into();
    let mut lab = Lab::up(options.vips, &[], &[daemon]).await?;
    // In rounds, so that what changes on this machine meanwhile hits all alike.
    for round in 1..=options.runs {
        for scenario in scenarios {
            progress(&format!("{round} of {}: {}", options.runs, scenario.name));
            let outcome = lab.drill(daemon, *scenario).await;
            if let Ok(outcome) = &outcome
                && let Err(complaint) = outcome.within(scenario.outage)
            {
                progress(&complaint);
                lab.keep_evidence().await;
            }
            results.add(scenario.name, daemon, scenario.outage, outcome);
        }
    }
    Ok(())
}
