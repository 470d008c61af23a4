//! The order of a shutdown, with paused time.

use std::{
    future::pending,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use tokio::time::Instant;

use super::*;
use crate::LogFormat;

fn process() -> Process {
    let args = CommonArgs {
        admin_addr: "127.0.0.1:0".parse().unwrap(),
        log_format: LogFormat::Human,
        log: "info".parse().unwrap(),
        shutdown_deadline: Duration::from_secs(10),
    };
    Process::new("test", "0.0.0", &args).unwrap()
}

fn text(result: Result<(), RunError>) -> String {
    error_chain(&result.unwrap_err())
}

#[tokio::test(start_paused = true)]
async fn a_clean_shutdown_drains_before_the_tasks_are_stopped() {
    let mut process = process();
    let drained = Arc::new(AtomicBool::new(false));
    let (token, seen, readiness) = (
        process.shutdown.token(),
        Arc::clone(&drained),
        process.readiness.clone(),
    );
    process.tasks.spawn("worker", async move {
        token.cancelled().await;
        if seen.load(Ordering::SeqCst) {
            Ok(())
        } else {
            Err("stopped before the drain was over")
        }
    });
    process.shutdown.request("test");
    let drain = async move {
        assert!(!readiness.is_ready());
        tokio::time::sleep(Duration::from_secs(5)).await;
        drained.store(true, Ordering::SeqCst);
    };
    process.run_until_shutdown(drain).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn not_ready_before_run_until_shutdown_is_reached() {
    let process = process();
    let (readiness, shutdown) = (process.readiness.clone(), process.shutdown.clone());
    assert_eq!(readiness.report().waiting_for, ["startup"]);
    let watch = async {
        while !readiness.is_ready() {
            tokio::task::yield_now().await;
        }
        shutdown.request("test");
    };
    let (result, ()) = tokio::join!(process.run_until_shutdown(async {}), watch);
    result.unwrap();
}

#[tokio::test(start_paused = true)]
async fn the_early_end_of_a_task_is_a_failure_that_names_it() {
    let mut quits = process();
    quits.tasks.spawn("quitter", async {});
    let drained = AtomicBool::new(false);
    let result = quits
        .run_until_shutdown(async { drained.store(true, Ordering::SeqCst) })
        .await;
    assert!(drained.load(Ordering::SeqCst));
    assert_eq!(
        text(result),
        "the task `quitter` ended: it returned before the shutdown"
    );

    let mut panics = process();
    panics.tasks.spawn("shaky", async { panic!("boom") });
    assert_eq!(
        text(panics.run_until_shutdown(async {}).await),
        "the task `shaky` ended: it panicked: boom"
    );

    let mut fails = process();
    fails
        .tasks
        .spawn("failer", async { Err::<(), _>(std::io::Error::other("no luck")) });
    assert_eq!(
        text(fails.run_until_shutdown(async {}).await),
        "the task `failer` ended: it failed: no luck"
    );
}

#[tokio::test(start_paused = true)]
async fn a_hung_drain_leaves_the_tasks_time_to_end() {
    let mut process = process();
    let token = process.shutdown.token();
    process.tasks.spawn("worker", async move {
        token.cancelled().await;
        tokio::time::sleep(Duration::from_millis(900)).await;
    });
    process.shutdown.request("test");
    let start = Instant::now();
    let error = text(process.run_until_shutdown(pending::<()>()).await);
    assert!(
        error.starts_with("the shutdown was cut short after 10s, still running: drain;"),
        "{error}"
    );
    assert!(start.elapsed() < Duration::from_secs(10));
}

#[tokio::test(start_paused = true)]
async fn a_hung_task_is_cut_at_the_deadline() {
    let mut process = process();
    process.tasks.spawn("stuck", pending::<()>());
    process.shutdown.request("test");
    let start = Instant::now();
    let error = text(process.run_until_shutdown(async {}).await);
    assert!(error.contains("still running: stuck"), "{error}");
    // Timers have a resolution of a millisecond.
    assert!((10_000..=10_002).contains(&start.elapsed().as_millis()));
}

#[tokio::test(start_paused = true)]
async fn a_failed_drain_is_a_failure() {
    let process = process();
    process.shutdown.request("test");
    let result = process
        .run_until_shutdown(async { Err::<(), _>("cannot hand over") })
        .await;
    assert_eq!(text(result), "the drain failed: cannot hand over");
}
