//! The real program, as a child process on a port of its own choice.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "clippy's allow-*-in-tests knows functions marked #[test] only, not their helpers"
)]

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    process::{Child, ChildStdout, Command, ExitStatus, Stdio},
    time::{Duration, Instant},
};

/// How long anything here may take before the test fails.
const DEADLINE: Duration = Duration::from_secs(10);

/// A running example-web; killed when dropped.
struct Web {
    child: Child,
    stdout: BufReader<ChildStdout>,
    addresses: Vec<SocketAddr>,
}

impl Web {
    fn start(arguments: &[&str]) -> Self {
        Self::start_on(1, arguments)
    }

    /// Starts it on `ports` free ports and waits until it listens on all of them.
    fn start_on(ports: usize, arguments: &[&str]) -> Self {
        let mut web = Self::spawn(ports, arguments);
        for _ in 0..ports {
            let line = web.line();
            web.addresses
                .push(line.strip_prefix("listening on ").expect(&line).parse().unwrap());
        }
        web
    }

    fn spawn(ports: usize, arguments: &[&str]) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_example-web"))
            .args((0..ports).flat_map(|_| ["--port", "0"]))
            .args(["--bind", "127.0.0.1"])
            .args(arguments)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        Self {
            child,
            stdout,
            addresses: Vec::new(),
        }
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.stdout.read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    }

    fn connect(&self) -> Connection {
        connect(self.addresses[0])
    }

    fn get(&self, target: &str) -> Answer {
        self.connect().request("GET", target, "", "")
    }

    fn signal(&self, name: &str) {
        let pid = self.child.id().to_string();
        assert!(
            Command::new("kill")
                .args(["-s", name, &pid])
                .status()
                .unwrap()
                .success()
        );
    }

    /// Until the process has its handler: the kernel shows caught signals as a mask, SIGTERM (15) as its 15th bit.
    fn until_sigterm_is_caught(&self) {
        let start = Instant::now();
        let is_caught = || {
            let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
            let mask = status
                .lines()
                .find_map(|line| line.strip_prefix("SigCgt:"))
                .unwrap()
                .trim();
            u64::from_str_radix(mask, 16).unwrap() & (1 << 14) != 0
        };
        while !is_caught() {
            assert!(
                start.elapsed() < Duration::from_secs(10),
                "SIGTERM is never caught"
            );
            std::thread::yield_now();
        }
    }

    fn wait(&mut self) -> ExitStatus {
        let start = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(start.elapsed() < DEADLINE, "the process did not end");
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}

impl Drop for Web {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

#[derive(Debug)]
struct Answer {
    status: u16,
    head: String,
    body: String,
}

impl Answer {
    fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.body).unwrap()
    }
}

/// A keep-alive connection, spoken to by hand so that nothing hides what goes over it.
struct Connection(BufReader<TcpStream>);

fn connect(address: SocketAddr) -> Connection {
    let stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    Connection(BufReader::new(stream))
}

impl Connection {
    fn request(&mut self, method: &str, target: &str, headers: &str, body: &str) -> Answer {
        self.send(method, target, headers, body);
        self.answer().expect("an answer")
    }

    fn send(&mut self, method: &str, target: &str, headers: &str, body: &str) {
        let length = body.len();
        let request = format!(
            "{method} {target} HTTP/1.1\r\nHost: test\r\nContent-Length: {length}\r\n{headers}\r\n{body}"
        );
        self.0.get_mut().write_all(request.as_bytes()).unwrap();
    }

    /// The next answer, or `None` if the connection was cut.
    fn answer(&mut self) -> Option<Answer> {
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            if self.0.read_line(&mut head).ok()? == 0 {
                return None;
            }
        }
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        let mut body = String::new();
        if head.to_lowercase().contains("transfer-encoding: chunked") {
            while let Some(size) = self.chunk_size() {
                let mut chunk = vec![0; size + 2];
                self.0.read_exact(&mut chunk).ok()?;
                body.push_str(std::str::from_utf8(&chunk[..size]).unwrap());
                if size == 0 {
                    break;
                }
            }
        } else {
            let length = head
                .lines()
                .find_map(|line| {
                    line.to_lowercase()
                        .strip_prefix("content-length: ")
                        .map(str::to_owned)
                })
                .map_or(0, |value| value.parse().unwrap());
            let mut bytes = vec![0; length];
            self.0.read_exact(&mut bytes).ok()?;
            body = String::from_utf8(bytes).unwrap();
        }
        Some(Answer { status, head, body })
    }

    fn chunk_size(&mut self) -> Option<usize> {
        let mut line = String::new();
        self.0.read_line(&mut line).ok()?;
        usize::from_str_radix(line.trim(), 16).ok()
    }
}

fn host_name() -> String {
    std::fs::read_to_string("/proc/sys/kernel/hostname")
        .unwrap()
        .trim()
        .to_owned()
}

#[test]
fn any_path_answers_with_host_method_path_and_version() {
    let web = Web::start(&["--greeting", "v42"]);
    let answer = web.get("/any/path?x=1");
    assert_eq!(
        (answer.status, answer.body),
        (200, format!("{} GET /any/path v42\n", host_name()))
    );

    let answer = web.connect().request("PUT", "/other?json", "", "ignored");
    assert_eq!(
        answer.json(),
        serde_json::json!({"host": host_name(), "method": "PUT", "path": "/other", "version": "v42"})
    );
}

#[test]
fn one_connection_carries_many_requests() {
    let web = Web::start(&[]);
    let mut connection = web.connect();
    for body in ["", "a body that nobody asked for"] {
        assert_eq!(connection.request("POST", "/", "", body).status, 200);
    }
    assert_eq!(connection.request("GET", "/health", "", "").status, 200);
}

#[test]
fn several_ports_answer_alike() {
    let web = Web::start_on(3, &[]);
    assert_eq!(web.addresses.len(), 3);
    for address in &web.addresses {
        assert_eq!(connect(*address).request("GET", "/", "", "").status, 200);
    }
}

#[test]
fn health_is_what_it_was_told() {
    let web = Web::start(&["--unhealthy"]);
    assert_eq!(web.get("/health").status, 503);
    web.connect().request("POST", "/health/up", "", "");
    assert_eq!(web.get("/health").status, 200);
    web.connect().request("POST", "/health/down", "", "");
    assert_eq!(web.get("/health").status, 503);
    assert_eq!(web.get("/").status, 200, "only the health check is told");
}

#[test]
fn headers_and_bodies_come_back() {
    let web = Web::start(&[]);
    let answer = web
        .connect()
        .request("GET", "/headers", "X-One: a\r\nX-One: b\r\n", "");
    assert_eq!(answer.json()["x-one"], serde_json::json!(["a", "b"]));
    assert_eq!(answer.json()["host"], serde_json::json!(["test"]));

    let answer = web
        .connect()
        .request("POST", "/echo", "Content-Type: text/x-test\r\n", "hello");
    assert_eq!(answer.body, "hello");
    assert!(answer.head.contains("text/x-test"), "{}", answer.head);
}

#[test]
fn websocket_echoes() {
    let web = Web::start(&[]);
    let mut connection = web.connect();
    // Key and answer are the example of RFC 6455, section 1.3.
    let answer = connection.request(
        "GET",
        "/ws",
        "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n",
        "",
    );
    assert_eq!(answer.status, 101);
    assert!(
        answer.head.contains("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="),
        "{}",
        answer.head
    );
    // "Hello" as a masked text frame, and as the unmasked one that comes back: RFC 6455, section 5.7.
    connection
        .0
        .get_mut()
        .write_all(&[0x81, 0x85, 0x37, 0xfa, 0x21, 0x3d, 0x7f, 0x9f, 0x4d, 0x51, 0x58])
        .unwrap();
    let mut frame = [0; 7];
    connection.0.read_exact(&mut frame).unwrap();
    assert_eq!(&frame, b"\x81\x05Hello");
}

#[test]
fn slow_to_start_listens_only_then() {
    let start = Instant::now();
    let web = Web::start(&["--start-delay-ms", "300"]);
    assert!(start.elapsed() >= Duration::from_millis(300));
    assert_eq!(web.get("/").status, 200);
}

#[test]
fn slow_to_answer_by_option_or_by_request() {
    let web = Web::start(&["--delay-ms", "200"]);
    let timed = |target: &str| {
        let start = Instant::now();
        assert_eq!(web.get(target).status, 200);
        start.elapsed()
    };
    assert!(timed("/") >= Duration::from_millis(200));
    assert!(timed("/?delay_ms=400") >= Duration::from_millis(400));
    assert!(timed("/?delay_ms=0") < Duration::from_millis(200));
    assert!(timed("/health") < Duration::from_millis(200));
}

#[test]
fn fails_by_option_or_by_request() {
    let web = Web::start(&["--fail-rate", "1"]);
    assert_eq!(web.get("/").status, 500);
    assert_eq!(web.get("/?status=418").status, 418);
    assert_eq!(web.get("/?status=nonsense").status, 400);
    assert_eq!(web.get("/?status=101").status, 400);
    assert_eq!(web.get("/health").status, 200);

    let web = Web::start(&[]);
    assert_eq!(web.get("/?status=500").status, 500);
    assert_eq!(web.get("/").status, 200);
}

#[test]
fn crashes_with_code_1_by_request_or_by_time() {
    for (method, target) in [("GET", "/?crash=1"), ("POST", "/crash")] {
        let mut web = Web::start(&[]);
        let mut connection = web.connect();
        connection.send(method, target, "", "");
        assert!(connection.answer().is_none(), "a crash leaves no answer");
        assert_eq!(web.wait().code(), Some(1));
    }
    assert_eq!(Web::start(&["--crash-after-ms", "50"]).wait().code(), Some(1));
}

#[test]
fn sigterm_ends_at_once_and_cuts_what_is_in_flight() {
    let mut web = Web::start(&[]);
    let mut connection = web.connect();
    connection.send("GET", "/?delay_ms=60000", "", "");
    // Only a request that has arrived can be cut: a second one on the same path proves nothing of the first,
    // but the listener takes connections in order.
    assert_eq!(web.get("/").status, 200);
    web.signal("TERM");
    let start = Instant::now();
    assert_eq!(web.wait().code(), Some(0));
    assert!(start.elapsed() < Duration::from_secs(1));
    assert!(connection.answer().is_none());
}

#[test]
fn sigterm_counts_before_it_listens() {
    let mut web = Web::spawn(1, &["--start-delay-ms", "60000"]);
    web.until_sigterm_is_caught();
    web.signal("TERM");
    assert_eq!(web.wait().code(), Some(0));
}

#[test]
fn graceful_keeps_serving_after_sigterm() {
    let mut web = Web::start(&["--graceful", "500"]);
    web.signal("TERM");
    let start = Instant::now();
    assert!(web.line().starts_with("SIGTERM: serving"));
    assert_eq!(web.get("/").status, 200, "new connections are still taken");
    assert_eq!(web.wait().code(), Some(0));
    assert!(start.elapsed() >= Duration::from_millis(450));
}

#[test]
fn ignored_sigterm_changes_nothing() {
    let mut web = Web::start(&["--ignore-sigterm"]);
    web.signal("TERM");
    assert_eq!(web.line(), "SIGTERM ignored");
    assert_eq!(web.get("/").status, 200);
    web.signal("INT");
    assert_eq!(web.wait().code(), Some(0));
}

#[test]
fn a_port_in_use_is_said_and_fails() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let output = Command::new(env!("CARGO_BIN_EXE_example-web"))
        .args(["--bind", "127.0.0.1", "--port", &port.to_string()])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stdout).contains(&format!("cannot listen on 127.0.0.1:{port}")));
}
