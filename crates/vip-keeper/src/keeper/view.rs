//! What `/status` shows, and the same in words.

use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

use super::{Keeper, Part, now};
use crate::net::{Placement, Presence};
use crate::vip::Vip;

/// Everything that one keeper knows.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct View {
    /// This node.
    pub node: String,
    /// Whether its proxy is well; why not.
    pub health: Option<String>,
    /// Why etcd cannot be watched, or written to.
    pub etcd_error: Option<String>,
    /// The virtual IPs.
    pub vips: Vec<VipView>,
    /// The keepers that etcd knows, with why they could not take an address.
    pub keepers: Vec<KeeperView>,
    /// Keys in etcd that cannot be understood.
    pub rejected: Vec<String>,
}

/// A keeper.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeeperView {
    /// Its node.
    pub node: String,
    /// Where.
    pub address: String,
    /// Its priority.
    pub priority: u8,
    /// Which addresses it could take.
    pub ready: Vec<String>,
    /// Why not all.
    pub because: Option<String>,
}

/// One virtual IP.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VipView {
    /// Its name.
    pub name: String,
    /// Its address.
    pub address: String,
    /// Whether this node holds it.
    pub holds: bool,
    /// Whether it could.
    pub healthy: bool,
    /// The interface, or why there is none for it.
    pub link: Result<String, String>,
    /// The number of the present holder, 0 without a record.
    pub epoch: u64,
    /// What etcd says.
    pub record: Option<RecordView>,
    /// While this node holds it: how long its right lasts if it is not renewed, in milliseconds.
    pub right_ms: Option<u64>,
    /// While another does: when this node would take it if it heard nothing more, in milliseconds.
    pub would_claim_in_ms: Option<u64>,
    /// The last change on this node.
    pub last_change: Option<String>,
    /// When that was.
    pub last_change_at: Option<String>,
    /// All that matters, in words.
    pub explanation: Vec<String>,
}

/// A record in etcd.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecordView {
    /// Who holds the address.
    pub owner: Option<String>,
    /// The process there.
    pub process: Option<String>,
    /// Counts the writes.
    pub seq: u64,
    /// How long after a renewal its holder may have it, in milliseconds.
    pub hold_ms: u64,
    /// When this node saw it change, in milliseconds ago.
    pub age_ms: u64,
    /// To whom it is being handed over.
    pub offered_to: Option<String>,
}

/// Why an address could not be held.
pub(super) fn unready(vip: &Vip, placement: &Placement) -> String {
    let interface = &placement.interface;
    if placement.presence == Presence::Foreign {
        format!(
            "{} is on this host already, and no keeper put it there: remove it from what configured it (ip address show)",
            vip.address
        )
    } else if placement.up {
        format!("{interface} has no link")
    } else {
        format!("{interface} is down")
    }
}

impl Keeper {
    pub(super) fn show(&self) -> View {
        View {
            node: self.me.node.to_string(),
            health: self.health.because.clone(),
            etcd_error: self.etcd_error.clone().or_else(|| self.write_error.clone()),
            vips: self.parts.values().map(|part| self.show_vip(part)).collect(),
            keepers: self
                .keepers
                .iter()
                .map(|(node, keeper)| KeeperView {
                    node: node.to_string(),
                    address: keeper.address.to_string(),
                    priority: keeper.priority,
                    ready: keeper.ready.iter().map(ToString::to_string).collect(),
                    because: keeper.because.clone(),
                })
                .collect(),
            rejected: self.rejected.iter().cloned().collect(),
        }
    }

    fn show_vip(&self, part: &Part) -> VipView {
        let now = now();
        let holds = part.up && part.election.holds(now);
        let seen = part.election.seen();
        let record = seen.map(|(record, since)| RecordView {
            owner: record.holder.as_ref().map(|holder| holder.node.to_string()),
            process: record.holder.as_ref().map(|holder| holder.process.to_string()),
            seq: record.seq,
            hold_ms: record.hold_ms,
            age_ms: millis(now.saturating_sub(since)),
            offered_to: record.offer.as_ref().map(|offer| offer.to.to_string()),
        });
        VipView {
            name: part.vip.name.to_string(),
            address: part.vip.address.to_string(),
            holds,
            healthy: part.healthy == Some(true),
            link: part.link.clone(),
            epoch: seen.map_or(0, |(record, _)| record.epoch),
            record,
            right_ms: holds.then(|| millis(part.election.until().saturating_sub(now))),
            would_claim_in_ms: part
                .election
                .would_claim_at()
                .map(|at| millis(at.saturating_sub(now))),
            last_change: part.last_change.as_ref().map(|(said, _)| said.clone()),
            last_change_at: part.last_change.as_ref().map(|(_, at)| rfc3339(*at)),
            explanation: self.explain(part),
        }
    }

    /// Who holds it, why, and what would move it.
    fn explain(&self, part: &Part) -> Vec<String> {
        let now = now();
        let mut lines = Vec::new();
        let name = &part.vip.name;
        match part.election.seen() {
            _ if part.unreadable.is_some() => {
                lines.extend(part.unreadable.clone());
            }
            None if !part.election.is_informed() => lines.push(format!("nothing is known of {name} yet")),
            None => lines.push("etcd has no record: nobody has held it, or its keys were removed".to_owned()),
            Some((record, since)) => {
                let age = now.saturating_sub(since);
                lines.push(match &record.holder {
                    None => format!("nobody holds it: the last holder let go (epoch {})", record.epoch),
                    Some(holder) if *holder == self.me => {
                        format!("this node holds it (epoch {})", record.epoch)
                    }
                    Some(holder) => {
                        let late = if age > record.hold() {
                            ", and has not renewed it in time"
                        } else {
                            ""
                        };
                        format!("{} holds it (epoch {}){late}", holder.node, record.epoch)
                    }
                });
                if let Some(offer) = &record.offer {
                    lines.push(format!("it is being handed over to {}", offer.to));
                }
            }
        }
        if let Some((said, at)) = &part.last_change {
            lines.push(format!("last change here, {}: {said}", rfc3339(*at)));
        }
        if part.election.holds(now) {
            lines.extend(self.what_would_move_it(part));
        } else if let Some(at) = part.election.would_claim_at() {
            let within = millis(at.saturating_sub(now));
            lines.push(format!(
                "this node takes it if its record does not change for another {within} ms"
            ));
        } else {
            lines.push(format!(
                "this node would not take it: {}",
                self.why_not(part)
                    .unwrap_or_else(|| "it knows too little of it".to_owned())
            ));
        }
        let speakers: Vec<_> = part.speakers.keys().map(ToString::to_string).collect();
        if part.up && !speakers.is_empty() {
            lines.push(format!(
                "OTHERS speak for it on the link: {}. Find out whose MAC address that is; only keepers may have it",
                speakers.join(", ")
            ));
        }
        lines
    }

    fn what_would_move_it(&self, part: &Part) -> Vec<String> {
        let hold = self.settings.hold.as_millis();
        let others: Vec<_> = self
            .keepers
            .iter()
            .filter(|(node, keeper)| **node != self.me.node && keeper.ready.contains(&part.vip.name))
            .map(|(node, _)| node.to_string())
            .collect();
        let mut lines = vec![format!(
            "the kernel takes it away by itself in {} ms, unless it is renewed ({hold} ms after each renewal)",
            millis(part.election.until().saturating_sub(now()))
        )];
        if others.is_empty() {
            lines.push(
                "no other node could take it; so it stays, also if the proxy here is not well".to_owned(),
            );
        } else {
            lines.push(format!(
                "it would go to {}: if this node dies or its keeper does not renew, if the proxy here is not well, at the stop \
                 of this keeper, or by vip-keeper hand-over",
                others.join(" or ")
            ));
        }
        if let Some((why, to)) = part.election.moving() {
            let to = to.map_or_else(|| "whoever is well".to_owned(), ToString::to_string);
            lines.push(format!("it is moving to {to}: {why}"));
        }
        lines
    }

    fn why_not(&self, part: &Part) -> Option<String> {
        if self.stopping.is_some() {
            return Some("its keeper is stopping".to_owned());
        }
        let link = part.link.as_ref().err().cloned();
        self.health.because.clone().or(link)
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

fn rfc3339(time: SystemTime) -> String {
    humantime::format_rfc3339_millis(time).to_string()
}
