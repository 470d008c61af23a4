//! What Prometheus can ask consul-bootstrapper, beside what every reconcile loop tells.

use daemon::metrics::{MetricsError, counter_vec, gauge, gauge_vec};
use prometheus::{IntCounterVec, IntGauge, IntGaugeVec, Registry};

use crate::observed::{ConsulView, Observed, RecordView};
use crate::step::{State, Step};

/// The states as labels; one of them is 1.
const STATES: [&str; 12] = [
    "awaits_leader",
    "awaits_record",
    "awaits_restart",
    "awaits_vote",
    "busy",
    "cannot_leave",
    "forming",
    "left",
    "no_cluster",
    "quorum_lost",
    "refused",
    "settled",
];
const WITHOUT_ETCD: &str = "without_etcd";

/// The metrics of this service.
#[derive(Clone, Debug)]
pub struct Metrics {
    state: IntGaugeVec,
    steps: IntCounterVec,
    etcd: IntGauge,
    leader: IntGauge,
    server: IntGauge,
    slots: IntGaugeVec,
    voters: IntGauge,
    healthy: IntGauge,
}

impl Metrics {
    /// Registers the metrics.
    ///
    /// # Errors
    /// When one of the names is taken in `registry`.
    pub fn new(registry: &Registry) -> Result<Self, MetricsError> {
        let metrics = Self {
            state: gauge_vec(
                registry,
                "consul_bootstrapper_state",
                "1 for the state this node is in, 0 for the others.",
                &["state"],
            )?,
            steps: counter_vec(
                registry,
                "consul_bootstrapper_steps_total",
                "Steps taken, by kind and result (ok, conflict, error).",
                &["step", "result"],
            )?,
            etcd: gauge(
                registry,
                "consul_bootstrapper_etcd_available",
                "Whether etcd answered last.",
            )?,
            leader: gauge(
                registry,
                "consul_bootstrapper_consul_leader",
                "Whether the local Consul answers and knows a leader.",
            )?,
            server: gauge(
                registry,
                "consul_bootstrapper_server",
                "Whether this node holds a server slot.",
            )?,
            slots: gauge_vec(
                registry,
                "consul_bootstrapper_slots",
                "Server slots by state (wanted, joining, voter).",
                &["state"],
            )?,
            voters: gauge(
                registry,
                "consul_bootstrapper_raft_voters",
                "Voters of Consul's raft; 0 without a leader.",
            )?,
            healthy: gauge(
                registry,
                "consul_bootstrapper_autopilot_healthy",
                "Whether Consul's autopilot calls all servers healthy.",
            )?,
        };
        for state in STATES.iter().chain([&WITHOUT_ETCD]) {
            metrics.state.with_label_values(&[*state]).set(0);
        }
        Ok(metrics)
    }

    /// Counts a step that was taken.
    pub fn step(&self, step: &Step, result: &'static str) {
        self.steps.with_label_values(&[kind(step), result]).inc();
    }

    /// Shows what was seen, and what it led to.
    pub fn show(&self, seen: &Observed, step: &Step) {
        let now = state_label(step);
        for state in STATES.iter().chain([&WITHOUT_ETCD]) {
            self.state
                .with_label_values(&[*state])
                .set(i64::from(*state == now));
        }
        self.etcd.set(i64::from(seen.etcd.is_ok()));
        let led = seen.consul.led();
        self.leader.set(i64::from(led.is_some()));
        self.healthy
            .set(i64::from(led.is_some_and(|consul| consul.healthy)));
        let voters = match &seen.consul {
            ConsulView::Up(consul) => consul.peers.iter().filter(|peer| peer.voter).count(),
            ConsulView::Down => 0,
        };
        self.voters.set(count(voters));
        if let Ok(etcd) = &seen.etcd
            && let RecordView::Present(record) = &etcd.record
        {
            let joining = record
                .slots
                .iter()
                .filter(|slot| slot.state == crate::record::SlotState::Joining)
                .count();
            let set = |state, value| self.slots.with_label_values(&[state]).set(value);
            set("wanted", i64::from(record.servers));
            set("joining", count(joining));
            set("voter", count(record.slots.len() - joining));
            self.server.set(i64::from(record.slot(&seen.me.node).is_some()));
        }
    }
}

fn count(number: usize) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

fn kind(step: &Step) -> &'static str {
    match step {
        Step::Create(..) => "create",
        Step::Update(..) => "update",
        Step::Configure(_) => "configure",
        Step::MarkData(_) => "mark_data",
        Step::TakeTurn => "take_turn",
        Step::EndTurn => "end_turn",
        Step::Join(_) => "join",
        Step::RemovePeer(_) => "remove_peer",
        Step::Leave => "leave",
        Step::Refuse(_) => "refuse",
        Step::Rest(_) => "rest",
    }
}

fn state_label(step: &Step) -> &'static str {
    match step {
        Step::Refuse(_) => "refused",
        Step::Rest(state) => match state {
            State::WithoutEtcd { .. } => WITHOUT_ETCD,
            State::NoCluster => "no_cluster",
            State::AwaitsRecord { .. } => "awaits_record",
            State::Forming { .. } => "forming",
            State::AwaitsLeader => "awaits_leader",
            State::AwaitsVote => "awaits_vote",
            State::AwaitsRestart { .. } => "awaits_restart",
            State::QuorumLost { .. } => "quorum_lost",
            State::Left => "left",
            State::CannotLeave { .. } => "cannot_leave",
            State::Settled { .. } => "settled",
        },
        _ => "busy",
    }
}
