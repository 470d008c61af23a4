//! Starting an observer, and hearing what it tells.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::path::Path;
use std::process::Stdio;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::event::Event;
use super::frames::Mac;
use super::observation::{Observation, Sight};
use super::{Moment, Span};
use crate::cluster::{Cluster, HOST_IMAGE, SHORT, wait_for};
use crate::docker::{try_docker, unique};

/// How long it may take to start, and to end once it was told to.
const WITHIN: Duration = Duration::from_secs(60);

/// What was seen this long ago has been told. A container's output goes through Docker.
const TOLD: Duration = Duration::from_millis(300);

/// Where an observer shall be.
#[derive(Debug, Clone)]
pub struct Place {
    /// Docker's network.
    pub network: String,
    /// Labels of its container, by which it is found when it is left behind.
    pub labels: Vec<String>,
    /// The cards on the network whose owners are known.
    pub names: BTreeMap<Mac, String>,
}

impl Place {
    /// On a cluster's network.
    pub fn on(cluster: &Cluster) -> Self {
        let named = |node: &crate::cluster::Node| Some((node.mac().parse().ok()?, node.hostname()));
        Self {
            network: cluster.options().name.clone(),
            labels: cluster.options().labels(),
            names: cluster.nodes().iter().filter_map(named).collect(),
        }
    }
}

/// An observer under way. It ends when this is dropped.
#[derive(Debug)]
pub struct Observer {
    seen: Arc<Mutex<Observation>>,
    vips: Vec<Ipv4Addr>,
    began: Moment,
    child: Child,
    /// Held open: it ends when this does.
    stdin: Option<ChildStdin>,
    told: JoinHandle<Result<(), String>>,
    // The last field: by then the program in it knows that it shall end.
    _container: Gone,
}

/// A container that is gone when this is dropped: until then its network cannot be removed.
#[derive(Debug)]
struct Gone(String);

impl Drop for Gone {
    fn drop(&mut self) {
        for _ in 0..100 {
            // One that is being removed already is there for a moment, and `rm` does not wait for that.
            if try_docker(&["container", "inspect", &self.0]).is_err() {
                return;
            }
            let _ = try_docker(&["rm", "-f", &self.0]);
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

impl Observer {
    /// Starts one that watches `vips` and asks each for `http://<host>/`; returns when it watches.
    ///
    /// `program` is this machine's program whose subcommand `observe` is [`observe()`](super::observe()). It runs in the
    /// container with this machine's files, so that it finds the libraries it was built with.
    ///
    /// # Errors
    /// When it does not start.
    pub async fn start(program: &Path, place: &Place, vips: &[Ipv4Addr], host: &str) -> Result<Self, String> {
        let program = std::path::absolute(program).map_err(|error| error.to_string())?;
        let name = Gone(unique("colossus-observer"));
        let mut command = Command::new("docker");
        command.args([
            "run",
            "--rm",
            "-i",
            "--name",
            &name.0,
            "--network",
            &place.network,
        ]);
        command.args(place.labels.iter().flat_map(|label| ["--label", label]));
        // Where SELinux keeps containers from files that were not made for them.
        command.args(["--security-opt", "label=disable", "-v", "/:/host:ro"]);
        command.args(["--entrypoint", "chroot", HOST_IMAGE, "/host"]);
        command.arg(program).args(["observe", "--host", host]);
        command.args(vips.iter().map(ToString::to_string));
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .map_err(|error| format!("docker: {error}"))?;
        let stdin = child.stdin.take();
        let stdout = child.stdout.take().ok_or("docker has no stdout")?;
        let seen = Arc::new(Mutex::new(Observation::new(place.names.clone())));
        let (began, mut has_begun) = watch::channel(false);
        let told = tokio::spawn(read(stdout, Arc::clone(&seen), began));
        let begun = tokio::time::timeout(WITHIN, has_begun.wait_for(|begun| *begun)).await;
        if !matches!(begun, Ok(Ok(_))) {
            return Err(format!(
                "the observer has not begun: {}",
                last_words(&mut child).await
            ));
        }
        Ok(Self {
            seen,
            vips: vips.to_vec(),
            began: Moment::now(),
            child,
            stdin,
            told,
            _container: name,
        })
    }

    /// The addresses that it watches.
    pub fn vips(&self) -> &[Ipv4Addr] {
        &self.vips
    }

    /// What it has told of an address since `from`; what is younger than a moment it may not have told.
    pub fn since(&self, vip: Ipv4Addr, from: Moment) -> Sight {
        let to = (Moment::now() - TOLD).max(from);
        self.seen().of(vip, Span { from, to })
    }

    /// Waits until what it has seen of each address in the last `lasting` is so.
    ///
    /// # Errors
    /// With the last complaint and what was seen, when it is not `within` this time.
    pub async fn until(
        &self,
        what: &str,
        lasting: Duration,
        within: Duration,
        is_so: impl Fn(&Sight) -> Result<(), String>,
    ) -> Result<(), String> {
        let began = Moment::now();
        let looked_at = || async {
            let from = Moment::now() - TOLD - lasting;
            if from < self.began {
                return Err("it has not been watched for long enough".to_owned());
            }
            for vip in &self.vips {
                let sight = self.since(*vip, from);
                is_so(&sight).map_err(|complaint| format!("{complaint}: {sight}"))?;
            }
            Ok(())
        };
        wait_for(what, within, looked_at).await.map_err(|error| {
            let all: Vec<String> = self
                .vips
                .iter()
                .map(|vip| self.since(*vip, began).to_string())
                .collect();
            format!("{error}\nall that was seen meanwhile:\n{}", all.join("\n"))
        })
    }

    /// Ends it, waits for what is under way, and gives all that it has seen.
    ///
    /// # Errors
    /// When it had ended before.
    pub async fn finish(mut self) -> Result<Observation, String> {
        drop(self.stdin.take());
        let told = tokio::time::timeout(WITHIN, &mut self.told)
            .await
            .map_err(|_| "the observer does not end".to_owned())?
            .map_err(|error| error.to_string())?;
        match told {
            Ok(()) => Ok(self.seen().clone()),
            Err(error) => Err(format!("{error}: {}", last_words(&mut self.child).await)),
        }
    }

    fn seen(&self) -> MutexGuard<'_, Observation> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Observer {
    fn drop(&mut self) {
        self.told.abort();
    }
}

/// Reads to the end.
async fn read(
    stdout: ChildStdout,
    seen: Arc<Mutex<Observation>>,
    began: watch::Sender<bool>,
) -> Result<(), String> {
    let mut lines = BufReader::new(stdout).lines();
    while let Some(line) = lines.next_line().await.map_err(|error| error.to_string())? {
        let event = serde_json::from_str(&line).map_err(|error| format!("{error}: {line}"))?;
        match event {
            Event::Began { .. } => drop(began.send_replace(true)),
            Event::Ended => return Ok(()),
            event => seen.lock().unwrap_or_else(PoisonError::into_inner).add(event),
        }
    }
    Err("the observer has ended before it was told to".to_owned())
}

/// What it said on stderr before it ended.
async fn last_words(child: &mut Child) -> String {
    let mut said = String::new();
    if let Some(stderr) = &mut child.stderr {
        // One that neither speaks nor ends is no reason to wait.
        let _ = tokio::time::timeout(SHORT, stderr.read_to_string(&mut said)).await;
    }
    said.trim().to_owned()
}
