//! The part about the cluster of hosts: how long Consul takes to form and to heal with consul-bootstrapper, and what that
//! costs while nothing happens. Each cluster has its own network, and the hosts are those of the tests: no systemd.

use std::time::Duration;

use crate::replacement::Clusters;
use crate::report::Report;
use crate::servers::caught;
use crate::{Result, formation, kept, progress};

/// Measures all of it. What cannot be measured is among the report's failures, and ends what depends on it.
pub(crate) async fn measure(runs: u32, idle_for: Duration, report: &mut Report) {
    report.cluster_runs = runs;
    for run in 1..=runs {
        progress(&format!("a Consul cluster forms, {run} of {runs}"));
        let formed = caught(formation::round(&mut report.figures)).await;
        if kept(formed, &mut report.failures).is_none() {
            break;
        }
    }
    let healed = caught(on_one_cluster(runs, idle_for, report)).await;
    kept(healed, &mut report.failures);
}

async fn on_one_cluster(runs: u32, idle_for: Duration, report: &mut Report) -> Result<()> {
    progress("a cluster of four hosts");
    let mut clusters = Clusters::form().await?;
    progress(&format!("consul-bootstrapper idle, {idle_for:?}"));
    report.idle_hosts = clusters.idle(idle_for).await?;
    for run in 1..=runs {
        progress(&format!("a server is lost for good, {run} of {runs}"));
        clusters.round(&mut report.figures).await?;
    }
    Ok(())
}
