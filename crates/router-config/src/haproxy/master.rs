//! HAProxy's master CLI: reload, and ask the running worker what it runs.
//!
//! The protocol is that of the management guide, sections "9.4 Master CLI" and "9.3 Unix Socket commands": one
//! line in, text out, the connection is closed at its end.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use thiserror::Error;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

use super::config::{GENERATION_VARIABLE, Generation};

/// Deadline of a question. The worker answers from memory.
const QUESTION_DEADLINE: Duration = Duration::from_secs(2);

/// Deadline of a reload. It parses the file and starts a worker: 150 ms for 1,000 backends of 10 servers.
const RELOAD_DEADLINE: Duration = Duration::from_secs(15);

/// The most we read of an answer; `show` commands that we use stay far below.
const ANSWER_MAX: u64 = 1024 * 1024;

/// What went wrong with HAProxy.
#[derive(Debug, Error)]
pub enum MasterError {
    /// Nobody answers at the socket.
    #[error(
        "HAProxy's master does not answer at {socket} (it makes this socket when it starts: is it running?)"
    )]
    Exchange {
        /// The socket.
        socket: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// No answer in time: the process is frozen, or far too busy.
    #[error("HAProxy's master at {socket} did not answer {command:?} within {seconds} s")]
    Deadline {
        /// The socket.
        socket: PathBuf,
        /// What was asked.
        command: String,
        /// The deadline, in seconds.
        seconds: u64,
    },
    /// HAProxy read the configuration and did not take it; the old one goes on running.
    #[error("HAProxy refused the configuration and goes on with the old one: {log}")]
    Refused {
        /// What HAProxy said about it, on one line.
        log: String,
    },
}

/// A client of the master CLI.
#[derive(Debug, Clone)]
pub struct Master {
    socket: PathBuf,
}

impl Master {
    /// A client of the socket at `socket`. Does not connect yet.
    pub fn new(socket: PathBuf) -> Self {
        Self { socket }
    }

    /// Loads the configuration file again. The listening sockets are handed over, no connection is refused.
    ///
    /// # Errors
    /// [`MasterError::Refused`] when the file is not valid: the old worker goes on. From HAProxy 2.7 the answer
    /// says so; an older one says nothing, there only [`Master::running_generation`] tells.
    pub async fn reload(&self) -> Result<(), MasterError> {
        let answer = self.exchange("reload", RELOAD_DEADLINE).await?;
        if answer.trim_start().starts_with("Success=0") {
            return Err(MasterError::Refused { log: alerts(&answer) });
        }
        Ok(())
    }

    /// The generation of the configuration that the current worker runs; `None` when it runs one that is not ours.
    ///
    /// # Errors
    /// When HAProxy does not answer.
    pub async fn running_generation(&self) -> Result<Option<Generation>, MasterError> {
        let answer = self
            .exchange(&format!("@1 show env {GENERATION_VARIABLE}"), QUESTION_DEADLINE)
            .await?;
        let prefix = format!("{GENERATION_VARIABLE}=");
        Ok(answer
            .lines()
            .find_map(|line| line.strip_prefix(&prefix))
            .map(|text| Generation::from_running(text.trim())))
    }

    async fn exchange(&self, command: &str, deadline: Duration) -> Result<String, MasterError> {
        let conversation = async {
            let mut stream = UnixStream::connect(&self.socket).await?;
            stream.write_all(format!("{command}\n").as_bytes()).await?;
            // The master keeps the connection for further commands until it hears that there are none.
            stream.shutdown().await?;
            let mut answer = Vec::new();
            stream.take(ANSWER_MAX).read_to_end(&mut answer).await?;
            Ok(String::from_utf8_lossy(&answer).into_owned())
        };
        match tokio::time::timeout(deadline, conversation).await {
            Ok(answer) => answer.map_err(|source| MasterError::Exchange {
                socket: self.socket.clone(),
                source,
            }),
            Err(_) => Err(MasterError::Deadline {
                socket: self.socket.clone(),
                command: command.to_owned(),
                seconds: deadline.as_secs(),
            }),
        }
    }
}

/// The lines of a failed reload that say why, on one line and bounded.
fn alerts(answer: &str) -> String {
    const MAX: usize = 500;
    let alerts: Vec<&str> = answer
        .lines()
        .filter(|line| line.contains("[ALERT]"))
        .map(str::trim)
        .collect();
    let text = if alerts.is_empty() {
        answer.split_whitespace().collect::<Vec<_>>().join(" ")
    } else {
        alerts.join("; ")
    };
    text.chars().take(MAX).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_shows_the_alerts_alone() {
        let answer = "Success=0\n--\n[NOTICE]   (1) : version\n[ALERT]    (1) : config : parsing [f:3] : unknown keyword \
                      'x'\n[WARNING]  (1) : y\n";
        assert_eq!(
            alerts(answer),
            "[ALERT]    (1) : config : parsing [f:3] : unknown keyword 'x'"
        );
        assert_eq!(
            alerts("Success=0\n--\nsomething else"),
            "Success=0 -- something else"
        );
    }
}
