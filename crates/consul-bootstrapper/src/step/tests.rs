//! Situations and the step each leads to. The numbers are those of the situations in `docs/reference/consul-bootstrapper.md`.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::collections::BTreeMap;

use super::*;
use crate::observed::{ConsulState, Local, Member, Presence};

const LONG: Duration = Duration::from_secs(3600);
const REPLACE_AFTER: Duration = Duration::from_secs(300);

fn name(number: u8) -> DnsLabel {
    format!("n{number}").parse().unwrap()
}

fn address(number: u8) -> IpAddr {
    [10, 0, 0, number].into()
}

fn id() -> ClusterId {
    "c1".into()
}

fn server_data() -> Data {
    Data::Member {
        cluster: id(),
        server: true,
    }
}

/// What n1 sees. Everybody is at `10.0.0.N`.
struct World(Observed);

impl World {
    /// n1 on an empty host, etcd empty, nobody there but itself.
    fn empty() -> Self {
        let me = Me {
            node: name(1),
            address: address(1),
            role: Role::Auto,
            servers: 3,
            settings: "s".to_owned(),
        };
        let etcd = EtcdView {
            record: RecordView::Absent,
            nodes: BTreeMap::new(),
            absent: BTreeMap::new(),
            restarting: None,
        };
        Self(Observed {
            me,
            local: Local::default(),
            etcd: Ok(etcd),
            consul: ConsulView::Down,
            leaderless: Duration::ZERO,
            contested: None,
            fresh_id: id(),
            replace_after: REPLACE_AFTER,
        })
        .with_nodes(&[1], &Data::None)
    }

    /// A settled cluster of the servers n1, n2, n3, seen from n1.
    fn settled() -> Self {
        let world = Self::empty()
            .with_nodes(&[1, 2, 3], &server_data())
            .with_record(&voters(&[1, 2, 3]))
            .with_data(server_data())
            .with_consul(&[1, 2, 3], &[1, 2, 3]);
        world.running(Mode::Server { expect: None })
    }

    fn etcd(&mut self) -> &mut EtcdView {
        self.0.etcd.as_mut().unwrap()
    }

    fn with_nodes(mut self, numbers: &[u8], data: &Data) -> Self {
        for number in numbers {
            let presence = Presence {
                node: name(*number),
                instance: format!("i{number}"),
                host: format!("h{number}"),
                address: address(*number),
                data: data.clone(),
                consul_id: None,
            };
            self.etcd().nodes.insert(name(*number), presence);
        }
        self
    }

    fn without_node(mut self, number: u8, away: Duration) -> Self {
        self.etcd().nodes.remove(&name(number));
        self.etcd().absent.insert(name(number), away);
        if let ConsulView::Up(consul) = &mut self.0.consul {
            for member in consul
                .members
                .iter_mut()
                .filter(|member| member.address == address(number))
            {
                member.alive = false;
            }
        }
        self
    }

    fn with_record(mut self, record: &ClusterRecord) -> Self {
        self.etcd().record = RecordView::Present(record.clone());
        self.0.local.record = Some(record.clone());
        self
    }

    fn with_data(mut self, data: Data) -> Self {
        self.0.local.data = data;
        self
    }

    /// A Consul with a leader elsewhere, whose members are servers if they are peers.
    fn with_consul(mut self, members: &[u8], peers: &[u8]) -> Self {
        self.0.consul = ConsulView::Up(ConsulState {
            led: true,
            leads: false,
            server: peers.contains(&1),
            peers: peers.iter().map(|number| peer(*number)).collect(),
            members: members
                .iter()
                .map(|number| Member {
                    node: name(*number).to_string(),
                    address: address(*number),
                    alive: true,
                    server: peers.contains(number),
                    id: format!("id{number}"),
                })
                .collect(),
            healthy: true,
        });
        self
    }

    fn without_leader(mut self, since: Duration) -> Self {
        if let ConsulView::Up(consul) = &mut self.0.consul {
            consul.led = false;
            consul.peers.clear();
        }
        self.0.leaderless = since;
        self
    }

    /// Consul runs here as the record says, in `mode`.
    fn running(mut self, mode: Mode) -> Self {
        let RecordView::Present(record) = self.etcd().record.clone() else {
            panic!("no record")
        };
        let plan = agent_plan(&self.0.me, &record, mode);
        self.0.local.written = Some(plan);
        self.0.local.permitted = true;
        self
    }

    fn change(mut self, change: impl FnOnce(&mut Observed)) -> Self {
        change(&mut self.0);
        self
    }

    fn step(&self) -> Step {
        next_step(&self.0)
    }
}

fn peer(number: u8) -> Peer {
    Peer {
        id: format!("id{number}"),
        address: address(number),
        voter: true,
    }
}

fn slot(number: u8, state: SlotState) -> Slot {
    Slot {
        node: name(number),
        address: address(number),
        state,
    }
}

fn forming_record(numbers: &[u8]) -> ClusterRecord {
    let mut record = ClusterRecord::new(id(), 3);
    record.slots = numbers
        .iter()
        .map(|number| slot(*number, SlotState::Joining))
        .collect();
    record
}

fn voters(numbers: &[u8]) -> ClusterRecord {
    let mut record = ClusterRecord::new(id(), 3);
    record.bootstrapped = true;
    record.slots = numbers
        .iter()
        .map(|number| slot(*number, SlotState::Voter))
        .collect();
    record
}

fn sealed() -> ClusterRecord {
    ClusterRecord {
        sealed: true,
        ..forming_record(&[1, 2, 3])
    }
}

/// The change a step makes in the record, and the record it makes.
fn changed(step: Step) -> (Change, ClusterRecord) {
    match step {
        Step::Create(record, change) | Step::Update(record, change) => (change, record),
        other => panic!("it changes no record: {other:?}"),
    }
}

fn mode(step: Step) -> Mode {
    match step {
        Step::Configure(plan) => plan.mode,
        other => panic!("it configures nothing: {other:?}"),
    }
}

#[test]
fn row_01_the_first_begins_a_cluster_the_next_claim_and_the_full_record_is_sealed_before_anybody_bootstraps()
{
    let (change, record) = changed(World::empty().step());
    assert_eq!(
        (change, record.slots.len(), record.bootstrapped),
        (Change::Found, 1, false)
    );

    let (change, record) = changed(World::empty().with_record(&forming_record(&[2])).step());
    assert_eq!((change, record.slot(&name(1)).is_some()), (Change::Claim, true));

    let full = World::empty()
        .with_nodes(&[2, 3], &Data::None)
        .with_record(&forming_record(&[1, 2, 3]));
    assert_eq!(changed(full.step()).0, Change::Sealed);

    let bootstrap = World::empty()
        .with_nodes(&[2, 3], &Data::None)
        .with_record(&sealed());
    assert_eq!(mode(bootstrap.step()), Mode::Server { expect: Some(3) });
}

#[test]
fn row_02_with_two_of_three_it_waits_and_says_so() {
    let world = World::empty()
        .with_nodes(&[2], &Data::None)
        .with_record(&forming_record(&[1, 2]));
    assert_eq!(world.step(), Step::Rest(State::Forming { have: 2, want: 3 }));
}

#[test]
fn row_03_a_full_record_whose_holders_are_not_all_there_is_not_sealed() {
    let world = World::empty()
        .with_nodes(&[2], &Data::None)
        .with_record(&forming_record(&[1, 2, 3]));
    assert_eq!(world.step(), Step::Rest(State::Forming { have: 2, want: 3 }));
}

#[test]
fn row_04_who_finds_no_slot_is_a_client() {
    let record = ClusterRecord {
        sealed: true,
        ..forming_record(&[2, 3, 4])
    };
    let world = World::empty()
        .with_nodes(&[2, 3, 4], &Data::None)
        .with_record(&record);
    assert_eq!(mode(world.step()), Mode::Client);
    let world = World::empty()
        .with_nodes(&[2, 3, 4], &server_data())
        .with_record(&voters(&[2, 3, 4]));
    assert_eq!(mode(world.step()), Mode::Client);
}

#[test]
fn row_05_a_restart_with_its_data_is_the_same_server_and_bootstraps_nothing() {
    let world = World::settled().change(|seen| {
        seen.local.permitted = false;
        seen.consul = ConsulView::Down;
    });
    assert_eq!(mode(world.step()), Mode::Server { expect: None });
}

#[test]
fn row_06_of_a_killed_server_the_others_change_nothing() {
    let world = World::settled().without_node(3, Duration::from_secs(20));
    assert_eq!(world.step(), Step::Rest(State::Settled { server: true }));
}

#[test]
fn row_07_a_server_without_data_says_so_and_waits_for_a_leader_before_it_joins() {
    let wiped = World::settled().change(|seen| {
        seen.local.data = Data::None;
        seen.local.permitted = false;
        seen.local.written = None;
        seen.consul = ConsulView::Down;
    });
    let (change, record) = changed(wiped.with_nodes(&[1], &Data::None).step());
    assert_eq!(change, Change::LostData);
    assert_eq!(record.slot(&name(1)).unwrap().state, SlotState::Joining);

    // Its vote could make one the leader that is behind: it is a client until there is one.
    let wiped = World::empty()
        .with_nodes(&[2, 3], &server_data())
        .with_record(&record);
    assert_eq!(mode(wiped.step()), Mode::Client);
    let wiped = wiped.with_consul(&[1, 2, 3], &[2, 3]).running(Mode::Client);
    assert_eq!(mode(wiped.step()), Mode::Server { expect: None });
}

#[test]
fn row_08_a_slot_changes_hands_after_long_and_one_at_a_time() {
    let dead = |away| {
        World::empty()
            .with_nodes(&[1, 2, 3], &server_data())
            .with_record(&voters(&[2, 3, 4]))
            .with_consul(&[1, 2, 3, 4], &[2, 3, 4])
            .running(Mode::Client)
            .without_node(4, away)
    };
    let (change, record) = changed(dead(LONG).step());
    assert_eq!(change, Change::TakeOver { from: name(4) });
    assert!(record.slot(&name(4)).is_none() && record.slot(&name(1)).is_some());

    let early = changed_or_none(dead(REPLACE_AFTER / 2).step());
    assert_eq!(early, None);

    // Gossip still sees it: it is cut off from etcd alone.
    let alive = dead(LONG).with_consul(&[1, 2, 3, 4], &[2, 3, 4]);
    assert_eq!(changed_or_none(alive.step()), None);

    // Another slot is on its way: one after the other.
    let mut record = voters(&[2, 3, 4]);
    record.slots[0].state = SlotState::Joining;
    let busy = dead(LONG).with_record(&record).running(Mode::Client);
    assert_eq!(changed_or_none(busy.step()), None);

    // Without a leader nobody takes anything.
    assert_eq!(changed_or_none(dead(LONG).without_leader(LONG).step()), None);
}

fn changed_or_none(step: Step) -> Option<Change> {
    match step {
        Step::Create(_, change) | Step::Update(_, change) => Some(change),
        _ => None,
    }
}

#[test]
fn row_08_a_dead_server_of_nobody_is_taken_out_of_raft_by_the_leader_and_a_live_one_never() {
    let with_extra = |alive: bool| {
        World::settled()
            .with_consul(&[1, 2, 3, 4], &[1, 2, 3, 4])
            .change(|seen| {
                if let ConsulView::Up(consul) = &mut seen.consul {
                    consul.leads = true;
                    consul.members[3].alive = alive;
                }
            })
    };
    assert_eq!(with_extra(false).step(), Step::RemovePeer(peer(4)));
    assert_eq!(
        with_extra(true).step(),
        Step::Rest(State::Settled { server: true })
    );
}

#[test]
fn row_09_a_server_that_has_moved_says_so_and_restarts_there() {
    let world = World::settled().change(|seen| {
        seen.me.address = address(9);
        seen.local.permitted = false;
        seen.consul = ConsulView::Down;
    });
    let (change, record) = changed(world.step());
    assert_eq!(change, Change::Moved { from: address(1) });
    assert_eq!(record.slot(&name(1)).unwrap().address, address(9));
}

#[test]
fn row_10_without_a_quorum_nothing_is_bootstrapped_and_the_recovery_is_named() {
    let world = World::settled()
        .without_node(2, LONG)
        .without_node(3, LONG)
        .without_leader(LONG);
    let Step::Rest(state @ State::QuorumLost { .. }) = world.step() else {
        panic!("{:?}", world.step())
    };
    let text = state.to_string();
    assert!(
        text.contains("recover --lost n2,n3") && text.contains("on n1"),
        "{text}"
    );
}

#[test]
fn row_11_all_restarted_with_their_data_expect_nobody() {
    let world = World::settled().change(|seen| {
        seen.local.permitted = false;
        seen.consul = ConsulView::Down;
    });
    assert_eq!(mode(world.step()), Mode::Server { expect: None });
}

#[test]
fn row_12_with_all_data_lost_it_stops() {
    let mut record = voters(&[1, 2, 3]);
    for slot in &mut record.slots {
        slot.state = SlotState::Joining;
    }
    let world = World::empty()
        .with_nodes(&[1, 2, 3], &Data::None)
        .with_record(&record);
    assert_eq!(world.step(), Step::Refuse(Refusal::AllDataLost));
    // One that still has data is waited for.
    let world = world.with_nodes(&[3], &server_data());
    assert_eq!(mode(world.step()), Mode::Client);
}

#[test]
fn row_13_without_etcd_a_reboot_goes_on_with_its_own_data_and_never_without() {
    let reboot = |data| {
        World::settled().with_data(data).change(|seen| {
            seen.local.permitted = false;
            seen.consul = ConsulView::Down;
            seen.etcd = Err("down".to_owned());
        })
    };
    assert_eq!(mode(reboot(server_data()).step()), Mode::Server { expect: None });
    let waits = |step| matches!(step, Step::Rest(State::WithoutEtcd { runs: false, .. }));
    assert!(waits(reboot(Data::None).step()));
    assert!(waits(
        reboot(Data::Member {
            cluster: "other".into(),
            server: true
        })
        .step()
    ));
    // Its slot had gone to another before.
    let replaced = reboot(server_data()).change(|seen| seen.local.record = Some(voters(&[2, 3, 4])));
    assert!(waits(replaced.step()));
    let first_boot = World::empty().change(|seen| seen.etcd = Err("down".to_owned()));
    assert!(waits(first_boot.step()));
}

#[test]
fn row_14_an_etcd_that_was_wiped_is_told_again_and_an_empty_cluster_gives_way() {
    let wiped = World::settled().change(|seen| seen.etcd.as_mut().unwrap().record = RecordView::Absent);
    let (change, record) = changed(wiped.step());
    assert_eq!((change, record), (Change::Republish, voters(&[1, 2, 3])));

    let mut other = forming_record(&[4, 5, 6]);
    other.id = "c2".into();
    let faster = World::settled()
        .change(|seen| seen.etcd.as_mut().unwrap().record = RecordView::Present(other.clone()));
    let (change, record) = changed(faster.step());
    assert_eq!((change, record.id), (Change::Republish, id()));

    // And an empty node waits for those that have data.
    let empty = World::empty().with_nodes(&[2], &server_data());
    assert_eq!(empty.step(), Step::Rest(State::AwaitsRecord { node: name(2) }));
}

#[test]
fn row_15_who_does_not_reach_etcd_at_its_first_boot_waits() {
    let world = World::empty().change(|seen| seen.etcd = Err("no leader".to_owned()));
    assert!(matches!(
        world.step(),
        Step::Rest(State::WithoutEtcd { runs: false, .. })
    ));
}

#[test]
fn row_16_a_record_that_cannot_be_read_changes_nothing_and_the_own_address_is_not_joined() {
    let world = World::settled()
        .change(|seen| seen.etcd.as_mut().unwrap().record = RecordView::Unreadable("garbage".to_owned()));
    assert!(matches!(world.step(), Step::Refuse(Refusal::Unreadable { .. })));
    let Step::Configure(plan) = World::settled()
        .change(|seen| seen.local.permitted = false)
        .step()
    else {
        panic!("it configures nothing")
    };
    assert_eq!(plan.join, [address(2), address(3)].into());
}

#[test]
fn row_17_only_who_was_decommissioned_gives_up_its_slot_and_leaves() {
    let mut record = voters(&[1, 2, 3]);
    record.leaving.insert(name(1));
    let leaving = World::settled().with_record(&record);
    assert_eq!(changed(leaving.step()).0, Change::Free { node: name(1) });

    let mut freed = record.without_slot(&name(1));
    freed.leaving.insert(name(1));
    let leaving = World::settled()
        .with_record(&freed)
        .change(|seen| seen.local.permitted = true);
    assert_eq!(leaving.step(), Step::Leave);

    // Not when the cluster would lose its quorum.
    let alone = World::settled().with_record(&record).without_node(3, LONG);
    assert!(
        matches!(alone.step(), Step::Rest(State::CannotLeave { .. })),
        "{:?}",
        alone.step()
    );
}

#[test]
fn row_18_a_restart_waits_for_its_turn_and_for_everybodys_health() {
    let asked = || {
        World::settled().with_record(&ClusterRecord {
            restart: 1,
            ..voters(&[1, 2, 3])
        })
    };
    assert_eq!(asked().step(), Step::TakeTurn);
    let waits = |world: World| matches!(world.step(), Step::Rest(State::AwaitsRestart { .. }));
    assert!(waits(
        asked().change(|seen| seen.etcd.as_mut().unwrap().restarting = Some(name(2)))
    ));
    assert!(waits(asked().change(|seen| {
        if let ConsulView::Up(consul) = &mut seen.consul {
            consul.healthy = false;
        }
    })));
    // Healthy, but one voter short.
    assert!(waits(asked().with_consul(&[1, 2, 3], &[1, 2])));
    let mine = asked().change(|seen| seen.etcd.as_mut().unwrap().restarting = Some(name(1)));
    assert_eq!(mode(mine.step()), Mode::Server { expect: None });
    let done = World::settled().change(|seen| seen.etcd.as_mut().unwrap().restarting = Some(name(1)));
    assert_eq!(done.step(), Step::EndTurn);
}

#[test]
fn row_19_more_servers_are_agreed_on_and_then_join_one_by_one() {
    let grown = World::settled().change(|seen| seen.me.servers = 5);
    let (change, record) = changed(grown.step());
    assert_eq!((change, record.servers), (Change::Grow { from: 3 }, 5));
    // Fewer are not.
    let fewer = World::settled().change(|seen| seen.me.servers = 1);
    assert_eq!(fewer.step(), Step::Rest(State::Settled { server: true }));

    let mut record = ClusterRecord {
        servers: 5,
        ..voters(&[2, 3, 4])
    };
    let client = |record: &ClusterRecord| {
        World::empty()
            .with_nodes(&[2, 3, 4], &server_data())
            .with_record(record)
            .with_consul(&[1, 2, 3, 4], &[2, 3, 4])
            .running(Mode::Client)
    };
    assert_eq!(changed(client(&record).step()).0, Change::Claim);
    record.slots.push(slot(5, SlotState::Joining));
    assert_eq!(changed_or_none(client(&record).step()), None);
}

#[test]
fn row_20_who_is_not_the_first_to_say_who_it_is_takes_part_in_nothing() {
    let contest = Contest::Machine {
        node: name(2),
        address: address(2),
    };
    let world = World::empty().change(|seen| seen.contested = Some(contest.clone()));
    assert_eq!(world.step(), Step::Refuse(Refusal::Contested(contest)));
    let foreign = World::settled().with_data(Data::Member {
        cluster: "c2".into(),
        server: true,
    });
    assert!(matches!(
        foreign.step(),
        Step::Refuse(Refusal::ForeignData { .. })
    ));
}

#[test]
fn row_25_servers_that_gossip_does_not_know_are_joined() {
    let lost = World::empty()
        .with_nodes(&[2, 3, 4], &server_data())
        .with_record(&voters(&[2, 3, 4]))
        .with_consul(&[1], &[])
        .running(Mode::Client)
        .without_leader(Duration::from_secs(1));
    assert_eq!(
        lost.step(),
        Step::Join([address(2), address(3), address(4)].into())
    );
}

#[test]
fn a_settled_node_does_nothing() {
    assert_eq!(
        World::settled().step(),
        Step::Rest(State::Settled { server: true })
    );
}
