//! Reloads under keep-alive clients: none of their requests may be lost.

use std::collections::BTreeMap;
use std::time::Duration;

use integration_tests::load::Load;
use serde::Serialize;
use tokio::time::sleep;

use crate::Result;
use crate::lab::Lab;

const RELOADS: u32 = 20;
const CLIENTS: usize = 20;

/// Between two requests of a client.
const THINK: Duration = Duration::from_millis(5);

/// Between two reloads: twenty of them in ten seconds.
const GAP: Duration = Duration::from_millis(500);

/// What came of it.
#[derive(Debug, Serialize)]
pub(crate) struct Reloads {
    pub(crate) reloads: u32,
    pub(crate) clients: usize,
    pub(crate) answered: u64,
    pub(crate) failed: BTreeMap<String, u64>,
    pub(crate) slowest_ms: f64,
}

/// Reloads HAProxy while clients ask the known service.
pub(crate) async fn measure(lab: &Lab, known: &str) -> Result<Reloads> {
    lab.settle().await?;
    let platform = lab.platform();
    let load = Load::start(platform.http(), &platform.host(known), CLIENTS, THINK);
    for _ in 0..RELOADS {
        sleep(GAP).await;
        lab.haproxy().reload().await?;
    }
    sleep(GAP).await;
    let tally = load.stop().await;
    Ok(Reloads {
        reloads: RELOADS,
        clients: CLIENTS,
        answered: tally.ok,
        failed: tally.failed,
        slowest_ms: tally.slowest.as_secs_f64() * 1_000.0,
    })
}
