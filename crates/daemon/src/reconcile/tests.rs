//! The rules of the loop, one test each, with paused time.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex},
};

use tokio::{
    sync::watch,
    task::JoinHandle,
    time::{advance, sleep, timeout},
};

use super::*;
use crate::lock;

const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);

#[derive(Debug, thiserror::Error)]
#[error("cannot list")]
struct ListError(#[source] std::io::Error);

fn list_error() -> ListError {
    ListError(std::io::Error::other("no leader"))
}

/// Takes its outcomes from a script, each run taking `takes`; unchanged once the script is over.
struct Scripted {
    script: VecDeque<Outcome<&'static str>>,
    takes: Duration,
    seen: Arc<Mutex<Vec<(Instant, Activation)>>>,
    count: watch::Sender<usize>,
}

impl Reconcile for Scripted {
    type Report = &'static str;

    async fn reconcile(&mut self, activation: &Activation) -> Outcome<Self::Report> {
        lock(&self.seen).push((Instant::now(), activation.clone()));
        self.count.send_modify(|count| *count += 1);
        sleep(self.takes).await;
        self.script.pop_front().unwrap_or_else(Outcome::unchanged)
    }
}

/// A running loop, and what was seen of it.
struct Bed {
    waker: Waker,
    status: LoopStatusHandle<&'static str>,
    shutdown: CancellationToken,
    seen: Arc<Mutex<Vec<(Instant, Activation)>>>,
    count: watch::Receiver<usize>,
    task: JoinHandle<()>,
    start: Instant,
    registry: Registry,
}

fn settings() -> LoopSettings {
    LoopSettings {
        name: "test",
        resync: 1000 * SECOND,
        min_gap: 100 * MS,
        retry: Backoff::seeded(SECOND, 60 * SECOND, 42),
    }
}

impl Bed {
    fn new(
        settings: LoopSettings,
        takes: Duration,
        script: impl IntoIterator<Item = Outcome<&'static str>>,
    ) -> Self {
        let seen = Arc::default();
        let (sender, count) = watch::channel(0);
        let scripted = Scripted {
            script: script.into_iter().collect(),
            takes,
            seen: Arc::clone(&seen),
            count: sender,
        };
        let registry = Registry::new();
        let (reconcile_loop, waker) = ReconcileLoop::new(scripted, settings, &registry);
        let (status, shutdown, start) = (reconcile_loop.status(), CancellationToken::new(), Instant::now());
        let task = tokio::spawn(reconcile_loop.run(shutdown.clone()));
        Self {
            waker,
            status,
            shutdown,
            seen,
            count,
            task,
            start,
            registry,
        }
    }

    /// Waits for the start of the `number`-th run and gives when it was, in milliseconds, and why.
    async fn run(&mut self, number: usize) -> (u64, Activation) {
        let started = self.count.wait_for(|count| *count >= number);
        timeout(10_000 * SECOND, started)
            .await
            .expect("the run does not come")
            .unwrap();
        let (at, activation) = lock(&self.seen)[number - 1].clone();
        (millis(at - self.start), activation)
    }

    /// Waits until `number` runs have ended.
    async fn ended(&self, number: u64) -> LoopStatus<&'static str> {
        while self.status.snapshot().runs < number {
            // Yielding would keep the runtime busy, and paused time moves only when it is idle.
            sleep(MS).await;
        }
        self.status.snapshot()
    }

    fn runs(&self) -> usize {
        lock(&self.seen).len()
    }

    async fn wait(&self, time: Duration) {
        sleep(time).await;
    }
}

fn near(millis: u64, expected: u64) -> bool {
    // Timers have a resolution of a millisecond.
    (expected..=expected + 3).contains(&millis)
}

#[tokio::test(start_paused = true)]
async fn runs_once_at_the_start() {
    let mut bed = Bed::new(settings(), Duration::ZERO, []);
    let (at, activation) = bed.run(1).await;
    assert!(near(at, 0), "{at}");
    assert_eq!(
        (activation.reasons, activation.attempt),
        (vec!["start".to_owned()], 1)
    );
    bed.wait(800 * SECOND).await;
    assert_eq!(bed.runs(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_lone_wake_after_quiet_runs_at_once() {
    let mut bed = Bed::new(settings(), Duration::ZERO, []);
    bed.wait(5 * SECOND).await;
    bed.waker.wake("event");
    let (at, activation) = bed.run(2).await;
    assert!(near(at, 5000), "{at}");
    assert_eq!(activation.reasons, ["event"]);
}

#[tokio::test(start_paused = true)]
async fn a_burst_is_one_run_that_keeps_the_gap_from_the_last_start() {
    let mut bed = Bed::new(settings(), 30 * MS, []);
    bed.ended(1).await;
    bed.wait(5 * SECOND).await;
    bed.waker.wake("first");
    bed.run(2).await;
    bed.wait(50 * MS).await;
    for _ in 0..1000 {
        bed.waker.wake("a");
        bed.waker.wake("b");
    }
    let (second, _) = bed.run(2).await;
    let (third, activation) = bed.run(3).await;
    assert!(near(third - second, 100), "{second} {third}");
    assert_eq!(
        (activation.reasons, activation.suppressed),
        (vec!["a".to_owned(), "b".to_owned()], 1998)
    );
    bed.wait(10 * SECOND).await;
    assert_eq!(bed.runs(), 3);
    let last = bed.status.snapshot().last_run.unwrap();
    assert!((45..=55).contains(&last.waited_ms), "{last:?}");
    assert!(near(last.took_ms, 30), "{last:?}");
}

#[tokio::test(start_paused = true)]
async fn wakes_during_a_run_cause_exactly_one_more() {
    let mut bed = Bed::new(settings(), 2 * SECOND, []);
    bed.run(1).await;
    for number in 0..20 {
        bed.waker.wake(format!("event {number}"));
    }
    let (at, activation) = bed.run(2).await;
    assert!(near(at, 2000), "{at}");
    assert_eq!((activation.reasons.len(), activation.suppressed), (8, 12));
    bed.wait(100 * SECOND).await;
    assert_eq!(bed.runs(), 2);
}

#[tokio::test(start_paused = true)]
async fn failures_are_retried_with_growing_delays_until_one_run_succeeds() {
    let mut bed = Bed::new(
        settings(),
        Duration::ZERO,
        (0..6).map(|_| Outcome::failed(list_error())),
    );
    let mut delays = Backoff::seeded(SECOND, 60 * SECOND, 42);
    let mut expected = 0;
    for run in 1..=7_u32 {
        let (at, activation) = bed.run(run as usize).await;
        assert!(at.abs_diff(expected) <= 10, "run {run} at {at}, not {expected}");
        assert_eq!(activation.attempt, run);
        assert_eq!(activation.reasons, [if run == 1 { "start" } else { "retry" }]);
        expected += millis(delays.next_delay());
    }
    let status = bed.ended(7).await;
    assert_eq!((status.consecutive_failures, status.runs), (0, 7));
    bed.wait(100 * SECOND).await;
    assert_eq!(bed.runs(), 7);
}

#[tokio::test(start_paused = true)]
async fn a_wake_brings_a_retry_forward_but_not_below_the_floor() {
    let retry = Backoff::seeded(SECOND, 3600 * SECOND, 42);
    let script = (0..100).map(|_| Outcome::failed(list_error()));
    let mut bed = Bed::new(LoopSettings { retry, ..settings() }, Duration::ZERO, script);
    // A storm: a wake each 10 ms for a minute.
    for _ in 0..6000 {
        bed.waker.wake("storm");
        bed.wait(10 * MS).await;
    }
    // At most one run in half of the initial delay, and about one in a whole one.
    let runs = bed.runs();
    assert!((50..=65).contains(&runs), "{runs}");
    let (_, activation) = bed.run(runs).await;
    assert_eq!(activation.reasons, ["storm"]);
    assert_eq!(activation.attempt as usize, runs);
}

#[tokio::test(start_paused = true)]
async fn resync_runs_without_a_wake_and_with_jitter() {
    let mut bed = Bed::new(
        LoopSettings {
            resync: 10 * SECOND,
            ..settings()
        },
        Duration::ZERO,
        [],
    );
    bed.run(1).await;
    let mut last = 0;
    for run in 2..30 {
        let (at, activation) = bed.run(run).await;
        assert!((9_000..=11_010).contains(&(at - last)), "{at} after {last}");
        assert_eq!(activation.reasons, ["resync"]);
        last = at;
    }
}

#[tokio::test(start_paused = true)]
async fn an_outcome_may_ask_to_be_run_again_without_being_an_error() {
    let script = [Outcome::unchanged().with_retry_after(7 * SECOND)];
    let mut bed = Bed::new(settings(), Duration::ZERO, script);
    bed.run(1).await;
    assert_eq!(bed.ended(1).await.consecutive_failures, 0);
    let (at, activation) = bed.run(2).await;
    assert!(near(at, 7000), "{at}");
    assert_eq!(
        (activation.reasons, activation.attempt),
        (vec!["again".to_owned()], 1)
    );
}

#[tokio::test(start_paused = true)]
async fn shutdown_lets_the_run_under_way_finish_and_starts_no_other() {
    let mut bed = Bed::new(settings(), 5 * SECOND, [Outcome::changed(1, "done")]);
    bed.run(1).await;
    bed.waker.wake("late");
    bed.shutdown.cancel();
    (&mut bed.task).await.unwrap();
    assert_eq!(millis(bed.start.elapsed()) / 10, 500);
    let status = bed.status.snapshot();
    assert_eq!(
        (status.runs, status.last_change.unwrap().report),
        (1, Some("done"))
    );
    assert_eq!(status.next_run_in_ms, None);
}

#[tokio::test(start_paused = true)]
async fn shutdown_ends_the_waiting_at_once() {
    let mut bed = Bed::new(settings(), Duration::ZERO, []);
    bed.ended(1).await;
    bed.shutdown.cancel();
    (&mut bed.task).await.unwrap();
    assert!(bed.start.elapsed() < SECOND);
}

#[tokio::test(start_paused = true)]
async fn the_status_tells_what_happened_last_and_why() {
    let script = [
        Outcome::changed(3, "three routes"),
        Outcome::failed(list_error()).with_report("one rejected"),
        Outcome::unchanged(),
    ];
    let mut bed = Bed::new(settings(), 20 * MS, script);
    bed.run(1).await;
    advance(5 * MS).await;
    let status = bed.status.snapshot();
    assert_eq!(
        (status.runs, status.running_for_ms, status.next_run_in_ms),
        (0, Some(5), None)
    );

    bed.wait(SECOND).await;
    let status = bed.status.snapshot();
    assert_eq!((status.runs, status.running_for_ms), (1, None));
    assert!(
        (899_000..1_100_000).contains(&status.next_run_in_ms.unwrap()),
        "{status:?}"
    );
    let change = status.last_change.unwrap();
    assert_eq!((change.run.changes, change.report), (3, Some("three routes")));
    assert!(humantime::parse_rfc3339(&change.run.finished_at).is_ok());
    assert!(status.last_error.is_none());

    bed.waker.wake("event");
    assert_eq!(bed.status.snapshot().pending_reasons, ["event"]);
    bed.ended(2).await;
    let json = bed.status.to_json();
    assert_eq!(json["consecutive_failures"], 1);
    assert_eq!(json["last_error"]["error"], "cannot list: no leader");
    assert_eq!(json["last_error"]["reasons"][0], "event");
    assert_eq!(json["last_report"]["report"], "one rejected");
    assert_eq!(json["last_change"]["report"], "three routes");
    assert_eq!(json["last_change"]["changes"], 3);

    bed.run(3).await;
    let status = bed.ended(3).await;
    assert_eq!(status.consecutive_failures, 0);
    assert_eq!(status.last_run.unwrap().error, None);
    assert_eq!(
        status.last_error.unwrap().error.unwrap(),
        "cannot list: no leader"
    );

    let metrics = prometheus::TextEncoder::new()
        .encode_to_string(&bed.registry.gather())
        .unwrap();
    for line in [
        r#"colossus_reconcile_runs_total{loop="test",result="ok"} 2"#,
        r#"colossus_reconcile_runs_total{loop="test",result="error"} 1"#,
        r#"colossus_reconcile_changes_total{loop="test"} 3"#,
        r#"colossus_reconcile_failing{loop="test"} 0"#,
        r#"colossus_reconcile_duration_seconds_count{loop="test"} 3"#,
    ] {
        assert!(metrics.contains(line), "{line} is not in {metrics}");
    }
}

#[tokio::test(start_paused = true)]
async fn wakers_that_outlive_the_loop_are_harmless() {
    let mut bed = Bed::new(settings(), Duration::ZERO, []);
    bed.shutdown.cancel();
    (&mut bed.task).await.unwrap();
    for number in 0..100_000 {
        bed.waker.wake(format!("event {number}"));
    }
    assert_eq!(bed.status.snapshot().pending_reasons.len(), 8);
}
