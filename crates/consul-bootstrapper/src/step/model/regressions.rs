//! Stories that once ended badly, each as short as it could be made. Unless it says otherwise, the servers are n1, n2 and
//! n3, and n0 and any more are clients.

use super::World;
use super::faults::Event::{
    self, Crash, Cut, Decommission, PowerCut, PowerOn, Readdress, RestartAll, Role, Rounds, Scrap, Servers,
    Side, Step, Stuck, Tick, Wipe, WipeEtcd,
};
use super::stories::live;
use crate::observed;

fn survives(hosts: usize, servers: u8, events: &[Event]) -> World {
    live(hosts, servers, events).unwrap_or_else(|why| panic!("{why}"))
}

fn holds_slot(world: &World, host: usize) -> bool {
    let (record, _) = world.record.as_ref().expect("a record");
    record.slot(&world.hosts[host].name).is_some()
}

#[test]
fn a_seal_keeps_two_sets_of_servers_from_bootstrapping() {
    // Told to bootstrap, but its Consul does not start; then nobody sees it any more, and it starts.
    let late = [
        Stuck(1, true),
        Rounds(1),
        Side(1, 1),
        Rounds(10),
        Stuck(1, false),
        Rounds(3),
    ];
    survives(4, 1, &late);
    let mut late = vec![Stuck(1, true), Stuck(2, true), Stuck(3, true), Rounds(2)];
    late.extend([1, 2, 3].map(|host| Side(host, 1)));
    late.push(Rounds(30));
    late.extend([1, 2, 3].map(|host| Stuck(host, false)));
    late.push(Rounds(3));
    survives(6, 3, &late);
}

#[test]
fn a_holder_that_died_before_the_seal_is_replaced() {
    survives(4, 3, &[Step(1), Scrap(1), Rounds(12)]);
}

#[test]
fn servers_that_have_swapped_their_addresses_before_they_bootstrap_find_each_other() {
    survives(4, 3, &[Stuck(1, true), Rounds(2), PowerCut(1), Readdress(2, 0)]);
}

#[test]
fn a_lone_server_that_has_moved_is_known_as_itself() {
    survives(4, 1, &[Rounds(4), Readdress(1, 9)]);
}

#[test]
fn the_address_of_a_dead_server_keeps_nobody_from_its_slot() {
    let world = survives(4, 3, &[Rounds(9), Scrap(1), Readdress(0, 1), Rounds(14)]);
    assert!(holds_slot(&world, 0));
}

#[test]
fn who_takes_a_slot_takes_no_other_by_its_address() {
    let moved = [
        Rounds(8),
        Readdress(1, 2),
        Rounds(3),
        PowerCut(1),
        Readdress(0, 2),
        Cut(1, true),
        Readdress(1, 0),
        PowerCut(2),
        Rounds(7),
    ];
    survives(4, 3, &moved);
}

#[test]
fn no_voter_restarts_out_of_turn_while_a_leader_is_elected() {
    survives(4, 3, &[Rounds(3), RestartAll]);
}

#[test]
fn who_is_decommissioned_in_its_turn_gives_the_turn_back() {
    survives(5, 3, &[Rounds(9), RestartAll, Step(1), Decommission(1, false)]);
    survives(5, 3, &[Rounds(9), RestartAll, Step(0), Decommission(0, false)]);
}

#[test]
fn a_server_that_has_lost_its_data_does_not_vote_before_there_is_a_leader() {
    // n1 is behind; n2, empty, would elect it.
    survives(4, 3, &[Rounds(8), PowerCut(1), Rounds(1), Wipe(2, false)]);
}

#[test]
fn the_log_of_a_server_that_has_just_joined_is_kept() {
    survives(
        4,
        3,
        &[Rounds(2), PowerCut(1), Rounds(9), Readdress(2, 3), Rounds(2)],
    );
}

#[test]
fn a_decommissioned_node_that_reboots_serves_on_while_another_has_no_vote() {
    survives(
        4,
        3,
        &[
            Rounds(9),
            Wipe(2, false),
            PowerCut(1),
            Rounds(1),
            Decommission(1, false),
        ],
    );
}

#[test]
fn nobody_leaves_while_the_quorum_needs_it() {
    survives(
        4,
        3,
        &[Rounds(9), Scrap(2), Scrap(0), Rounds(2), Decommission(1, false)],
    );
}

#[test]
fn a_node_that_is_cut_off_from_etcd_alone_is_not_taken_for_gone() {
    survives(
        4,
        3,
        &[
            Rounds(9),
            Cut(3, true),
            Rounds(3),
            Wipe(1, false),
            Decommission(3, false),
        ],
    );
}

#[test]
fn a_node_whose_slot_is_free_serves_on_until_it_has_left() {
    survives(
        4,
        3,
        &[
            Rounds(9),
            Decommission(1, false),
            Step(1),
            PowerCut(1),
            Wipe(2, false),
        ],
    );
    survives(
        4,
        3,
        &[
            Rounds(9),
            Decommission(1, false),
            Step(1),
            PowerCut(2),
            Tick,
            Rounds(2),
        ],
    );
}

#[test]
fn slots_are_given_up_one_after_the_other() {
    // n0, n1 and n2 are the servers.
    let both = [
        Step(0),
        Rounds(6),
        Decommission(2, false),
        Role(0, observed::Role::Client),
        Step(2),
        Step(0),
        Scrap(0),
        Wipe(2, false),
    ];
    survives(4, 3, &both);
}

#[test]
fn a_server_that_becomes_a_client_leaves_no_dead_voter_behind() {
    let client = Role(2, observed::Role::Client);
    let world = survives(4, 3, &[Rounds(9), Decommission(1, false), Tick, client]);
    assert!(!holds_slot(&world, 2));
}

#[test]
fn two_dead_holders_without_a_vote_do_not_keep_each_others_slots() {
    let world = survives(6, 5, &[Rounds(2), Scrap(1), Rounds(1), Scrap(2)]);
    assert!(holds_slot(&world, 0));
}

#[test]
fn a_second_replacement_takes_the_slot_of_the_first_that_died_without_a_vote() {
    let world = survives(
        5,
        3,
        &[
            Rounds(9),
            Scrap(1),
            Rounds(6),
            Tick,
            Tick,
            Step(0),
            Scrap(0),
            Rounds(12),
        ],
    );
    assert!(holds_slot(&world, 4));
}

#[test]
fn a_dead_server_is_taken_out_of_raft_though_the_leaders_node_does_not_reach_etcd() {
    let cut = [
        Rounds(3),
        Cut(2, true),
        PowerCut(4),
        Side(1, 1),
        Rounds(10),
        Wipe(0, false),
        PowerCut(1),
    ];
    survives(5, 3, &cut);
}

#[test]
fn who_seems_dead_to_gossip_and_votes_is_not_taken_out_of_raft() {
    let back = [
        Side(1, 1),
        Rounds(3),
        Side(3, 1),
        Side(4, 1),
        Decommission(3, false),
        Rounds(2),
        Side(3, 0),
        Rounds(1),
    ];
    survives(5, 3, &back);
}

#[test]
fn servers_that_an_older_record_does_not_know_go_on() {
    // n3, n4 and n5 are the servers when etcd is wiped; n0 was away, knows of n1, n2 and n3, and is the first to say so.
    let older = [
        Rounds(9),
        Side(0, 1),
        Scrap(1),
        Rounds(14),
        Scrap(2),
        Rounds(14),
        Side(0, 0),
        WipeEtcd(0),
    ];
    survives(6, 3, &older);
    let mut dark = older.to_vec();
    dark.extend([3, 4, 5].map(PowerCut));
    survives(6, 3, &dark);
}

#[test]
fn a_client_whose_only_acquaintance_is_gone_joins_the_others() {
    let alone = [
        PowerCut(0),
        Rounds(7),
        Side(3, 1),
        PowerCut(2),
        Rounds(3),
        PowerOn(0),
        Rounds(3),
        Scrap(1),
        Rounds(7),
    ];
    survives(4, 3, &alone);
}

#[test]
fn a_server_whose_consul_does_not_start_holds_nobody_else_up() {
    let mut world = World::new(6, 5);
    for event in [Rounds(9), Stuck(2, true), Crash(2), Scrap(3), Rounds(20)] {
        world.happen(&event).expect("all is well");
    }
    assert!(world.runs_server(0), "n0 has the slot of n3, and does not serve");
}

#[test]
fn a_cluster_that_has_grown_still_heals() {
    survives(
        6,
        3,
        &[Rounds(9), Servers(0, 5), Rounds(6), PowerCut(1), Wipe(2, true)],
    );
}
