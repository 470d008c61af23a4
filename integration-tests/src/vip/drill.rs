//! One scenario, once: made to happen to the holder of an address, undone, and seen by a client from before to after.

use std::path::Path;
use std::time::Duration;

use super::fault::Scene;
use super::{Daemon, EVERY, Effect, Leader, Moment, Observer, Place, Scenario, Service, Sight, Span};
use crate::cluster::Cluster;

/// All must be well for this long, before and after.
const STEADY: Duration = Duration::from_millis(500);

/// The longest that a well address may be without a good answer: a busy machine is late.
const HICCUP: Duration = Duration::from_millis(150);

/// And the longest anywhere in a drill, in which hosts start.
const LATE: Duration = Duration::from_millis(800);

/// How long all may take to become well again. It takes seconds.
const WITHIN: Duration = Duration::from_secs(60);

/// A scenario under way.
#[derive(Debug)]
pub struct Drill<'a> {
    scene: Scene<'a>,
    scenario: Scenario,
    observer: Observer,
    struck: Moment,
    undone: Moment,
}

/// What was seen of a scenario.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// Of which.
    pub scenario: Scenario,
    /// Whose address it was.
    pub daemon: Daemon,
    /// The host that held it.
    pub holder: String,
    /// What was seen of each address from the fault until it was undone; that of the holder is the first.
    pub fault: Vec<Sight>,
    /// And from then until all was well again.
    pub back: Vec<Sight>,
    /// And over all of it.
    pub whole: Vec<Sight>,
}

/// Does all of it: the cluster must be well, or becomes so.
///
/// # Errors
/// When something cannot be done, or does not become well again; not when a bound is missed.
///
/// # Panics
/// When a host cannot be made to do what it shall.
pub async fn run(
    cluster: &Cluster,
    program: &Path,
    service: &Service,
    daemon: Daemon,
    scenario: Scenario,
) -> Result<Outcome, String> {
    let mut drill = Drill::begin(cluster, program, service, daemon, scenario).await?;
    let struck = drill.strike().await;
    // In any case: the next one needs the host.
    let undone = drill.undo().await;
    struck.and(undone)?;
    drill.finish().await
}

impl<'a> Drill<'a> {
    /// Brings back what is missing, and waits until a client sees that all is well.
    ///
    /// # Errors
    /// When it does not.
    ///
    /// # Panics
    /// When a host does not come back.
    pub async fn begin(
        cluster: &'a Cluster,
        program: &Path,
        service: &Service,
        daemon: Daemon,
        scenario: Scenario,
    ) -> Result<Self, String> {
        cluster.restore().await;
        daemon.until_ready(cluster).await?;
        service.until_served(cluster).await?;
        let vips = daemon.vips(cluster);
        let observer = Observer::start(program, &Place::on(cluster), &vips, service.host()).await?;
        let well = |sight: &Sight| one_owner(sight).and_then(|owner| preferred(daemon, &owner));
        observer.until("one host answers", STEADY, WITHIN, well).await?;
        let holder = holder(cluster, daemon, &observer).await?;
        let target = holder % cluster.nodes().len() + 1;
        let leader = match scenario.leader {
            Leader::WithHolder => holder,
            Leader::Elsewhere => target,
        };
        if daemon == Daemon::Keeper && cluster.etcd_members().len() > 1 {
            cluster.lead_etcd(leader).await?;
            observer
                .until("one host answers still", STEADY, WITHIN, well)
                .await?;
        }
        let scene = Scene {
            cluster,
            daemon,
            holder,
            target,
        };
        let now = Moment::now();
        Ok(Self {
            scene,
            scenario,
            observer,
            struck: now,
            undone: now,
        })
    }

    /// The number of the host that held the address at the beginning.
    pub fn holder(&self) -> usize {
        self.scene.holder
    }

    /// Makes it happen, and waits until it has had its effect.
    ///
    /// # Errors
    /// When it cannot be done, or has not the effect.
    ///
    /// # Panics
    /// When the host cannot be made to do what it shall.
    pub async fn strike(&mut self) -> Result<(), String> {
        self.struck = Moment::now();
        self.scenario.fault.strike(&self.scene).await?;
        // What is to be seen are also things that must not happen.
        tokio::time::sleep(watched(self.scene.cluster)).await;
        let first = self.observer.vips().first().copied();
        let holder = format!("n{}", self.scene.holder);
        let effect = self.scenario.effect;
        let has_effect = |sight: &Sight| match effect {
            Effect::Nobody => nobody(sight),
            Effect::Moves if Some(sight.vip) == first => {
                elsewhere(sight, &holder).and_then(|()| served(sight))
            }
            Effect::Moves | Effect::Stays | Effect::Held => served(sight),
        };
        let what = format!("{}: {effect:?}", self.scenario.name);
        self.observer.until(&what, STEADY, WITHIN, has_effect).await
    }

    /// Undoes it, and waits until all is well again.
    ///
    /// # Errors
    /// When it does not become well.
    ///
    /// # Panics
    /// When the host cannot be made to do what it shall.
    pub async fn undo(&mut self) -> Result<(), String> {
        self.undone = Moment::now();
        self.scenario.fault.undo(&self.scene).await?;
        self.scene.daemon.until_ready(self.scene.cluster).await?;
        tokio::time::sleep(watched(self.scene.cluster)).await;
        let well = |sight: &Sight| one_owner(sight).map(drop);
        let what = format!("{}: all is well again", self.scenario.name);
        self.observer.until(&what, STEADY, WITHIN, well).await
    }

    /// What was seen.
    ///
    /// # Errors
    /// When the observer has failed.
    pub async fn finish(self) -> Result<Outcome, String> {
        let ended = Moment::now();
        let vips = self.observer.vips().to_vec();
        let seen = self.observer.finish().await?;
        let of = |from, to| vips.iter().map(|vip| seen.of(*vip, Span { from, to })).collect();
        Ok(Outcome {
            scenario: self.scenario,
            daemon: self.scene.daemon,
            holder: format!("n{}", self.scene.holder),
            fault: of(self.struck, self.undone),
            back: of(self.undone, ended),
            whole: of(self.struck, ended),
        })
    }
}

/// For how long there may be something to be seen after a fault, whatever it was: another host may claim the address until then.
fn watched(cluster: &Cluster) -> Duration {
    let default = |(name, value): &(String, String)| name == "COLOSSUS_VIP_PROFILE" && value != "lan";
    if cluster.options().settings.iter().any(default) {
        Duration::from_secs(6)
    } else {
        Duration::from_secs(3)
    }
}

/// The holder of the first address: who answers for it, and says so itself.
async fn holder(cluster: &Cluster, daemon: Daemon, observer: &Observer) -> Result<usize, String> {
    let vip = *observer.vips().first().ok_or("there is no virtual IP")?;
    let owner = one_owner(&observer.since(vip, Moment::now() - STEADY))?;
    let answers = cluster.nodes().iter().find(|node| node.hostname() == owner);
    let answers = answers
        .ok_or_else(|| format!("{owner}, who is no host, answers for {vip}"))?
        .number();
    if daemon == Daemon::Keeper {
        let says = cluster.vip_holder(vip).await?;
        if says != answers {
            return Err(format!(
                "n{answers} answers for {vip}, and n{says} says that it holds it"
            ));
        }
    }
    Ok(answers)
}

/// keepalived's address goes to the host with the highest priority, whenever it is there.
fn preferred(daemon: Daemon, owner: &str) -> Result<(), String> {
    if daemon == Daemon::Keepalived && owner != "n1" {
        return Err(format!("{owner} has it, not n1"));
    }
    Ok(())
}

fn served(sight: &Sight) -> Result<(), String> {
    if sight.requests.good > 0 && sight.outage < HICCUP {
        Ok(())
    } else {
        Err("it does not answer steadily".to_owned())
    }
}

fn one_owner(sight: &Sight) -> Result<String, String> {
    served(sight)?;
    match &sight.owners[..] {
        [owner] => Ok(owner.name.clone()),
        owners => Err(format!("{} hosts answer for it", owners.len())),
    }
}

fn elsewhere(sight: &Sight, holder: &str) -> Result<(), String> {
    if sight.owners.iter().any(|owner| owner.name != holder) {
        Ok(())
    } else {
        Err("no other host answers for it".to_owned())
    }
}

fn nobody(sight: &Sight) -> Result<(), String> {
    if sight.owners.is_empty() {
        Ok(())
    } else {
        Err("somebody answers for it".to_owned())
    }
}

fn longest<'a>(sights: impl IntoIterator<Item = &'a Sight>, of: impl Fn(&Sight) -> Duration) -> Duration {
    sights.into_iter().map(of).max().unwrap_or_default()
}

impl Outcome {
    /// The longest outage that a client saw by the fault. Where the address moved, it is the one in which it did; the
    /// others are [late answers](Self::latest). Where nobody might hold it before the fault was undone, it is counted from then.
    pub fn outage(&self) -> Duration {
        match self.scenario.effect {
            Effect::Nobody => longest(&self.back, |sight| sight.outage),
            _ => longest(&self.fault, |sight| {
                sight.outage_of_move().unwrap_or(sight.outage)
            }),
        }
    }

    /// The longest time without a good answer, whenever and whyever it was, also on a machine that is busy with something
    /// else.
    pub fn latest(&self) -> Duration {
        match self.scenario.effect {
            Effect::Nobody => self.outage(),
            _ => longest(&self.whole, |sight| sight.outage),
        }
    }

    /// The longest time in which two hosts answered for one address.
    pub fn two_owners(&self) -> Duration {
        longest(&self.whole, Sight::longest_two_owners)
    }

    /// Whether two hosts answered for one address for as long as nothing was undone.
    pub fn two_owners_lasted(&self) -> bool {
        let lasts = |sight: &Sight| {
            let last = sight.two_owners.last();
            last.is_some_and(|span| sight.time.to.since(span.to) < STEADY)
        };
        self.fault.iter().any(lasts)
    }

    /// How many requests failed for a client that tries once more to connect.
    pub fn failed(&self) -> usize {
        self.whole.iter().map(|sight| sight.requests.failed()).sum()
    }

    /// How many of those had connected, and were cut off.
    pub fn cut(&self) -> usize {
        self.whole.iter().map(|sight| sight.requests.unanswered).sum()
    }

    /// How long after the fault the holder answered for the address for the last time before it was undone.
    pub fn let_go_after(&self) -> Option<Duration> {
        let sight = self.fault.first()?;
        let owners = sight.owners.iter().filter(|owner| owner.name == self.holder);
        let last = owners.map(|owner| owner.span.to).max()?;
        Some(last.since(sight.time.from))
    }

    /// What was not as it must be, with this bound for the outage and the scenario's for all else; told with all that was
    /// seen.
    ///
    /// # Errors
    /// With what was not.
    pub fn within(&self, outage: Duration) -> Result<(), String> {
        let mut wrong = Vec::new();
        let seen = self.outage();
        if seen > outage {
            wrong.push(format!("an outage of {seen:?} is longer than {outage:?}"));
        }
        // keepalived's goes back at once, by default, and once more to where it went.
        let late = self.latest();
        if self.daemon == Daemon::Keeper && late > outage.max(LATE) {
            wrong.push(format!("{late:?} without a good answer"));
        }
        // One request that two have answered may have come before and after the address moved.
        let at_once = self.two_owners();
        if at_once > self.scenario.two_owners + EVERY {
            wrong.push(format!("two owners for {at_once:?}"));
        }
        let (failed, cut) = (self.failed() - self.cut(), self.cut());
        if self.scenario.failed.is_some_and(|allowed| failed > allowed) {
            wrong.push(format!("{failed} requests did not connect or were refused"));
        }
        if self.scenario.cut.is_some_and(|allowed| cut > allowed) {
            wrong.push(format!("{cut} requests were cut off"));
        }
        if let Err(complaint) = self.had_effect() {
            wrong.push(complaint);
        }
        if wrong.is_empty() {
            Ok(())
        } else {
            Err(format!("{}\n{self}", wrong.join("; ")))
        }
    }

    fn had_effect(&self) -> Result<(), String> {
        let last = |sights: &[Sight]| {
            sights
                .first()
                .and_then(Sight::last_owner)
                .map(|owner| owner.name.clone())
        };
        let (then, now) = (last(&self.fault), last(&self.back));
        match self.scenario.effect {
            Effect::Moves if then.as_deref() == Some(&self.holder) => {
                Err(format!("{} has it still", self.holder))
            }
            // keepalived's goes back at once, by default.
            Effect::Moves if self.daemon == Daemon::Keeper && then != now => {
                Err(format!("it has gone on from {then:?} to {now:?}"))
            }
            Effect::Stays if now.as_deref() != Some(&self.holder) || self.moves() > 0 => {
                Err(format!("it has moved to {now:?}"))
            }
            _ => Ok(()),
        }
    }

    /// How often the first address changed hands.
    fn moves(&self) -> usize {
        let owners = self.whole.first().map_or(&[][..], |sight| &sight.owners);
        owners
            .windows(2)
            .filter(|pair| pair[0].mac != pair[1].mac)
            .count()
    }
}

impl std::fmt::Display for Outcome {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{}, {}, held by {}:",
            self.scenario.name, self.daemon, self.holder
        )?;
        for sight in &self.whole {
            let undone = self
                .back
                .first()
                .map(|back| back.time.from.since(sight.time.from));
            write!(f, "\n{sight}")?;
            if let Some(undone) = undone {
                write!(f, "\n  undone at {:.3} s", undone.as_secs_f64())?;
            }
        }
        Ok(())
    }
}
