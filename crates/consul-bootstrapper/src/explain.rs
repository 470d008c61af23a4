//! Steps and states in words, for logs, `/status` and `--dry-run`: what is, why, and what an operator can do.

use std::fmt;

use contract::DnsLabel;

use crate::observed::{AgentPlan, Contest, Data, Mode};
use crate::step::{Change, Refusal, State, Step};

impl fmt::Display for Contest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name { address } => write!(
                f,
                "a live host at {address} has this node's name: give this one its own (--node, COLOSSUS_NODE)"
            ),
            Self::Machine { node, address } => write!(
                f,
                "{node} at {address} has this host's machine ID: one is a clone of the other. Give this one its own \
                 (remove /etc/machine-id, run systemd-machine-id-setup) and remove its Consul data"
            ),
            Self::ConsulData { node, address } => write!(
                f,
                "{node} at {address} has this node's Consul data: it was copied. Remove it here, with the state directory"
            ),
            Self::Address { node, address } => write!(
                f,
                "{node} has this node's address {address}: give this one its own (--ip, COLOSSUS_IP)"
            ),
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Contested(contest) => write!(f, "refused: {contest}; then start consul-bootstrapper again"),
            Self::ForeignData { ours, theirs } => write!(
                f,
                "refused: this host's Consul data is of cluster {ours}, etcd speaks of cluster {theirs}. If the data is of \
                 no use, remove the state directory and start again; if etcd is the wrong one, see --etcd and --cluster"
            ),
            Self::AllDataLost => f.write_str(
                "refused: this cluster was bootstrapped once, and no server has its data any more. To begin anew with \
                 nothing: `consul-bootstrapper recover --new-cluster`; then a snapshot can be put back: \
                 `consul-bootstrapper snapshot restore FILE`",
            ),
            Self::Unreadable { reason } => write!(
                f,
                "the cluster's record in etcd cannot be read: {reason}. Nothing is changed until it can"
            ),
        }
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::WithoutEtcd { runs: true, reason } => {
                write!(f, "etcd cannot be asked: Consul goes on as it was ({reason})")
            }
            Self::WithoutEtcd { runs: false, reason } => write!(
                f,
                "etcd cannot be asked, and without it this node may not start Consul ({reason})"
            ),
            Self::NoCluster => f.write_str("there is no cluster yet, and this node may not begin one"),
            Self::AwaitsRecord { node } => {
                write!(f, "waiting for {node}, which has Consul data, to tell etcd of its cluster")
            }
            Self::Forming { have, want } => write!(f, "waiting for servers: {have}/{want}"),
            Self::AwaitsLeader => f.write_str("waiting for Consul to answer and to have a leader"),
            Self::AwaitsVote => f.write_str("waiting for this node's server to get its vote"),
            Self::AwaitsRestart { turn: Some(node) } => {
                write!(f, "Consul must be restarted here; it is the turn of {node}")
            }
            Self::AwaitsRestart { turn: None } => {
                f.write_str("Consul must be restarted here, once every server is healthy and votes")
            }
            Self::QuorumLost { alive, lost } => quorum_lost(f, alive, lost),
            Self::Left => f.write_str(
                "decommissioned: Consul does not run here (`consul-bootstrapper decommission --undo` takes it back)",
            ),
            Self::CannotLeave { reason } => write!(f, "decommissioned, but the cluster cannot bear it now: {reason}"),
            Self::Settled { server: true } => f.write_str("settled, as a server"),
            Self::Settled { server: false } => f.write_str("settled, as a client"),
        }
    }
}

fn quorum_lost(f: &mut fmt::Formatter<'_>, alive: &[DnsLabel], lost: &[DnsLabel]) -> fmt::Result {
    let names = |nodes: &[DnsLabel]| {
        let names: Vec<_> = nodes.iter().map(DnsLabel::as_str).collect();
        names.join(", ")
    };
    if lost.is_empty() {
        return f.write_str(
            "Consul has no leader although every server is here with its data: its raft waits for servers of before. See \
             `consul operator raft list-peers -stale=true`",
        );
    }
    write!(
        f,
        "Consul has lost its quorum: {} away or without data",
        names(lost)
    )?;
    match alive.first() {
        Some(keep) => write!(
            f,
            ". If they come back with their data, all is well again by itself. If they never will, run on {keep}: \
             `consul-bootstrapper recover --lost {}`; it keeps the data of {keep}",
            names(lost).replace(' ', "")
        ),
        None => f.write_str(". Bring one back with its data"),
    }
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Found => f.write_str("begin a cluster"),
            Self::Republish => f.write_str("tell etcd again of the cluster that lives"),
            Self::Claim => f.write_str("take a free server slot"),
            Self::TakeOver { from } => write!(f, "take the server slot of {from}, which is away"),
            Self::Sealed => f.write_str("note that all servers are there, to bootstrap together"),
            Self::Bootstrapped => f.write_str("note that the cluster has had a leader"),
            Self::Voting => f.write_str("note that this server votes"),
            Self::LostData => f.write_str("note that this server has lost its data"),
            Self::Moved { from } => write!(f, "note that this node has moved from {from}"),
            Self::Grow { from } => write!(f, "let there be more servers than {from}"),
            Self::Free { node } => write!(f, "free the server slot of {node}, which was decommissioned"),
        }
    }
}

impl fmt::Display for AgentPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at {} as ", self.node, self.address)?;
        match self.mode {
            Mode::Server { expect: Some(expect) } => write!(f, "server, one of {expect} that bootstrap")?,
            Mode::Server { expect: None } => f.write_str("server")?,
            Mode::Client => f.write_str("client")?,
        }
        if self.join.is_empty() {
            return Ok(());
        }
        let join: Vec<_> = self.join.iter().map(ToString::to_string).collect();
        write!(f, ", joining {}", join.join(", "))
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Create(_, change) | Self::Update(_, change) => change.fmt(f),
            Self::Configure(plan) => write!(f, "let Consul run: {plan}"),
            Self::MarkData(Data::None) => f.write_str("mark Consul's data as nobody's"),
            Self::MarkData(Data::Member { cluster, server }) => {
                let role = if *server { "server" } else { "client" };
                write!(f, "mark Consul's data as that of a {role} of cluster {cluster}")
            }
            Self::TakeTurn => f.write_str("take the turn to restart Consul"),
            Self::EndTurn => f.write_str("give the turn to restart Consul back"),
            Self::Join(addresses) => {
                let join: Vec<_> = addresses.iter().map(ToString::to_string).collect();
                write!(f, "make Consul join {}", join.join(", "))
            }
            Self::RemovePeer(peer) => write!(
                f,
                "take the dead server {} at {} out of raft",
                peer.id, peer.address
            ),
            Self::Leave => f.write_str("leave Consul's cluster for good"),
            Self::Refuse(refusal) => refusal.fmt(f),
            Self::Rest(state) => state.fmt(f),
        }
    }
}
