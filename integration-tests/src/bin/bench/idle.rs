//! What our services cost while nothing happens.

use std::future::Future;
use std::time::{Duration, Instant};

use bollard::models::ContainerStatsResponse;
use bollard::query_parameters::StatsOptionsBuilder;
use futures_util::StreamExt;
use serde::Serialize;
use tokio::time::sleep;

use crate::Result;
use crate::lab::Lab;

/// The services under test tell it themselves; of the others Docker does.
const SERVICES: [&str; 2] = ["registrator", "router-config"];
const BESIDE: [&str; 2] = ["haproxy", "consul"];

/// USER_HZ, which is 100 on every architecture that Docker runs on.
const TICKS_PER_SECOND: f64 = 100.0;

/// One program at rest.
#[derive(Debug, Serialize)]
pub(crate) struct Idle {
    pub(crate) program: &'static str,
    /// Resident memory of the process in MiB; for those beside, what Docker counts without reclaimable page cache.
    pub(crate) memory_mib: f64,
    /// Share of one core, in percent.
    pub(crate) cpu_percent: f64,
    /// Whether it is one of ours, which the target is for.
    pub(crate) ours: bool,
}

/// Memory in bytes and processor time in seconds.
struct Usage {
    memory: f64,
    cpu: f64,
}

/// Looks at the beginning and at the end of `duration`.
pub(crate) async fn measure(lab: &Lab, duration: Duration) -> Result<Vec<Idle>> {
    lab.settle().await?;
    look_twice(duration, || usages(lab)).await
}

/// The same for processes of ours on this machine, by their IDs.
pub(crate) async fn measure_processes(
    processes: &[(&'static str, i64)],
    duration: Duration,
) -> Result<Vec<Idle>> {
    look_twice(duration, || async {
        let usage = |(program, pid): &(&'static str, i64)| {
            let (memory, cpu) = (process_memory(*pid)?, process_cpu(*pid)?);
            Ok((*program, true, Usage { memory, cpu }))
        };
        processes.iter().map(usage).collect()
    })
    .await
}

/// Name, whether it is ours, and usage of each program.
type Usages = Vec<(&'static str, bool, Usage)>;

async fn look_twice<F>(duration: Duration, look: impl Fn() -> F) -> Result<Vec<Idle>>
where
    F: Future<Output = Result<Usages>>,
{
    let began = Instant::now();
    let before = look().await?;
    sleep(duration).await;
    let seconds = began.elapsed().as_secs_f64();
    let after = look().await?;
    let idle = |((program, ours, before), (_, _, after)): ((_, _, Usage), (_, _, Usage))| Idle {
        program,
        memory_mib: after.memory / 1_048_576.0,
        cpu_percent: (after.cpu - before.cpu) / seconds * 100.0,
        ours,
    };
    Ok(before.into_iter().zip(after).map(idle).collect())
}

async fn usages(lab: &Lab) -> Result<Usages> {
    let mut usages = Vec::new();
    for part in SERVICES {
        let memory = lab.metric(part, "process_resident_memory_bytes").await?;
        let container = lab.docker().inspect_container(&lab.part(part), None).await?;
        let cpu = process_cpu(container.state.and_then(|state| state.pid).unwrap_or_default())?;
        usages.push((part, true, Usage { memory, cpu }));
    }
    for part in BESIDE {
        usages.push((part, false, container_usage(lab, part).await?));
    }
    Ok(usages)
}

/// Resident memory of a process, in bytes.
fn process_memory(pid: i64) -> Result<f64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kibibytes = resident.and_then(|rest| rest.trim().strip_suffix(" kB")?.parse::<f64>().ok());
    Ok(kibibytes.ok_or_else(|| format!("/proc/{pid}/status is not understood"))? * 1_024.0)
}

/// Processor time of a service's process, in seconds. Its own `process_cpu_seconds_total` counts whole seconds, and what
/// Docker counts has the health checks in it, which are processes of their own.
fn process_cpu(pid: i64) -> Result<f64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // proc_pid_stat(5): after the name in parentheses come the state, and as the 12th and 13th utime and stime.
    let fields = stat.rsplit_once(')').map(|(_, fields)| fields.split_whitespace());
    let ticks: Vec<u32> = fields
        .into_iter()
        .flatten()
        .skip(11)
        .take(2)
        .filter_map(|ticks| ticks.parse().ok())
        .collect();
    match ticks[..] {
        [user, system] => Ok(f64::from(user + system) / TICKS_PER_SECOND),
        _ => Err(format!("/proc/{pid}/stat is not understood").into()),
    }
}

async fn container_usage(lab: &Lab, part: &str) -> Result<Usage> {
    let options = StatsOptionsBuilder::default()
        .stream(false)
        .one_shot(true)
        .build();
    let mut answers = std::pin::pin!(lab.docker().stats(&lab.part(part), Some(options)));
    let stats = answers.next().await.ok_or("Docker gives no statistics")??;
    usage(&stats).ok_or_else(|| format!("Docker's statistics of {part} are not complete").into())
}

// Bytes and nanoseconds of a small program have fewer than 53 bits.
#[allow(clippy::cast_precision_loss)]
fn usage(stats: &ContainerStatsResponse) -> Option<Usage> {
    let memory = stats.memory_stats.as_ref()?;
    // As `docker stats` counts: cgroup v2 calls it inactive_file, v1 total_inactive_file.
    let details = memory.stats.as_ref();
    let cache = details.and_then(|d| d.get("inactive_file").or_else(|| d.get("total_inactive_file")));
    let used = memory.usage?.saturating_sub(cache.copied().unwrap_or_default());
    let nanos = stats.cpu_stats.as_ref()?.cpu_usage.as_ref()?.total_usage?;
    Some(Usage {
        memory: used as f64,
        cpu: nanos as f64 / 1e9,
    })
}
