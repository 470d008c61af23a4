//! One host: what runs on it, and what can happen to it.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use serde_json::Value;

use super::command::{LONG, SHORT, docker, run, text};
use super::ready::wait_for;
use super::{Error, Subnet};
use crate::http::{self, Answer};

/// What systemd and a nested engine need where `--privileged` is not to be had. The same does where it is.
pub(crate) const RUN_OPTIONS: [&str; 10] = [
    "--cap-add=ALL",
    "--cap-drop=SYS_RESOURCE",
    "--security-opt=seccomp=unconfined",
    "--security-opt=apparmor=unconfined",
    "--security-opt=systempaths=unconfined",
    "--cgroupns=private",
    "--tmpfs=/run",
    "--tmpfs=/run/lock",
    "--tmpfs=/tmp:exec",
    // A clean shutdown, when it is stopped by hand: longer than any unit takes.
    "--stop-timeout=90",
];

/// How long systemd and Docker may take to start.
const BOOT: Duration = Duration::from_secs(120);

/// Lets nothing in and nothing out: what the kernel would answer although every process is frozen.
const FROZEN: &str = "
table inet test_bed_frozen {
  chain in { type filter hook prerouting priority -310; iifname != \"lo\" drop; }
  chain out { type filter hook output priority -310; oifname != \"lo\" drop; }
}
table arp test_bed_frozen {
  chain in { type filter hook input priority 0; drop; }
  chain out { type filter hook output priority 0; drop; }
}";

/// What a host is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// It runs.
    On,
    /// It was [frozen](Node::freeze).
    Frozen,
    /// It is off, by a cut or a clean shutdown.
    Off,
}

/// A host.
#[derive(Debug)]
pub struct Node {
    number: usize,
    container: String,
    address: Ipv4Addr,
}

impl Node {
    pub(crate) fn new(cluster: &str, subnet: Subnet, number: usize) -> Self {
        Self {
            number,
            container: format!("{cluster}-n{number}"),
            address: subnet.node(number),
        }
    }

    /// 1 for n1.
    pub fn number(&self) -> usize {
        self.number
    }

    /// What it calls itself: `n1`.
    pub fn hostname(&self) -> String {
        format!("n{}", self.number)
    }

    /// The container that it is: `colossus-n1`.
    pub fn container(&self) -> &str {
        &self.container
    }

    /// The volume that is its disk, `/var`.
    pub(crate) fn volume(&self) -> &str {
        &self.container
    }

    /// Its address, as this machine and the other nodes reach it.
    pub fn address(&self) -> Ipv4Addr {
        self.address
    }

    /// Of its network card: entry.sh sees to it.
    pub(crate) fn mac(&self) -> String {
        let [a, b, c, d] = self.address.octets();
        format!("02:42:{a:02x}:{b:02x}:{c:02x}:{d:02x}")
    }

    /// A port of it.
    pub fn port(&self, port: u16) -> SocketAddr {
        SocketAddr::from((self.address, port))
    }

    /// Where its HAProxy takes requests.
    pub fn http(&self) -> SocketAddr {
        self.port(80)
    }

    /// One GET through its HAProxy.
    ///
    /// # Errors
    /// When there is no answer within 20 s.
    pub async fn get(&self, host: &str, path: &str) -> Result<Answer, String> {
        http::get(self.http(), host, path)
            .await
            .map_err(|error| format!("{}: {error}", self.hostname()))
    }

    /// Runs a program on it and gives what it printed, trimmed.
    ///
    /// # Errors
    /// With all it printed, when it fails or takes longer than 30 s.
    pub async fn exec(&self, command: &[&str]) -> Result<String, String> {
        self.exec_within(command, SHORT).await
    }

    /// [`Node::exec`] for what takes another time.
    ///
    /// # Errors
    /// The same.
    pub async fn exec_within(&self, command: &[&str], within: Duration) -> Result<String, String> {
        docker(&[&["exec", &self.container], command].concat(), within).await
    }

    /// [`Node::exec`] with what the program shall read.
    ///
    /// # Errors
    /// The same.
    pub async fn exec_with_input(&self, command: &[&str], input: &[u8]) -> Result<String, String> {
        let arguments = [&["exec", "-i", &self.container], command].concat();
        run("docker", &arguments, Some(input), LONG)
            .await
            .map(|output| text(&output))
    }

    /// Runs a shell script on it and gives what it printed, trimmed.
    ///
    /// # Panics
    /// When it fails.
    pub async fn sh(&self, script: &str) -> String {
        told(self.exec(&["sh", "-c", script]).await)
    }

    /// Runs `docker` on it.
    ///
    /// # Panics
    /// When it fails.
    pub async fn docker(&self, arguments: &[&str]) -> String {
        told(self.exec(&[&["docker"], arguments].concat()).await)
    }

    /// Starts an `example-web` on it, whose service is called `service`, with a published port and more `options` of
    /// `docker run`; its ID.
    ///
    /// # Panics
    /// When it does not start.
    pub async fn example(&self, service: &str, options: &[&str]) -> String {
        let name = format!("SERVICE_NAME={service}");
        let run = ["run", "-d", "-p", "80", "-e", &name];
        self.docker(&[&run[..], options, &["colossus/example-web"]].concat())
            .await
    }

    /// GET of a port on its loopback address, where Consul and the admin servers are; the body.
    ///
    /// # Errors
    /// When there is no answer within 5 s, or one with a status above 399.
    pub async fn local(&self, port: u16, path: &str) -> Result<String, String> {
        let url = format!("http://127.0.0.1:{port}{path}");
        self.exec(&["curl", "-sS", "-f", "-m", "5", &url]).await
    }

    /// [`Node::local`] for JSON.
    ///
    /// # Errors
    /// The same, or when it is none.
    pub async fn local_json(&self, port: u16, path: &str) -> Result<Value, String> {
        let body = self.local(port, path).await?;
        serde_json::from_str(&body).map_err(|error| format!("{path}: {error}: {body}"))
    }

    /// `systemctl start`; the name may be without `.service`.
    ///
    /// # Panics
    /// When it fails.
    pub async fn start_unit(&self, unit: &str) {
        self.systemctl("start", unit).await;
    }

    /// `systemctl stop`.
    ///
    /// # Panics
    /// When it fails.
    pub async fn stop_unit(&self, unit: &str) {
        self.systemctl("stop", unit).await;
    }

    /// `systemctl restart`.
    ///
    /// # Panics
    /// When it fails.
    pub async fn restart_unit(&self, unit: &str) {
        self.systemctl("restart", unit).await;
    }

    async fn systemctl(&self, verb: &str, unit: &str) {
        told(self.exec_within(&["systemctl", verb, unit], LONG).await);
    }

    /// What systemd says of a unit: `active`, `activating`, `inactive`, `failed`, …
    ///
    /// # Errors
    /// When systemd does not answer.
    pub async fn unit_state(&self, unit: &str) -> Result<String, String> {
        self.exec(&["systemctl", "show", "-p", "ActiveState", "--value", unit])
            .await
    }

    /// What a unit has logged, over all boots.
    ///
    /// # Panics
    /// When it cannot be read.
    pub async fn journal(&self, unit: &str) -> String {
        let arguments = ["journalctl", "--no-pager", "-o", "short-precise", "-u", unit];
        told(self.exec(&arguments).await)
    }

    /// Sends a signal (`KILL`, `TERM`, `STOP`, …) to the main process of a unit's container.
    ///
    /// # Panics
    /// When it does not run.
    pub async fn kill_process(&self, unit: &str, signal: &str) {
        self.sh(&format!(
            "pid=$(docker container inspect -f '{{{{.State.Pid}}}}' {unit}) && [ \"$pid\" -gt 0 ] && kill -s {signal} \"$pid\""
        ))
        .await;
    }

    /// Whether it is on.
    ///
    /// # Errors
    /// When Docker does not answer, or there is no such container any more.
    pub async fn state(&self) -> Result<State, String> {
        let status = docker(
            &["container", "inspect", "-f", "{{.State.Status}}", &self.container],
            SHORT,
        )
        .await?;
        Ok(match status.as_str() {
            "running" => State::On,
            "paused" => State::Frozen,
            _ => State::Off,
        })
    }

    /// Takes the power away: no process gets a signal it could act on, `/run` and `/tmp` are gone, the disk stays.
    ///
    /// # Panics
    /// When it was off.
    pub async fn power_cut(&self) {
        told(docker(&["kill", &self.container], SHORT).await);
        let off = || async {
            match self.state().await? {
                State::Off => Ok(()),
                other => Err(format!("it is {other:?}")),
            }
        };
        told(wait_for(&format!("{} is off", self.container), SHORT, off).await);
    }

    /// Switches it on, and waits until systemd and Docker answer. What they start may take longer.
    ///
    /// # Panics
    /// When they do not within 2 minutes.
    pub async fn power_on(&self) {
        told(self.boot().await);
    }

    pub(crate) async fn boot(&self) -> Result<(), Error> {
        docker(&["start", &self.container], BOOT).await?;
        let what = format!("systemd and Docker answer on {}", self.hostname());
        let up = wait_for(&what, BOOT, || async {
            self.exec(&["systemctl", "is-active", "docker.service"]).await
        });
        match up.await {
            Ok(_) => Ok(()),
            Err(error) => {
                let logs = docker(&["logs", "--tail", "20", &self.container], SHORT).await;
                Err(Error::with_mend(
                    format!("{error}; it said: {}", logs.unwrap_or_default()),
                    format!("look at it: docker exec {} journalctl -b", self.container),
                ))
            }
        }
    }

    /// Shuts it down in good order, as its power button does: systemd stops every unit. Returns when it is off.
    ///
    /// # Panics
    /// When it does not end by itself within 90 s.
    pub async fn shutdown(&self) {
        told(docker(&["stop", &self.container], LONG).await);
        let code = told(
            docker(
                &[
                    "container",
                    "inspect",
                    "-f",
                    "{{.State.ExitCode}}",
                    &self.container,
                ],
                SHORT,
            )
            .await,
        );
        assert_ne!(code, "137", "{} had to be killed", self.container);
    }

    /// Freezes it: nothing on it moves, and nothing answers, not even its kernel. Connections stay as they are.
    ///
    /// # Panics
    /// When it does not run.
    pub async fn freeze(&self) {
        told(self.exec_with_input(&["nft", "-f", "-"], FROZEN.as_bytes()).await);
        told(docker(&["pause", &self.container], SHORT).await);
    }

    /// Lets a frozen one go on.
    ///
    /// # Panics
    /// When it was not frozen.
    pub async fn thaw(&self) {
        told(self.unfreeze().await);
    }

    pub(crate) async fn unfreeze(&self) -> Result<(), String> {
        docker(&["unpause", &self.container], SHORT).await?;
        let script = "nft delete table inet test_bed_frozen && nft delete table arp test_bed_frozen";
        self.exec(&["sh", "-c", script]).await.map(drop)
    }
}

/// What a test has to see to go on.
fn told<T, E: std::fmt::Display>(result: Result<T, E>) -> T {
    result.unwrap_or_else(|error| panic!("{error}"))
}
