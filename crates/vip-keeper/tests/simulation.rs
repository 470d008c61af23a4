//! The election of five nodes on one etcd, with everything that can go wrong, for millions of steps: never two nodes whose
//! kernel lets the address answer, and always one again once the faults are over.
//!
//! The machine under test is the real one; what is made up is the world around it: clocks that drift, processes that are frozen,
//! killed and restarted, messages that are late, lost and answered twice, an etcd that stalls when its leader changes, is wiped,
//! and holds garbage. Every run is told by its seed. `VIP_SIMULATION_SEEDS=FROM..TO` runs others, `VIP_SIMULATION_TRACE=1` tells
//! all that happens.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking, also in the functions that its tests share"
)]

#[path = "simulation/etcd.rs"]
mod etcd;
#[path = "simulation/node.rs"]
mod node;
#[path = "simulation/world.rs"]
mod world;

use world::{Faults, World};

/// In each run: so many microseconds with faults, and then the same without.
const STORMY: u64 = 60_000_000;

fn seeds(default: std::ops::Range<u64>) -> std::ops::Range<u64> {
    let Ok(text) = std::env::var("VIP_SIMULATION_SEEDS") else {
        return default;
    };
    let (from, to) = text.split_once("..").expect("VIP_SIMULATION_SEEDS=FROM..TO");
    from.parse().expect("a number")..to.parse().expect("a number")
}

fn run(seeds: std::ops::Range<u64>, faults: Faults) -> u64 {
    let mut steps = 0;
    for seed in seeds {
        let mut world = World::new(seed, faults);
        world.run_until(STORMY);
        world.calm();
        world.run_until(STORMY + 30_000_000);
        world.assert_one_healthy_holder();
        steps += world.steps();
    }
    steps
}

#[test]
fn never_two_holders_and_always_one_in_the_end() {
    let steps = run(seeds(0..600), Faults::all());
    assert!(steps > 1_000_000, "only {steps} steps");
}

#[test]
fn without_faults_the_first_holder_keeps_it() {
    for seed in seeds(0..10) {
        let mut world = World::new(seed, Faults::none());
        world.run_until(60_000_000);
        world.assert_one_healthy_holder();
        assert_eq!(world.epoch(), 1, "seed {seed}: it moved without a reason");
        assert!(world.longest_without_holder() < 2_000_000, "seed {seed}");
    }
}

/// The checks above can fail: with a challenger that waits less than the holder's right lasts they do.
#[test]
fn a_challenger_that_does_not_wait_is_found_out() {
    let found = (0..60).any(|seed| {
        std::panic::catch_unwind(|| {
            let mut world = World::impatient(seed, Faults::all());
            world.run_until(STORMY);
        })
        .is_err()
    });
    assert!(found, "two holders were not noticed");
}
