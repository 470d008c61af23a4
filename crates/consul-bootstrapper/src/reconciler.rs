//! The loop's body: observe etcd, the local Consul and the files; decide; do it; look again.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, SystemTime};

use contract::DnsLabel;
use daemon::{Activation, Gate, Outcome, Reconcile};
use etcd::{Cas, LeaseId, Record};
use serde::Serialize;
use tokio::sync::watch;
use tokio::time::Instant;
use tracing::{info, warn};

use crate::clients::Clients;
use crate::cluster_view::ClusterView;
use crate::config::{Settings, TlsFiles, permit_token, render};
use crate::consul_view;
use crate::error::Error;
use crate::files::{Files, Known};
use crate::keys::Keys;
use crate::metrics::Metrics;
use crate::observed::{
    AgentPlan, ConsulView, Data, EtcdView, Local, Me, Observed, Peer, Presence, RecordView,
};
use crate::presence::{Registration, Seen};
use crate::record::{ClusterId, ClusterRecord};
use crate::secrets::{AclSecrets, CaSecret, Secret, Secrets, agree, is_gossip_key, new_gossip_key, random};
use crate::step::{Change, State, Step, next_step};
use crate::{acl, tls};

/// Steps in one run: more than the longest way through a change, so that a flaw cannot make it spin.
const MAX_STEPS: usize = 24;
/// When to look again while something is under way: Consul tells nobody when an election is over.
const SOON: Duration = Duration::from_millis(400);

/// What this node is, as far as it never changes.
#[derive(Clone, Debug)]
pub struct Identity {
    /// Itself.
    pub me: Me,
    /// Derived from its machine ID.
    pub host: String,
    /// Drawn at the start of the process.
    pub instance: String,
}

/// Where certificates come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TlsSource {
    /// There are none.
    Off,
    /// They are made here, signed by the authority in etcd.
    Auto,
    /// They are given.
    Files,
}

/// What a run did, for `/status`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Report {
    /// The steps, in order.
    pub steps: Vec<String>,
}

/// What is known, for `/status`.
#[derive(Clone, Debug, Serialize)]
pub struct View {
    /// The summary for machines. First, so that a field of a standing cannot take the place of one of these.
    #[serde(flatten)]
    pub standing: Standing,
    /// This node.
    pub node: DnsLabel,
    /// In one sentence.
    pub summary: String,
    /// What is agreed on.
    pub record: Option<ClusterRecord>,
    /// Who lives.
    pub nodes: BTreeMap<DnsLabel, Presence>,
    /// Keys in etcd that cannot be read.
    pub rejected: BTreeSet<String>,
    /// What Consul's data here belongs to.
    pub data: Data,
    /// How Consul runs here.
    pub agent: Option<AgentPlan>,
    /// Whether it may run.
    pub permitted: bool,
    /// What Consul says.
    pub consul: ConsulSummary,
}

/// Consul in `/status`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct ConsulSummary {
    /// Whether the agent answers.
    pub answers: bool,
    /// Whether there is a leader.
    pub led: bool,
    /// Whether it is this node.
    pub leads: bool,
    /// Whether autopilot calls all servers healthy.
    pub healthy: bool,
    /// The voters' addresses.
    pub voters: Vec<String>,
    /// Servers without a vote.
    pub others: Vec<String>,
    /// Members alive, by gossip.
    pub alive: usize,
}

/// How a node stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum Standing {
    /// It takes part in nothing.
    Refused(crate::step::Refusal),
    /// As it says.
    State(State),
    /// A step is under way.
    Busy {
        /// Always `busy`.
        state: &'static str,
    },
}

/// What the reconciler needs.
#[derive(Debug)]
pub struct Parts {
    /// This node.
    pub identity: Identity,
    /// Consul's settings, beside what is decided.
    pub settings: Settings,
    /// Where certificates come from.
    pub tls: TlsSource,
    /// See `--replace-after`.
    pub replace_after: Duration,
    /// See `--presence-ttl`.
    pub presence_ttl: Duration,
    /// etcd.
    pub etcd: etcd::Client,
    /// The local Consul.
    pub consul: Clients,
    /// etcd's keys.
    pub keys: Keys,
    /// Files.
    pub files: Files,
    /// What an earlier process knew.
    pub known: Known,
    /// This node's lease.
    pub lease: watch::Receiver<Option<LeaseId>>,
    /// Metrics.
    pub metrics: Metrics,
    /// Opened when the node is settled for the first time.
    pub settled: Gate,
}

/// What came of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Applied {
    /// It was done: look again.
    Done,
    /// Another node was faster: look again.
    Conflict,
    /// There is nothing more to do for now.
    Rest,
}

impl Applied {
    fn as_str(&self) -> &'static str {
        match self {
            Self::Done | Self::Rest => "ok",
            Self::Conflict => "conflict",
        }
    }
}

/// Keeps this node's part in the cluster.
#[derive(Debug)]
pub struct Bootstrapper {
    parts: Parts,
    registration: Registration,
    cluster: Option<ClusterView>,
    /// Since when a holder of a slot was not seen.
    missing: BTreeMap<DnsLabel, Instant>,
    leaderless_since: Option<Instant>,
    /// Why what is known could not be kept.
    unkept: Option<Error>,
    view: watch::Sender<Option<View>>,
    said: Option<String>,
    named: BTreeSet<String>,
    tokens_done: bool,
}

impl Bootstrapper {
    /// A reconciler and a view on what it knows.
    pub fn new(parts: Parts) -> (Self, watch::Receiver<Option<View>>) {
        let registration = Registration::new(
            parts.etcd.clone(),
            &parts.keys,
            &parts.identity.me.node,
            parts.presence_ttl,
            parts.known.instance.clone(),
        );
        let (view, receiver) = watch::channel(None);
        let bootstrapper = Self {
            parts,
            registration,
            cluster: None,
            missing: BTreeMap::new(),
            leaderless_since: None,
            unkept: None,
            view,
            said: None,
            named: BTreeSet::new(),
            tokens_done: false,
        };
        (bootstrapper, receiver)
    }

    /// What would be done now; changes nothing.
    ///
    /// # Errors
    /// When this node's files cannot be read, or the system has no random bytes.
    pub async fn dry_run(&mut self) -> Result<Step, Error> {
        let seen = self.observe(false).await?;
        Ok(next_step(&seen))
    }

    async fn observe(&mut self, make_known: bool) -> Result<Observed, Error> {
        let local = self.local().await?;
        let permit = local
            .written
            .as_ref()
            .filter(|_| local.permitted)
            .map(permit_token);
        let consul = consul_view::observe(&self.parts.consul.quick, permit.as_deref()).await;
        let etcd = self.observe_etcd(&local.data, make_known).await;
        let contested = self.registration.refused().cloned();
        let (etcd, contested) = match etcd {
            Ok((view, contest)) => (Ok(view), contest.or(contested)),
            // etcd answers, so what it says counts, and nothing that was known before: look again in a moment.
            Err(error @ (Error::NoLease | Error::NotKnown)) => return Err(error),
            Err(error) => (Err(daemon::error_chain(&error)), contested),
        };
        let leaderless = match &consul {
            ConsulView::Up(state) if !state.led => {
                self.leaderless_since.get_or_insert_with(Instant::now).elapsed()
            }
            _ => {
                self.leaderless_since = None;
                Duration::ZERO
            }
        };
        Ok(Observed {
            me: self.parts.identity.me.clone(),
            local,
            etcd,
            consul,
            leaderless,
            contested,
            fresh_id: ClusterId::from_random(random()?),
            replace_after: self.parts.replace_after,
        })
    }

    async fn local(&mut self) -> Result<Local, Error> {
        let files = self.parts.files.clone();
        let (data, permit) = blocking(move || Ok((files.data()?, files.permitted()))).await?;
        let Known { record, written, .. } = self.parts.known.clone();
        let permitted = written
            .as_ref()
            .is_some_and(|plan| permit.as_deref() == Some(&permit_token(plan)));
        Ok(Local {
            data,
            record,
            written,
            permitted,
        })
    }

    async fn observe_etcd(
        &mut self,
        data: &Data,
        make_known: bool,
    ) -> Result<(EtcdView, Option<crate::observed::Contest>), Error> {
        let mine = self.presence(data).await?;
        let mut contest = None;
        let lease = *self.parts.lease.borrow_and_update();
        if let Some(lease) = lease.filter(|_| make_known) {
            contest = self.registration.claim(&mine, lease).await?;
        }
        let listing = self
            .parts
            .etcd
            .list(self.parts.keys.prefix())
            .await
            .map_err(Error::ReadKeys)?;
        let view = ClusterView::read(&self.parts.keys, &listing);
        // A node that is not known decides nothing: another one may be known by its name.
        if make_known && lease.is_none() {
            return Err(Error::NoLease);
        }
        if contest.is_none() && make_known {
            if !view.nodes.contains_key(&mine.node) {
                self.registration.forget();
                return Err(Error::NotKnown);
            }
            contest = self.registration.compare(&view.nodes, &mine).await?;
        }
        self.name_rejected(&view.rejected);
        let absent = self.absent(&view);
        if let RecordView::Present(record) = &view.record
            && make_known
        {
            // A full disk must not look like an etcd that is away; what was known stays known.
            self.unkept = self.remember(record, data).await.err();
        }
        let etcd = EtcdView {
            record: view.record.clone(),
            nodes: presences(&view.nodes),
            absent,
            restarting: view.turn.as_ref().map(|(node, _)| node.clone()),
        };
        self.cluster = Some(view);
        Ok((etcd, contest))
    }

    async fn presence(&self, data: &Data) -> Result<Presence, Error> {
        let files = self.parts.files.clone();
        let consul_id = blocking(move || Ok(files.consul_id())).await?;
        let Identity { me, host, instance } = &self.parts.identity;
        Ok(Presence {
            node: me.node.clone(),
            instance: instance.clone(),
            host: host.clone(),
            address: me.address,
            data: data.clone(),
            consul_id,
        })
    }

    /// For how long the holders of slots that are not there have been missed.
    fn absent(&mut self, view: &ClusterView) -> BTreeMap<DnsLabel, Duration> {
        let RecordView::Present(record) = &view.record else {
            return BTreeMap::new();
        };
        let holders: BTreeSet<_> = record.slots.iter().map(|slot| &slot.node).collect();
        self.missing
            .retain(|node, _| holders.contains(node) && !view.nodes.contains_key(node));
        for node in holders {
            if !view.nodes.contains_key(node) {
                self.missing.entry(node.clone()).or_insert_with(Instant::now);
            }
        }
        self.missing
            .iter()
            .map(|(node, since)| (node.clone(), since.elapsed()))
            .collect()
    }

    /// Keeps a record that this node's data does not contradict, for when etcd is away.
    async fn remember(&mut self, record: &ClusterRecord, data: &Data) -> Result<(), Error> {
        let other = matches!(data, Data::Member { cluster, .. } if *cluster != record.id);
        let instance = Some(self.parts.identity.instance.clone());
        let known = Known {
            record: Some(record.clone()),
            instance,
            role: Some(self.parts.identity.me.role),
            written: self.parts.known.written.clone(),
        };
        if other || known == self.parts.known {
            return Ok(());
        }
        self.keep(known).await
    }

    async fn keep(&mut self, known: Known) -> Result<(), Error> {
        let (files, kept) = (self.parts.files.clone(), known.clone());
        blocking(move || Ok(files.keep_known(&kept)?)).await?;
        self.parts.known = known;
        Ok(())
    }

    fn name_rejected(&mut self, rejected: &BTreeSet<String>) {
        for what in rejected.difference(&self.named) {
            warn!("left out what cannot be read in etcd: {what}");
        }
        self.named.clone_from(rejected);
    }

    /// Does one step.
    async fn apply(&mut self, step: &Step) -> Result<Applied, Error> {
        match step {
            Step::Create(record, change) => return self.write_record(record, change, true).await,
            Step::Update(record, change) => return self.write_record(record, change, false).await,
            Step::Configure(plan) => self.configure(plan).await?,
            Step::MarkData(data) => {
                let (files, data) = (self.parts.files.clone(), data.clone());
                blocking(move || Ok(files.mark_data(&data)?)).await?;
            }
            Step::TakeTurn => self.take_turn().await?,
            Step::EndTurn => self.end_turn().await?,
            Step::Join(addresses) => {
                self.join(addresses).await?;
                return Ok(Applied::Rest);
            }
            Step::RemovePeer(peer) => self.remove_peer(peer).await?,
            Step::Leave => self.leave().await?,
            Step::Refuse(_) | Step::Rest(_) => return Ok(Applied::Rest),
        }
        Ok(Applied::Done)
    }

    async fn write_record(
        &mut self,
        record: &ClusterRecord,
        change: &Change,
        create: bool,
    ) -> Result<Applied, Error> {
        if *change == Change::Republish {
            // Before the record: who joins by it must find these secrets and no new ones.
            self.secrets().await?;
        }
        let key = self.parts.keys.record();
        let value = serde_json::to_vec(record).map_err(Error::Encode)?;
        let written = if create {
            self.parts.etcd.create(&key, value, None).await
        } else {
            let revision = self.cluster.as_ref().map_or(0, |view| view.record_revision);
            self.parts.etcd.replace(&key, value, revision, None).await
        };
        Ok(match written.map_err(Error::WriteRecord)? {
            Cas::Done { .. } => {
                info!("changed the cluster's record: {change}");
                Applied::Done
            }
            // Another node was faster: the next look tells how things stand.
            Cas::Conflict(_) => Applied::Conflict,
        })
    }

    async fn configure(&mut self, plan: &AgentPlan) -> Result<(), Error> {
        let secrets = self.secrets().await?;
        let settings = self.parts.settings.clone();
        self.prepare_tls(plan).await?;
        let config = render(plan, &settings, &secrets);
        // Before Consul can run by it: should this process end in between, the next one knows what was written.
        let known = Known {
            written: Some(plan.clone()),
            ..self.parts.known.clone()
        };
        let (files, plan) = (self.parts.files.clone(), plan.clone());
        let written = blocking(move || {
            let stale = matches!(files.data()?, Data::Member { server: false, .. });
            if stale && plan.mode.is_server() {
                files.retire_raft()?;
                // Once only: what Consul writes from now on is this server's, before it is marked as such, too.
                files.mark_data(&Data::None)?;
            }
            files.write_config(&config)?;
            Ok(plan)
        })
        .await?;
        self.keep(known).await?;
        let files = self.parts.files.clone();
        blocking(move || {
            let token = permit_token(&written);
            if files.permitted().as_ref() != Some(&token) {
                files.permit(&token)?;
            }
            Ok(())
        })
        .await
    }

    /// The secrets of the cluster: from etcd, or made and put there, or, while etcd is away, as they were.
    async fn secrets(&mut self) -> Result<Secrets, Error> {
        let files = self.parts.files.clone();
        let cached: Option<Secrets> = blocking(move || Ok(files.secrets()?)).await?;
        let (etcd, keys) = (&self.parts.etcd, &self.parts.keys);
        let known_gossip = cached.as_ref().map(|secrets| secrets.gossip.clone());
        let record: Record<Secret> = Record::new(etcd, keys.gossip());
        let gossip = match agree(&record, || known_gossip.map_or_else(new_gossip_key, Ok)).await {
            Ok(gossip) => gossip,
            Err(error) => return without_etcd(cached, error),
        };
        let mut acl = None;
        if self.parts.settings.acl {
            let known_acl = cached.as_ref().and_then(|secrets| secrets.acl.clone());
            let record: Record<AclSecrets> = Record::new(etcd, keys.acl());
            match agree(&record, || known_acl.map_or_else(AclSecrets::new, Ok)).await {
                Ok(agreed) => acl = Some(agreed),
                Err(error) => return without_etcd(cached, error),
            }
        }
        if !is_gossip_key(&gossip) {
            return Err(Error::GossipKey { key: keys.gossip() });
        }
        let secrets = Secrets { gossip, acl };
        let (files, agreed, key) = (self.parts.files.clone(), secrets.clone(), keys.gossip());
        blocking(move || {
            let held = files.gossip_keys()?;
            if !held.is_empty() && !held.iter().any(|held| held == agreed.gossip.expose()) {
                return Err(Error::OtherGossipKey {
                    key,
                    keyring: files.keyring().display().to_string(),
                });
            }
            files.keep_secrets(&agreed)?;
            if let Some(acl) = &agreed.acl {
                files.keep_token("management", acl.management.expose())?;
                files.keep_token("registrator", acl.registrator.expose())?;
                files.keep_token("router-config", acl.reader.expose())?;
            }
            Ok(())
        })
        .await?;
        self.parts.consul.take_token().map_err(Error::Acl)?;
        Ok(secrets)
    }

    /// Sees to it that the certificates are there and good before Consul gets them.
    async fn prepare_tls(&self, plan: &AgentPlan) -> Result<bool, Error> {
        let Some(tls_files) = self.parts.settings.tls.clone() else {
            return Ok(false);
        };
        let datacenter = self.parts.settings.datacenter.clone();
        if self.parts.tls == TlsSource::Files {
            blocking(move || Ok(tls::check(&tls_files, &datacenter)?)).await?;
            return Ok(false);
        }
        let (cached, name) = (tls_files.clone(), datacenter.clone());
        let fresh = blocking(move || Ok(is_fresh(&cached) && tls::check(&cached, &name).is_ok())).await?;
        if fresh {
            return Ok(false);
        }
        let record: Record<CaSecret> = Record::new(&self.parts.etcd, self.parts.keys.ca());
        let authority = agree(&record, || Ok(tls::new_authority()?)).await?;
        let address = plan.address;
        blocking(move || {
            let issued = tls::issue(&authority, &datacenter, address)?;
            crate::files::write(&tls_files.ca, authority.certificate.as_bytes())?;
            crate::files::write(&tls_files.key, issued.key.expose().as_bytes())?;
            crate::files::write(&tls_files.cert, issued.certificate.as_bytes())?;
            Ok(tls::check(&tls_files, &datacenter)?)
        })
        .await?;
        info!("made a certificate for Consul at {address}");
        Ok(true)
    }

    async fn take_turn(&mut self) -> Result<(), Error> {
        // With a lease, so that the turn of a node that dies ends with it.
        let lease = (*self.parts.lease.borrow()).ok_or(Error::NoLease)?;
        let node = self.parts.identity.me.node.as_str().to_owned();
        // A conflict is somebody else's turn: the next look shows it.
        let _ = self
            .parts
            .etcd
            .create(&self.parts.keys.turn(), node, Some(lease))
            .await
            .map_err(Error::Turn)?;
        Ok(())
    }

    async fn end_turn(&mut self) -> Result<(), Error> {
        if let Some((_, revision)) = self.cluster.as_ref().and_then(|view| view.turn.clone()) {
            let _ = self
                .parts
                .etcd
                .delete_if(&self.parts.keys.turn(), revision)
                .await
                .map_err(Error::Turn)?;
        }
        Ok(())
    }

    async fn join(&self, addresses: &BTreeSet<std::net::IpAddr>) -> Result<(), Error> {
        let mut failed = None;
        let mut joined = false;
        for address in addresses {
            match self.parts.consul.quick.join(&address.to_string(), false).await {
                Ok(()) => joined = true,
                Err(error) => failed = Some(error),
            }
        }
        match failed {
            Some(source) if !joined => {
                let addresses: Vec<_> = addresses.iter().map(ToString::to_string).collect();
                Err(Error::Join {
                    addresses: addresses.join(", "),
                    source,
                })
            }
            _ => Ok(()),
        }
    }

    async fn remove_peer(&self, peer: &Peer) -> Result<(), Error> {
        info!(id = peer.id, address = %peer.address, "taking a dead server out of Consul's raft");
        let removed = self
            .parts
            .consul
            .quick
            .raft_remove_peer(consul::RaftPeer::Id(&peer.id))
            .await;
        removed.map(drop).map_err(|source| Error::RemovePeer {
            peer: format!("{} at {}", peer.id, peer.address),
            source,
        })
    }

    async fn leave(&self) -> Result<(), Error> {
        info!("leaving Consul's cluster: this node was decommissioned");
        let answers = self.parts.consul.quick.agent_self().await.is_ok();
        if answers {
            self.parts.consul.slow.leave().await.map_err(Error::Leave)?;
        }
        let files = self.parts.files.clone();
        blocking(move || {
            // Before the permit goes: without this mark nobody could tell whether raft still needs the data.
            if answers
                && let Data::Member {
                    cluster,
                    server: true,
                } = files.data()?
            {
                files.mark_data(&Data::Member {
                    cluster,
                    server: false,
                })?;
            }
            Ok(files.withdraw_permit()?)
        })
        .await
    }

    /// What a settled node still looks after.
    async fn look_after(&mut self, seen: &Observed) -> Result<usize, Error> {
        let mut changes = 0;
        let leads = seen.consul.led().is_some_and(|consul| consul.leads);
        if !leads {
            self.tokens_done = false;
        } else if self.parts.settings.acl
            && !self.tokens_done
            && let Some(acl) = self.secrets().await?.acl
        {
            changes += acl::ensure(&self.parts.consul.quick, &acl).await?;
            self.tokens_done = true;
        }
        if let Some(plan) = &seen.local.written
            && self.prepare_tls(plan).await?
        {
            self.parts.consul.quick.reload().await.map_err(Error::Reload)?;
            changes += 1;
        }
        Ok(changes)
    }

    fn publish(&self, seen: &Observed, step: &Step) {
        let standing = match step {
            Step::Refuse(refusal) => Standing::Refused(refusal.clone()),
            Step::Rest(state) => Standing::State(state.clone()),
            _ => Standing::Busy { state: "busy" },
        };
        let cluster = self.cluster.as_ref();
        let view = View {
            node: seen.me.node.clone(),
            summary: step.to_string(),
            standing,
            record: match cluster.map(|view| &view.record) {
                Some(RecordView::Present(record)) => Some(record.clone()),
                _ => None,
            },
            nodes: cluster.map(|view| presences(&view.nodes)).unwrap_or_default(),
            rejected: cluster.map(|view| view.rejected.clone()).unwrap_or_default(),
            data: seen.local.data.clone(),
            agent: seen.local.written.clone(),
            permitted: seen.local.permitted,
            consul: summary(&seen.consul),
        };
        self.view.send_replace(Some(view));
    }

    /// Logs a standing once, when it changes.
    fn say(&mut self, step: &Step) {
        let text = step.to_string();
        // The reason has times in it, and is another one each time.
        let key = match step {
            Step::Rest(State::WithoutEtcd { runs, .. }) => format!("without etcd, runs: {runs}"),
            _ => text.clone(),
        };
        if self.said.as_ref() == Some(&key) {
            return;
        }
        match step {
            // Those are the run's error, and logged as such.
            Step::Refuse(_) | Step::Rest(State::QuorumLost { .. }) => {}
            _ => info!("{text}"),
        }
        self.said = Some(key);
    }

    async fn run(&mut self) -> Result<Outcome<Report>, (Error, Report)> {
        let mut report = Report::default();
        let mut changes = 0;
        for _ in 0..MAX_STEPS {
            let seen = match self.observe(true).await {
                Ok(seen) => seen,
                Err(Error::NoLease | Error::NotKnown) => {
                    return Ok(Outcome::unchanged().with_retry_after(SOON));
                }
                Err(error) => return Err((error, report)),
            };
            let step = next_step(&seen);
            self.say(&step);
            self.parts.metrics.show(&seen, &step);
            self.publish(&seen, &step);
            let applied = self.apply(&step).await;
            self.parts
                .metrics
                .step(&step, applied.as_ref().map_or("error", Applied::as_str));
            match applied {
                Ok(Applied::Done) => {
                    changes += 1;
                    report.steps.push(step.to_string());
                }
                Ok(Applied::Conflict) => {}
                Ok(Applied::Rest) => return self.rest(&seen, &step, changes, report).await,
                Err(error) => return Err((error, report)),
            }
        }
        Ok(Outcome::changed(changes, report).with_retry_after(SOON))
    }

    async fn rest(
        &mut self,
        seen: &Observed,
        step: &Step,
        mut changes: usize,
        report: Report,
    ) -> Result<Outcome<Report>, (Error, Report)> {
        if let Step::Rest(State::Settled { .. }) = step {
            self.parts.settled.open();
            changes += match self.look_after(seen).await {
                Ok(more) => more,
                Err(error) => return Err((error, report)),
            };
        }
        let outcome = if report.steps.is_empty() {
            Outcome::unchanged().with_changes(changes)
        } else {
            Outcome::changed(changes, report)
        };
        if let Some(error) = self.unkept.take() {
            return Ok(outcome.with_error(error));
        }
        Ok(match step {
            Step::Refuse(refusal) => outcome.with_error(refusal.to_string()),
            Step::Rest(state @ State::QuorumLost { .. }) => outcome.with_error(state.to_string()),
            Step::Rest(State::Settled { .. } | State::Left | State::WithoutEtcd { runs: true, .. }) => {
                outcome
            }
            _ => outcome.with_retry_after(SOON),
        })
    }
}

impl Reconcile for Bootstrapper {
    type Report = Report;

    async fn reconcile(&mut self, _activation: &Activation) -> Outcome<Report> {
        match self.run().await {
            Ok(outcome) => outcome,
            Err((error, report)) => {
                let changes = report.steps.len();
                Outcome::failed(error).with_changes(changes).with_report(report)
            }
        }
    }
}

/// The secrets as they were, if etcd does not say what they are.
fn without_etcd(cached: Option<Secrets>, error: Error) -> Result<Secrets, Error> {
    match (&error, cached) {
        (Error::Secret(cause), Some(secrets)) if cause.is_unavailable() => Ok(secrets),
        _ => Err(error),
    }
}

/// Whether a certificate was made not too long ago.
fn is_fresh(files: &TlsFiles) -> bool {
    let made = std::fs::metadata(&files.cert).and_then(|meta| meta.modified());
    made.is_ok_and(|made| {
        SystemTime::now()
            .duration_since(made)
            // Made in the future: a clock was set back, and the certificate is young.
            .map_or(true, |age| age < tls::RENEW_AFTER)
    })
}

fn presences(nodes: &BTreeMap<DnsLabel, Seen>) -> BTreeMap<DnsLabel, Presence> {
    nodes
        .iter()
        .map(|(node, seen)| (node.clone(), seen.presence.clone()))
        .collect()
}

fn summary(consul: &ConsulView) -> ConsulSummary {
    let ConsulView::Up(state) = consul else {
        return ConsulSummary::default();
    };
    let peers = |voter| {
        state
            .peers
            .iter()
            .filter(|peer| peer.voter == voter)
            .map(|peer| peer.address.to_string())
            .collect()
    };
    ConsulSummary {
        answers: true,
        led: state.led,
        leads: state.leads,
        healthy: state.healthy,
        voters: peers(true),
        others: peers(false),
        alive: state.members.iter().filter(|member| member.alive).count(),
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(Error::Cancelled)?
}
