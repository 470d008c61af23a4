//! [`Kernel`]: one process's hold on addresses.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use super::announce::{Announcer, Schedule};
use super::clock::BootInstant;
use super::doctor::keeps_marks;
use super::error::NetError;
use super::events::KernelEvents;
use super::mac::Mac;
use super::netlink::NetlinkError;
use super::nft::{self, Gate, GateHook, TableName};
use super::place::{Placement, Survey};
use super::privilege;
use super::route::{Link, Marks, Route};
use crate::vip::{Vip, VipName};

/// How much longer than the right to it an address may live, where a gate shuts it in time: whole seconds, so that it is
/// refreshed only every few renewals.
const BEHIND_THE_GATE: u32 = 1;
/// How much of a second may be missing for a right to count as a whole one, where the lifetime alone ends it. Less
/// than the margin that is left of the 1.3 s after the kernel's own second.
const NEARLY: Duration = Duration::from_millis(100);
/// A right that is shorter is not worth taking: it is over before anybody could be told.
const SHORTEST: Duration = Duration::from_millis(1);

/// What ends an address's time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum GateMode {
    /// nftables where the kernel has it, else the lifetime alone.
    #[default]
    Auto,
    /// nftables, to the millisecond. Fails where the kernel does not have it.
    Nftables,
    /// The address's lifetime alone, in whole seconds.
    Lifetime,
}

/// How a [`Kernel`] works.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KernelOptions {
    /// What ends an address's time.
    pub gate: GateMode,
    /// What tells this keeper from others on the same host, each with addresses of its own: part of its tables' name.
    pub instance: Option<String>,
    /// How long the kernel may take for one answer. It takes well under a millisecond.
    pub deadline: Duration,
}

impl Default for KernelOptions {
    fn default() -> Self {
        Self {
            gate: GateMode::Auto,
            instance: None,
            deadline: Duration::from_millis(500),
        }
    }
}

/// One process's hold on the kernel: its addresses, the gate, and what is announced.
///
/// Its methods are to be driven to their end. If one is dropped half-way nothing is unsafe: what the kernel has
/// was armed with the end of its time, and [`Kernel::release`] removes what may be there.
#[derive(Debug)]
pub struct Kernel {
    vips: BTreeMap<VipName, Vip>,
    marks: Marks,
    route: Route,
    gate: Option<Gate>,
    announcer: Announcer,
    held: BTreeMap<VipName, Held>,
}

/// An address that is held, or may be: it is written down before the kernel is asked.
#[derive(Clone, Debug)]
struct Held {
    address: IpAddr,
    /// When the right to it ends.
    deadline: BootInstant,
    /// Before when the kernel does not remove it.
    lives: BootInstant,
    index: u32,
    interface: String,
    mac: Option<Mac>,
    /// None before the first announcement.
    announced: Option<Schedule>,
}

impl Kernel {
    /// Takes hold: shuts the gate for every virtual IP (in the place of one that an earlier process left), and removes
    /// addresses that an earlier process left. Nothing is held then.
    ///
    /// Needs `NET_ADMIN` and `NET_RAW`.
    ///
    /// # Errors
    /// A [`NetError`] that says what could not be done. What was done until then is safe to leave.
    pub async fn open(vips: &[Vip], options: KernelOptions) -> Result<(Self, KernelEvents), NetError> {
        let table = table_name(options.instance)?;
        let by_name = distinct(vips)?;
        let missing = privilege::missing();
        if !missing.is_empty() {
            return Err(NetError::Capabilities(missing));
        }
        let deadline = options.deadline;
        let marks = keeps_marks();
        let has = |v4| vips.iter().any(|vip| vip.address.is_ipv4() == v4);
        let mut kernel = Self {
            vips: by_name,
            marks,
            route: open_route(deadline)?,
            gate: open_gate(&table, vips, options.gate, deadline).await?,
            announcer: Announcer::open(has(true), has(false)).map_err(|source| NetError::Socket {
                purpose: "announcements",
                source,
            })?,
            held: BTreeMap::new(),
        };
        kernel.remove_leftovers().await?;
        let events = KernelEvents::open(vips, marks, deadline).await?;
        Ok((kernel, events))
    }

    /// Whether a gate of nftables ends an address's time, to the millisecond. Otherwise its lifetime does, in whole
    /// seconds and up to a second late.
    #[must_use]
    pub fn has_gate(&self) -> bool {
        self.gate.is_some()
    }

    /// Where the gate drops packets, if there is one.
    #[must_use]
    pub fn gate_hook(&self) -> Option<GateHook> {
        self.gate.as_ref().map(Gate::hook)
    }

    /// Has the address answer until `deadline`, and announces it once: when this returns, it is out. The next ones are
    /// [`Kernel::announce_due`]'s. That an announcement failed is logged, and the next is due.
    ///
    /// What is left until `deadline` is computed as late as can be. Afterwards the clock is read again: if the deadline
    /// has passed, the address is taken away at once.
    ///
    /// # Errors
    /// [`NetError::TooLate`], [`NetError::Foreign`], [`NetError::LinkDown`] and others: then it is not held.
    pub async fn hold(&mut self, vip: &VipName, deadline: BootInstant) -> Result<(), NetError> {
        let wanted = self.vip(vip)?.clone();
        in_time(vip, deadline)?;
        let survey = self.route.survey().await?;
        let link = self.usable_link(&wanted, &survey)?.clone();
        // Before anything is done, so that a release undoes all of it.
        self.held.insert(
            vip.clone(),
            Held {
                address: wanted.address,
                deadline,
                lives: BootInstant::from_boot(Duration::ZERO),
                index: link.index,
                interface: link.name,
                mac: link.mac,
                announced: None,
            },
        );
        if let Err(error) = self.arm(vip, &survey).await {
            self.let_go(vip).await;
            return Err(error);
        }
        self.announce_first(vip);
        Ok(())
    }

    /// Has addresses that are held answer until these deadlines, all in one transaction: none is shut for an instant.
    ///
    /// Gives those that could not be extended, each with the reason. One whose deadline has passed is taken away; for another
    /// reason it is held on, until the end that it had.
    ///
    /// # Errors
    /// [`NetError::SetGate`]: none was extended.
    pub async fn extend(&mut self, vips: &[(VipName, BootInstant)]) -> Result<Vec<(VipName, NetError)>, NetError> {
        let mut failed = Vec::new();
        for (vip, deadline) in vips {
            match self.held.get_mut(vip) {
                Some(held) => held.deadline = *deadline,
                None => failed.push((vip.clone(), NetError::NotHeld(vip.clone()))),
            }
        }
        let set = self.set_gate().await;
        if set.is_ok() {
            for (vip, _) in vips {
                if let Err(error) = self.refresh(vip).await {
                    failed.push((vip.clone(), error));
                }
            }
        }
        // Read once more, after all that the process may have been stopped in. Of all that are held, since the gate was
        // opened for all.
        let over: Vec<_> = self.held.iter().filter_map(|(vip, held)| in_time(vip, held.deadline).err().zip(Some(vip.clone()))).collect();
        for (error, vip) in over {
            self.let_go(&vip).await;
            failed.push((vip, error));
        }
        set.map(|()| failed)
    }

    /// Shuts the gate, then removes the address. Also for one that is not held.
    ///
    /// # Errors
    /// [`NetError::SetGate`] or [`NetError::RemoveAddress`], after both were tried. It may be called again.
    pub async fn release(&mut self, vip: &VipName) -> Result<(), NetError> {
        let address = self.vip(vip)?.address;
        let held = self.held.remove(vip);
        let shut = self.set_gate().await;
        let removed = match held {
            Some(held) => remove(&mut self.route, address, held.index, &held.interface).await,
            None => self.remove_everywhere(address).await,
        };
        shut.and(removed)
    }

    /// Announces an address that is held, and begins a new burst: for a link that has come back, or another host that spoke
    /// for the address.
    ///
    /// # Errors
    /// [`NetError::NotHeld`], [`NetError::TooLate`], [`NetError::Announce`].
    pub async fn announce(&mut self, vip: &VipName) -> Result<(), NetError> {
        let survey = self.route.survey().await?;
        let held = self.held.get_mut(vip).ok_or_else(|| NetError::NotHeld(vip.clone()))?;
        // The interface may have another name or hardware address by now.
        if let Some(link) = survey.links.get(&held.index) {
            held.interface.clone_from(&link.name);
            held.mac = link.mac;
        }
        held.announced = held.mac.map(|_| Schedule::begun(BootInstant::now()));
        in_time(vip, held.deadline)?;
        send(&mut self.announcer, held)
    }

    /// Makes the announcements that are due, and says when the next one is.
    pub fn announce_due(&mut self) -> Option<BootInstant> {
        let now = BootInstant::now();
        for held in self.held.values_mut() {
            let Some(schedule) = held.announced.as_mut().filter(|schedule| schedule.due() <= now) else {
                continue;
            };
            schedule.announced(now);
            // Looked at right before: nothing else stops what is sent here.
            if !held.deadline.is_over() {
                log(send(&mut self.announcer, held));
            }
        }
        self.held.values().filter_map(|held| Some(held.announced?.due())).min()
    }

    /// Where a virtual IP would go, and whether it is there. Asks the kernel anew.
    ///
    /// # Errors
    /// [`NetError::NoInterface`] or [`NetError::NoSuchInterface`] if it cannot go anywhere, and others.
    pub async fn placement(&mut self, vip: &VipName) -> Result<Placement, NetError> {
        let vip = self.vip(vip)?.clone();
        let survey = self.route.survey().await?;
        survey.placement(&vip, self.marks).ok_or_else(|| nowhere(&vip))
    }

    /// Lets go of everything, and removes the tables.
    ///
    /// # Errors
    /// The first that failed, after everything was tried. If an address could not be removed the tables stay, and keep it shut.
    pub async fn close(mut self) -> Result<(), NetError> {
        let mut result = Ok(());
        for vip in self.held.keys().cloned().collect::<Vec<_>>() {
            result = result.and(self.release(&vip).await);
        }
        result?;
        match self.gate.take() {
            Some(gate) => gate.remove().await.map_err(NetError::RemoveGate),
            None => Ok(()),
        }
    }

    fn vip(&self, vip: &VipName) -> Result<&Vip, NetError> {
        self.vips.get(vip).ok_or_else(|| NetError::Unknown(vip.clone()))
    }

    fn usable_link<'a>(&self, vip: &Vip, survey: &'a Survey) -> Result<&'a Link, NetError> {
        let foreign = survey.found(vip.address, self.marks).find(|(_, ours)| !ours);
        if let Some((index, _)) = foreign {
            let interface = survey.name(index);
            let address = vip.address;
            return Err(NetError::Foreign { address, interface });
        }
        let link = survey.link_of(vip, self.marks).ok_or_else(|| nowhere(vip))?;
        if !link.up {
            let (vip, interface) = (vip.name.clone(), link.name.clone());
            return Err(NetError::LinkDown { vip, interface });
        }
        Ok(link)
    }

    /// Adds the address and then opens the gate, which is what makes it answer.
    async fn arm(&mut self, vip: &VipName, survey: &Survey) -> Result<(), NetError> {
        let held = self.held.get(vip).ok_or_else(|| NetError::NotHeld(vip.clone()))?.clone();
        for (index, _) in survey.found(held.address, self.marks).filter(|(index, _)| *index != held.index) {
            remove(&mut self.route, held.address, index, &survey.name(index)).await?;
        }
        self.refresh(vip).await?;
        self.set_gate().await?;
        in_time(vip, held.deadline)
    }

    /// Gives the address the lifetime it needs, if what it has is not enough.
    async fn refresh(&mut self, vip: &VipName) -> Result<(), NetError> {
        let gated = self.gate.is_some();
        let Some(held) = self.held.get_mut(vip) else {
            return Ok(());
        };
        let now = BootInstant::now();
        let seconds = lifetime(held.deadline.saturating_since(now), gated);
        let lives = now.saturating_add(Duration::from_secs(seconds.into()));
        let enough = if gated { held.lives >= held.deadline } else { held.lives >= lives };
        if enough {
            return Ok(());
        }
        if seconds == 0 {
            return Err(too_late(vip, held.deadline));
        }
        let added = self.route.add(held.index, held.address, seconds).await;
        added.map_err(|source| NetError::AddAddress {
            address: held.address,
            interface: held.interface.clone(),
            source,
        })?;
        held.lives = lives;
        Ok(())
    }

    /// Opens the gate for what is held, and shuts it for all else.
    async fn set_gate(&mut self) -> Result<(), NetError> {
        let Some(gate) = &mut self.gate else {
            return Ok(());
        };
        let live: Vec<_> = self.held.values().map(|held| (held.address, held.deadline)).collect();
        gate.set(&live).await.map_err(NetError::SetGate)
    }

    fn announce_first(&mut self, vip: &VipName) {
        let Some(held) = self.held.get_mut(vip).filter(|held| held.mac.is_some()) else {
            return;
        };
        held.announced = Some(Schedule::begun(BootInstant::now()));
        if !held.deadline.is_over() {
            log(send(&mut self.announcer, held));
        }
    }

    /// A release for a reason that is told already.
    async fn let_go(&mut self, vip: &VipName) {
        log(self.release(vip).await);
    }

    async fn remove_everywhere(&mut self, address: IpAddr) -> Result<(), NetError> {
        let survey = self.route.survey().await?;
        let mut result = Ok(());
        for (index, _) in survey.found(address, self.marks).filter(|(_, ours)| *ours) {
            result = result.and(remove(&mut self.route, address, index, &survey.name(index)).await);
        }
        result
    }

    /// Removes addresses that an earlier process left: virtual IPs of ours, and whatever bears the mark, if no other keeper
    /// is on this host whose it could be.
    async fn remove_leftovers(&mut self) -> Result<(), NetError> {
        let alone = match &mut self.gate {
            Some(gate) => !gate.has_others().await.map_err(NetError::ListTables)?,
            None => false,
        };
        let configured: BTreeSet<_> = self.vips.values().map(|vip| vip.address).collect();
        let survey = self.route.survey().await?;
        for address in survey.leftovers(&configured, self.marks, alone) {
            let interface = survey.name(address.index);
            tracing::info!(address = %address.address, interface, "an earlier process left this address: it is removed");
            remove(&mut self.route, address.address, address.index, &interface).await?;
        }
        Ok(())
    }
}

/// Removes everything that keepers left on a host that runs none any more: addresses that bear our mark (on a kernel without
/// marks: those of `vips` that have a lifetime), and all our tables. Says what was removed.
///
/// # Errors
/// A [`NetError`] that says what could not be done. The tables go last: until then what is left is shut.
pub async fn cleanup(vips: &[Vip]) -> Result<Vec<String>, NetError> {
    let deadline = KernelOptions::default().deadline;
    let configured: BTreeSet<_> = vips.iter().map(|vip| vip.address).collect();
    let mut route = open_route(deadline)?;
    let survey = route.survey().await?;
    let mut removed = Vec::new();
    for address in survey.leftovers(&configured, keeps_marks(), true) {
        let interface = survey.name(address.index);
        remove(&mut route, address.address, address.index, &interface).await?;
        removed.push(format!("address {} on {interface}", address.address));
    }
    let tables = nft::remove_all_tables(deadline).await.map_err(NetError::RemoveGate)?;
    removed.extend(tables.iter().map(|table| format!("table {} of nftables", table.as_str())));
    Ok(removed)
}

fn table_name(instance: Option<String>) -> Result<TableName, NetError> {
    TableName::of(instance.as_deref()).ok_or_else(|| NetError::Instance(instance.unwrap_or_default()))
}

/// The virtual IPs by their names, if no name and no address is there twice.
fn distinct(vips: &[Vip]) -> Result<BTreeMap<VipName, Vip>, NetError> {
    let mut by_name = BTreeMap::new();
    let mut addresses = BTreeSet::new();
    for vip in vips {
        if !addresses.insert(vip.address) {
            return Err(NetError::Twice(vip.address.to_string()));
        }
        if by_name.insert(vip.name.clone(), vip.clone()).is_some() {
            return Err(NetError::Twice(vip.name.to_string()));
        }
    }
    Ok(by_name)
}

fn open_route(deadline: Duration) -> Result<Route, NetError> {
    Route::open(deadline).map_err(|source| NetError::Socket {
        purpose: "rtnetlink",
        source,
    })
}

/// The gate, shut; or none, and none that is left over either: it would stay shut.
async fn open_gate(table: &TableName, vips: &[Vip], mode: GateMode, deadline: Duration) -> Result<Option<Gate>, NetError> {
    if mode == GateMode::Lifetime {
        nft::remove_tables(table, deadline).await.map_err(NetError::RemoveGate)?;
        return Ok(None);
    }
    let addresses = vips.iter().map(|vip| vip.address).collect();
    match Gate::open(table.clone(), addresses, deadline).await {
        Ok(gate) => Ok(Some(gate)),
        Err(error) if mode == GateMode::Auto && nft::is_inability(&error) => {
            tracing::warn!(
                error = &error as &dyn std::error::Error,
                "this kernel has no nftables: addresses end by their lifetimes alone, in whole seconds"
            );
            Ok(None)
        }
        Err(error) => Err(NetError::MakeGate(error)),
    }
}

/// Seconds for which the kernel is to keep an address when `left` is left of the right to it.
///
/// Behind a gate it is a backstop: rounded up, and more, so that it seldom needs to be refreshed. Alone it must not outlast
/// the right by more than the margin allows: rounded down, except for what the way to the kernel took.
fn lifetime(left: Duration, gated: bool) -> u32 {
    let seconds = if gated {
        let started = u64::from(left.subsec_nanos() > 0);
        left.as_secs().saturating_add(started).saturating_add(BEHIND_THE_GATE.into())
    } else {
        left.saturating_add(NEARLY).as_secs()
    };
    // The greatest number is for ever.
    u32::try_from(seconds).unwrap_or(u32::MAX).min(u32::MAX - 1)
}

fn in_time(vip: &VipName, deadline: BootInstant) -> Result<(), NetError> {
    if deadline.left() < SHORTEST { Err(too_late(vip, deadline)) } else { Ok(()) }
}

fn too_late(vip: &VipName, deadline: BootInstant) -> NetError {
    NetError::TooLate {
        vip: vip.clone(),
        late: BootInstant::now().saturating_since(deadline),
    }
}

fn nowhere(vip: &Vip) -> NetError {
    match &vip.interface {
        Some(interface) => NetError::NoSuchInterface {
            vip: vip.name.clone(),
            interface: interface.clone(),
        },
        None => NetError::NoInterface {
            vip: vip.name.clone(),
            address: vip.address,
        },
    }
}

async fn remove(route: &mut Route, address: IpAddr, index: u32, interface: &str) -> Result<(), NetError> {
    let removed: Result<bool, NetlinkError> = route.remove(index, address).await;
    removed.map(drop).map_err(|source| NetError::RemoveAddress {
        address,
        interface: interface.to_owned(),
        source,
    })
}

fn send(announcer: &mut Announcer, held: &Held) -> Result<(), NetError> {
    let Some(mac) = held.mac else {
        return Ok(());
    };
    let sent = announcer.announce(held.index, &held.interface, mac, held.address);
    sent.map_err(|source| NetError::Announce {
        address: held.address,
        interface: held.interface.clone(),
        source,
    })
}

fn log(result: Result<(), NetError>) {
    if let Err(error) = result {
        tracing::warn!(error = &error as &dyn std::error::Error, "an address may not be as it should");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn behind_a_gate_a_lifetime_outlasts_the_right_and_alone_it_does_not() {
        for (left, gated, alone) in [
            (0, 1, 0),
            (1, 2, 0),
            (899, 2, 0),
            (900, 2, 1),
            (1000, 2, 1),
            (1001, 3, 1),
            (1899, 3, 1),
            (1995, 3, 2),
            (86_400_000, 86_401, 86_400),
        ] {
            let left = Duration::from_millis(left);
            assert_eq!((lifetime(left, true), lifetime(left, false)), (gated, alone), "{left:?}");
        }
        assert_eq!(lifetime(Duration::MAX, true), u32::MAX - 1);
    }

    #[test]
    fn an_address_or_a_name_that_is_given_twice_is_refused() {
        let vips = |texts: &[&str]| texts.iter().map(|text| text.parse().expect("a virtual IP")).collect::<Vec<Vip>>();
        assert!(distinct(&vips(&["10.0.0.1", "10.0.0.2", "fd00::1"])).is_ok());
        for twice in [["a=10.0.0.1", "a=10.0.0.2"], ["a=10.0.0.1", "b=10.0.0.1"]] {
            assert!(matches!(distinct(&vips(&twice)), Err(NetError::Twice(_))));
        }
    }
}
