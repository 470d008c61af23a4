//! Three empty hosts become one Consul cluster: with consul-bootstrapper, and by hand.

use integration_tests::consul_hosts::{Host, Service, Site, boot};

use crate::Result;
use crate::by_hand::ByHand;
use crate::clock::{Moment, elapsed_ms};
use crate::figures::Figures;
use crate::servers::{Server, only_start, until_voters};

/// Names of what is measured here.
pub(crate) const FORMATION: &str = "three empty hosts, consul-bootstrapper";
pub(crate) const FORMATION_FLOOR: &str = "floor: three empty hosts, Consul alone by hand";
pub(crate) const START_TO_VOTERS: &str = "last process began -> leader, three voters";
const CALL_TO_VOTERS: &str = "last docker run called -> leader, three voters";

/// Forms one of each, on a network of its own.
///
/// What counts begins with the last process: consul-bootstrapper's on the one side, where Consul's own container is there
/// before and waits for its permit, and Consul's on the other. It ends when all three servers say so.
pub(crate) async fn round(figures: &mut Figures) -> Result<()> {
    with_consul_bootstrapper(figures).await?;
    by_hand(figures).await
}

async fn with_consul_bootstrapper(figures: &mut Figures) -> Result<()> {
    let site = Site::new().await;
    let hosts: [Host; 3] = site.hosts();
    let servers = hosts.each_ref().map(Server::of);
    let called = boot(&hosts.each_ref());
    let formed = until_voters(&servers).await;
    let since_call = elapsed_ms(called);
    let began = hosts
        .iter()
        .map(|host| only_start(&host.starts(Service::Bootstrapper)))
        .collect::<Result<Vec<Moment>>>()?;
    let began = began.into_iter().max().unwrap_or(formed);
    figures.record(FORMATION, START_TO_VOTERS, formed.since(began));
    figures.record(FORMATION, CALL_TO_VOTERS, since_call);
    Ok(())
}

async fn by_hand(figures: &mut Figures) -> Result<()> {
    let mut cluster = ByHand::new()?;
    let (called, began) = cluster.form()?;
    let formed = until_voters(cluster.servers()).await;
    figures.record(FORMATION_FLOOR, START_TO_VOTERS, formed.since(began));
    figures.record(FORMATION_FLOOR, CALL_TO_VOTERS, formed.since(called));
    Ok(())
}
