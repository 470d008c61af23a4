//! The floor: what each part costs alone, with registrator and router-config held still.
//!
//! No sequence of events can be quicker than these one after the other: Docker says that a container has started, it is
//! inspected, it is registered with the agent, a blocking query wakes, HAProxy is told.

use std::time::{Duration, Instant};

use consul::{ServiceRegistration, Watch, WatchEvent, WatchOptions};
use integration_tests::docker::unique;
use tokio::time::{sleep, timeout};

use crate::clock::elapsed_ms;
use crate::figures::Figures;
use crate::haproxy::QUESTION;
use crate::lab::Lab;
use crate::{Error, Result};

/// Names of what is measured here.
pub(crate) const FLOOR: &str = "floor, each alone";
pub(crate) const WITH_RELOAD: &str = "sum, with a reload";
pub(crate) const WITH_COMMAND: &str = "sum, with a command instead";

/// Enough for a blocking query to have arrived at the agent and to wait there.
const UNDER_WAY: Duration = Duration::from_millis(50);

/// How long a watch may take.
const DEADLINE: Duration = Duration::from_secs(30);

/// Measures each part once.
pub(crate) async fn round(lab: &Lab, figures: &mut Figures) -> Result<()> {
    lab.settle().await?;
    lab.pause_services();
    let measured = alone(lab, figures).await;
    lab.unpause_services();
    measured
}

async fn alone(lab: &Lab, figures: &mut Figures) -> Result<()> {
    let told = event_and_inspect(lab, figures).await?;
    let known = register_and_wake(lab, figures).await?;

    let began = Instant::now();
    lab.haproxy().command(QUESTION).await?;
    let command = elapsed_ms(began);
    figures.record(FLOOR, "HAProxy: one command", command);
    let began = Instant::now();
    lab.haproxy().reload().await?;
    let reload = elapsed_ms(began);
    figures.record(FLOOR, "HAProxy: one reload", reload);

    figures.record(FLOOR, WITH_RELOAD, told + known + reload);
    figures.record(FLOOR, WITH_COMMAND, told + known + command);
    Ok(())
}

/// Docker's event gets here, and one inspection right after it.
async fn event_and_inspect(lab: &Lab, figures: &mut Figures) -> Result<f64> {
    // Without a port: nobody's service, also for other registrators on this machine.
    let id = lab.create(None).await?;
    let inspect = async {
        let event = lab.events().of(&id, "start").await?;
        let began = Instant::now();
        lab.docker().inspect_container(&id, None).await?;
        Ok((event.received.since(event.at), elapsed_ms(began)))
    };
    let ((), (delivery, inspection)) = tokio::try_join!(lab.start(&id), inspect)?;
    figures.record(FLOOR, "Docker: start event delivered", delivery);
    figures.record(FLOOR, "Docker: one inspect", inspection);
    lab.remove(&id).await?;
    Ok(delivery + inspection)
}

/// One register call to the agent, and a blocking query that it wakes.
///
/// The query may be answered before the call is. So what goes into the sum is the time from the call to whichever is
/// later, not the sum of the two, and the wake-up alone is what it took beyond the call.
async fn register_and_wake(lab: &Lab, figures: &mut Figures) -> Result<f64> {
    let consul = lab.platform().consul();
    let service = unique("bench-fl");
    let registration = ServiceRegistration::new(&service, &service);
    let mut watch = consul.watch_health_service(&service, WatchOptions::default());
    // The first answer does not block; from then on it waits.
    until_instances(&mut watch, 0).await?;
    let wake = async {
        until_instances(&mut watch, 1).await?;
        Ok(Instant::now())
    };
    let call = async {
        sleep(UNDER_WAY).await;
        let began = Instant::now();
        consul.register_service(&registration).await?;
        Ok::<_, Error>((began, elapsed_ms(began)))
    };
    let ((began, register), answered) = tokio::try_join!(call, wake)?;
    let both = (answered - began).as_secs_f64() * 1_000.0;
    consul.deregister_service(&service).await?;
    figures.record(FLOOR, "Consul: one register call", register);
    figures.record(FLOOR, "Consul: call -> blocking query answers", both);
    figures.record(
        FLOOR,
        "Consul: the wake-up beyond the call",
        (both - register).max(0.0),
    );
    Ok(both.max(register))
}

async fn until_instances(watch: &mut Watch<Vec<consul::ServiceEntry>>, count: usize) -> Result<()> {
    let answered = async {
        loop {
            match watch.next().await {
                WatchEvent::Value(instances) if instances.value.len() >= count => return Ok(()),
                WatchEvent::Value(_) => {}
                WatchEvent::Unavailable { error, .. } => return Err(error),
            }
        }
    };
    Ok(timeout(DEADLINE, answered)
        .await
        .map_err(|_| "the watch was not answered")??)
}
