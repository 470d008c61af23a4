//! From a container's start to its first answer through HAProxy, and from its end to its being out.

use std::time::Duration;

use consul::{WatchEvent, WatchOptions};
use integration_tests::docker::unique;
use tokio::time::timeout;

use crate::clock::Moment;
use crate::figures::Figures;
use crate::lab::{Lab, hostname};
use crate::steps::{Change, record};
use crate::{Result, probe};

/// Names of what is measured here.
pub(crate) const NEW: &str = "new service";
pub(crate) const KNOWN: &str = "another instance of a known service";
pub(crate) const STOPPED: &str = "removal, one of two (docker stop)";
pub(crate) const KILLED: &str = "removal, the last one (docker kill)";
pub(crate) const START_TO_200: &str = "start event -> first 200";
pub(crate) const DIE_TO_OUT: &str = "die event -> out of the running configuration";
pub(crate) const DIE_TO_503: &str = "die event -> first 503";

/// How long Consul may take to know of an instance.
const DEADLINE: Duration = Duration::from_secs(60);

/// A new service and another instance of a known one come and go.
pub(crate) async fn round(lab: &Lab, known: &str, figures: &mut Figures) -> Result<()> {
    let service = unique("bench-nw");
    let only = start(lab, NEW, &service, 1, figures).await?;
    let second = start(lab, KNOWN, known, 2, figures).await?;
    stop_one_of_two(lab, known, &second, figures).await?;
    kill_the_last(lab, &service, &only, figures).await
}

/// Starts an instance, the `count`th of its service, and waits until it has answered.
///
/// What counts begins with Docker's `start` event, so Docker's own work of starting a container is not in it; the time
/// from the API call is given beside it. It ends when the instance itself has answered a client, which is what it
/// is all about: HAProxy's own statistics would tell of a server that is not reachable yet.
async fn start(
    lab: &Lab,
    group: &'static str,
    service: &str,
    count: usize,
    figures: &mut Figures,
) -> Result<String> {
    let id = lab.create(Some(service)).await?;
    lab.settle().await?;
    let reloads = lab.metric("router-config", "router_config_reloads_total").await?;
    let host = lab.platform().host(service);
    let called = Moment::now();
    let answer = async {
        // Before the event there is nothing to be asked, and asking would only keep the cores from Docker.
        let started = lab.events().of(&id, "start").await?;
        let answered = probe::until_answers(lab.platform().http(), &host, hostname(&id)).await?;
        Ok((started.at, answered))
    };
    let ((), (event, answered), in_consul) =
        tokio::try_join!(lab.start(&id), answer, in_consul(lab, service, count))?;
    figures.record(group, START_TO_200, answered.since(event));
    figures.record(group, "docker start called -> first 200", answered.since(called));
    figures.record(
        group,
        "docker start called -> start event (Docker alone)",
        event.since(called),
    );

    lab.settle().await?;
    let change = Change {
        group,
        service,
        event,
        in_consul: Some(in_consul),
        effect: answered,
    };
    record(lab, &change, figures).await?;
    let reloads = lab.metric("router-config", "router_config_reloads_total").await? - reloads;
    figures.record(group, "  reloads (count)", reloads);
    Ok(id)
}

/// When a watch of our own is answered with `count` instances.
async fn in_consul(lab: &Lab, service: &str, count: usize) -> Result<Moment> {
    let mut watch = lab
        .platform()
        .consul()
        .watch_health_service(service, WatchOptions::default());
    let answered = async {
        loop {
            match watch.next().await {
                WatchEvent::Value(instances) if instances.value.len() >= count => return Ok(Moment::now()),
                WatchEvent::Value(_) => {}
                WatchEvent::Unavailable { error, .. } => return Err(error),
            }
        }
    };
    Ok(timeout(DEADLINE, answered)
        .await
        .map_err(|_| format!("{service} has not {count} instances in Consul within {DEADLINE:?}"))??)
}

async fn stop_one_of_two(lab: &Lab, service: &str, id: &str, figures: &mut Figures) -> Result<()> {
    lab.settle().await?;
    let called = Moment::now();
    let stop = async { Ok(lab.docker().stop_container(id, None).await?) };
    let ((), died, out) = tokio::try_join!(stop, lab.events().of(id, "die"), until_servers(lab, service, 1))?;
    figures.record(STOPPED, DIE_TO_OUT, out.since(died.at));
    figures.record(
        STOPPED,
        "docker stop called -> out of the running configuration",
        out.since(called),
    );
    steps(lab, STOPPED, service, died.at, out, figures).await?;
    lab.remove(id).await
}

async fn kill_the_last(lab: &Lab, service: &str, id: &str, figures: &mut Figures) -> Result<()> {
    lab.settle().await?;
    let host = lab.platform().host(service);
    let called = Moment::now();
    let kill = async { Ok(lab.docker().kill_container(id, None).await?) };
    let unavailable = async {
        lab.events().of(id, "die").await?;
        probe::until_unavailable(lab.platform().http(), &host).await
    };
    let ((), died, out, unavailable) = tokio::try_join!(
        kill,
        lab.events().of(id, "die"),
        until_servers(lab, service, 0),
        unavailable
    )?;
    figures.record(KILLED, DIE_TO_OUT, out.since(died.at));
    figures.record(KILLED, DIE_TO_503, unavailable.since(died.at));
    figures.record(
        KILLED,
        "docker kill called -> first 503",
        unavailable.since(called),
    );
    steps(lab, KILLED, service, died.at, out, figures).await?;
    lab.remove(id).await
}

async fn steps(
    lab: &Lab,
    group: &'static str,
    service: &str,
    event: Moment,
    effect: Moment,
    figures: &mut Figures,
) -> Result<()> {
    lab.settle().await?;
    let change = Change {
        group,
        service,
        event,
        in_consul: None,
        effect,
    };
    record(lab, &change, figures).await
}

/// When the running HAProxy has `count` servers for the service.
async fn until_servers(lab: &Lab, service: &str, count: usize) -> Result<Moment> {
    probe::until(&format!("{service} has {count} servers"), || async {
        match lab.haproxy().servers(service).await? {
            servers if servers == count => Ok(true),
            servers => Err(format!("it has {servers}").into()),
        }
    })
    .await
}
