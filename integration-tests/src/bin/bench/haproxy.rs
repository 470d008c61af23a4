//! HAProxy itself: its master's command line, and what its running worker says of its servers.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use integration_tests::platform::DOMAIN;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};

use crate::Result;

/// Deadline of one command; a reload is the slowest.
const DEADLINE: Duration = Duration::from_secs(15);

/// A question that the worker answers from memory.
pub(crate) const QUESTION: &str = "@1 show env COLOSSUS_GENERATION";

/// Column of `show stat` with the state of a server (management guide, 9.1).
const STATUS_COLUMN: usize = 17;

/// Longer scopes HAProxy cuts off (`STAT_SCOPE_TXT_MAXLEN`).
const SCOPE_MAX: usize = 20;

/// The HAProxy of the platform.
#[derive(Debug)]
pub(crate) struct HaProxy {
    socket: PathBuf,
    stats: SocketAddr,
}

impl HaProxy {
    pub(crate) fn new(socket: PathBuf, stats: SocketAddr) -> Self {
        Self { socket, stats }
    }

    /// One command on the master's socket, on a connection of its own as router-config does it.
    pub(crate) async fn command(&self, line: &str) -> Result<String> {
        let conversation = async {
            let mut stream = UnixStream::connect(&self.socket).await?;
            exchange(&mut stream, &format!("{line}\n")).await
        };
        match tokio::time::timeout(DEADLINE, conversation).await {
            Ok(answer) => {
                answer.map_err(|error| format!("{}: {error} (root can)", self.socket.display()).into())
            }
            Err(_) => Err(format!("HAProxy did not answer {line:?} within {DEADLINE:?}").into()),
        }
    }

    /// Loads the present configuration again; ends when the new worker serves.
    pub(crate) async fn reload(&self) -> Result<()> {
        let answer = self.command("reload").await?;
        if answer.starts_with("Success=1") {
            Ok(())
        } else {
            Err(format!("HAProxy refused to reload: {answer}").into())
        }
    }

    /// How many servers of `service` may get requests, as the running worker says it on its statistics page: the
    /// runtime truth, whether it came about by a reload or by a command. One in maintenance or draining is out.
    pub(crate) async fn servers(&self, service: &str) -> Result<usize> {
        // The scope keeps the answer, and with it the work, small however many services there are.
        let scope: String = service.chars().take(SCOPE_MAX).collect();
        let mut stream = TcpStream::connect(self.stats).await?;
        // The page has no length: with HTTP/1.0 it ends where the connection does.
        let page = exchange(&mut stream, &format!("GET /;csv?scope={scope} HTTP/1.0\r\n\r\n")).await?;
        if page.split(' ').nth(1) != Some("200") {
            return Err("HAProxy gives no statistics".into());
        }
        // The routes of single nodes have the same servers, once more.
        let of_all_nodes = format!("route:{service}.{DOMAIN}");
        let in_use = |line: &&str| {
            let mut columns = line.split(',');
            let (backend, server) = (columns.next(), columns.next());
            let status = columns.nth(STATUS_COLUMN - 2).unwrap_or_default();
            backend == Some(&*of_all_nodes)
                && !matches!(server, Some("BACKEND" | "FRONTEND") | None)
                && !["MAINT", "DRAIN"].iter().any(|out| status.starts_with(out))
        };
        Ok(page.lines().filter(in_use).count())
    }
}

/// Says `text` and reads until the other side has nothing more to say.
async fn exchange(stream: &mut (impl AsyncRead + AsyncWrite + Unpin), text: &str) -> std::io::Result<String> {
    stream.write_all(text.as_bytes()).await?;
    // The master would wait for another command.
    stream.shutdown().await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    Ok(answer)
}
