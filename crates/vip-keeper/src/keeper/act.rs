//! What is done: to the kernel, in etcd, and told to hooks.

use std::time::{Duration, Instant, SystemTime};

use daemon::error_chain;
use etcd::{Replaced, Replacement};
use tracing::{error, info, warn};

use super::{Ended, Keeper, VALUES};
use crate::election::{Action, Answer, Change, Input, Outcome, Time};
use crate::hooks::Notice;
use crate::metrics::words;
use crate::net::BootInstant;
use crate::store::{Report, found};
use crate::vip::VipName;

/// How often actions may lead to further ones before something else is looked at. An election never needs that many.
const ROUNDS: usize = 32;

/// How one write ended.
pub(super) struct Written {
    vip: VipName,
    id: u64,
    outcome: Outcome,
    /// What the record holds now, and its revision.
    value: Option<(i64, Vec<u8>)>,
}

/// One write to be made.
struct Wanted {
    vip: VipName,
    id: u64,
    replacement: Replacement,
}

impl Keeper {
    /// Does everything that is queued, and what follows from that.
    pub(super) async fn carry_out(&mut self) {
        let mut writes = Vec::new();
        for _ in 0..ROUNDS {
            if self.queue.is_empty() {
                break;
            }
            self.extend().await;
            for (vip, action) in std::mem::take(&mut self.queue) {
                match action {
                    Action::Hold { until } => self.hold(&vip, until).await,
                    Action::Release => self.release(&vip).await,
                    Action::Announce => {
                        if let Err(error) = self.kernel.announce(&vip).await {
                            warn!(%vip, "{}", error_chain(&error));
                        }
                    }
                    Action::Write { id, guard, record } => {
                        let value = record.write();
                        let was = self.parts.get(&vip).and_then(|part| {
                            let known = part.values.iter().find(|(revision, _)| *revision == guard);
                            known.map(|(_, value)| value.clone())
                        });
                        let replacement = Replacement {
                            key: self.keys.record(&vip),
                            mod_revision: guard,
                            was,
                            value,
                            lease: None,
                        };
                        writes.push(Wanted { vip, id, replacement });
                    }
                    Action::Answer(answer) => self.answer(&vip, &answer),
                    Action::Report(change) => self.report(&vip, &change),
                }
            }
        }
        for batch in batches(writes) {
            let (client, metrics) = (self.client.clone(), self.metrics.clone());
            self.calls.push(Box::pin(async move {
                let began = Instant::now();
                let written = write(&client, batch).await;
                metrics.renewal.observe(began.elapsed().as_secs_f64());
                Ended::Writes(written)
            }));
        }
    }

    /// All addresses that are up and stay up, in one transaction.
    async fn extend(&mut self) {
        let mut extended: Vec<(VipName, BootInstant)> = Vec::new();
        let mut rest = std::collections::VecDeque::new();
        for (vip, action) in std::mem::take(&mut self.queue) {
            match action {
                Action::Hold { until } if self.parts.get(&vip).is_some_and(|part| part.up) => {
                    extended.retain(|(other, _)| *other != vip);
                    extended.push((vip, BootInstant::from_boot(until)));
                }
                action => rest.push_back((vip, action)),
            }
        }
        self.queue = rest;
        if extended.is_empty() {
            return;
        }
        let (failed, all) = match self.kernel.extend(&extended).await {
            Ok(failed) => (failed, None),
            Err(error) => (Vec::new(), Some(error_chain(&error).to_string())),
        };
        for (vip, _) in extended {
            let of_this = failed.iter().find(|(name, _)| *name == vip);
            let because = of_this
                .map(|(_, error)| error_chain(error).to_string())
                .or_else(|| all.clone());
            if let Some(because) = &because {
                warn!(%vip, because, "the kernel did not take a renewal");
            }
            self.step(&vip, Input::Up(because.map_or(Ok(()), Err)));
        }
    }

    async fn hold(&mut self, vip: &VipName, until: Time) {
        let began = Instant::now();
        let result = self.kernel.hold(vip, BootInstant::from_boot(until)).await;
        let Some(part) = self.parts.get_mut(vip) else {
            return;
        };
        part.up = result.is_ok();
        // Who spoke for it until now may have held it.
        part.speakers.clear();
        part.up_took = Some(began.elapsed());
        self.step(
            vip,
            Input::Up(result.map_err(|error| error_chain(&error).to_string())),
        );
    }

    async fn release(&mut self, vip: &VipName) {
        let result = self.kernel.release(vip).await;
        let result = result.map_err(|error| error_chain(&error).to_string());
        if let Err(because) = &result {
            error!(%vip, because, "the address cannot be taken down; the kernel does it when its time ends");
        } else if let Some(part) = self.parts.get_mut(vip) {
            part.up = false;
        }
        self.step(vip, Input::Down(result));
    }

    fn answer(&mut self, vip: &VipName, answer: &Answer) {
        if let Some(because) = &answer.refused {
            info!(%vip, because, "this node does not take the address that it was offered");
        }
        // Nothing in it can fail to be JSON; an empty answer would be rejected by its reader.
        let value = serde_json::to_vec(answer).unwrap_or_default();
        self.put(self.keys.answer(vip), value);
    }

    fn tell(&mut self, vip: &VipName, report: &Report) {
        let value = serde_json::to_vec(report).unwrap_or_default();
        self.put(self.keys.report(vip), value);
    }

    fn put(&mut self, key: String, value: Vec<u8>) {
        let client = self.client.clone();
        self.calls.push(Box::pin(async move {
            let put = client.put(&key, value, None).await;
            Ended::Told(put.map(drop).map_err(|error| error_chain(&error).to_string()))
        }));
    }

    pub(super) fn ended(&mut self, ended: Ended) {
        match ended {
            Ended::Writes(all) => {
                for written in all {
                    self.written(written);
                }
            }
            Ended::Confirmed(vip, until) => {
                if let Some(part) = self.parts.get_mut(&vip) {
                    part.asking = false;
                }
                if let Some(until) = until {
                    self.step(&vip, Input::Confirmed { until });
                }
            }
            Ended::Told(Ok(())) => {}
            Ended::Told(Err(because)) => warn!(because, "could not tell the others"),
        }
    }

    fn written(&mut self, written: Written) {
        let Written {
            vip,
            id,
            outcome,
            value,
        } = written;
        let result = match &outcome {
            Outcome::Done(_) => "done",
            Outcome::Conflict(..) | Outcome::Unreadable => "conflict",
            Outcome::Unknown(because) => {
                if self.write_error.is_none() {
                    warn!(
                        because,
                        "cannot write to etcd; what is held is held until its right ends"
                    );
                }
                self.write_error = Some(because.clone());
                "unknown"
            }
        };
        self.metrics.writes.with_label_values(&[result]).inc();
        if result != "unknown" && self.write_error.take().is_some() {
            info!("etcd takes writes again");
        }
        if let (Some(value), Some(part)) = (value, self.parts.get_mut(&vip)) {
            part.values.push_front(value);
            part.values.truncate(VALUES);
        }
        self.step(&vip, Input::Written { id, outcome });
    }

    fn report(&mut self, vip: &VipName, change: &Change) {
        let Some(part) = self.parts.get_mut(vip) else {
            return;
        };
        self.metrics.changed(&part.vip, change);
        let said = change.to_string();
        match change {
            Change::Expired { .. } | Change::Lost { .. } | Change::Conflict | Change::Failed { .. } => {
                warn!(%vip, "{said}");
            }
            _ => info!(%vip, "{said}"),
        }
        part.last_change = Some((said, SystemTime::now()));
        let epoch = part.election.seen().map_or(0, |(record, _)| record.epoch);
        let (state, reason) = words(change);
        let state = match state {
            "took" => Some("held"),
            "gave" | "released" | "expired" | "lost" => Some("released"),
            _ => None,
        };
        if let Some(state) = state {
            let notice = Notice {
                vip: vip.clone(),
                address: part.vip.address.to_string(),
                node: self.me.node.to_string(),
                state,
                reason,
                epoch,
                interface: part.link.clone().unwrap_or_default(),
            };
            if self.hooks.try_send(notice).is_err() {
                self.metrics.hooks.with_label_values(&["dropped"]).inc();
                warn!(%vip, "a change was not told to the hooks: too many wait");
            }
        }
        let report = match change {
            Change::Took { epoch, .. } => Report {
                request: None,
                because: None,
                epoch: *epoch,
                up_us: part.up_took.map(micros),
            },
            Change::Stays { because, .. } => match part.request.take() {
                Some(request) => Report {
                    request: Some(request),
                    because: Some(because.clone()),
                    epoch,
                    up_us: None,
                },
                None => return,
            },
            _ => {
                part.request = None;
                return;
            }
        };
        self.tell(vip, &report);
    }
}

/// As few requests as can be.
fn batches(writes: Vec<Wanted>) -> Vec<Vec<Wanted>> {
    let mut batches = Vec::new();
    let mut writes = writes.into_iter().peekable();
    while writes.peek().is_some() {
        batches.push(writes.by_ref().take(etcd::MAX_BATCH).collect());
    }
    batches
}

async fn write(client: &etcd::Client, batch: Vec<Wanted>) -> Vec<Written> {
    let replacements: Vec<_> = batch.iter().map(|wanted| wanted.replacement.clone()).collect();
    match client.replace_each(&replacements).await {
        Ok(all) => batch
            .into_iter()
            .zip(all)
            .map(|(wanted, replaced)| outcome(wanted, replaced))
            .collect(),
        Err(error) => {
            let because = error_chain(&error).to_string();
            let unknown = |wanted: Wanted| Written {
                vip: wanted.vip,
                id: wanted.id,
                outcome: Outcome::Unknown(because.clone()),
                value: None,
            };
            batch.into_iter().map(unknown).collect()
        }
    }
}

fn outcome(wanted: Wanted, replaced: Replaced) -> Written {
    let Wanted { vip, id, replacement } = wanted;
    let (outcome, value) = match replaced {
        Replaced::Done { revision } => (Outcome::Done(revision), Some((revision, replacement.value))),
        Replaced::Differs(None) => (Outcome::Conflict(crate::election::Found::Absent, 0), None),
        Replaced::Differs(Some(entry)) => {
            let outcome = match found(&entry.value) {
                Ok(found) => Outcome::Conflict(found, entry.mod_revision),
                Err(_) => Outcome::Unreadable,
            };
            (outcome, Some((entry.mod_revision, entry.value)))
        }
    };
    Written {
        vip,
        id,
        outcome,
        value,
    }
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}
