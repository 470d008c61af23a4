//! Random stories, and what must be true of all of them.

use std::collections::BTreeMap;

use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::{TestCaseError, TestRunner};

use super::World;
use super::faults::Event;
use crate::observed::Role;

/// How many stories are told to see that the model reaches everything.
const STORIES: usize = 100;

fn event() -> impl Strategy<Value = Event> {
    let host = 0..6_usize;
    prop_oneof![
        12 => (1..4_usize).prop_map(Event::Rounds),
        3 => (6..10_usize).prop_map(Event::Rounds),
        6 => Just(Event::Tick),
        16 => host.clone().prop_map(Event::Step),
        4 => host.clone().prop_map(Event::Look),
        4 => host.clone().prop_map(Event::Act),
        5 => host.clone().prop_map(Event::PowerCut),
        5 => host.clone().prop_map(Event::PowerOn),
        3 => (host.clone(), any::<bool>()).prop_map(|(host, all)| Event::Wipe(host, all)),
        1 => host.clone().prop_map(Event::WipeInPlace),
        1 => host.clone().prop_map(Event::Scrap),
        3 => host.clone().prop_map(Event::Crash),
        2 => host.clone().prop_map(Event::Restarted),
        3 => (host.clone(), any::<bool>()).prop_map(|(host, stuck)| Event::Stuck(host, stuck)),
        5 => (host.clone(), 0..3_u8).prop_map(|(host, side)| Event::Side(host, side)),
        3 => (host.clone(), any::<bool>()).prop_map(|(host, cut)| Event::Cut(host, cut)),
        2 => host.clone().prop_map(Event::WipeEtcd),
        3 => (host.clone(), 0..8_u8).prop_map(|(host, at)| Event::Readdress(host, at)),
        3 => (host.clone(), any::<bool>()).prop_map(|(host, undo)| Event::Decommission(host, undo)),
        2 => (host.clone(), prop_oneof![Just(1), Just(3), Just(5)]).prop_map(|(host, n)| Event::Servers(host, n)),
        2 => (host.clone(), prop_oneof![Just(Role::Auto), Just(Role::Client), Just(Role::Server)])
            .prop_map(|(host, role)| Event::Role(host, role)),
        1 => Just(Event::RestartAll),
        2 => host.prop_map(Event::Settings),
    ]
}

/// Hosts, server slots, and what happens to them.
fn story() -> impl Strategy<Value = (usize, u8, Vec<Event>)> {
    (
        4..=6_usize,
        prop_oneof![1 => Just(1_u8), 6 => Just(3), 1 => Just(5)],
        any::<bool>(),
        prop::collection::vec(event(), 0..70),
    )
        .prop_map(|(hosts, servers, calm, mut events)| {
            if calm {
                events.insert(0, Event::Rounds(8));
            }
            (hosts, servers, events)
        })
}

/// Lets it all happen, and then be over.
pub(super) fn live(hosts: usize, servers: u8, events: &[Event]) -> Result<World, String> {
    let mut world = World::new(hosts, servers);
    for event in events {
        world.happen(event)?;
    }
    world.heal()?;
    Ok(world)
}

/// As many as take a few seconds in a debug build; PROPTEST_CASES asks for more.
fn config() -> ProptestConfig {
    let mut config = ProptestConfig {
        failure_persistence: None,
        ..ProptestConfig::default()
    };
    if std::env::var_os("PROPTEST_CASES").is_none() {
        config.cases = 160;
    }
    config
}

proptest! {
    #![proptest_config(config())]

    /// Whatever happens: never a second cluster, never two slots freed at once, never two voters restarted at once,
    /// never a leader that lacks what was committed; and when it is over everybody comes to rest, with a leader if most
    /// voters have kept their data.
    #[test]
    fn whatever_happens_there_is_one_cluster_and_it_heals((hosts, servers, events) in story()) {
        live(hosts, servers, &events).map_err(TestCaseError::fail)?;
    }
}

/// A test of the test: a model in which something never happens proves nothing about it.
#[test]
fn the_stories_reach_every_step_change_and_state_that_faults_can_lead_to() {
    let mut runner = TestRunner::deterministic();
    let mut reached = BTreeMap::<String, u64>::new();
    for _ in 0..STORIES {
        let (hosts, servers, events) = story().new_tree(&mut runner).expect("a story").current();
        let world = live(hosts, servers, &events).expect("a good end");
        for (what, times) in world.reached {
            *reached.entry(what).or_default() += times;
        }
    }
    let expected = [
        // Steps.
        "Create Update Configure MarkData TakeTurn EndTurn Join RemovePeer Leave Refuse Rest",
        // Changes.
        "Found Republish Claim TakeOver Sealed Bootstrapped Voting LostData Moved Grow Free",
        // States.
        "WithoutEtcd Forming AwaitsLeader AwaitsVote AwaitsRestart QuorumLost Left CannotLeave Settled",
        // Refusals, ends, and what Consul did.
        "AllDataLost Unborn Good AllLost bootstrap",
    ];
    for what in expected.iter().flat_map(|words| words.split(' ')) {
        assert!(
            reached.contains_key(what),
            "no story leads to {what}: {reached:#?}"
        );
    }
}
