//! [`Kernel`]: one process's hold on addresses.

mod start;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use daemon::error_chain;

use super::announce::{Announcer, Schedule};
use super::clock::BootInstant;
use super::error::NetError;
use super::mac::Mac;
use super::netlink::NetlinkError;
use super::nft::{Gate, GateHook};
use super::place::{Placement, Survey};
use super::route::{Link, Marks, Route};
use crate::vip::{Vip, VipName};
pub use start::{GateMode, KernelOptions, cleanup};

/// How much longer than the right to it an address may live, where a gate shuts it in time: whole seconds, so that it is
/// refreshed only every few renewals.
const BEHIND_THE_GATE: u32 = 1;
/// How much of a second may be missing for a right to count as a whole one, where the lifetime alone ends it. Less
/// than the margin that is left of the 1.3 s after the kernel's own second.
const NEARLY: Duration = Duration::from_millis(100);
/// A right that is shorter is not worth taking: it is over before anybody could be told.
const SHORTEST: Duration = Duration::from_millis(1);

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
    /// [`NetError::TooLate`], [`NetError::Foreign`], [`NetError::LinkDown`] and others: then it is not held, also if it was
    /// before.
    pub async fn hold(&mut self, vip: &VipName, deadline: BootInstant) -> Result<(), NetError> {
        let held = self.take(vip, deadline).await;
        if held.is_ok() {
            self.announce_first(vip);
        } else if self.held.contains_key(vip) {
            self.let_go(vip).await;
        }
        held
    }

    async fn take(&mut self, vip: &VipName, deadline: BootInstant) -> Result<(), NetError> {
        let wanted = self.vip(vip)?.clone();
        in_time(vip, deadline)?;
        let survey = self.route.survey_for(&wanted).await?;
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
        self.arm(vip, &survey).await
    }

    /// Has addresses that are held answer until these deadlines, all in one transaction: none is shut for an instant.
    ///
    /// Gives those that could not be extended, each with the reason. One whose deadline has passed is taken away; for another
    /// reason it is held on, until the end that it had.
    ///
    /// # Errors
    /// [`NetError::SetGate`]: none was extended.
    pub async fn extend(
        &mut self,
        vips: &[(VipName, BootInstant)],
    ) -> Result<Vec<(VipName, NetError)>, NetError> {
        let mut failed = Vec::new();
        for (vip, deadline) in vips {
            match self.held.get_mut(vip) {
                Some(held) => held.deadline = *deadline,
                None => failed.push((vip.clone(), NetError::NotHeld(vip.clone()))),
            }
        }
        let set = self.set_gate().await;
        if set.is_ok() {
            for (vip, _) in vips.iter().filter(|(_, deadline)| !deadline.is_over()) {
                if let Err(error) = self.refresh(vip).await {
                    failed.push((vip.clone(), error));
                }
            }
        }
        // Read once more, after all that the process may have been stopped in. Of all that are held, since the gate was
        // opened for all.
        let over: Vec<_> = self
            .held
            .iter()
            .filter_map(|(vip, held)| in_time(vip, held.deadline).err().zip(Some(vip.clone())))
            .collect();
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
        let wanted = self.vip(vip)?.clone();
        let held = self.held.remove(vip);
        let shut = self.set_gate().await;
        let removed = match held {
            Some(held) => remove(&mut self.route, held.address, held.index, &held.interface).await,
            None => self.remove_everywhere(&wanted).await,
        };
        shut.and(removed)
    }

    /// Announces an address that is held, and begins a new burst: for a link that has come back, or another host that spoke
    /// for the address.
    ///
    /// # Errors
    /// [`NetError::NotHeld`], [`NetError::TooLate`], [`NetError::Announce`].
    pub async fn announce(&mut self, vip: &VipName) -> Result<(), NetError> {
        let held = self
            .held
            .get_mut(vip)
            .ok_or_else(|| NetError::NotHeld(vip.clone()))?;
        // The interface may have another name or hardware address by now.
        if let Some(link) = self.route.link(held.index).await? {
            held.interface = link.name;
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
        self.held
            .values()
            .filter_map(|held| Some(held.announced?.due()))
            .min()
    }

    /// Where a virtual IP would go, and whether it is there. Asks the kernel anew.
    ///
    /// # Errors
    /// [`NetError::NoInterface`] or [`NetError::NoSuchInterface`] if it cannot go anywhere, and others.
    pub async fn placement(&mut self, vip: &VipName) -> Result<Placement, NetError> {
        let vip = self.vip(vip)?.clone();
        let survey = self.route.survey_for(&vip).await?;
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
        let held = self
            .held
            .get(vip)
            .ok_or_else(|| NetError::NotHeld(vip.clone()))?
            .clone();
        for (index, _) in survey
            .found(held.address, self.marks)
            .filter(|(index, _)| *index != held.index)
        {
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
        let enough = if gated {
            held.lives >= held.deadline
        } else {
            held.lives >= lives
        };
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
        let live: Vec<_> = self
            .held
            .values()
            .map(|held| (held.address, held.deadline))
            .collect();
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

    async fn remove_everywhere(&mut self, vip: &Vip) -> Result<(), NetError> {
        let survey = self.route.survey_for(vip).await?;
        let mut result = Ok(());
        for (index, _) in survey.found(vip.address, self.marks).filter(|(_, ours)| *ours) {
            result = result.and(remove(&mut self.route, vip.address, index, &survey.name(index)).await);
        }
        result
    }
}

/// Seconds for which the kernel is to keep an address when `left` is left of the right to it.
///
/// Behind a gate it is a backstop: rounded up, and more, so that it seldom needs to be refreshed. Alone it must not outlast
/// the right by more than the margin allows: rounded down, except for what the way to the kernel took.
fn lifetime(left: Duration, gated: bool) -> u32 {
    let seconds = if gated {
        let started = u64::from(left.subsec_nanos() > 0);
        left.as_secs()
            .saturating_add(started)
            .saturating_add(BEHIND_THE_GATE.into())
    } else {
        left.saturating_add(NEARLY).as_secs()
    };
    // The greatest number is for ever.
    u32::try_from(seconds).unwrap_or(u32::MAX).min(u32::MAX - 1)
}

fn in_time(vip: &VipName, deadline: BootInstant) -> Result<(), NetError> {
    if deadline.left() < SHORTEST {
        Err(too_late(vip, deadline))
    } else {
        Ok(())
    }
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

/// For what failed where nothing is to be done but to go on: it is tried again, or the kernel does it at the end of the right.
fn log(result: Result<(), NetError>) {
    if let Err(error) = result {
        tracing::warn!("{}", error_chain(&error));
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
            assert_eq!(
                (lifetime(left, true), lifetime(left, false)),
                (gated, alone),
                "{left:?}"
            );
        }
        assert_eq!(lifetime(Duration::MAX, true), u32::MAX - 1);
    }
}
