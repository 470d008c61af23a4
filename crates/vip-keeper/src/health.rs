//! Whether this node could serve: its proxy lives and answers.
//!
//! Checked now and then, and at once when the proxy dies: a connection to the first check is kept open, and the kernel ends it
//! when the process behind it is gone. A check whose connection is refused fails at once; one that is not answered, the
//! second time. Health comes back only after all checks have been passed for a while.

use std::fmt;
use std::future::pending;
use std::io;
use std::net::SocketAddr;
use std::str::FromStr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

/// How long one check may take.
const PATIENCE: Duration = Duration::from_millis(700);
/// How many checks in a row must go unanswered. One that is refused is enough.
const UNANSWERED: u32 = 2;
/// After the kept connection has ended: what restarts closes its connections before its port.
const AGAIN: Duration = Duration::from_millis(15);
/// How often it is looked at again after that, before the usual rhythm.
const AGAIN_TIMES: u32 = 3;

/// Something that must answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CheckUrl {
    /// Nothing.
    None,
    /// A connection.
    Tcp(SocketAddr),
    /// An answer of HTTP under 500.
    Http(SocketAddr, String),
}

impl FromStr for CheckUrl {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong =
            || "use http://ADDRESS:PORT/PATH, tcp://ADDRESS:PORT or none; the address in figures".to_owned();
        if text == "none" {
            return Ok(Self::None);
        }
        if let Some(rest) = text.strip_prefix("tcp://") {
            return rest.parse().map(Self::Tcp).map_err(|_| wrong());
        }
        let rest = text.strip_prefix("http://").ok_or_else(wrong)?;
        let (address, path) = match rest.find('/') {
            Some(at) => rest.split_at(at),
            None => (rest, "/"),
        };
        if path.chars().any(|c| c.is_whitespace() || c.is_control()) {
            return Err(wrong());
        }
        Ok(Self::Http(address.parse().map_err(|_| wrong())?, path.to_owned()))
    }
}

impl fmt::Display for CheckUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => f.write_str("none"),
            Self::Tcp(address) => write!(f, "tcp://{address}"),
            Self::Http(address, path) => write!(f, "http://{address}{path}"),
        }
    }
}

/// How a check failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Failure {
    /// Nobody is there.
    Refused,
    /// Somebody may be there.
    Unanswered,
}

/// Whether this node is well.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Health {
    /// Whether it is.
    pub well: bool,
    /// Why not.
    pub because: Option<String>,
}

impl Health {
    fn ill(because: String) -> Self {
        Self {
            well: false,
            because: Some(because),
        }
    }

    /// What is said before the first checks.
    pub fn unknown() -> Self {
        Self::ill("not checked yet".to_owned())
    }
}

/// Checks for ever.
#[derive(Debug)]
pub struct Checker {
    checks: Vec<CheckUrl>,
    every: Duration,
    rise: Duration,
    told: watch::Sender<Health>,
    unanswered: u32,
    /// Since when all have been passed.
    good_since: Option<Instant>,
    tripwire: Option<TcpStream>,
}

impl Checker {
    /// One that has checked nothing yet, and where its word is heard.
    pub fn new(checks: Vec<CheckUrl>, every: Duration, rise: Duration) -> (Self, watch::Receiver<Health>) {
        let (told, heard) = watch::channel(Health::unknown());
        let checks = checks
            .into_iter()
            .filter(|check| *check != CheckUrl::None)
            .collect();
        let checker = Self {
            checks,
            every,
            rise,
            told,
            unanswered: 0,
            good_since: None,
            tripwire: None,
        };
        (checker, heard)
    }

    /// Checks until the shutdown.
    pub async fn run(mut self, shutdown: CancellationToken) {
        let mut first = true;
        let mut soon = 0;
        loop {
            let result = self.check_all().await;
            self.judge(result, first);
            first = false;
            // Until it is known what the end of the kept connection meant: a listener that dies may reset one more.
            let next = if soon > 0 && self.told.borrow().well {
                AGAIN
            } else {
                self.pause()
            };
            soon = u32::saturating_sub(soon, 1);
            let next = Instant::now() + next;
            // All three may be cancelled: reading from the tripwire expects nothing.
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = sleep_until(next) => {}
                () = ended(&mut self.tripwire) => {
                    self.tripwire = None;
                    soon = AGAIN_TIMES;
                }
            }
        }
    }

    /// Until the next check: no longer than it takes to be well again.
    fn pause(&self) -> Duration {
        match self.good_since {
            Some(since) if !self.told.borrow().well => {
                let left = (since + self.rise).saturating_duration_since(Instant::now());
                left.clamp(Duration::from_millis(1), self.every)
            }
            _ => self.every,
        }
    }

    async fn check_all(&mut self) -> Result<(), (Failure, String)> {
        for (index, check) in self.checks.iter().enumerate() {
            let said = |error: &io::Error| format!("{check}: {error}");
            match timeout(PATIENCE, ask(check)).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) if error.kind() == io::ErrorKind::ConnectionRefused => {
                    return Err((Failure::Refused, said(&error)));
                }
                Ok(Err(error)) => return Err((Failure::Unanswered, said(&error))),
                Err(_) => return Err((Failure::Unanswered, format!("{check}: no answer in {PATIENCE:?}"))),
            }
            if index == 0 && self.tripwire.is_none() {
                self.tripwire = keep_open(check).await;
            }
        }
        Ok(())
    }

    fn judge(&mut self, result: Result<(), (Failure, String)>, first: bool) {
        let now = Instant::now();
        let health = match result {
            Ok(()) => {
                self.unanswered = 0;
                let since = *self.good_since.get_or_insert(now);
                if !first && now < since + self.rise && !self.told.borrow().well {
                    return;
                }
                Health {
                    well: true,
                    because: None,
                }
            }
            Err((failure, because)) => {
                self.good_since = None;
                self.unanswered += 1;
                if failure == Failure::Unanswered && self.unanswered < UNANSWERED && self.told.borrow().well {
                    return;
                }
                Health::ill(because)
            }
        };
        self.told.send_if_modified(|told| {
            if *told == health {
                return false;
            }
            if told.well != health.well {
                match &health.because {
                    Some(because) => warn!(because, "this node is not well"),
                    None => info!("this node is well"),
                }
            }
            *told = health;
            true
        });
    }
}

async fn ask(check: &CheckUrl) -> io::Result<()> {
    match check {
        CheckUrl::None => Ok(()),
        CheckUrl::Tcp(address) => TcpStream::connect(address).await.map(drop),
        CheckUrl::Http(address, path) => {
            let mut stream = TcpStream::connect(address).await?;
            let request = format!("GET {path} HTTP/1.0\r\nHost: {address}\r\n\r\n");
            stream.write_all(request.as_bytes()).await?;
            // "HTTP/1.1 200": RFC 9112, section 4.
            let mut line = [0; 12];
            stream.read_exact(&mut line).await?;
            let line = String::from_utf8_lossy(&line);
            match line
                .strip_prefix("HTTP/1.")
                .and_then(|rest| rest.get(2..)?.parse::<u16>().ok())
            {
                Some(code) if code < 500 => Ok(()),
                Some(code) => Err(io::Error::other(format!("it answers {code}"))),
                None => Err(io::Error::other("it does not speak HTTP")),
            }
        }
    }
}

/// A connection that says nothing, for the sake of its end.
async fn keep_open(check: &CheckUrl) -> Option<TcpStream> {
    let (CheckUrl::Tcp(address) | CheckUrl::Http(address, _)) = check else {
        return None;
    };
    timeout(PATIENCE, TcpStream::connect(address)).await.ok()?.ok()
}

/// Until the other side ends the connection; for ever without one.
async fn ended(tripwire: &mut Option<TcpStream>) {
    let Some(stream) = tripwire else {
        return pending().await;
    };
    let mut ignored = [0; 64];
    while !matches!(stream.read(&mut ignored).await, Ok(0) | Err(_)) {
        // Whoever talks without being asked is not made a busy loop of.
        sleep(Duration::from_millis(1)).await;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tokio::net::TcpListener;

    use super::*;

    const SOON: Duration = Duration::from_secs(10);

    /// An HTTP server that answers with `code` until it is dropped.
    async fn serve(listener: impl AsRef<TcpListener>, code: &'static str) {
        // Its connections end with it, as a process's do.
        let mut open = tokio::task::JoinSet::new();
        loop {
            let (mut stream, _) = listener.as_ref().accept().await.expect("a connection");
            open.spawn(async move {
                let mut request = [0; 512];
                while stream.read(&mut request).await.is_ok_and(|read| read > 0) {
                    let answer = format!("HTTP/1.0 {code} X\r\n\r\n");
                    if stream.write_all(answer.as_bytes()).await.is_err() {
                        return;
                    }
                }
            });
        }
    }

    async fn until(heard: &mut watch::Receiver<Health>, well: bool) -> Health {
        let found = timeout(
            SOON,
            heard.wait_for(|health| {
                health.well == well && health.because.as_deref() != Some("not checked yet")
            }),
        );
        found.await.expect("in time").expect("it runs").clone()
    }

    #[test]
    fn checks_are_read_back_as_they_are_shown() {
        for text in [
            "none",
            "tcp://127.0.0.1:80",
            "http://[::1]:8404/health",
            "http://127.0.0.1:80/",
        ] {
            let check: CheckUrl = text.parse().expect(text);
            assert_eq!(check.to_string(), text);
        }
        for text in [
            "",
            "127.0.0.1:80",
            "http://localhost/",
            "http://127.0.0.1/",
            "tcp://127.0.0.1",
            "http://127.0.0.1:80/a b",
        ] {
            assert!(text.parse::<CheckUrl>().is_err(), "{text}");
        }
    }

    #[tokio::test]
    async fn a_proxy_that_dies_is_noticed_long_before_the_next_check() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let check = CheckUrl::Http(listener.local_addr().expect("bound"), "/health".to_owned());
        let server = tokio::spawn(serve(Arc::new(listener), "200"));
        let hour = Duration::from_secs(3600);
        let (checker, mut heard) = Checker::new(vec![check], hour, Duration::ZERO);
        let shutdown = CancellationToken::new();
        let running = tokio::spawn(checker.run(shutdown.clone()));
        until(&mut heard, true).await;
        server.abort();
        let health = until(&mut heard, false).await;
        assert!(
            health
                .because
                .as_deref()
                .is_some_and(|because| because.contains("/health")),
            "{health:?}"
        );
        shutdown.cancel();
        running.await.expect("ended");
    }

    #[tokio::test]
    async fn a_proxy_that_dies_and_still_takes_connections_is_noticed_as_soon() {
        let listener = Arc::new(TcpListener::bind("127.0.0.1:0").await.expect("a port"));
        let check = CheckUrl::Http(listener.local_addr().expect("bound"), "/health".to_owned());
        let server = tokio::spawn(serve(Arc::clone(&listener), "200"));
        let hour = Duration::from_secs(3600);
        let (checker, mut heard) = Checker::new(vec![check], hour, Duration::ZERO);
        let shutdown = CancellationToken::new();
        let running = tokio::spawn(checker.run(shutdown.clone()));
        until(&mut heard, true).await;
        server.abort();
        // Taken, and ended without a word.
        let dying = tokio::spawn(async move { while listener.accept().await.map(drop).is_ok() {} });
        until(&mut heard, false).await;
        dying.abort();
        shutdown.cancel();
        running.await.expect("ended");
    }

    #[tokio::test]
    async fn an_answer_of_500_and_silence_are_no_health_and_come_back() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("bound");
        let check = CheckUrl::Http(address, "/".to_owned());
        let server = tokio::spawn(serve(Arc::new(listener), "503"));
        let (checker, mut heard) =
            Checker::new(vec![check], Duration::from_millis(10), Duration::from_millis(20));
        let shutdown = CancellationToken::new();
        let running = tokio::spawn(checker.run(shutdown.clone()));
        let health = until(&mut heard, false).await;
        assert!(
            health
                .because
                .as_deref()
                .is_some_and(|because| because.contains("503")),
            "{health:?}"
        );
        server.abort();
        assert!(server.await.is_err());
        let listener = TcpListener::bind(address).await.expect("the port again");
        let server = tokio::spawn(serve(Arc::new(listener), "404"));
        until(&mut heard, true).await;
        server.abort();
        shutdown.cancel();
        running.await.expect("ended");
    }

    #[tokio::test]
    async fn without_checks_a_node_is_well() {
        let (checker, mut heard) = Checker::new(
            vec![CheckUrl::None],
            Duration::from_secs(1),
            Duration::from_secs(1),
        );
        let shutdown = CancellationToken::new();
        let running = tokio::spawn(checker.run(shutdown.clone()));
        until(&mut heard, true).await;
        shutdown.cancel();
        running.await.expect("ended");
    }
}
