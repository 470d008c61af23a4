//! The rules, one by one, on one node or two.

use super::*;

const F: u64 = 1200;
const MARGIN: u64 = 150;

fn ms(millis: u64) -> Time {
    Duration::from_millis(1_000_000 + millis)
}

fn label(name: &str) -> DnsLabel {
    name.parse().expect("a label")
}

fn holder(node: &str) -> Holder {
    Holder {
        node: label(node),
        process: ProcessId(format!("{node}-1")),
    }
}

fn settings(node: &str) -> Settings {
    Settings {
        me: holder(node),
        renew: Duration::from_millis(400),
        hold: Duration::from_millis(F),
        slack: Duration::ZERO,
        margin: Duration::from_millis(MARGIN),
        priority: 100,
        preempt: None,
    }
}

fn record(node: Option<&str>, epoch: u64, seq: u64) -> Record {
    Record {
        version: VERSION,
        holder: node.map(holder),
        epoch,
        seq,
        hold_ms: F,
        offer: None,
        given: None,
    }
}

fn seen(record: Record, revision: i64, live: bool) -> Input {
    Input::Observed {
        found: Found::Record(record),
        revision,
        live,
    }
}

fn peers(healthy: &[&str]) -> Input {
    let peer = Peer {
        healthy: true,
        priority: 100,
    };
    Input::Peers(healthy.iter().map(|node| (label(node), peer.clone())).collect())
}

fn write(actions: &[Action]) -> Option<(u64, i64, &Record)> {
    actions.iter().find_map(|action| match action {
        Action::Write { id, guard, record } => Some((*id, *guard, record)),
        _ => None,
    })
}

fn held_until(actions: &[Action]) -> Option<Time> {
    actions.iter().find_map(|action| match action {
        Action::Hold { until } => Some(*until),
        _ => None,
    })
}

fn lets_go(actions: &[Action]) -> bool {
    actions.contains(&Action::Release)
}

/// A healthy n1 that has seen nothing.
fn n1() -> Election {
    let mut election = Election::new(settings("n1"));
    election.step(ms(0), Input::Health(true));
    election
}

/// n1, which claimed at `ms(0)`, and whose right was counted from then; the record is at revision 11.
fn holding() -> Election {
    let mut election = n1();
    election.step(ms(0), seen(record(None, 4, 7), 9, false));
    election.step(ms(0), seen(record(None, 4, 8), 10, true));
    let id = election.attempts.back().expect("a claim").id;
    let done = Input::Written {
        id,
        outcome: Outcome::Done(11),
    };
    let actions = election.step(ms(5), done);
    assert_eq!(held_until(&actions), Some(ms(F)));
    election.step(ms(6), Input::Up(Ok(())));
    election
}

#[test]
fn nothing_is_done_before_the_record_is_known() {
    let mut election = n1();
    assert_eq!(election.step(ms(60_000), Input::Tick), Vec::new());
    assert_eq!(election.next_wake(ms(60_000)), None);
}

#[test]
fn a_record_that_does_not_change_is_claimed_after_its_own_f_and_the_margin() {
    let mut election = n1();
    let mut slow = record(Some("n2"), 3, 20);
    slow.hold_ms = 5000;
    election.step(ms(0), seen(slow, 10, true));
    assert_eq!(write(&election.step(ms(5000 + MARGIN - 1), Input::Tick)), None);
    let actions = election.step(ms(5000 + MARGIN), Input::Tick);
    let (_, guard, claim) = write(&actions).expect("a claim");
    assert_eq!((guard, claim.epoch, claim.seq), (10, 4, 21));
    assert_eq!(claim.holder, Some(holder("n1")));
    assert_eq!(held_until(&actions), None, "before the write is acknowledged");
}

#[test]
fn every_renewal_that_is_seen_puts_a_claim_off() {
    let mut election = n1();
    for turn in 0..20 {
        let actions = election.step(
            ms(turn * 1000),
            seen(record(Some("n2"), 3, turn), 10 + turn as i64, true),
        );
        assert_eq!(write(&actions), None);
    }
}

#[test]
fn a_release_is_claimed_at_once_if_it_was_seen_to_happen() {
    let mut election = n1();
    election.step(ms(0), seen(record(Some("n2"), 3, 20), 10, true));
    let actions = election.step(ms(1), seen(record(None, 4, 21), 11, true));
    assert!(write(&actions).is_some());
}

#[test]
fn what_is_found_at_the_start_is_waited_out_whatever_it_says() {
    for found in [
        Found::Absent,
        Found::Garbled,
        Found::Record(record(None, 4, 21)),
        Found::Record(record(Some("n1"), 4, 2)),
    ] {
        let mut election = n1();
        let found = Input::Observed {
            found,
            revision: 10,
            live: false,
        };
        assert_eq!(write(&election.step(ms(0), found.clone())), None, "{found:?}");
        assert_eq!(
            write(&election.step(ms(F + MARGIN - 1), Input::Tick)),
            None,
            "{found:?}"
        );
        assert!(
            write(&election.step(ms(F + MARGIN), Input::Tick)).is_some(),
            "{found:?}"
        );
    }
}

#[test]
fn a_node_that_is_not_well_claims_nothing() {
    let mut election = n1();
    election.step(ms(0), Input::Health(false));
    election.step(ms(0), seen(record(None, 4, 21), 10, true));
    assert_eq!(write(&election.step(ms(9000), Input::Tick)), None);
}

#[test]
fn better_candidates_are_waited_for_and_the_dead_holder_is_none() {
    let mut election = n1();
    let mut better = BTreeMap::new();
    for (node, priority) in [("n2", 200), ("n3", 100), ("n4", 200)] {
        better.insert(
            label(node),
            Peer {
                healthy: true,
                priority,
            },
        );
    }
    election.step(ms(0), Input::Peers(better));
    election.step(ms(0), seen(record(Some("n2"), 4, 1), 10, true));
    // n4 only: n2 is the dead holder, n3 has the same priority and comes after n1 by name.
    assert_eq!(election.would_claim_at(), Some(ms(F + MARGIN) + STAGGER));
}

#[test]
fn the_right_counts_from_the_sending_not_from_the_answer() {
    let mut election = holding();
    let (id, _, _) = write(&election.step(ms(400), Input::Tick))
        .map(|(id, guard, record)| (id, guard, record.clone()))
        .expect("a renewal");
    let late = Input::Written {
        id,
        outcome: Outcome::Done(12),
    };
    assert_eq!(held_until(&election.step(ms(900), late)), Some(ms(400 + F)));
}

#[test]
fn a_lost_answer_is_made_good_by_the_watch_and_counts_from_the_first_sending() {
    let mut election = holding();
    let actions = election.step(ms(400), Input::Tick);
    let (id, _, renewal) = write(&actions).expect("a renewal");
    let (id, renewal) = (id, renewal.clone());
    let unknown = Input::Written {
        id,
        outcome: Outcome::Unknown("no answer".to_owned()),
    };
    election.step(ms(700), unknown);
    // Another one is made, that cannot be taken for it.
    let actions = election.step(ms(740), Input::Tick);
    assert!(write(&actions).expect("again").2.seq > renewal.seq);
    assert_eq!(
        held_until(&election.step(ms(760), seen(renewal, 12, true))),
        Some(ms(400 + F))
    );
}

#[test]
fn without_renewals_the_address_goes_at_the_end_of_the_right_and_comes_back_with_one() {
    let mut election = holding();
    let actions = election.step(ms(F), Input::Tick);
    assert!(lets_go(&actions) && actions.contains(&Action::Report(Change::Expired { epoch: 5 })));
    election.step(ms(F + 1), Input::Down(Ok(())));
    let id = election.attempts.back().expect("a renewal under way").id;
    let record = election.attempts.back().expect("the same").record.clone();
    assert_eq!(record.epoch, 5, "it is the same holder");
    let done = Input::Written {
        id,
        outcome: Outcome::Done(12),
    };
    assert_eq!(held_until(&election.step(ms(F + 500), done)), Some(ms(F + F)));
}

#[test]
fn an_answer_that_comes_after_the_end_of_its_right_gives_none_and_another_write_is_made_at_once() {
    let mut election = holding();
    election.step(ms(F), Input::Tick);
    election.step(ms(F + 1), Input::Down(Ok(())));
    let id = election.attempts.back().expect("a renewal under way").id;
    let done = Input::Written {
        id,
        outcome: Outcome::Done(12),
    };
    let actions = election.step(ms(F + F), done);
    assert_eq!(held_until(&actions), None);
    let (id, _, _) = write(&actions).expect("another");
    let done = Input::Written {
        id,
        outcome: Outcome::Done(13),
    };
    assert_eq!(
        held_until(&election.step(ms(F + F + 5), done)),
        Some(ms(F + F + F))
    );
}

#[test]
fn another_holder_in_the_record_means_letting_go_at_once() {
    let mut election = holding();
    let actions = election.step(ms(100), seen(record(Some("n2"), 6, 30), 12, true));
    assert!(lets_go(&actions));
    assert!(!election.holds(ms(101)));
}

#[test]
fn another_process_of_this_node_is_another_holder() {
    let mut election = holding();
    let mut other = record(Some("n1"), 6, 30);
    other.holder = Some(Holder {
        process: ProcessId("n1-2".to_owned()),
        ..holder("n1")
    });
    assert!(lets_go(&election.step(ms(100), seen(other, 12, true))));
}

#[test]
fn a_record_that_was_removed_or_overwritten_is_written_again_by_its_holder_without_a_gap() {
    for (found, guard) in [(Found::Absent, 0), (Found::Garbled, 12)] {
        let mut election = holding();
        let gone = Input::Observed {
            found,
            revision: 12,
            live: true,
        };
        let actions = election.step(ms(400), gone);
        assert!(!lets_go(&actions));
        let (id, guarded, written) = write(&actions).expect("the record again");
        assert_eq!((guarded, written.epoch), (guard, 5));
        let done = Input::Written {
            id,
            outcome: Outcome::Done(13),
        };
        assert_eq!(held_until(&election.step(ms(410), done)), Some(ms(400 + F)));
    }
}

#[test]
fn others_wait_for_the_f_of_a_record_that_was_removed() {
    let mut election = n1();
    let mut slow = record(Some("n2"), 3, 20);
    slow.hold_ms = 9000;
    election.step(ms(0), seen(slow, 10, true));
    let gone = Input::Observed {
        found: Found::Absent,
        revision: 11,
        live: true,
    };
    election.step(ms(100), gone);
    assert_eq!(
        write(&election.step(ms(100 + 9000 + MARGIN - 1), Input::Tick)),
        None
    );
    assert!(write(&election.step(ms(100 + 9000 + MARGIN), Input::Tick)).is_some());
}

#[test]
fn a_record_of_another_version_is_left_alone() {
    let mut election = holding();
    election.step(ms(100), Input::Unreadable);
    let actions = election.step(ms(F), Input::Tick);
    assert!(lets_go(&actions));
    assert_eq!(write(&actions), None);
    assert_eq!(write(&election.step(ms(60_000), Input::Tick)), None);
}

#[test]
fn the_kernels_slack_is_taken_off_the_right() {
    let mut election = Election::new(Settings {
        slack: Duration::from_millis(1300),
        hold: Duration::from_millis(3300),
        ..settings("n1")
    });
    election.step(ms(0), Input::Health(true));
    election.step(ms(0), seen(record(Some("n2"), 1, 1), 9, true));
    let actions = election.step(ms(1), seen(record(None, 2, 2), 10, true));
    let (id, _, claim) = write(&actions).expect("a claim");
    assert_eq!(claim.hold_ms, 3300);
    let done = Input::Written {
        id,
        outcome: Outcome::Done(11),
    };
    assert_eq!(held_until(&election.step(ms(5), done)), Some(ms(1 + 2000)));
}

#[test]
fn another_speaker_on_the_link_means_letting_go_until_a_renewal_says_otherwise() {
    let mut election = holding();
    let actions = election.step(ms(100), Input::Conflict);
    assert!(lets_go(&actions));
    let (id, _, _) = write(&actions).expect("a renewal");
    election.step(ms(101), Input::Down(Ok(())));
    let done = Input::Written {
        id,
        outcome: Outcome::Done(12),
    };
    assert_eq!(held_until(&election.step(ms(105), done)), Some(ms(100 + F)));
    election.step(ms(106), Input::Up(Ok(())));
    // Who goes on speaking does not keep it down.
    let actions = election.step(ms(200), Input::Conflict);
    assert!(!lets_go(&actions) && actions.contains(&Action::Announce));
}

#[test]
fn a_renewal_that_was_on_its_way_when_another_spoke_does_not_count() {
    let mut election = holding();
    let actions = election.step(ms(400), Input::Tick);
    let (id, _, _) = write(&actions).expect("a renewal");
    election.step(ms(401), Input::Conflict);
    election.step(ms(402), Input::Down(Ok(())));
    let done = Input::Written {
        id,
        outcome: Outcome::Done(12),
    };
    let actions = election.step(ms(405), done);
    assert_eq!(held_until(&actions), None);
    assert!(write(&actions).is_some());
}

#[test]
fn an_address_that_will_not_come_up_is_left_to_others() {
    let mut election = holding();
    election.step(ms(100), Input::Gone("no such device".to_owned()));
    let actions = election.step(ms(101), Input::Down(Ok(())));
    let (id, _, released) = write(&actions).expect("a release");
    assert_eq!((released.holder.as_ref(), released.epoch), (None, 6));
    let done = Input::Written {
        id,
        outcome: Outcome::Done(12),
    };
    let actions = election.step(ms(105), done);
    assert_eq!(write(&actions), None, "not by this node, for a while");
    assert!(election.would_claim_at().is_some_and(|at| at >= ms(10_000)));
}

#[test]
fn renewals_that_the_kernel_does_not_take_end_in_letting_go_where_it_did() {
    let mut election = holding();
    for turn in 1..=3 {
        let actions = election.step(ms(turn * 400), Input::Tick);
        if turn == 3 {
            assert!(lets_go(&actions), "the kernel has shut it: {actions:?}");
            return;
        }
        let (id, _, _) = write(&actions).expect("a renewal");
        let done = Input::Written {
            id,
            outcome: Outcome::Done(11 + turn as i64),
        };
        election.step(ms(turn * 400 + 5), done);
        election.step(ms(turn * 400 + 6), Input::Up(Err("busy".to_owned())));
    }
}

// --- Planned moves ---------------------------------------------------------------------------------------------------

/// n1 holds and has offered to n2; the offer is acknowledged, at revision 12. Its ID.
fn offered(input: Input) -> (Election, u64) {
    let mut election = holding();
    election.step(ms(50), peers(&["n2"]));
    let actions = election.step(ms(100), input);
    let (id, _, offer) = write(&actions).expect("an offer");
    let offer = offer.offer.clone().expect("an offer in it");
    assert_eq!(offer.to, label("n2"));
    let done = Input::Written {
        id,
        outcome: Outcome::Done(12),
    };
    assert_eq!(
        held_until(&election.step(ms(105), done)),
        Some(ms(100 + F)),
        "an offer is a renewal, too"
    );
    (election, offer.id)
}

fn accepted(offer: u64) -> Input {
    Input::Answered(Answer {
        by: holder("n2"),
        offer,
        refused: None,
    })
}

#[test]
fn the_address_is_down_before_the_record_names_another() {
    let (mut election, offer) = offered(Input::Move(Some(label("n2"))));
    let actions = election.step(ms(110), accepted(offer));
    assert!(lets_go(&actions));
    assert_eq!(write(&actions), None);
    let actions = election.step(ms(111), Input::Down(Ok(())));
    let (id, guard, given) = write(&actions).expect("the gift");
    assert_eq!((guard, given.epoch, given.given), (12, 6, Some(offer)));
    assert_eq!(given.holder, Some(holder("n2")));
    let done = Input::Written {
        id,
        outcome: Outcome::Done(13),
    };
    let actions = election.step(ms(115), done);
    let gave = Change::Gave {
        to: label("n2"),
        why: Why::Operator,
    };
    assert!(actions.contains(&Action::Report(gave)));
}

#[test]
fn an_address_that_does_not_come_down_is_not_given_away() {
    let (mut election, offer) = offered(Input::Move(None));
    election.step(ms(110), accepted(offer));
    let actions = election.step(ms(111), Input::Down(Err("busy".to_owned())));
    assert_eq!(write(&actions), None);
    let actions = election.step(ms(161), Input::Tick);
    assert!(lets_go(&actions), "it is tried again");
    assert_eq!(write(&actions), None);
}

#[test]
fn the_target_has_it_from_its_acceptance_on() {
    let mut target = Election::new(settings("n2"));
    target.step(ms(0), Input::Health(true));
    target.step(ms(0), seen(record(Some("n1"), 5, 9), 11, true));
    let mut offer = record(Some("n1"), 5, 10);
    offer.offer = Some(Offer {
        to: label("n2"),
        id: 10,
    });
    let actions = target.step(ms(100), seen(offer, 12, true));
    assert_eq!(
        actions,
        vec![Action::Answer(Answer {
            by: holder("n2"),
            offer: 10,
            refused: None
        })]
    );
    let mut given = record(Some("n2"), 6, 11);
    given.given = Some(10);
    let actions = target.step(ms(120), seen(given, 13, true));
    assert_eq!(held_until(&actions), Some(ms(100 + F)));
    assert!(write(&actions).is_some(), "and it renews at once");
}

#[test]
fn a_target_that_is_not_well_refuses_and_nothing_moves() {
    let mut target = Election::new(settings("n2"));
    target.step(ms(0), seen(record(Some("n1"), 5, 9), 11, true));
    let mut offer = record(Some("n1"), 5, 10);
    offer.offer = Some(Offer {
        to: label("n2"),
        id: 10,
    });
    let actions = target.step(ms(100), seen(offer, 12, true));
    let refusal = match actions.as_slice() {
        [Action::Answer(answer)] if answer.refused.is_some() => answer.clone(),
        other => panic!("{other:?}"),
    };
    let (mut election, id) = offered(Input::Move(None));
    let actions = election.step(ms(110), Input::Answered(Answer { offer: id, ..refusal }));
    assert!(!lets_go(&actions));
    assert!(
        actions
            .iter()
            .any(|action| matches!(action, Action::Report(Change::Stays { .. })))
    );
    let (_, _, withdrawn) = write(&actions).expect("the offer is withdrawn");
    assert_eq!(
        (withdrawn.offer.as_ref(), withdrawn.holder.as_ref()),
        (None, Some(&holder("n1")))
    );
}

#[test]
fn an_answer_to_another_offer_or_of_another_node_changes_nothing() {
    let (mut election, offer) = offered(Input::Move(None));
    assert!(!lets_go(&election.step(ms(110), accepted(offer + 1))));
    let other = Input::Answered(Answer {
        by: holder("n3"),
        offer,
        refused: None,
    });
    assert!(!lets_go(&election.step(ms(111), other)));
}

#[test]
fn a_target_that_says_nothing_is_given_up_and_not_asked_again_for_a_while() {
    let (mut election, _) = offered(Input::Health(false));
    let id = election.attempts.back().map(|attempt| attempt.id);
    assert_eq!(id, None);
    // It goes on renewing meanwhile.
    for (turn, at) in [400, 800].into_iter().enumerate() {
        let actions = election.step(ms(at), Input::Tick);
        let (id, _, renewal) = write(&actions).expect("a renewal");
        assert!(renewal.offer.is_some());
        let done = Input::Written {
            id,
            outcome: Outcome::Done(13 + turn as i64),
        };
        election.step(ms(at + 5), done);
    }
    let actions = election.step(ms(100) + OFFER_WITHIN, Input::Tick);
    assert!(
        actions
            .iter()
            .any(|action| matches!(action, Action::Report(Change::Stays { .. })))
    );
    let (_, _, withdrawn) = write(&actions).expect("withdrawn");
    assert_eq!(withdrawn.offer, None);
    assert!(
        election.holds(ms(100) + OFFER_WITHIN),
        "an address that answers badly is better than none"
    );
}

#[test]
fn without_another_that_is_well_it_stays_where_it_is() {
    let mut election = holding();
    let actions = election.step(ms(100), Input::Health(false));
    assert!(!lets_go(&actions));
    let actions = election.step(ms(101), Input::Move(None));
    assert!(matches!(
        actions.as_slice(),
        [Action::Report(Change::Stays { .. })]
    ));
}

#[test]
fn an_operator_is_told_why_it_cannot_be_moved_there() {
    let mut election = holding();
    let ill = Peer {
        healthy: false,
        priority: 1,
    };
    election.step(ms(10), Input::Peers([(label("n2"), ill)].into()));
    for (to, part) in [("n2", "not well"), ("n9", "no keeper"), ("n1", "already")] {
        let actions = election.step(ms(11), Input::Move(Some(label(to))));
        match actions.as_slice() {
            [Action::Report(Change::Stays { because, .. })] => assert!(because.contains(part), "{because}"),
            other => panic!("{to}: {other:?}"),
        }
    }
}

#[test]
fn a_keeper_that_stops_hands_over_or_releases_and_then_is_done() {
    let (mut election, offer) = offered(Input::Stop);
    election.step(ms(110), accepted(offer));
    let actions = election.step(ms(111), Input::Down(Ok(())));
    let (id, _, _) = write(&actions).expect("the gift");
    assert!(!election.is_done());
    let done = Input::Written {
        id,
        outcome: Outcome::Done(13),
    };
    election.step(ms(115), done);
    assert!(election.is_done());

    let mut alone = holding();
    assert!(lets_go(&alone.step(ms(100), Input::Stop)));
    let actions = alone.step(ms(101), Input::Down(Ok(())));
    let (id, _, released) = write(&actions).expect("a release");
    assert_eq!(released.holder, None);
    let done = Input::Written {
        id,
        outcome: Outcome::Done(12),
    };
    alone.step(ms(105), done);
    assert!(alone.is_done());
}

#[test]
fn preemption_waits_until_the_better_node_was_well_for_long_enough() {
    let mut election = holding();
    election.settings.preempt = Some(Duration::from_millis(300));
    let better = Peer {
        healthy: true,
        priority: 200,
    };
    election.step(ms(50), Input::Peers([(label("n2"), better)].into()));
    assert_eq!(write(&election.step(ms(349), Input::Tick)), None);
    let actions = election.step(ms(350), Input::Tick);
    assert_eq!(
        write(&actions)
            .and_then(|(_, _, record)| record.offer.clone())
            .map(|offer| offer.to),
        Some(label("n2"))
    );
}

// --- Without etcd ----------------------------------------------------------------------------------------------------

#[test]
fn what_all_others_have_promised_extends_the_right_and_what_comes_too_late_does_not() {
    let mut election = holding();
    let until = ms(2500);
    let actions = election.step(ms(1000), Input::Confirmed { until });
    assert_eq!(held_until(&actions), Some(until));
    election.step(ms(1001), Input::Up(Ok(())));
    assert!(!lets_go(&election.step(ms(F), Input::Tick)));
    assert!(lets_go(&election.step(until, Input::Tick)));
    assert_eq!(
        held_until(&election.step(ms(2501), Input::Confirmed { until: ms(9000) })),
        None
    );
}

#[test]
fn who_has_promised_does_not_claim_and_who_may_have_claimed_does_not_promise() {
    let mut election = n1();
    election.step(ms(0), seen(record(Some("n2"), 3, 20), 10, true));
    assert!(election.can_promise(&holder("n2"), 3));
    assert!(!election.can_promise(&holder("n2"), 4) && !election.can_promise(&holder("n3"), 3));
    election.step(ms(100), Input::Promised(ms(5000)));
    assert_eq!(write(&election.step(ms(4999), Input::Tick)), None);
    assert!(write(&election.step(ms(5000), Input::Tick)).is_some());
    assert!(
        !election.can_promise(&holder("n2"), 3),
        "its claim may have been made"
    );
}

#[test]
fn no_two_writes_are_alike_however_many_answers_were_lost() {
    for absent in [false, true] {
        let mut election = holding();
        if absent {
            let gone = Input::Observed {
                found: Found::Absent,
                revision: 12,
                live: true,
            };
            election.step(ms(100), gone);
        }
        let mut written = Vec::new();
        for turn in 0..3 * ATTEMPTS as u64 {
            let now = ms(400 + turn * 50);
            for action in election.step(now, Input::Tick) {
                if let Action::Write { record, .. } = action {
                    assert!(!written.contains(&record), "{record:?} twice");
                    written.push(record);
                }
            }
            let Some(id) = election.attempts.back().map(|attempt| attempt.id) else {
                continue;
            };
            let unknown = Outcome::Unknown("no answer".to_owned());
            election.step(now, Input::Written { id, outcome: unknown });
        }
        assert!(written.len() > 10, "absent {absent}: {}", written.len());
    }
}
