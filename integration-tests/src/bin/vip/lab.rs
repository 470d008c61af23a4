//! Hosts with a service on them, and drills on them that survive whatever goes wrong in one.

use std::panic::AssertUnwindSafe;
use std::path::PathBuf;
use std::time::Duration;

use futures_util::FutureExt;
use integration_tests::cluster::{Cluster, ClusterOptions, KEEPER, Steps};
use integration_tests::vip::{Daemon, Outcome, Scenario, Service, run};

use crate::{Result, progress};

/// The longest that one drill may take: a host is off and on again in half a minute.
const DRILL: Duration = Duration::from_secs(300);

/// Of how many drills that went wrong the hosts' evidence is kept.
const MOST_EVIDENCE: usize = 5;

/// The hosts. Removed with all that is on them when dropped.
pub(crate) struct Lab {
    cluster: Cluster,
    service: Service,
    program: PathBuf,
    evidence: usize,
}

impl Lab {
    /// Starts three hosts with this many virtual IPs and these settings, and the daemons.
    pub(crate) async fn up(vips: usize, settings: &[(&str, &str)], daemons: &[Daemon]) -> Result<Self> {
        let own = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
        let options = ClusterOptions {
            vips,
            settings: settings.iter().map(own).collect(),
            ..ClusterOptions::test(3)
        };
        // What is left of one that does not come up is removed.
        let cluster = Cluster::up(options, &Steps::told())
            .await
            .map_err(|(error, _)| error)?;
        let has_keeper = cluster.units().iter().any(|unit| unit == KEEPER);
        if daemons.contains(&Daemon::Keeper) && !has_keeper {
            return Err("there is no image colossus/vip-keeper: build it: make images".into());
        }
        for daemon in daemons {
            daemon.install(&cluster).await?;
        }
        Ok(Self {
            service: Service::start(&cluster).await,
            cluster,
            program: std::env::current_exe()?,
            evidence: 0,
        })
    }

    /// The hosts.
    pub(crate) fn cluster(&self) -> &Cluster {
        &self.cluster
    }

    /// One drill. A host that cannot be made to do something panics; here that is a drill that could not be done.
    pub(crate) async fn drill(&mut self, daemon: Daemon, scenario: Scenario) -> Result<Outcome, String> {
        let drill = run(&self.cluster, &self.program, &self.service, daemon, scenario);
        let caught = AssertUnwindSafe(tokio::time::timeout(DRILL, drill)).catch_unwind();
        let outcome = match caught.await {
            Ok(Ok(outcome)) => outcome,
            Ok(Err(_)) => Err(format!("not done within {DRILL:?}")),
            Err(panic) => Err(told(&*panic)),
        };
        let outcome = outcome.map_err(|error| format!("{}, {daemon}: {error}", scenario.name));
        if let Err(error) = &outcome {
            progress(error);
            self.keep_evidence().await;
        }
        outcome
    }

    /// Keeps what can be known of the hosts now.
    pub(crate) async fn keep_evidence(&mut self) {
        if self.evidence == MOST_EVIDENCE {
            return;
        }
        self.evidence += 1;
        let directory = self.cluster.evidence_directory().join(self.evidence.to_string());
        match self.cluster.evidence(&directory).await {
            Ok(()) => progress(&format!("evidence is in {}", directory.display())),
            Err(error) => progress(&format!("no evidence: {error}")),
        }
    }
}

/// What a panic said.
fn told(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied())
        .unwrap_or("it panicked")
        .to_owned()
}
