//! The watch's rules, with scripted answers and paused time.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use futures_util::StreamExt;
use proptest::prelude::*;

use super::*;
use crate::config::Config;

/// An answer of the script: what comes, and how long it takes.
type Step = (Duration, Result<(u64, &'static str), Error>);

/// What was asked, and when.
type Asked = Arc<Mutex<Vec<(Option<u64>, Instant)>>>;

const WAIT: Duration = Duration::from_secs(300);

fn at_once(index: u64, value: &'static str) -> Step {
    (Duration::ZERO, Ok((index, value)))
}

fn after(delay: Duration, index: u64, value: &'static str) -> Step {
    (delay, Ok((index, value)))
}

fn failure() -> Step {
    let error = Error::Status {
        operation: "test".into(),
        code: 500,
        body: "No cluster leader".into(),
    };
    (Duration::ZERO, Err(error))
}

/// A watch that plays the script, then waits for ever.
fn scripted(options: WatchOptions, steps: impl IntoIterator<Item = Step>) -> (Watch<&'static str>, Asked) {
    let script = Arc::new(Mutex::new(steps.into_iter().collect::<VecDeque<Step>>()));
    let asked = Asked::default();
    let seen = asked.clone();
    let client = Client::new(Config::new("127.0.0.1:1".parse().expect("address"))).expect("client");
    let watch = Watch::new(client, options, move |_, query| {
        seen.lock().expect("asked").push((query.index, Instant::now()));
        let step = script.lock().expect("script").pop_front();
        async move {
            let Some((delay, answer)) = step else {
                std::future::pending().await
            };
            tokio::time::sleep(delay).await;
            answer.map(|(index, value)| Response {
                value,
                meta: QueryMeta {
                    index,
                    known_leader: Some(true),
                    ..QueryMeta::default()
                },
            })
        }
    });
    (watch, asked)
}

fn indexes(asked: &Asked) -> Vec<Option<u64>> {
    asked
        .lock()
        .expect("asked")
        .iter()
        .map(|(index, _)| *index)
        .collect()
}

/// The event in short: value, index and continuity, or the number of failed attempts.
async fn next(watch: &mut Watch<&'static str>) -> Result<(&'static str, u64, Continuity), u32> {
    match watch.next().await {
        WatchEvent::Value(snapshot) => Ok((snapshot.value, snapshot.index, snapshot.continuity)),
        WatchEvent::Unavailable { attempts, .. } => Err(attempts),
    }
}

async fn nothing_more(watch: &mut Watch<&'static str>) {
    let more = tokio::time::timeout(Duration::from_secs(3600), watch.next()).await;
    assert!(more.is_err(), "{more:?}");
}

#[tokio::test(start_paused = true)]
async fn the_first_query_does_not_block_and_the_next_waits_on_its_index() {
    let (mut watch, asked) = scripted(WatchOptions::default(), [at_once(7, "a"), at_once(9, "b")]);
    assert_eq!(next(&mut watch).await, Ok(("a", 7, Continuity::First)));
    assert_eq!(next(&mut watch).await, Ok(("b", 9, Continuity::Continued)));
    nothing_more(&mut watch).await;
    assert_eq!(indexes(&asked), [None, Some(7), Some(9)]);
}

#[tokio::test(start_paused = true)]
async fn the_same_index_is_not_yielded() {
    let (mut watch, asked) = scripted(
        WatchOptions::default(),
        [
            at_once(7, "a"),
            after(WAIT, 7, "a"),
            after(WAIT, 7, "a"),
            at_once(8, "b"),
        ],
    );
    assert_eq!(next(&mut watch).await, Ok(("a", 7, Continuity::First)));
    assert_eq!(next(&mut watch).await, Ok(("b", 8, Continuity::Continued)));
    assert_eq!(indexes(&asked), [None, Some(7), Some(7), Some(7)]);
}

#[tokio::test(start_paused = true)]
async fn answers_that_come_early_with_nothing_new_do_not_make_a_hot_loop() {
    let steps = (0..1_000).map(|_| at_once(7, "a"));
    let (mut watch, asked) = scripted(WatchOptions::default(), steps);
    assert_eq!(next(&mut watch).await, Ok(("a", 7, Continuity::First)));
    let minute = tokio::time::timeout(Duration::from_secs(60), watch.next()).await;
    assert!(minute.is_err(), "{minute:?}");
    let asked = asked.lock().expect("asked").len();
    assert!((10..40).contains(&asked), "{asked} queries in a minute");
}

#[tokio::test(start_paused = true)]
async fn one_early_answer_costs_no_more_than_the_gap() {
    let (mut watch, asked) = scripted(
        WatchOptions::default(),
        [at_once(7, "a"), at_once(7, "a"), at_once(8, "b")],
    );
    let began = Instant::now();
    next(&mut watch).await.expect("first");
    assert_eq!(next(&mut watch).await, Ok(("b", 8, Continuity::Continued)));
    // The timer's grain is a millisecond.
    assert!(
        began.elapsed() <= Duration::from_millis(22),
        "{:?}",
        began.elapsed()
    );
    assert_eq!(indexes(&asked), [None, Some(7), Some(7)]);
}

#[tokio::test(start_paused = true)]
async fn an_index_that_goes_backwards_is_a_reset_and_asks_afresh() {
    let (mut watch, asked) = scripted(
        WatchOptions::default(),
        [
            at_once(70, "a"),
            at_once(3, "b"),
            at_once(3, "b"),
            at_once(4, "c"),
        ],
    );
    assert_eq!(next(&mut watch).await, Ok(("a", 70, Continuity::First)));
    assert_eq!(next(&mut watch).await, Ok(("b", 3, Continuity::Reset)));
    assert_eq!(next(&mut watch).await, Ok(("c", 4, Continuity::Continued)));
    assert_eq!(indexes(&asked), [None, Some(70), None, Some(3)]);
}

#[tokio::test(start_paused = true)]
async fn servers_that_disagree_about_the_index_do_not_make_a_hot_loop() {
    let steps = (0..100_000).map(|i| at_once(100_000 - i, "a"));
    let (mut watch, asked) = scripted(WatchOptions::default(), steps);
    let minute = async { while next(&mut watch).await.is_ok() {} };
    assert!(
        tokio::time::timeout(Duration::from_secs(60), minute)
            .await
            .is_err()
    );
    let asked = asked.lock().expect("asked").len();
    assert!(asked < 40, "{asked} queries in a minute");
}

#[tokio::test(start_paused = true)]
async fn each_failed_attempt_is_an_outage_and_the_first_answer_after_it_resumes() {
    let (mut watch, asked) = scripted(
        WatchOptions::default(),
        [at_once(7, "a"), failure(), failure(), at_once(7, "a"), failure()],
    );
    assert_eq!(next(&mut watch).await, Ok(("a", 7, Continuity::First)));
    assert_eq!(next(&mut watch).await, Err(1));
    assert_eq!(next(&mut watch).await, Err(2));
    assert_eq!(next(&mut watch).await, Ok(("a", 7, Continuity::Resumed)));
    assert_eq!(next(&mut watch).await, Err(1));
    assert_eq!(indexes(&asked), [None, Some(7), None, None, Some(7)]);
}

#[tokio::test(start_paused = true)]
async fn a_smaller_index_after_an_outage_is_a_reset() {
    let (mut watch, _) = scripted(
        WatchOptions::default(),
        [at_once(7, "a"), failure(), at_once(2, "")],
    );
    assert_eq!(next(&mut watch).await, Ok(("a", 7, Continuity::First)));
    assert_eq!(next(&mut watch).await, Err(1));
    assert_eq!(next(&mut watch).await, Ok(("", 2, Continuity::Reset)));
}

#[tokio::test(start_paused = true)]
async fn a_watch_that_begins_in_an_outage_still_has_a_first_value() {
    let (mut watch, _) = scripted(WatchOptions::default(), [failure(), at_once(7, "a")]);
    assert_eq!(next(&mut watch).await, Err(1));
    assert_eq!(next(&mut watch).await, Ok(("a", 7, Continuity::First)));
}

#[tokio::test(start_paused = true)]
async fn pauses_between_failures_double_up_to_the_cap() {
    let options = WatchOptions {
        backoff_max: Duration::from_secs(1),
        ..WatchOptions::default()
    };
    let (mut watch, asked) = scripted(options, (0..12).map(|_| failure()));
    for attempt in 1..=12 {
        assert_eq!(next(&mut watch).await, Err(attempt));
    }
    let times: Vec<Instant> = asked.lock().expect("asked").iter().map(|(_, at)| *at).collect();
    for (number, pair) in times.windows(2).enumerate() {
        let gap = pair[1] - pair[0];
        let full = Duration::from_millis(50 << number.min(10)).min(Duration::from_secs(1));
        assert!(
            gap >= full / 2 && gap <= full + Duration::from_millis(2),
            "{number}: {gap:?} of {full:?}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_failure_is_said_at_once_and_not_after_its_pause() {
    let (mut watch, _) = scripted(WatchOptions::default(), [failure()]);
    let began = Instant::now();
    assert_eq!(next(&mut watch).await, Err(1));
    assert_eq!(began.elapsed(), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn a_stream_of_changes_is_rate_limited() {
    let options = WatchOptions {
        min_gap: Duration::from_millis(100),
        ..WatchOptions::default()
    };
    let (mut watch, _) = scripted(options, (1..100).map(|index| at_once(index, "a")));
    let began = Instant::now();
    for _ in 0..11 {
        next(&mut watch).await.expect("value");
    }
    assert!(began.elapsed() >= Duration::from_secs(1));
}

#[tokio::test(start_paused = true)]
async fn dropping_next_loses_neither_the_query_nor_its_answer() {
    let (mut watch, asked) = scripted(
        WatchOptions::default(),
        [
            at_once(7, "a"),
            after(Duration::from_secs(10), 8, "b"),
            failure(),
            at_once(9, "c"),
        ],
    );
    let mut ticks = 0;
    let mut seen = Vec::new();
    while seen.len() < 4 {
        tokio::select! {
            event = next(&mut watch) => seen.push(event),
            () = tokio::time::sleep(Duration::from_millis(7)) => ticks += 1,
        }
    }
    assert_eq!(
        seen,
        [
            Ok(("a", 7, Continuity::First)),
            Ok(("b", 8, Continuity::Continued)),
            Err(1),
            Ok(("c", 9, Continuity::Resumed)),
        ]
    );
    assert!(ticks > 1_000, "{ticks}");
    assert_eq!(
        indexes(&asked),
        [None, Some(7), Some(8), None],
        "each query was sent once"
    );
}

#[tokio::test(start_paused = true)]
async fn an_answer_without_leader_or_index_is_an_outage() {
    let client = Client::new(Config::new("127.0.0.1:1".parse().expect("address"))).expect("client");
    for (meta, leader) in [
        (
            QueryMeta {
                index: 7,
                known_leader: Some(false),
                ..QueryMeta::default()
            },
            false,
        ),
        (
            QueryMeta {
                index: 0,
                known_leader: Some(true),
                ..QueryMeta::default()
            },
            true,
        ),
    ] {
        let mut watch = Watch::new(client.clone(), WatchOptions::default(), move |_, _| async move {
            Ok(Response { value: "", meta })
        });
        match watch.next().await {
            WatchEvent::Unavailable { error, attempts: 1 } => assert_eq!(error.is_no_leader(), !leader),
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test(start_paused = true)]
async fn the_stream_says_the_same() {
    let (watch, _) = scripted(
        WatchOptions::default(),
        [at_once(7, "a"), failure(), at_once(7, "a")],
    );
    let events: Vec<_> = watch.into_stream().take(3).collect().await;
    assert!(matches!(
        events.as_slice(),
        [
            WatchEvent::Value(Snapshot {
                continuity: Continuity::First,
                ..
            }),
            WatchEvent::Unavailable { attempts: 1, .. },
            WatchEvent::Value(Snapshot {
                continuity: Continuity::Resumed,
                ..
            }),
        ]
    ));
}

#[test]
fn a_watch_may_be_sent_to_another_thread() {
    fn is_send<T: Send>() {}
    is_send::<Watch<Vec<ServiceEntry>>>();
}

proptest! {
    /// Whatever comes in whatever order: the watch never blocks on an index it has not just seen, never yields an
    /// unchanged value without an outage before it, and never sends a query before its time.
    #[test]
    fn the_state_keeps_its_promises(answers in proptest::collection::vec((0_u64..6, any::<bool>()), 1..60)) {
        let options = WatchOptions::default();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("runtime");
        let _guard = runtime.enter();
        let now = Instant::now();
        let mut state = State::new(now);
        let mut last = None;
        let mut failed = false;
        for (index, early) in answers {
            if index == 0 {
                state.failed(now, &options);
                failed = true;
                prop_assert_eq!(state.index, None);
            } else {
                let verdict = state.succeeded(index, early, now, &options);
                let expected = match last {
                    None => Verdict::Yield(Continuity::First),
                    Some(last) if index < last => Verdict::Yield(Continuity::Reset),
                    Some(_) if failed => Verdict::Yield(Continuity::Resumed),
                    Some(last) if index == last => Verdict::Unchanged,
                    Some(_) => Verdict::Yield(Continuity::Continued),
                };
                prop_assert_eq!(&verdict, &expected);
                let reset = verdict == Verdict::Yield(Continuity::Reset);
                prop_assert_eq!(state.index, (!reset).then_some(index));
                last = Some(index);
                failed = false;
            }
            prop_assert!(state.not_before >= now + options.min_gap);
            prop_assert!(state.not_before <= now + options.backoff_max);
        }
    }
}
