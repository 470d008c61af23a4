//! What an operator does. All of it goes through etcd and the admin server of the keeper that runs here; nothing here touches
//! an address but `cleanup`, which only works where no keeper runs.

use std::io::Write;
use std::net::SocketAddr;
use std::time::Duration;

use contract::DnsLabel;
use daemon::probe::{get_status, probe_ready};
use daemon::{ProbeError, RunError};
use etcd::{Watch, WatchEvent};
use tokio::time::{Instant, timeout_at};

use crate::args::Command;
use crate::doctor;
use crate::election::{Found, Record};
use crate::error::Error;
use crate::keeper::{KeeperView, VipView};
use crate::net;
use crate::peers::random_word;
use crate::setup::Setup;
use crate::store::{Report, Request, Told};
use crate::vip::VipName;

/// How long a hand-over may take before it is given up; it takes milliseconds, or a second to be refused.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long a request stays in etcd.
const REQUEST_TTL: Duration = Duration::from_secs(30);

/// An operator at work.
#[derive(Debug)]
pub struct Operator<'a> {
    setup: &'a Setup,
}

/// One hand-over, as it was seen in etcd.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Moved {
    from: DnsLabel,
    to: DnsLabel,
    epoch: u64,
    /// From the request to the holder's offer.
    detect: Option<Duration>,
    /// From there to the record that names the next holder.
    elect: Duration,
    /// What the next holder needed until its first announcement.
    announce: Option<Duration>,
}

/// What a watch has told of one address.
#[derive(Debug, Default)]
struct Story {
    record: Option<Record>,
    offered: Option<Instant>,
    report: Option<Report>,
}

impl<'a> Operator<'a> {
    /// One with these settings.
    pub fn new(setup: &'a Setup) -> Self {
        Self { setup }
    }

    /// Does what a command says. What needs no settings (`status`, `healthcheck`, `explain`) is answered before.
    ///
    /// # Errors
    /// When it cannot be done, or has come to nothing.
    pub async fn run(&self, command: &Command) -> Result<(), RunError> {
        match command {
            Command::Inspect(_) | Command::Explain { .. } => Ok(()),
            Command::HandOver { to, only } => self.hand_over(to.as_ref(), only.as_ref()).await,
            Command::Drill { to, only } => self.drill(to.as_ref(), only.as_ref()).await,
            Command::Doctor => doctor::run(self.setup).await,
            Command::Cleanup => self.cleanup().await,
        }
    }

    /// Says what a keeper would do that is started now.
    ///
    /// # Errors
    /// When etcd or the kernel cannot be asked.
    pub async fn dry_run(&self) -> Result<(), RunError> {
        let mut out = String::new();
        for vip in &self.setup.vips {
            let said = match self.record(&vip.name).await? {
                Some(Record {
                    holder: Some(holder),
                    epoch,
                    ..
                }) => format!(
                    "{} holds it (epoch {epoch}); this node would take it after {} ms without a renewal",
                    holder.node,
                    (self.setup.settings.hold + self.setup.settings.margin).as_millis()
                ),
                Some(_) => "nobody holds it: its last holder let go; this node would take it".to_owned(),
                None => "nobody has held it yet; this node would take it".to_owned(),
            };
            out.push_str(&format!("{vip}: {said}\n"));
        }
        out.push_str("nothing was changed\n");
        print(&out)
    }

    async fn hand_over(&self, to: Option<&DnsLabel>, only: Option<&VipName>) -> Result<(), RunError> {
        let mut failed = None;
        for name in self.chosen(only)? {
            match self.move_one(&name, to).await {
                Ok(Some(moved)) => print(&format!(
                    "{name}: from {} to {} (epoch {}) in {} ms\n",
                    moved.from,
                    moved.to,
                    moved.epoch,
                    (moved.detect.unwrap_or_default() + moved.elect).as_millis()
                ))?,
                Ok(None) => print(&format!("{name}: it is there already\n"))?,
                Err(error) => {
                    tracing::error!("{}", daemon::error_chain(&error));
                    failed = Some(error);
                }
            }
        }
        failed.map_or(Ok(()), |error| Err(RunError::failed(error)))
    }

    /// There and back.
    async fn drill(&self, to: Option<&DnsLabel>, only: Option<&VipName>) -> Result<(), RunError> {
        let name = match only {
            Some(_) => self.chosen(only)?,
            None => self.chosen(None)?.into_iter().take(1).collect(),
        };
        for name in name {
            let Some(there) = self.move_one(&name, to).await.map_err(RunError::failed)? else {
                return print(&format!("{name} is there already: give another node with --to\n"));
            };
            print(&told(&name, &there))?;
            if let Some(back) = self
                .move_one(&name, Some(&there.from))
                .await
                .map_err(RunError::failed)?
            {
                print(&told(&name, &back))?;
            }
        }
        Ok(())
    }

    async fn cleanup(&self) -> Result<(), RunError> {
        match probe_ready(self.setup.admin).await {
            Err(ProbeError::Exchange { .. }) => {}
            _ => return Err(RunError::failed(Error::Running(self.setup.admin))),
        }
        let removed = net::cleanup(&self.setup.vips)
            .await
            .map_err(|error| RunError::failed(Error::Cleanup(error)))?;
        if removed.is_empty() {
            return print("there was nothing to remove\n");
        }
        print(&format!("removed: {}\n", removed.join(", ")))
    }

    /// The addresses that are meant.
    fn chosen(&self, only: Option<&VipName>) -> Result<Vec<VipName>, RunError> {
        let all: Vec<_> = self.setup.vips.iter().map(|vip| vip.name.clone()).collect();
        match only {
            None => Ok(all),
            Some(name) if all.contains(name) => Ok(vec![name.clone()]),
            Some(name) => {
                let known: Vec<_> = all.iter().map(ToString::to_string).collect();
                Err(RunError::config(Error::UnknownVip(
                    name.clone(),
                    known.join(", "),
                )))
            }
        }
    }

    async fn record(&self, name: &VipName) -> Result<Option<Record>, RunError> {
        let entry = self.setup.slow.get(&self.setup.keys.record(name)).await;
        let Some(entry) = entry.map_err(|error| RunError::failed(Error::Read(error)))? else {
            return Ok(None);
        };
        match Record::read(&entry.value) {
            Ok(record) => Ok(Some(record)),
            Err(error) => Err(RunError::failed(error)),
        }
    }

    /// Asks the holder, and follows what becomes of it. `None`: the address is where it shall go.
    async fn move_one(&self, name: &VipName, to: Option<&DnsLabel>) -> Result<Option<Moved>, Error> {
        let mut watch = self.setup.slow.watch(self.setup.keys.prefix());
        let deadline = Instant::now() + PATIENCE;
        let mut story = Story::default();
        // What is there before it is asked; then everything is a change.
        self.listen(&mut watch, name, &mut story, deadline).await?;
        let nobody = || Error::NobodyHolds(name.clone());
        let before = story.record.clone().ok_or_else(nobody)?;
        let from = before.holder.clone().ok_or_else(nobody)?.node;
        if to == Some(&from) {
            return Ok(None);
        }
        let request = Request {
            id: random_word()?,
            to: to.cloned(),
        };
        let value = serde_json::to_vec(&request).map_err(Error::Encode)?;
        let lease = self
            .setup
            .slow
            .lease_grant(REQUEST_TTL)
            .await
            .map_err(Error::Ask)?;
        let asked = Instant::now();
        let key = self.setup.keys.request(name);
        let put = self.setup.slow.put(&key, value, Some(lease.id));
        put.await.map_err(Error::Ask)?;
        loop {
            let heard = self.listen(&mut watch, name, &mut story, deadline).await;
            if let Some(Report {
                request: Some(id),
                because: Some(because),
                ..
            }) = &story.report
                && *id == request.id
            {
                return Err(Error::Stays {
                    vip: name.clone(),
                    because: because.clone(),
                });
            }
            let now = Instant::now();
            if let Some(Record {
                holder: Some(holder),
                epoch,
                ..
            }) = &story.record
                && *epoch > before.epoch
            {
                let (to, epoch) = (holder.node.clone(), *epoch);
                let offered = story.offered;
                let announce = self.announced(&mut watch, name, &mut story, epoch).await;
                return Ok(Some(Moved {
                    from,
                    to,
                    epoch,
                    detect: offered.map(|offered| offered - asked),
                    elect: now - offered.unwrap_or(asked),
                    announce,
                }));
            }
            if heard.is_err() {
                return Err(Error::NoAnswer {
                    vip: name.clone(),
                    holder: from,
                    waited: PATIENCE,
                });
            }
        }
    }

    /// What the next holder says of its own part.
    async fn announced(
        &self,
        watch: &mut Watch,
        name: &VipName,
        story: &mut Story,
        epoch: u64,
    ) -> Option<Duration> {
        let deadline = Instant::now() + Duration::from_secs(1);
        loop {
            if let Some(report) = story
                .report
                .as_ref()
                .filter(|report| report.epoch == epoch && report.request.is_none())
            {
                return report.up_us.map(Duration::from_micros);
            }
            self.listen(watch, name, story, deadline).await.ok()?;
        }
    }

    /// The next thing that etcd tells of one address.
    async fn listen(
        &self,
        watch: &mut Watch,
        name: &VipName,
        story: &mut Story,
        deadline: Instant,
    ) -> Result<(), Error> {
        let event = timeout_at(deadline, watch.next()).await;
        let told: Vec<_> = match event {
            Ok(WatchEvent::Snapshot(listing)) => listing
                .entries
                .iter()
                .map(|entry| self.setup.keys.read_entry(entry))
                .collect(),
            Ok(WatchEvent::Changes(changes)) => changes
                .iter()
                .map(|change| self.setup.keys.read_change(change))
                .collect(),
            Ok(WatchEvent::Resumed) => Vec::new(),
            Ok(WatchEvent::Unavailable { error, .. }) => return Err(Error::Read(error)),
            Err(_) => {
                return Err(Error::NoAnswer {
                    vip: name.clone(),
                    holder: self.setup.me.node.clone(),
                    waited: PATIENCE,
                });
            }
        };
        for told in told.into_iter().flatten() {
            match told {
                Told::Record(vip, Ok(Found::Record(record))) if vip == *name => {
                    if record.offer.is_some() {
                        story.offered.get_or_insert_with(Instant::now);
                    }
                    story.record = Some(record);
                }
                Told::Report(vip, report) if vip == *name => story.report = Some(report),
                _ => {}
            }
        }
        Ok(())
    }
}

/// Says in words what the keeper whose admin server is at `admin` knows. Needs no settings but that.
///
/// # Errors
/// When it gives no proper answer in time.
pub async fn explain(admin: SocketAddr, only: Option<&VipName>) -> Result<(), RunError> {
    let status = get_status(admin).await?;
    let vips: Vec<VipView> = part(&status, "vips");
    let keepers: Vec<KeeperView> = part(&status, "keepers");
    let mut out = String::new();
    for vip in vips
        .iter()
        .filter(|vip| only.is_none_or(|only| only.as_str() == vip.name))
    {
        out.push_str(&format!("{} ({})\n", vip.name, vip.address));
        for line in &vip.explanation {
            out.push_str(&format!("  {line}\n"));
        }
    }
    if let Some(because) = status.get("etcd_error").and_then(|error| error.as_str()) {
        out.push_str(&format!("etcd does not answer: {because}\n"));
    }
    out.push_str("keepers that etcd knows:\n");
    for keeper in keepers {
        let how = match (&keeper.because, keeper.ready.is_empty()) {
            (Some(because), _) => format!("not ready: {because}"),
            (None, false) => format!("ready for {}", keeper.ready.join(", ")),
            (None, true) => "not ready".to_owned(),
        };
        out.push_str(&format!(
            "  {} at {}, priority {}: {how}\n",
            keeper.node, keeper.address, keeper.priority
        ));
    }
    print(&out)
}

fn told(name: &VipName, moved: &Moved) -> String {
    let millis = |time: Duration| format!("{:.1} ms", time.as_secs_f64() * 1000.0);
    let or_unknown = |time: Option<Duration>| time.map_or_else(|| "not told".to_owned(), millis);
    format!(
        "{name}: {} -> {} (epoch {}): detect {}, elect {}, announce {}\n",
        moved.from,
        moved.to,
        moved.epoch,
        or_unknown(moved.detect),
        millis(moved.elect),
        or_unknown(moved.announce)
    )
}

fn part<T: serde::de::DeserializeOwned>(status: &serde_json::Value, name: &str) -> Vec<T> {
    let part = status.get(name).cloned().unwrap_or_default();
    serde_json::from_value(part).unwrap_or_default()
}

pub(crate) fn print(text: &str) -> Result<(), RunError> {
    std::io::stdout()
        .lock()
        .write_all(text.as_bytes())
        .map_err(RunError::failed)
}
