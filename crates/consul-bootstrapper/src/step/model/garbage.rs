//! Input that no world would give: the decision answers it all the same, and keeps the rules that need no world.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use contract::DnsLabel;
use proptest::prelude::*;

use crate::observed::{
    AgentPlan, ConsulState, ConsulView, Contest, Data, EtcdView, Local, Me, Member, Mode, Observed, Peer,
    Presence, RecordView, Role,
};
use crate::record::{ClusterId, ClusterRecord, Slot, SlotState};
use crate::step::{LEADERLESS, State, Step, next_step};

fn name() -> impl Strategy<Value = DnsLabel> {
    (0..5_u8).prop_map(|number| format!("n{number}").parse().expect("a label"))
}

fn address() -> impl Strategy<Value = IpAddr> {
    (0..6_u8).prop_map(|number| Ipv4Addr::new(10, 0, 0, number).into())
}

fn cluster() -> impl Strategy<Value = ClusterId> {
    prop_oneof![Just("c1".into()), Just("c2".into())]
}

fn data() -> impl Strategy<Value = Data> {
    let member = (cluster(), any::<bool>()).prop_map(|(cluster, server)| Data::Member { cluster, server });
    prop_oneof![1 => Just(Data::None), 3 => member]
}

fn time() -> impl Strategy<Value = Duration> {
    prop_oneof![
        Just(Duration::ZERO),
        Just(LEADERLESS),
        Just(Duration::from_secs(3600)),
        Just(Duration::MAX)
    ]
}

fn mode() -> impl Strategy<Value = Mode> {
    prop_oneof![
        Just(Mode::Client),
        prop::option::of(0..9_u8).prop_map(|expect| Mode::Server { expect }),
    ]
}

fn slot() -> impl Strategy<Value = Slot> {
    let state = prop_oneof![Just(SlotState::Joining), Just(SlotState::Voter)];
    (name(), address(), state).prop_map(|(node, address, state)| Slot { node, address, state })
}

fn record() -> impl Strategy<Value = ClusterRecord> {
    (
        cluster(),
        0..9_u8,
        any::<(bool, bool)>(),
        prop::collection::vec(slot(), 0..5),
        prop::collection::btree_set(name(), 0..3),
        0..2_u64,
    )
        .prop_map(
            |(id, servers, (bootstrapped, sealed), slots, leaving, restart)| ClusterRecord {
                bootstrapped,
                sealed,
                slots,
                leaving,
                restart,
                ..ClusterRecord::new(id, servers)
            },
        )
}

fn plan() -> impl Strategy<Value = AgentPlan> {
    let join = prop::collection::btree_set(address(), 0..4);
    (cluster(), name(), address(), mode(), join, 0..2_u64, "[ab]").prop_map(
        |(cluster, node, address, mode, join, restart, settings)| AgentPlan {
            cluster,
            node,
            address,
            mode,
            join,
            restart,
            settings,
        },
    )
}

fn presence() -> impl Strategy<Value = Presence> {
    (name(), address(), data()).prop_map(|(node, address, data)| Presence {
        node,
        instance: String::new(),
        host: String::new(),
        address,
        data,
        consul_id: None,
    })
}

fn etcd() -> impl Strategy<Value = EtcdView> {
    let view = prop_oneof![
        1 => Just(RecordView::Absent),
        1 => Just(RecordView::Unreadable("garbage".to_owned())),
        8 => record().prop_map(RecordView::Present),
    ];
    (
        view,
        prop::collection::btree_map(name(), presence(), 0..5),
        prop::collection::btree_map(name(), time(), 0..5),
        prop::option::of(name()),
    )
        .prop_map(|(record, nodes, absent, restarting)| EtcdView {
            record,
            nodes,
            absent,
            restarting,
        })
}

fn consul() -> impl Strategy<Value = ConsulView> {
    let peer =
        ("[0-4]?", address(), any::<bool>()).prop_map(|(id, address, voter)| Peer { id, address, voter });
    let member = ("n[0-4]|", address(), any::<(bool, bool)>(), "[0-4]?").prop_map(
        |(node, address, (alive, server), id)| Member {
            node,
            address,
            alive,
            server,
            id,
        },
    );
    let up = (
        any::<[bool; 4]>(),
        prop::collection::vec(peer, 0..6),
        prop::collection::vec(member, 0..6),
    )
        .prop_map(|([led, leads, server, healthy], peers, members)| {
            ConsulView::Up(ConsulState {
                led,
                leads,
                server,
                peers,
                members,
                healthy,
            })
        });
    prop_oneof![1 => Just(ConsulView::Down), 5 => up]
}

fn observed() -> impl Strategy<Value = Observed> {
    let role = prop_oneof![Just(Role::Auto), Just(Role::Server), Just(Role::Client)];
    let me =
        (name(), address(), role, 1..8_u8, "[ab]").prop_map(|(node, address, role, servers, settings)| Me {
            node,
            address,
            role,
            servers,
            settings,
        });
    let local = (
        data(),
        prop::option::of(record()),
        prop::option::of(plan()),
        any::<bool>(),
    )
        .prop_map(|(data, record, written, permitted)| Local {
            data,
            record,
            written,
            permitted,
        });
    let contest = (name(), address()).prop_map(|(node, address)| Contest::Address { node, address });
    (
        me,
        local,
        prop_oneof![1 => Just(Err("no answer".to_owned())), 9 => etcd().prop_map(Ok)],
        consul(),
        time(),
        prop_oneof![9 => Just(None), 1 => contest.prop_map(Some)],
        time(),
    )
        .prop_map(
            |(me, local, etcd, consul, leaderless, contested, replace_after)| Observed {
                me,
                local,
                etcd,
                consul,
                leaderless,
                contested,
                fresh_id: "c3".into(),
                replace_after,
            },
        )
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, cases: 4000, ..ProptestConfig::default() })]

    #[test]
    fn no_input_breaks_the_rules_that_need_no_world(seen in observed()) {
        let step = next_step(&seen);
        prop_assert_eq!(&step, &next_step(&seen));
        let record = match &seen.etcd {
            Ok(EtcdView { record: RecordView::Present(record), .. }) => Some(record),
            _ => None,
        };
        match &step {
            Step::Create(next, _) | Step::Update(next, _) => {
                prop_assert_eq!(seen.contested.as_ref(), None);
                prop_assert_ne!(Some(next), record);
                let given = record.or(seen.local.record.as_ref());
                // What is made of a record that can be is one, too.
                if given.is_none_or(|given| given.check().is_ok()) && seen.local.record.as_ref().is_none_or(|known| known.check().is_ok()) {
                    prop_assert_eq!(next.check(), Ok(()));
                }
                if let Some(record) = record.filter(|record| record.bootstrapped) {
                    prop_assert!(next.bootstrapped && next.id == record.id && next.servers >= record.servers);
                }
            }
            Step::Configure(plan) => {
                prop_assert!(!plan.join.contains(&seen.me.address));
                prop_assert_eq!((&plan.node, plan.address), (&seen.me.node, seen.me.address));
                if let Mode::Server { expect: Some(expect) } = plan.mode {
                    let record = record.expect("nobody bootstraps without the record");
                    prop_assert!(record.sealed && !record.bootstrapped && record.is_full());
                    prop_assert!(record.slot(&seen.me.node).is_some() && expect == record.servers);
                }
                if seen.me.role == Role::Client && record.is_some_and(|record| record.slot(&seen.me.node).is_none()) {
                    // It stays a server only as long as the cluster needs the one it was.
                    let was = seen.local.data != Data::None || seen.local.permitted;
                    prop_assert!(was || plan.mode == Mode::Client);
                }
            }
            Step::Join(addresses) => prop_assert!(!addresses.is_empty()),
            Step::Rest(State::QuorumLost { .. }) => prop_assert!(seen.leaderless >= LEADERLESS),
            Step::RemovePeer(peer) => {
                let consul = seen.consul.led().expect("only a leader removes");
                let alive = |member: &Member| member.alive && member.server && member.id == peer.id;
                prop_assert!(!consul.members.iter().any(alive));
            }
            _ => {}
        }
    }
}
