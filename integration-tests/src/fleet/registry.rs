//! What the stand-in knows, and where it puts units. No I/O.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use fleet::{DesiredState, Placement, UnitFile, UnitName, UnitOption, UnitState};

use super::Host;

/// A unit as it was asked for.
#[derive(Debug, Clone)]
pub(super) struct Known {
    pub(super) options: Vec<UnitOption>,
    pub(super) desired: DesiredState,
    /// What they ask for.
    pub(super) placement: Placement,
    /// They as a file.
    pub(super) text: String,
    /// The machine that it was given to; never one for a global unit.
    pub(super) target: Option<String>,
}

impl Known {
    /// A new one.
    pub(super) fn new(name: &UnitName, options: Vec<UnitOption>, desired: DesiredState) -> Self {
        let unit = UnitFile::from_options(options.iter().cloned()).unwrap_or_default();
        Self {
            placement: Placement::of(name, &unit),
            text: unit.to_string(),
            options,
            desired,
            target: None,
        }
    }
}

/// A machine, and what is on it.
#[derive(Debug)]
pub(super) struct Member {
    pub(super) host: Host,
    /// For one in memory: whether it can be talked to.
    pub(super) reachable: bool,
    pub(super) last_seen: Instant,
    /// Units that its agent has loaded, and whether it has started them.
    pub(super) loaded: BTreeMap<UnitName, bool>,
    /// What its systemd said last.
    pub(super) states: Vec<UnitState>,
}

pub(super) struct Registry {
    pub(super) units: BTreeMap<UnitName, Known>,
    pub(super) members: Vec<Member>,
    pub(super) ttl: Duration,
    /// Units that fail on machines in memory.
    pub(super) failing: BTreeSet<UnitName>,
}

/// What one machine shall have: the unit's text, and whether it shall run.
pub(super) type Wanted = BTreeMap<UnitName, (String, bool)>;

impl Registry {
    pub(super) fn new(hosts: Vec<Host>) -> Self {
        let mut registry = Self {
            units: BTreeMap::new(),
            members: Vec::new(),
            // Measured with fleet: 23 to 31 s until units of a lost machine ran elsewhere.
            ttl: Duration::from_secs(25),
            failing: BTreeSet::new(),
        };
        for host in hosts {
            registry.join(host);
        }
        registry
    }

    pub(super) fn join(&mut self, host: Host) {
        self.members.push(Member {
            host,
            reachable: true,
            last_seen: Instant::now(),
            loaded: BTreeMap::new(),
            states: Vec::new(),
        });
    }

    pub(super) fn set_reachable(&mut self, id: &str, reachable: bool) {
        for member in self.members.iter_mut().filter(|member| member.host.id == id) {
            member.reachable = reachable;
        }
    }

    pub(super) fn alive(&self) -> impl Iterator<Item = &Member> {
        self.members
            .iter()
            .filter(|member| member.last_seen.elapsed() < self.ttl)
    }

    /// Gives every unit that shall be on one machine its machine, or none when there is no fitting one. A unit stays where it
    /// is as long as it may.
    pub(super) fn schedule(&mut self) {
        let names: Vec<UnitName> = self.units.keys().cloned().collect();
        for name in names {
            let Some(known) = self.units.get(&name) else {
                continue;
            };
            let target = if known.desired == DesiredState::Inactive || known.placement.global {
                None
            } else {
                self.choose(&name, known)
            };
            if let Some(known) = self.units.get_mut(&name) {
                known.target = target;
            }
        }
    }

    fn choose(&self, name: &UnitName, known: &Known) -> Option<String> {
        let placement = &known.placement;
        let on = |id: &str| {
            self.units
                .iter()
                .filter(|(other, known)| *other != name && known.target.as_deref() == Some(id))
                .map(|(other, _)| other)
                .collect::<Vec<_>>()
        };
        let fits = |member: &&Member| {
            let others = on(&member.host.id);
            let conflict = others.iter().any(|other| {
                placement.conflicts_with(other) || self.units[*other].placement.conflicts_with(name)
            });
            let peers = placement
                .machine_of
                .iter()
                .all(|peer| others.iter().any(|other| other.as_str() == peer));
            placement.allows(&member.host.id, &member.host.metadata) && peers && !conflict
        };
        let fitting: Vec<&Member> = self.alive().filter(fits).collect();
        let stays = fitting
            .iter()
            .find(|member| Some(&member.host.id) == known.target.as_ref());
        let chosen = stays.or_else(|| {
            fitting
                .iter()
                .min_by_key(|member| (on(&member.host.id).len(), &member.host.ip))
        });
        chosen.map(|member| member.host.id.clone())
    }

    /// What a machine shall have, as its agent sees it: global units are the agent's own affair.
    pub(super) fn wanted(&self, host: &Host) -> Wanted {
        let mut wanted = Wanted::new();
        for (name, known) in &self.units {
            let placement = &known.placement;
            let here = if placement.global {
                placement.allows(&host.id, &host.metadata)
            } else {
                known.target.as_deref() == Some(host.id.as_str())
            };
            if here && known.desired != DesiredState::Inactive && !name.is_template() {
                let run = known.desired == DesiredState::Launched;
                wanted.insert(name.clone(), (known.text.clone(), run));
            }
        }
        wanted
    }
}
