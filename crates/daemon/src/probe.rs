//! Asking a running process from outside: what `healthcheck` and `status` do in an image that has no curl.

use std::{
    io::{self, Write},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    time::Duration,
};

use serde_json::Value;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

use crate::{CommonArgs, RunError};

/// How long a whole exchange may take.
const DEADLINE: Duration = Duration::from_secs(2);
/// More than the status of the largest cluster that is planned for.
const MAX_ANSWER: u64 = 64 * 1024 * 1024;

/// Why a running process could not be asked, or said no.
#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    /// No answer came.
    #[error("no answer from the admin server at {addr} (is it running, and is this its --admin-addr?)")]
    Exchange {
        /// Who was asked.
        addr: SocketAddr,
        /// What the system says.
        source: io::Error,
    },
    /// The answer is not HTTP or not JSON.
    #[error("what answers at {addr} is not a Colossus admin server")]
    Malformed {
        /// Who was asked.
        addr: SocketAddr,
    },
    /// The process is not ready, or refuses.
    #[error("{addr}{path} answers {code}: {}", body.trim())]
    Refused {
        /// Who was asked.
        addr: SocketAddr,
        /// For what.
        path: &'static str,
        /// The HTTP status code.
        code: u16,
        /// What it said.
        body: String,
    },
}

/// The operator commands that ask the process already running here.
///
/// A service with commands of its own puts these beside them:
///
/// ```
/// use clap::Parser;
/// use daemon::{CommonArgs, InspectCommand};
///
/// #[derive(Parser)]
/// #[command(args_conflicts_with_subcommands = true)]
/// struct Args {
///     #[command(flatten)]
///     common: CommonArgs,
///     #[command(subcommand)]
///     command: Option<Command>,
/// }
///
/// #[derive(clap::Subcommand)]
/// enum Command {
///     #[command(flatten)]
///     Inspect(InspectCommand),
///     /// Mends what only an operator may mend
///     Recover {
///         #[arg(long)]
///         yes: bool,
///     },
/// }
///
/// let args = Args::parse_from(["service", "status", "--admin-addr", "127.0.0.1:9"]);
/// assert!(matches!(args.command, Some(Command::Inspect(InspectCommand::Status))));
/// assert_eq!(args.common.admin_addr.port(), 9);
/// let args = Args::parse_from(["service", "recover", "--yes", "--log", "debug"]);
/// assert!(matches!(args.command, Some(Command::Recover { yes: true })));
/// assert!(Args::parse_from(["service"]).command.is_none());
/// ```
#[derive(clap::Subcommand, Clone, Copy, Debug, PartialEq, Eq)]
pub enum InspectCommand {
    /// Exits with 0 when the running service is ready, and with 1 when it is not
    Healthcheck,
    /// Shows the running service's status as JSON
    Status,
}

impl InspectCommand {
    /// Asks the admin server at `--admin-addr` and writes the answer, if there is one to show, to stdout.
    ///
    /// # Errors
    /// When there is no answer, or it is no.
    pub async fn run(self, common: &CommonArgs) -> Result<(), RunError> {
        match self {
            Self::Healthcheck => probe_ready(common.admin_addr).await?,
            Self::Status => {
                let status = get_status(common.admin_addr).await?;
                writeln!(io::stdout().lock(), "{status:#}").map_err(RunError::failed)?;
            }
        }
        Ok(())
    }
}

/// Whether the process whose admin server is at `addr` is ready. Takes at most 2 s.
///
/// # Errors
/// When it is not ready, or gives no proper answer in time.
pub async fn probe_ready(addr: SocketAddr) -> Result<(), ProbeError> {
    fetch(addr, "/ready").await.map(drop)
}

/// The status of the process whose admin server is at `addr`. Takes at most 2 s.
///
/// # Errors
/// When it gives no proper answer in time.
pub async fn get_status(addr: SocketAddr) -> Result<Value, ProbeError> {
    let body = fetch(addr, "/status").await?;
    serde_json::from_str(&body).map_err(|_| ProbeError::Malformed {
        addr: reachable(addr),
    })
}

/// The address to connect to for a server that listens on `addr`: loopback where it listens on all.
#[must_use]
fn reachable(addr: SocketAddr) -> SocketAddr {
    let ip = match addr.ip() {
        IpAddr::V4(Ipv4Addr::UNSPECIFIED) => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(Ipv6Addr::UNSPECIFIED) => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, addr.port())
}

async fn fetch(addr: SocketAddr, path: &'static str) -> Result<String, ProbeError> {
    let addr = reachable(addr);
    let answer = match timeout(DEADLINE, exchange(addr, path)).await {
        Ok(answer) => answer,
        Err(_) => Err(io::ErrorKind::TimedOut.into()),
    };
    let answer = answer.map_err(|source| ProbeError::Exchange { addr, source })?;
    let (code, body) = split(&answer).ok_or(ProbeError::Malformed { addr })?;
    if code == 200 {
        Ok(body.to_owned())
    } else {
        Err(ProbeError::Refused {
            addr,
            path,
            code,
            body: body.to_owned(),
        })
    }
}

/// HTTP/1.0, because its answers are never chunked and end with the connection.
async fn exchange(addr: SocketAddr, path: &str) -> io::Result<String> {
    let mut stream = TcpStream::connect(addr).await?;
    stream
        .write_all(format!("GET {path} HTTP/1.0\r\nHost: {addr}\r\n\r\n").as_bytes())
        .await?;
    let mut answer = Vec::new();
    stream.take(MAX_ANSWER).read_to_end(&mut answer).await?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

/// The status code and the body of an HTTP/1 answer.
fn split(answer: &str) -> Option<(u16, &str)> {
    let (head, body) = answer.split_once("\r\n\r\n")?;
    let mut words = head.strip_prefix("HTTP/1.")?.split_ascii_whitespace();
    let code = words.nth(1)?.parse().ok()?;
    Some((code, body))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error_chain;

    #[test]
    fn all_addresses_become_loopback() {
        for (given, asked) in [
            ("0.0.0.0:9501", "127.0.0.1:9501"),
            ("[::]:9501", "[::1]:9501"),
            ("10.0.0.7:9501", "10.0.0.7:9501"),
        ] {
            assert_eq!(reachable(given.parse().unwrap()).to_string(), asked);
        }
    }

    #[test]
    fn an_answer_is_split_or_refused() {
        assert_eq!(
            split("HTTP/1.0 503 Service Unavailable\r\nA: b\r\n\r\nno"),
            Some((503, "no"))
        );
        for bad in ["", "HTTP/1.0 200 OK\r\n", "SSH-2.0\r\n\r\n", "HTTP/1.1 x\r\n\r\n"] {
            assert_eq!(split(bad), None, "{bad}");
        }
    }

    #[tokio::test]
    async fn nobody_there_is_an_error_that_names_the_flag() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        drop(listener);
        let error = probe_ready(addr).await.unwrap_err();
        let text = error_chain(&error);
        assert!(
            text.contains("--admin-addr") && text.contains(&addr.to_string()),
            "{text}"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn silence_is_given_up_on() {
        // Bound and never accepted: the kernel completes the connection, and nobody answers.
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let error = probe_ready(listener.local_addr().unwrap()).await.unwrap_err();
        assert!(
            matches!(error, ProbeError::Exchange { source, .. } if source.kind() == io::ErrorKind::TimedOut)
        );
    }
}
