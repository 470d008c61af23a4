//! What is heard: etcd's keys, the kernel's events.

use std::collections::BTreeMap;

use daemon::error_chain;
use etcd::{Listing, WatchEvent};
use tracing::{info, warn};

use super::{Keeper, VALUES, now};
use crate::election::{Found, Input, RecordError};
use crate::net::KernelEvent;
use crate::store::{Rejected, Request, Told};
use crate::vip::VipName;

/// A record, its value, and its revision.
type Heard = (Result<Found, RecordError>, Option<Vec<u8>>, i64);

impl Keeper {
    pub(super) fn hear_etcd(&mut self, event: WatchEvent) {
        match event {
            WatchEvent::Snapshot(listing) => self.hear_listing(&listing),
            WatchEvent::Changes(changes) => {
                let mut keepers = false;
                for change in changes {
                    let value = match &change {
                        etcd::Change::Put(entry) => Some(entry.value.clone()),
                        etcd::Change::Deleted { .. } => None,
                    };
                    match self.keys.read_change(&change) {
                        Ok(Told::Record(vip, found)) => {
                            self.hear_record(&vip, found, value, change.revision(), true);
                        }
                        Ok(Told::Answer(vip, answer)) => self.step(&vip, Input::Answered(answer)),
                        Ok(Told::Request(vip, request)) => self.hear_request(&vip, request),
                        Ok(Told::Report(vip, report)) => {
                            if let Some(part) = self.parts.get_mut(&vip) {
                                part.report = Some(report);
                            }
                        }
                        Ok(Told::Keeper(node, presence)) => {
                            keepers = true;
                            match presence {
                                Some(presence) => self.keepers.insert(node, presence),
                                None => self.keepers.remove(&node),
                            };
                        }
                        Ok(Told::Other) => {}
                        Err(rejected) => self.reject(&rejected),
                    }
                }
                if keepers {
                    self.tell_peers();
                }
            }
            WatchEvent::Unavailable { error, .. } => {
                let because = error_chain(&error).to_string();
                if self.etcd_error.is_none() {
                    warn!("etcd cannot be watched; what is held is held until its right ends: {because}");
                }
                self.etcd_error = Some(because);
            }
            WatchEvent::Resumed => {
                info!("etcd answers again");
                self.etcd_error = None;
            }
        }
    }

    /// Everything, of unknown age.
    fn hear_listing(&mut self, listing: &Listing) {
        if self.etcd_error.take().is_some() {
            info!(revision = listing.revision, "etcd's keys are known");
        }
        self.informed = true;
        self.keepers.clear();
        self.rejected.clear();
        let mut records: BTreeMap<VipName, Heard> = self
            .parts
            .keys()
            .map(|vip| (vip.clone(), (Ok(Found::Absent), None, listing.revision)))
            .collect();
        for entry in &listing.entries {
            match self.keys.read_entry(entry) {
                Ok(Told::Record(vip, found)) => {
                    if let Some(record) = records.get_mut(&vip) {
                        *record = (found, Some(entry.value.clone()), entry.mod_revision);
                    }
                }
                Ok(Told::Keeper(node, Some(presence))) => {
                    self.keepers.insert(node, presence);
                }
                // Requests and answers of before are nobody's concern any more.
                Ok(_) => {}
                Err(rejected) => self.reject(&rejected),
            }
        }
        for key in &listing.rejected {
            self.reject(&Rejected {
                key: key.clone(),
                reason: "the key is not UTF-8".to_owned(),
            });
        }
        for (vip, (found, value, revision)) in records {
            self.hear_record(&vip, found, value, revision, false);
        }
        self.tell_peers();
    }

    fn hear_record(
        &mut self,
        vip: &VipName,
        found: Result<Found, RecordError>,
        value: Option<Vec<u8>>,
        revision: i64,
        live: bool,
    ) {
        let Some(part) = self.parts.get_mut(vip) else {
            return;
        };
        if let Some(value) = value {
            part.values.push_front((revision, value));
            part.values.truncate(VALUES);
        }
        match found {
            Ok(found) => {
                part.unreadable = None;
                self.step(
                    vip,
                    Input::Observed {
                        found,
                        revision,
                        live,
                    },
                );
            }
            Err(error) => {
                if part.unreadable.is_none() {
                    warn!(%vip, "the record in etcd is not for this keeper: {error}");
                }
                part.unreadable = Some(error.to_string());
                self.step(vip, Input::Unreadable);
                self.tell_presence();
            }
        }
    }

    fn hear_request(&mut self, vip: &VipName, request: Request) {
        let Some(part) = self.parts.get_mut(vip) else {
            return;
        };
        if !part.up || part.request.as_ref() == Some(&request.id) {
            return;
        }
        info!(%vip, to = request.to.as_ref().map(ToString::to_string), "an operator wants the address moved");
        part.request = Some(request.id);
        self.step(vip, Input::Move(request.to));
    }

    fn reject(&mut self, rejected: &Rejected) {
        /// So many are named.
        const NAMED: usize = 20;
        warn!("{rejected}");
        self.metrics.rejected.inc();
        if self.rejected.len() < NAMED {
            self.rejected.insert(rejected.to_string());
        }
    }

    pub(super) async fn hear_kernel(&mut self, event: KernelEvent) {
        match event {
            KernelEvent::AddressGone { vip } => self.restore(&vip).await,
            KernelEvent::AddressAppeared { ours: true, .. } => {}
            KernelEvent::AddressAppeared { vip, ours: false } => {
                warn!(%vip, "somebody else has put the address on this host; it answers nobody while the keeper does not hold it");
                self.look_at_links().await;
            }
            KernelEvent::LinkChanged { .. } => {
                self.look_at_links().await;
                // It may have another name or hardware address by now, or have lost the address.
                let up: Vec<_> = self.up();
                for vip in up {
                    self.restore(&vip).await;
                }
            }
            KernelEvent::Conflict { vip, mac } => {
                if let Some(part) = self.parts.get_mut(&vip) {
                    if part.up && part.speakers.insert(mac, now()).is_none() {
                        warn!(%vip, %mac, "another host speaks for the address while this node holds it");
                    } else {
                        part.speakers.insert(mac, now());
                    }
                    if part.speakers.len() > 64 {
                        part.speakers.pop_first();
                    }
                }
                self.step(&vip, Input::Conflict);
            }
            KernelEvent::Lost => {
                self.look_at_links().await;
                let up: Vec<_> = self.up();
                for vip in up {
                    self.restore(&vip).await;
                }
            }
        }
    }

    fn up(&self) -> Vec<VipName> {
        let up = self.parts.values().filter(|part| part.up);
        up.map(|part| part.vip.name.clone()).collect()
    }

    /// Puts an address back that should be there and is not.
    async fn restore(&mut self, vip: &VipName) {
        let Some(part) = self.parts.get(vip) else { return };
        let now = now();
        if !part.up || !part.election.holds(now) {
            return;
        }
        let present = self.kernel.placement(vip).await;
        if present.is_ok_and(|placement| placement.presence == crate::net::Presence::Ours) {
            return;
        }
        let until = part.election.until();
        match self
            .kernel
            .hold(vip, crate::net::BootInstant::from_boot(until))
            .await
        {
            Ok(()) => {
                warn!(%vip, "something had removed the address; it is back");
                self.metrics.restored.with_label_values(&[vip.as_str()]).inc();
            }
            Err(error) => {
                let because = error_chain(&error).to_string();
                warn!(%vip, because, "something has removed the address, and it cannot be put back");
                if let Some(part) = self.parts.get_mut(vip) {
                    part.up = false;
                }
                self.step(vip, Input::Gone(because));
            }
        }
    }
}
