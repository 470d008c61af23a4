//! A server is lost for good and another one takes its place: with consul-bootstrapper, and by hand.
//!
//! A lost server's slot is held for it, for 30 s at least (`--replace-after`), which is no work of anybody's. So what
//! counts begins when the spare host has taken the slot in the record. From the loss plus those 30 s, when it could have
//! been taken at the earliest, is given beside it: that also has in it how long it takes until the loss is noticed, which is
//! the 5 s of the kit's `--presence-ttl` above all.

use std::time::Duration;

use integration_tests::consul_hosts::{Host, Service, Site, boot, until_settled};
use integration_tests::wait::until;
use serde_json::Value;

use crate::Result;
use crate::by_hand::ByHand;
use crate::clock::Moment;
use crate::figures::Figures;
use crate::idle::{self, Idle};
use crate::servers::{Server, WITHIN, until_peer, until_voters};

/// Names of what is measured here.
pub(crate) const REPLACEMENT: &str = "a server is lost for good, consul-bootstrapper";
pub(crate) const REPLACEMENT_FLOOR: &str = "floor: a lost server is replaced by hand";
pub(crate) const TAKEN_TO_VOTERS: &str = "slot taken over -> three voters";
pub(crate) const POSSIBLE_TO_VOTERS: &str = "loss + 30 s (could be taken) -> three voters";
pub(crate) const ADDED_TO_VOTERS: &str = "new server's process began -> three voters";

/// The smallest there is.
const REPLACE_AFTER_MS: f64 = 30_000.0;
const REPLACE_AFTER: &str = "30s";

/// Between two looks at the record: exact enough for what takes seconds.
const PAUSE: Duration = Duration::from_millis(20);

/// A cluster of three servers and a spare host, and one of three servers by hand.
pub(crate) struct Clusters {
    // The hosts end with their site.
    site: Site,
    /// The servers, the oldest first.
    servers: Vec<Host>,
    /// A client that may become a server.
    spare: Host,
    /// How many hosts there have been.
    count: usize,
    by_hand: ByHand,
}

impl Clusters {
    /// Forms both.
    pub(crate) async fn form() -> Result<Self> {
        let site = Site::new().await;
        let servers: Vec<Host> = (1..=3).map(|number| host(&site, number)).collect();
        site.form(&servers.iter().collect::<Vec<_>>()).await;
        let spare = host(&site, 4);
        boot(&[&spare]);
        until_settled(&[&spare], WITHIN).await;
        let mut by_hand = ByHand::new()?;
        by_hand.form()?;
        until_voters(by_hand.servers()).await;
        Ok(Self {
            site,
            servers,
            spare,
            count: 4,
            by_hand,
        })
    }

    /// What consul-bootstrapper costs beside the leader, beside another server and beside a client.
    pub(crate) async fn idle(&self, duration: Duration) -> Result<Vec<Idle>> {
        let first = self.servers.first().ok_or("there is no server")?;
        let leader = first.raft().await?.leader;
        let (leaders, others): (Vec<&Host>, Vec<&Host>) = self
            .servers
            .iter()
            .partition(|host| leader.as_deref() == Some(host.address()));
        let programs = [
            ("consul-bootstrapper (leader)", leaders.first().copied()),
            ("consul-bootstrapper (server)", others.first().copied()),
            ("consul-bootstrapper (client)", Some(&self.spare)),
        ];
        let processes = programs
            .into_iter()
            .filter_map(|(program, host)| Some((program, process(host?))));
        let processes = processes
            .map(|(program, process)| Ok((program, process?)))
            .collect::<Result<Vec<_>>>()?;
        idle::measure_processes(&processes, duration).await
    }

    /// Loses the oldest server of each.
    pub(crate) async fn round(&mut self, figures: &mut Figures) -> Result<()> {
        self.with_consul_bootstrapper(figures).await?;
        self.by_hand(figures).await
    }

    async fn with_consul_bootstrapper(&mut self, figures: &mut Figures) -> Result<()> {
        let lost = self.servers.remove(0);
        let loss = Moment::now();
        lost.power_cut();
        lost.lose_disk();
        let taken = self.until_taken().await;
        let next = host(&self.site, self.count + 1);
        self.servers.push(std::mem::replace(&mut self.spare, next));
        self.count += 1;
        let servers: Vec<Server> = self.servers.iter().map(Server::of).collect();
        let [asked, .., new] = servers.as_slice() else {
            return Err("there are no servers".into());
        };
        let peer = until_peer(asked, &new.address).await;
        let voters = until_voters(&servers).await;
        let mut record = |name, sample| figures.record(REPLACEMENT, name, sample);
        record(TAKEN_TO_VOTERS, voters.since(taken));
        record("  slot taken over -> its Consul is a peer", peer.since(taken));
        record("  that -> it votes, and the lost one is out", voters.since(peer));
        record(POSSIBLE_TO_VOTERS, voters.since(loss) - REPLACE_AFTER_MS);
        record("loss -> slot taken over, 30 s of it held", taken.since(loss));
        self.ready_again().await;
        Ok(())
    }

    /// The moment at which the record has the spare host's name in a slot.
    async fn until_taken(&self) -> Moment {
        until("the spare host takes the slot", WITHIN, || async {
            let slots = self.site.slots().await?;
            if slots.contains(self.spare.name()) {
                return Ok(());
            }
            tokio::time::sleep(PAUSE).await;
            Err(format!("{slots:?}"))
        })
        .await;
        Moment::now()
    }

    /// All servers are at rest, and there is a spare host.
    async fn ready_again(&self) {
        boot(&[&self.spare]);
        let mut all: Vec<&Host> = self.servers.iter().collect();
        all.push(&self.spare);
        until_settled(&all, WITHIN).await;
    }

    async fn by_hand(&mut self, figures: &mut Figures) -> Result<()> {
        let lost = self.by_hand.lose_oldest()?;
        self.by_hand.remove_peer(&lost).await;
        let began = self.by_hand.add()?;
        let servers = self.by_hand.servers();
        let [asked, .., new] = servers else {
            return Err("there are no servers".into());
        };
        let peer = until_peer(asked, &new.address).await;
        let voters = until_voters(servers).await;
        let mut record = |name, sample| figures.record(REPLACEMENT_FLOOR, name, sample);
        record(ADDED_TO_VOTERS, voters.since(began));
        record("  its process began -> it is a peer", peer.since(began));
        record("  that -> it votes (autopilot)", voters.since(peer));
        Ok(())
    }
}

/// A host that is off.
fn host(site: &Site, number: usize) -> Host {
    site.host(number).with("COLOSSUS_REPLACE_AFTER", REPLACE_AFTER)
}

/// The process ID of a host's consul-bootstrapper.
fn process(host: &Host) -> Result<i64> {
    let text = host.inspect(Service::Bootstrapper);
    // What Docker knows of the container, as JSON; a list of processes comes after it.
    let mut values = serde_json::Deserializer::from_str(&text).into_iter::<Value>();
    let container = values.next().ok_or("Docker says nothing")??;
    let process = container[0]["State"]["Pid"].as_i64().filter(|pid| *pid > 0);
    process.ok_or_else(|| format!("consul-bootstrapper does not run on {}", host.name()).into())
}
