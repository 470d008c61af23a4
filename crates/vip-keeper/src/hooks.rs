//! Programs and URLs that are told of every change: for networks in which an address moves by other means than ARP.
//!
//! They are told after the fact, one after the other, and nothing waits for them: a hook that hangs delays hooks and nothing
//! else. What could not be told is in the log and in a metric.

use std::fmt;
use std::path::PathBuf;
use std::process::Stdio;
use std::str::FromStr;
use std::time::Duration;

use daemon::error_chain;
use prometheus::IntCounterVec;
use serde::Serialize;
use tokio::process::Command;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};
use url::Url;

use crate::vip::VipName;

/// How long one hook may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// How many changes may wait to be told.
pub const QUEUE: usize = 256;

/// Who is told.
#[derive(Clone, PartialEq, Eq)]
pub enum Hook {
    /// A program, by its absolute path; the change is in its environment.
    Program(PathBuf),
    /// A URL; the change is POSTed to it as JSON. May hold a secret.
    Url(Url),
}

impl FromStr for Hook {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.starts_with("http://") || text.starts_with("https://") {
            return text.parse().map(Self::Url).map_err(|error| error.to_string());
        }
        if text.starts_with('/') {
            return Ok(Self::Program(text.into()));
        }
        Err("use /absolute/path/of/a/program, or a URL that begins with http:// or https://".to_owned())
    }
}

impl fmt::Display for Hook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Program(path) => write!(f, "{}", path.display()),
            // User, path and query may be secrets.
            Self::Url(url) => write!(f, "{}://{}/…", url.scheme(), url.host_str().unwrap_or_default()),
        }
    }
}

impl fmt::Debug for Hook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// What is told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Notice {
    /// The virtual IP's name.
    pub vip: VipName,
    /// Its address.
    pub address: String,
    /// This node.
    pub node: String,
    /// `held` or `released`.
    pub state: &'static str,
    /// How it came to that: a word.
    pub reason: &'static str,
    /// The number of the holder: a hook that is late can tell that it is.
    pub epoch: u64,
    /// The interface, if it is known.
    pub interface: String,
}

/// Tells the hooks, until the shutdown; then what still waits.
pub async fn run(
    hooks: Vec<Hook>,
    mut notices: mpsc::Receiver<Notice>,
    told: IntCounterVec,
    shutdown: CancellationToken,
) {
    let https = hooks
        .iter()
        .any(|hook| matches!(hook, Hook::Url(url) if url.scheme() == "https"));
    let client = crate::http::client(PATIENCE, https);
    loop {
        // Receiving may be cancelled; telling is not.
        let notice = tokio::select! {
            biased;
            notice = notices.recv() => notice,
            () = shutdown.cancelled() => None,
        };
        let Some(notice) = notice else { return };
        for hook in &hooks {
            let result = match (hook, &client) {
                (Hook::Program(program), _) => run_program(program, &notice).await,
                (Hook::Url(url), Ok(client)) => post(client, url, &notice).await,
                (Hook::Url(_), Err(because)) => Err(because.clone()),
            };
            let outcome = if result.is_ok() { "ok" } else { "error" };
            told.with_label_values(&[outcome]).inc();
            match result {
                Ok(()) => info!(%hook, vip = %notice.vip, state = notice.state, "told a hook"),
                Err(because) => {
                    warn!(%hook, vip = %notice.vip, state = notice.state, because, "could not tell a hook");
                }
            }
        }
    }
}

async fn run_program(program: &PathBuf, notice: &Notice) -> Result<(), String> {
    let mut child = Command::new(program)
        .env("VIP_NAME", notice.vip.as_str())
        .env("VIP_ADDRESS", &notice.address)
        .env("VIP_NODE", &notice.node)
        .env("VIP_STATE", notice.state)
        .env("VIP_REASON", notice.reason)
        .env("VIP_EPOCH", notice.epoch.to_string())
        .env("VIP_INTERFACE", &notice.interface)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .map_err(|error| format!("cannot be started: {error}"))?;
    match timeout(PATIENCE, child.wait()).await {
        Ok(Ok(status)) if status.success() => Ok(()),
        Ok(Ok(status)) => Err(format!("it ended with {status}")),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => {
            // Dropping it would do; this way it is gone before the next one starts.
            let _ = child.kill().await;
            Err(format!("it took longer than {PATIENCE:?}, and was killed"))
        }
    }
}

async fn post(client: &reqwest::Client, url: &Url, notice: &Notice) -> Result<(), String> {
    let answer = client.post(url.clone()).json(notice).send().await;
    match answer {
        Ok(answer) if answer.status().is_success() => Ok(()),
        Ok(answer) => Err(format!("it answers {}", answer.status())),
        // Its text holds the URL.
        Err(error) => Err(error_chain(&error.without_url()).to_string()),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn notice() -> Notice {
        Notice {
            vip: "web".parse().expect("a name"),
            address: "10.0.0.100".to_owned(),
            node: "n1".to_owned(),
            state: "held",
            reason: "claimed",
            epoch: 7,
            interface: "eth0".to_owned(),
        }
    }

    fn counter() -> IntCounterVec {
        daemon::metrics::counter_vec(&prometheus::Registry::new(), "told", "Told.", &["result"])
            .expect("a metric")
    }

    fn program(directory: &tempfile::TempDir, name: &str, script: &str) -> Hook {
        let path = directory.path().join(name);
        std::fs::write(&path, format!("#!/bin/sh\n{script}\n")).expect("written");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).expect("made executable");
        Hook::Program(path)
    }

    #[tokio::test]
    async fn every_hook_is_told_though_the_one_before_failed() {
        let directory = tempfile::tempdir().expect("a directory");
        let out = directory.path().join("out");
        let hooks = vec![
            program(&directory, "fails", "exit 3"),
            Hook::Program("/does/not/exist".into()),
            program(
                &directory,
                "writes",
                &format!(
                    "echo $VIP_NAME $VIP_ADDRESS $VIP_STATE $VIP_EPOCH >{}",
                    out.display()
                ),
            ),
        ];
        let (send, receive) = mpsc::channel(QUEUE);
        send.send(notice()).await.expect("room");
        drop(send);
        let told = counter();
        run(hooks, receive, told.clone(), CancellationToken::new()).await;
        assert_eq!(
            std::fs::read_to_string(out).expect("written"),
            "web 10.0.0.100 held 7\n"
        );
        assert_eq!(told.with_label_values(&["error"]).get(), 2);
        assert_eq!(told.with_label_values(&["ok"]).get(), 1);
    }

    #[test]
    fn a_url_is_shown_without_what_may_be_secret() {
        let hook: Hook = "https://user:hunter2@cloud.example/move?token=hunter2"
            .parse()
            .expect("a URL");
        for shown in [hook.to_string(), format!("{hook:?}")] {
            assert!(
                !shown.contains("hunter2") && shown.contains("cloud.example"),
                "{shown}"
            );
        }
        assert!("relative".parse::<Hook>().is_err());
    }
}
