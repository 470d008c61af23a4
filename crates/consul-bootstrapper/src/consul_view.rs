//! What the local Consul says, as plain values.

use consul::{AgentMember, Client, MemberStatus, RaftServer};

use crate::config::{PERMIT_META, permit_digest};
use crate::observed::{ConsulState, ConsulView, Member, Peer};

/// Asks the local agent. One that does not answer is down; what it cannot say without a leader is empty.
///
/// One that still runs by another permit than `permit` is as good as down: it ends in a moment.
pub async fn observe(client: &Client, permit: Option<&str>) -> ConsulView {
    let (agent, members, leader) =
        tokio::join!(client.agent_self(), client.agent_members(false), client.leader());
    let (Ok(agent), Ok(members)) = (agent, members) else {
        return ConsulView::Down;
    };
    let runs_by = agent.meta.get(PERMIT_META);
    if let (Some(runs_by), Some(permit)) = (runs_by, permit)
        && *runs_by != permit_digest(permit)
    {
        return ConsulView::Down;
    }
    let mut state = ConsulState {
        led: false,
        leads: false,
        server: agent.config.server,
        peers: Vec::new(),
        members: members.iter().filter_map(member).collect(),
        healthy: false,
    };
    if leader.is_ok_and(|leader| leader.is_some()) {
        let (raft, health) = tokio::join!(client.raft_configuration(false), client.autopilot_health());
        // A leader that does not answer is none.
        if let Ok(raft) = raft {
            state.led = true;
            let here = agent.member.addr.parse().ok();
            state.leads = raft
                .servers
                .iter()
                .any(|server| server.leader && server.socket_address().map(|at| at.ip()) == here);
            state.peers = raft.servers.iter().filter_map(peer).collect();
            state.healthy = health.is_ok_and(|health| health.healthy);
        }
    }
    ConsulView::Up(state)
}

fn member(member: &AgentMember) -> Option<Member> {
    Some(Member {
        node: member.name.clone(),
        address: member.addr.parse().ok()?,
        alive: member.status == MemberStatus::Alive,
        server: member.is_server(),
        id: member.node_id().unwrap_or_default().to_owned(),
    })
}

fn peer(server: &RaftServer) -> Option<Peer> {
    Some(Peer {
        id: server.id.clone(),
        address: server.socket_address()?.ip(),
        voter: server.voter,
    })
}
