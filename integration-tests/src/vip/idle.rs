//! What vip-keeper costs while nothing happens.

use std::time::{Duration, Instant};

use futures_util::future::try_join_all;

use crate::cluster::{Cluster, Node};

/// USER_HZ, which is 100 on every architecture that Docker runs on.
const TICKS_PER_SECOND: f64 = 100.0;

/// A host's vip-keeper at rest.
#[derive(Debug, Clone, PartialEq)]
pub struct Idle {
    /// The host.
    pub node: String,
    /// Whether it holds a virtual IP, and so renews.
    pub holds: bool,
    /// Resident memory of the process at the end, in MiB.
    pub memory_mib: f64,
    /// Share of one core, in percent.
    pub cpu_percent: f64,
}

/// Resident memory in KiB and processor time in ticks.
struct Usage {
    memory: f64,
    ticks: f64,
}

/// Looks at the beginning and at the end of `duration`.
///
/// # Errors
/// When a host has no vip-keeper.
pub async fn idle(cluster: &Cluster, duration: Duration) -> Result<Vec<Idle>, String> {
    let began = Instant::now();
    let before = usages(cluster).await?;
    tokio::time::sleep(duration).await;
    let seconds = began.elapsed().as_secs_f64();
    let after = usages(cluster).await?;
    let mut all = Vec::new();
    for ((node, before), after) in cluster.nodes().iter().zip(before).zip(after) {
        all.push(Idle {
            node: node.hostname(),
            holds: node.vips().await?.iter().any(|vip| vip.holds),
            memory_mib: after.memory / 1_024.0,
            cpu_percent: (after.ticks - before.ticks) / TICKS_PER_SECOND / seconds * 100.0,
        });
    }
    Ok(all)
}

async fn usages(cluster: &Cluster) -> Result<Vec<Usage>, String> {
    try_join_all(cluster.nodes().iter().map(usage)).await
}

async fn usage(node: &Node) -> Result<Usage, String> {
    let script = "pid=$(docker container inspect -f '{{.State.Pid}}' vip-keeper) && cat /proc/$pid/stat && \
                  awk '/^VmRSS:/ { print $2 }' /proc/$pid/status";
    let told = node.exec(&["sh", "-c", script]).await?;
    parse(&told).ok_or_else(|| format!("{}: /proc is not understood: {told}", node.hostname()))
}

/// The line of `/proc/PID/stat`, then the memory.
fn parse(told: &str) -> Option<Usage> {
    let (stat, memory) = told.rsplit_once('\n')?;
    // proc_pid_stat(5): after the name in parentheses come the state, and as the 12th and 13th utime and stime.
    let (_, fields) = stat.rsplit_once(')')?;
    let mut fields = fields.split_whitespace().skip(11);
    let mut next = || fields.next()?.parse::<f64>().ok();
    Some(Usage {
        memory: memory.trim().parse().ok()?,
        ticks: next()? + next()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_kernel_says_of_a_process_is_read() {
        let told =
            "812 (vip keeper)) S 1 812 812 0 -1 4194560 900 0 0 0 130 21 0 0 20 0 4 0 1000 9000 2300\n9216";
        let usage = parse(told).unwrap();
        assert!((usage.memory - 9_216.0).abs() < f64::EPSILON);
        assert!((usage.ticks - 151.0).abs() < f64::EPSILON);
        assert!(parse("").is_none() && parse("812 (x) S 1\n9216").is_none());
    }
}
