//! Many containers at once, each a service of its own: how long after the last start all of them are routed.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use futures_util::stream::{self, StreamExt, TryStreamExt};
use integration_tests::docker::unique;
use integration_tests::http::get;
use serde::Serialize;
use tokio::time::{sleep, timeout};

use crate::clock::Moment;
use crate::figures::Figures;
use crate::lab::{Lab, hostname};
use crate::probe::is_from;
use crate::{Error, Result};

/// Docker's work in parallel while making and removing, which is not measured.
const CONCURRENCY: usize = 8;

/// Pauses between two rounds of questions: while Docker still starts containers, and after the last start.
const WHILE_STARTING: Duration = Duration::from_millis(50);
const AFTER: Duration = Duration::from_millis(1);

/// A single question that takes longer hangs in HAProxy's retries.
const PATIENCE: Duration = Duration::from_millis(200);

/// After this long something is broken.
const DEADLINE: Duration = Duration::from_secs(300);

/// What came of it.
#[derive(Debug, Serialize)]
pub(crate) struct Many {
    pub(crate) services: usize,
    /// From the first start event to the last, in milliseconds: Docker's own pace.
    pub(crate) starting_ms: f64,
    /// From the last start event until all had answered, in milliseconds.
    pub(crate) last_start_to_all_routed_ms: f64,
    pub(crate) reloads: f64,
}

struct Started {
    service: String,
    id: String,
}

/// Starts `services` containers at the same time and waits until all have answered.
pub(crate) async fn measure(lab: &Lab, services: usize, figures: &mut Figures) -> Result<Many> {
    let containers: Vec<Started> = stream::iter(0..services)
        .map(|_| async {
            let service = unique("bench-mn");
            let id = lab.create(Some(&service)).await?;
            Ok::<_, Error>(Started { service, id })
        })
        .buffer_unordered(CONCURRENCY)
        .try_collect()
        .await?;
    lab.settle().await?;
    let reloads = lab.metric("router-config", "router_config_reloads_total").await?;

    let start = |container: &Started| {
        let id = container.id.clone();
        async move {
            lab.start(&id).await?;
            lab.events().of(&id, "start").await.map(|event| (id, event.at))
        }
    };
    let starts = stream::iter(containers.iter().map(start))
        .buffer_unordered(services.max(1))
        .try_collect::<BTreeMap<String, Moment>>();
    let (started, answered) = tokio::try_join!(starts, until_all_answer(lab, &containers))?;
    for (id, at) in &answered {
        if let Some(start) = started.get(id) {
            figures.record("many at once", "own start event -> first 200", at.since(*start));
        }
    }
    let (Some(first), Some(last), Some(all)) = (
        started.values().min(),
        started.values().max(),
        answered.values().max(),
    ) else {
        return Err("no service was started".into());
    };
    lab.settle().await?;
    let reloads = lab.metric("router-config", "router_config_reloads_total").await? - reloads;
    stream::iter(&containers)
        .map(|container| lab.remove(&container.id))
        .buffer_unordered(CONCURRENCY)
        .try_collect::<()>()
        .await?;
    lab.settle().await?;
    Ok(Many {
        services,
        starting_ms: last.since(*first),
        last_start_to_all_routed_ms: all.since(*last),
        reloads,
    })
}

/// When each first answered. Only who has started is asked, one after the other, seldom until the last has started.
async fn until_all_answer(lab: &Lab, containers: &[Started]) -> Result<BTreeMap<String, Moment>> {
    let mut answered = BTreeMap::new();
    let began = Instant::now();
    while answered.len() < containers.len() {
        if began.elapsed() > DEADLINE {
            return Err(format!("{} of {} answer", answered.len(), containers.len()).into());
        }
        let mut all_started = true;
        for container in containers {
            if answered.contains_key(&container.id) {
                continue;
            }
            if !lab.events().has_started(&container.id) {
                all_started = false;
                continue;
            }
            let host = lab.platform().host(&container.service);
            let question = timeout(PATIENCE, get(lab.platform().http(), &host, "/?json"));
            if let Ok(Ok(answer)) = question.await
                && is_from(&answer, hostname(&container.id))
            {
                answered.insert(container.id.clone(), Moment::now());
            }
        }
        sleep(if all_started { AFTER } else { WHILE_STARTING }).await;
    }
    Ok(answered)
}
