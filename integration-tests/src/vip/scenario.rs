//! All that is tried, as one table: what happens, what must follow, and within which bounds.

use std::time::Duration;

use super::{Direction, Fault};

/// Where etcd's leader shall be before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Leader {
    /// On the holder's host.
    WithHolder,
    /// On another one.
    Elsewhere,
}

/// What a fault must lead to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    /// Another host has the address, also when the fault is undone.
    Moves,
    /// The same host has it.
    Stays,
    /// Somebody has it.
    Held,
    /// Nobody has it until the fault is undone.
    Nobody,
}

/// One thing that is tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Scenario {
    /// What it is called.
    pub name: &'static str,
    /// Where etcd's leader is.
    pub leader: Leader,
    /// What happens.
    pub fault: Fault,
    /// What must follow.
    pub effect: Effect,
    /// The longest outage that a client may see by the fault, with the profile `lan`. Where nobody may hold the address
    /// before the fault is undone, it is counted from then.
    pub outage: Duration,
    /// For how long two hosts may answer for the address, as docs/reference/vip-keeper.md states.
    pub two_owners: Duration,
    /// How many requests may fail because a client that tries once more cannot connect, or is answered with an error; `None`: as
    /// many as the outage costs.
    pub failed: Option<usize>,
    /// How many may be cut off after they have connected.
    pub cut: Option<usize>,
}

const fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

/// A fault that moves the address within 2.5 s.
const fn moves(name: &'static str, fault: Fault) -> Scenario {
    Scenario {
        name,
        leader: Leader::Elsewhere,
        fault,
        effect: Effect::Moves,
        outage: ms(2_500),
        two_owners: Duration::ZERO,
        failed: None,
        cut: None,
    }
}

impl Scenario {
    /// The floor: what a client sees on this machine, as busy as it is, while all is well.
    pub const NOTHING: Self = Self {
        effect: Effect::Stays,
        outage: ms(300),
        failed: Some(0),
        cut: Some(0),
        ..moves("nothing happens", Fault::Nothing)
    };

    /// The holder's host loses its power.
    pub const POWER_CUT: Self = moves("power cut of the holder", Fault::PowerCut);

    /// The same, and etcd has to elect another leader before anybody can write.
    pub const POWER_CUT_OF_LEADER: Self = Self {
        leader: Leader::WithHolder,
        ..moves("power cut of the holder, etcd's leader", Fault::PowerCut)
    };

    /// Its unit starts it again after a second; until then the kernel has let go.
    pub const KILL: Self = Self {
        effect: Effect::Held,
        ..moves("kill -9 of the daemon", Fault::KillDaemon)
    };

    /// Stopped, and going on when another host has had the address for long.
    pub const STOP: Self = moves("SIGSTOP, SIGCONT of the daemon", Fault::StopDaemon);

    /// The host stands still, and goes on.
    pub const FREEZE: Self = moves("freeze of the whole host", Fault::Freeze);

    /// The others do not hear the holder.
    pub const CUT_OUT: Self = moves(
        "partition: others do not hear the holder",
        Fault::Cut(Direction::Out),
    );

    /// The holder does not hear the others.
    pub const CUT_IN: Self = moves(
        "partition: holder does not hear others",
        Fault::Cut(Direction::In),
    );

    /// The holder is alone, with etcd's leader elsewhere.
    pub const CUT_OFF: Self = moves("partition: both ways", Fault::Cut(Direction::Both));

    /// The holder is alone with the leader of etcd, which goes on believing that it leads.
    pub const CUT_OFF_WITH_LEADER: Self = Self {
        leader: Leader::WithHolder,
        ..moves(
            "partition: both ways, with etcd's leader",
            Fault::Cut(Direction::Both),
        )
    };

    /// HAProxy dies, and is back after a second.
    pub const KILL_PROXY: Self = Self {
        outage: ms(300),
        ..moves("kill -9 of HAProxy", Fault::KillProxy)
    };

    /// HAProxy is stopped for maintenance.
    pub const STOP_PROXY: Self = Self {
        outage: ms(300),
        ..moves("HAProxy stopped", Fault::StopProxy)
    };

    /// The keeper goes on with the other members. There is no outage; a busy machine is late.
    pub const STOP_ETCD: Self = Self {
        effect: Effect::Stays,
        outage: ms(300),
        failed: Some(0),
        cut: Some(0),
        ..moves("etcd stopped on the holder's host", Fault::StopEtcd)
    };

    /// The same for the leader: there is an election, which is shorter than the holder's right.
    pub const STOP_ETCD_LEADER: Self = Self {
        leader: Leader::WithHolder,
        name: "etcd stopped on the holder's host, leader",
        ..Self::STOP_ETCD
    };

    /// The leader is restarted on another host.
    pub const RESTART_ETCD: Self = Self {
        name: "etcd's leader restarted",
        fault: Fault::RestartEtcdLeader,
        ..Self::STOP_ETCD
    };

    /// Nobody can prove that he may hold it: nobody does.
    pub const NO_QUORUM: Self = Self {
        effect: Effect::Nobody,
        outage: ms(5_000),
        ..moves("etcd without quorum, then back", Fault::StopOtherEtcds)
    };

    /// What an operator asks for. Two addresses move there and back. What the old holder has accepted and not yet answered is
    /// lost with each move: one or two requests of a client that begins one every 10 ms.
    pub const HAND_OVER: Self = Self {
        outage: ms(50),
        failed: Some(0),
        cut: Some(8),
        ..moves("planned hand-over", Fault::HandOver)
    };

    /// The unit is stopped: the address is released.
    pub const STOP_UNIT: Self = Self {
        outage: ms(300),
        ..moves("the daemon's unit stopped", Fault::StopUnit)
    };

    /// The host is shut down in good order.
    pub const SHUTDOWN: Self = Self {
        outage: ms(300),
        ..moves("host shutdown", Fault::Shutdown)
    };

    /// It comes back where it was, or at another host.
    pub const REMOVED: Self = Self {
        effect: Effect::Held,
        ..moves("address removed by hand", Fault::RemoveAddress)
    };
}

/// All of them.
pub const ALL: [Scenario; 20] = [
    Scenario::NOTHING,
    Scenario::POWER_CUT,
    Scenario::POWER_CUT_OF_LEADER,
    Scenario::KILL,
    Scenario::STOP,
    Scenario::FREEZE,
    Scenario::CUT_OUT,
    Scenario::CUT_IN,
    Scenario::CUT_OFF,
    Scenario::CUT_OFF_WITH_LEADER,
    Scenario::KILL_PROXY,
    Scenario::STOP_PROXY,
    Scenario::STOP_ETCD,
    Scenario::STOP_ETCD_LEADER,
    Scenario::RESTART_ETCD,
    Scenario::NO_QUORUM,
    Scenario::HAND_OVER,
    Scenario::STOP_UNIT,
    Scenario::SHUTDOWN,
    Scenario::REMOVED,
];

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_scenario_has_a_name_of_its_own() {
        let names: BTreeSet<&str> = ALL.iter().map(|scenario| scenario.name).collect();
        assert_eq!(names.len(), ALL.len());
    }
}
