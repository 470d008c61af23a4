//! The life of a real process: what it serves, how it stops, and what it exits with.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a test fails by panicking; clippy.toml exempts only the bodies of test functions"
)]

use std::{
    io::{BufRead, BufReader, Read},
    net::{SocketAddr, TcpListener},
    path::PathBuf,
    process::{Child, ChildStderr, Command, ExitStatus, Output, Stdio},
    time::{Duration, Instant},
};

use daemon::probe::{ProbeError, get_status, probe_ready};
use serde_json::Value;
use tokio::time::timeout;

/// No test may hang: nothing here takes a tenth of this.
const PATIENCE: Duration = Duration::from_secs(30);

/// The example program, which cargo builds beside the tests.
fn program() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let target = test.parent().and_then(|deps| deps.parent()).unwrap();
    target.join("examples").join("lifecycle")
}

fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(program());
    command.args(arguments);
    for name in [
        "LOG",
        "LOG_FORMAT",
        "COLOSSUS_ADMIN_ADDR",
        "COLOSSUS_SHUTDOWN_DEADLINE",
    ] {
        command.env_remove(name);
    }
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

fn output(arguments: &[&str]) -> (Option<i32>, String, String) {
    let Output {
        status,
        stdout,
        stderr,
    } = command(arguments).output().unwrap();
    (
        status.code(),
        String::from_utf8(stdout).unwrap(),
        String::from_utf8(stderr).unwrap(),
    )
}

/// A running service. Killed when dropped.
struct Service {
    child: Child,
    log: BufReader<ChildStderr>,
    addr: SocketAddr,
}

impl Service {
    /// Starts it and waits until its admin server listens, as its log says.
    fn start(arguments: &[&str]) -> Self {
        let mut child = command(&["--log-format=json"]).args(arguments).spawn().unwrap();
        let mut log = BufReader::new(child.stderr.take().unwrap());
        let addr = loop {
            let mut line = String::new();
            assert!(
                log.read_line(&mut line).unwrap() > 0,
                "the service ended before it listened"
            );
            let entry: Value = serde_json::from_str(&line).unwrap();
            if let Some(addr) = entry["addr"].as_str() {
                break addr.parse().unwrap();
            }
        };
        Self { child, log, addr }
    }

    async fn start_ready(arguments: &[&str]) -> Self {
        let service = Self::start(arguments);
        until("ready", async || probe_ready(service.addr).await.is_ok()).await;
        service
    }

    fn signal(&self, name: &str) {
        let status = Command::new("kill")
            .args(["-s", name, &self.child.id().to_string()])
            .status()
            .unwrap();
        assert!(status.success());
    }

    /// Waits until `/ready` says that it is stopping.
    async fn stopping(&self) {
        until("stopping", async || match probe_ready(self.addr).await {
            Err(ProbeError::Refused { code: 503, body, .. }) => {
                serde_json::from_str::<Value>(&body).unwrap()["stopping"] == true
            }
            _ => false,
        })
        .await;
    }

    /// Lets a good drain end.
    fn end_drain(&mut self) {
        drop(self.child.stdin.take());
    }

    /// Waits for its end and gives its exit code and the rest of its log.
    async fn exit(mut self) -> (Option<i32>, String) {
        let mut status: Option<ExitStatus> = None;
        until("exited", async || {
            status = self.child.try_wait().unwrap();
            status.is_some()
        })
        .await;
        let mut log = String::new();
        self.log.read_to_string(&mut log).unwrap();
        (status.unwrap().code(), log)
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

async fn until(what: &str, mut condition: impl AsyncFnMut() -> bool) {
    let wait = async {
        while !condition().await {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    assert!(timeout(PATIENCE, wait).await.is_ok(), "not {what} in time");
}

async fn get(addr: SocketAddr, path: &str) -> String {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let mut stream = tokio::net::TcpStream::connect(addr).await.unwrap();
    stream
        .write_all(format!("GET {path} HTTP/1.1\r\nHost: test\r\n\r\n").as_bytes())
        .await
        .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

#[tokio::test]
async fn sigterm_makes_it_unready_then_drains_then_exits_with_0() {
    let mut service = Service::start_ready(&[]).await;
    service.signal("TERM");
    service.stopping().await;
    assert!(
        get(service.addr, "/live").await.starts_with("HTTP/1.1 200"),
        "served until the drain is over"
    );
    service.end_drain();
    let (code, log) = service.exit().await;
    assert_eq!(code, Some(0), "{log}");
    assert!(log.contains("stopped"), "{log}");
}

#[tokio::test]
async fn a_second_signal_aborts() {
    let service = Service::start_ready(&["--mode=hung-drain", "--shutdown-deadline=1h"]).await;
    service.signal("TERM");
    service.stopping().await;
    service.signal("INT");
    assert_eq!(service.exit().await.0, Some(130));
}

#[tokio::test]
async fn a_second_signal_aborts_even_when_the_drain_blocks_its_thread() {
    let service = Service::start_ready(&["--mode=blocked-drain", "--shutdown-deadline=1h"]).await;
    service.signal("INT");
    service.stopping().await;
    service.signal("TERM");
    assert_eq!(service.exit().await.0, Some(143));
}

#[tokio::test]
async fn a_hung_drain_is_cut_at_the_deadline() {
    let service = Service::start_ready(&["--mode=hung-drain", "--shutdown-deadline=300ms"]).await;
    let start = Instant::now();
    service.signal("TERM");
    let (code, log) = service.exit().await;
    assert_eq!(code, Some(1), "{log}");
    assert!(
        log.contains("cut short after 300ms, still running: drain"),
        "{log}"
    );
    assert!(start.elapsed() < Duration::from_secs(5));
}

#[tokio::test]
async fn a_hung_start_is_cut_after_the_deadline_too() {
    let service = Service::start(&["--mode=hung-start", "--shutdown-deadline=100ms"]);
    service.signal("TERM");
    let (code, log) = service.exit().await;
    assert_eq!(code, Some(1), "{log}");
    assert!(log.contains("still running: run"), "{log}");
}

#[tokio::test]
async fn the_end_of_a_critical_task_ends_the_process_and_is_named() {
    let mut service = Service::start(&["--mode=panic"]);
    service.end_drain();
    let (code, log) = service.exit().await;
    assert_eq!(code, Some(1), "{log}");
    assert_eq!(
        log.matches("the task `shaky` ended: it panicked: boom").count(),
        1,
        "{log}"
    );
}

#[tokio::test]
async fn bad_configuration_exits_with_64_before_anything_is_bound() {
    for (flag, value, mend) in [
        ("--log", "inof", "give off, error"),
        ("--log-format", "xml", "possible values"),
        ("--shutdown-deadline", "10", "such as 500ms"),
        ("--admin-addr", "nowhere", "invalid socket address"),
        ("--unknown", "1", "unexpected argument"),
    ] {
        let (code, stdout, stderr) = output(&[flag, value]);
        assert_eq!(code, Some(64), "{stderr}");
        assert!(stderr.contains(flag) && stderr.contains(mend), "{stderr}");
        assert!(
            !stderr.contains("listens") && stdout.is_empty(),
            "{stderr}{stdout}"
        );
    }
}

#[tokio::test]
async fn help_and_version_exit_with_0() {
    let (code, help, _) = output(&["--help"]);
    assert_eq!(code, Some(0));
    assert!(help.contains("[default: 127.0.0.1:0]"), "{help}");
    let (code, version, _) = output(&["--version"]);
    assert_eq!(
        (code, version.trim()),
        (Some(0), concat!("daemon ", env!("CARGO_PKG_VERSION")))
    );
}

#[tokio::test]
async fn an_admin_port_in_use_exits_with_64_and_says_what_to_do() {
    let holder = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = holder.local_addr().unwrap().to_string();
    let (code, _, stderr) = output(&["--admin-addr", &addr]);
    assert_eq!(code, Some(64), "{stderr}");
    let expected = format!(
        "cannot listen on --admin-addr {addr} (another process holds it: stop that one, or give another"
    );
    assert!(stderr.contains(&expected), "{stderr}");
}

#[tokio::test]
async fn the_admin_paths_say_what_they_should() {
    let service = Service::start_ready(&[]).await;
    assert!(get(service.addr, "/").await.contains("/metrics"));
    assert!(get(service.addr, "/elsewhere").await.starts_with("HTTP/1.1 404"));
    let ready = get(service.addr, "/ready").await;
    assert!(
        ready.ends_with(r#"{"ready":true,"stopping":false,"waiting_for":[]}"#),
        "{ready}"
    );

    let version = env!("CARGO_PKG_VERSION");
    let metrics = get(service.addr, "/metrics").await;
    for part in [
        "content-type: text/plain; version=0.0.4\r\n",
        "connection: close\r\n",
        &format!(r#"colossus_build_info{{service="lifecycle",version="{version}"}} 1"#),
        r#"colossus_reconcile_runs_total{loop="idle",result="ok"} 1"#,
        "process_resident_memory_bytes",
    ] {
        assert!(metrics.contains(part), "{part} is not in {metrics}");
    }

    let status = get_status(service.addr).await.unwrap();
    assert_eq!(status["service"], "lifecycle");
    assert_eq!(status["ready"], true);
    assert_eq!(status["idle"]["last_change"]["report"], "nothing at all");
    assert_eq!(status["idle"]["last_run"]["reasons"][0], "start");
}

#[tokio::test]
async fn a_healthcheck_and_the_status_can_be_asked_from_outside() {
    let mut service = Service::start_ready(&[]).await;
    let addr = service.addr.to_string();
    let (code, stdout, stderr) = output(&["healthcheck", "--admin-addr", &addr]);
    assert_eq!((code, stdout.as_str(), stderr.as_str()), (Some(0), "", ""));
    let (code, stdout, _) = output(&["status", "--admin-addr", &addr]);
    assert_eq!(code, Some(0));
    assert_eq!(
        serde_json::from_str::<Value>(&stdout).unwrap()["service"],
        "lifecycle"
    );

    service.signal("TERM");
    service.stopping().await;
    let (code, _, stderr) = output(&["healthcheck", "--admin-addr", &addr]);
    assert_eq!(code, Some(1));
    assert!(stderr.contains("answers 503"), "{stderr}");
    service.end_drain();
    assert_eq!(service.exit().await.0, Some(0));
}

#[tokio::test]
async fn clients_that_say_nothing_do_not_hold_up_a_shutdown() {
    let mut service = Service::start_ready(&[]).await;
    let silent: Vec<_> = (0..5)
        .map(|_| std::net::TcpStream::connect(service.addr).unwrap())
        .collect();
    service.signal("TERM");
    service.stopping().await;
    service.end_drain();
    let (code, log) = service.exit().await;
    assert_eq!(code, Some(0), "{log}");
    drop(silent);
}
