//! How a keeper takes hold of the kernel, and how a host is left as if there had been none.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use daemon::error_chain;

use super::{Kernel, remove};
use crate::net::announce::Announcer;
use crate::net::doctor::keeps_marks;
use crate::net::error::NetError;
use crate::net::events::KernelEvents;
use crate::net::nft::{self, Gate, TableName};
use crate::net::privilege;
use crate::net::route::Route;
use crate::vip::{Vip, VipName};

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
    let tables = nft::remove_all_tables(deadline)
        .await
        .map_err(NetError::RemoveGate)?;
    removed.extend(
        tables
            .iter()
            .map(|table| format!("table {} of nftables", table.as_str())),
    );
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
async fn open_gate(
    table: &TableName,
    vips: &[Vip],
    mode: GateMode,
    deadline: Duration,
) -> Result<Option<Gate>, NetError> {
    if mode == GateMode::Lifetime {
        nft::remove_tables(table, deadline)
            .await
            .map_err(NetError::RemoveGate)?;
        return Ok(None);
    }
    let addresses = vips.iter().map(|vip| vip.address).collect();
    match Gate::open(table.clone(), addresses, deadline).await {
        Ok(gate) => Ok(Some(gate)),
        Err(error) if mode == GateMode::Auto && nft::is_inability(&error) => {
            tracing::warn!(
                "addresses end by their lifetimes alone: {}",
                error_chain(&NetError::MakeGate(error))
            );
            Ok(None)
        }
        Err(error) => Err(NetError::MakeGate(error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_or_a_name_that_is_given_twice_is_refused() {
        let vips = |texts: &[&str]| {
            texts
                .iter()
                .map(|text| text.parse().expect("a virtual IP"))
                .collect::<Vec<Vip>>()
        };
        assert!(distinct(&vips(&["10.0.0.1", "10.0.0.2", "fd00::1"])).is_ok());
        for twice in [["a=10.0.0.1", "a=10.0.0.2"], ["a=10.0.0.1", "b=10.0.0.1"]] {
            assert!(matches!(distinct(&vips(&twice)), Err(NetError::Twice(_))));
        }
    }
}
