//! The one-machine platform as `make up` starts it, beside any other: own project, ports and volumes.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::Duration;

use serde_json::Value;

use crate::docker::{Container, docker, try_docker, unique};
use crate::http::{Answer, get, get_json};
use crate::wait::until;

/// A platform; taken down when dropped.
#[derive(Debug)]
pub struct Platform {
    project: String,
    environment: Vec<(&'static str, String)>,
    ports: Ports,
    // The last field, so that the next one starts when this one is gone.
    _alone: Alone,
}

/// Every registrator registers the containers of all tests, as they share Docker. Where a test says what happened *last*,
/// another one's containers would be in the way: so there is one platform at a time.
#[derive(Debug)]
struct Alone;

static TAKEN: Mutex<bool> = Mutex::new(false);
static FREE: Condvar = Condvar::new();

impl Alone {
    fn wait() -> Self {
        let taken = TAKEN.lock().unwrap_or_else(PoisonError::into_inner);
        let free = FREE.wait_while(taken, |taken| *taken);
        *free.unwrap_or_else(PoisonError::into_inner) = true;
        Self
    }
}

impl Drop for Alone {
    fn drop(&mut self) {
        *TAKEN.lock().unwrap_or_else(PoisonError::into_inner) = false;
        FREE.notify_one();
    }
}

/// Ports on the loopback address.
#[derive(Debug, Clone, Copy)]
struct Ports {
    http: u16,
    consul: u16,
    registrator: u16,
    router: u16,
    stats: u16,
}

/// The domain of a test platform.
pub const DOMAIN: &str = "colossus.test";

impl Platform {
    /// Starts one and waits until it is ready. The images must exist (`make images`).
    ///
    /// # Panics
    /// When it does not come up.
    pub fn up() -> Self {
        // One that is taken between finding it and binding it is found out by up.sh: try again with others.
        for attempt in 1..=3 {
            let platform = Self::chosen(Alone::wait());
            match platform.run("up.sh") {
                Ok(_) => return platform,
                Err(output) => eprintln!("attempt {attempt}: {output}"),
            }
        }
        panic!("the platform did not come up in three attempts");
    }

    fn chosen(alone: Alone) -> Self {
        let [
            http,
            consul,
            dns,
            server,
            serf,
            etcd,
            peer,
            registrator,
            router,
            stats,
        ] = free_ports();
        let project = unique("colossus-test");
        let environment = vec![
            ("PROJECT", project.clone()),
            ("DOMAIN", DOMAIN.to_owned()),
            ("HTTP_PORT", http.to_string()),
            ("CONSUL_PORT", consul.to_string()),
            ("CONSUL_DNS_PORT", dns.to_string()),
            ("CONSUL_SERVER_PORT", server.to_string()),
            ("CONSUL_SERF_PORT", serf.to_string()),
            ("ETCD_PORT", etcd.to_string()),
            ("ETCD_PEER_PORT", peer.to_string()),
            ("REGISTRATOR_ADMIN_PORT", registrator.to_string()),
            ("ROUTER_ADMIN_PORT", router.to_string()),
            ("HAPROXY_STATS_PORT", stats.to_string()),
            ("SKIP_IMAGES", "1".to_owned()),
        ];
        Self {
            project,
            environment,
            ports: Ports {
                http,
                consul,
                registrator,
                router,
                stats,
            },
            _alone: alone,
        }
    }

    /// Runs a script of `deploy/` on this platform and gives what it printed.
    ///
    /// # Errors
    /// With what it printed, when it fails.
    pub fn run(&self, script: &str) -> Result<String, String> {
        // Cargo tells where the package is when it runs a test. What was compiled in is where it *was*: a target
        // directory may be shared, or outlive the checkout it was filled from.
        let package =
            std::env::var("CARGO_MANIFEST_DIR").unwrap_or_else(|_| env!("CARGO_MANIFEST_DIR").to_owned());
        let path = PathBuf::from(package).join("../deploy").join(script);
        let output = Command::new(path)
            .envs(
                self.environment
                    .iter()
                    .map(|(name, value)| (name, value.as_str())),
            )
            .stdin(Stdio::null())
            .output()
            .map_err(|error| error.to_string())?;
        let text = format!(
            "{}{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
        if output.status.success() {
            Ok(text)
        } else {
            Err(text)
        }
    }

    /// Its compose project.
    pub fn project(&self) -> &str {
        &self.project
    }

    fn volume(&self, name: &str) -> String {
        format!("{}_{name}", self.project)
    }

    /// Ends Consul, empties its data directory and starts it again.
    ///
    /// # Panics
    /// When it has no leader within 30 s.
    pub async fn wipe_consul(&self) {
        self.command(&["kill"], "consul");
        self.in_volume("consul", "rm -rf /state/*");
        self.command(&["start"], "consul");
        let consul = self.consul();
        until("Consul has a leader", Duration::from_secs(30), || async {
            match consul.leader().await {
                Ok(Some(_)) => Ok(()),
                other => Err(format!("{other:?}")),
            }
        })
        .await;
    }

    /// Runs a shell command with the configuration directory at `/state`.
    pub fn in_state_directory(&self, command: &str) -> String {
        self.in_volume("router", command)
    }

    fn in_volume(&self, volume: &str, command: &str) -> String {
        in_volume(&self.volume(volume), command)
    }

    /// A file of the configuration directory.
    pub fn router_file(&self, name: &str) -> String {
        self.in_state_directory(&format!("cat /state/{name}"))
    }

    /// A router-config in place of the platform's own, with further arguments.
    pub fn run_router_config(&self, arguments: &[&str]) -> Container {
        let mount = format!("{}:/var/lib/colossus/router", self.volume("router"));
        let admin = format!("127.0.0.1:{}", self.ports.router);
        let consul = format!("http://127.0.0.1:{}", self.ports.consul);
        let stats = format!("127.0.0.1:{}", self.ports.stats);
        let common = [
            "--admin-addr",
            &admin,
            "--consul",
            &consul,
            "--domain",
            DOMAIN,
            "--stats-addr",
            &stats,
        ];
        Container::run(
            &["--network=host", "-v", &mount],
            "colossus/router-config",
            &[&common, arguments].concat(),
        )
    }

    /// Where HAProxy takes requests.
    pub fn http(&self) -> SocketAddr {
        loopback(self.ports.http)
    }

    /// Where HAProxy serves its statistics.
    pub fn stats(&self) -> SocketAddr {
        loopback(self.ports.stats)
    }

    /// The admin port of `registrator` or `router-config`.
    pub fn admin(&self, part: &str) -> SocketAddr {
        loopback(if part == "registrator" {
            self.ports.registrator
        } else {
            self.ports.router
        })
    }

    /// The directory that HAProxy and router-config share, as this machine sees it. Only root can look into it.
    ///
    /// # Panics
    /// When Docker does not know its volume.
    pub fn router_directory(&self) -> PathBuf {
        docker(&[
            "volume",
            "inspect",
            "-f",
            "{{.Mountpoint}}",
            &self.volume("router"),
        ])
        .into()
    }

    /// Its Consul agent.
    pub fn consul(&self) -> consul::Client {
        let address = format!("http://127.0.0.1:{}", self.ports.consul)
            .parse()
            .expect("an address");
        consul::Client::new(consul::Config::new(address)).expect("a client")
    }

    /// The host name of a service.
    pub fn host(&self, service: &str) -> String {
        format!("{service}.{DOMAIN}")
    }

    /// One GET of `http://<service>.<domain>/` through HAProxy.
    ///
    /// # Errors
    /// When there is no answer.
    pub async fn get(&self, service: &str) -> Result<Answer, String> {
        get(self.http(), &self.host(service), "/?json")
            .await
            .map_err(|error| error.to_string())
    }

    /// Waits until a service answers with `status`.
    ///
    /// # Panics
    /// When it does not within `within`.
    pub async fn until_status(&self, service: &str, status: u16, within: Duration) {
        until(&format!("{service} answers {status}"), within, || async {
            let answer = self.get(service).await?;
            if answer.status == status {
                Ok(())
            } else {
                Err(format!("it answers {}", answer.status))
            }
        })
        .await;
    }

    /// `/status` of registrator.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn registrator_status(&self) -> Result<Value, String> {
        get_json(loopback(self.ports.registrator), "/status").await
    }

    /// `/status` of router-config.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn router_status(&self) -> Result<Value, String> {
        get_json(loopback(self.ports.router), "/status").await
    }

    /// Waits until `/ready` of registrator and router-config say yes.
    ///
    /// # Panics
    /// When they do not.
    pub async fn until_ready(&self) {
        self.until_part_ready("registrator").await;
        self.until_part_ready("router-config").await;
    }

    /// Waits until `/ready` of one of the two says yes.
    ///
    /// # Panics
    /// When it does not within 30 s.
    pub async fn until_part_ready(&self, part: &str) {
        let port = if part == "registrator" {
            self.ports.registrator
        } else {
            self.ports.router
        };
        until(&format!("{part} is ready"), Duration::from_secs(30), || {
            get_json(loopback(port), "/ready")
        })
        .await;
    }

    /// The container of one of its programs: `consul`, `etcd`, `haproxy`, `registrator`, `router-config`.
    ///
    /// # Panics
    /// When there is none.
    pub fn container(&self, part: &str) -> String {
        let project = format!("label=com.docker.compose.project={}", self.project);
        let service = format!("label=com.docker.compose.service={part}");
        let id = docker(&["ps", "-aq", "--filter", &project, "--filter", &service]);
        assert!(!id.is_empty(), "{} has no container {part}", self.project);
        id
    }

    /// `docker <verb> CONTAINER` for one of its programs: `kill`, `start`, `pause`, `restart`.
    pub fn command(&self, verb: &[&str], part: &str) {
        docker(&[verb, &[&self.container(part)]].concat());
    }

    /// The value of a counter or gauge in router-config's `/metrics`.
    ///
    /// # Errors
    /// When it is not there.
    pub async fn router_metric(&self, name: &str) -> Result<f64, String> {
        let answer = get(loopback(self.ports.router), "localhost", "/metrics")
            .await
            .map_err(|e| e.to_string())?;
        let line = answer
            .body
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.and_then(|value| value.parse().ok())
            .ok_or_else(|| format!("no metric {name}"))
    }
}

impl Drop for Platform {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for part in ["registrator", "router-config", "haproxy"] {
                let logs = Command::new("docker")
                    .args(["logs", "--tail", "25", &self.container(part)])
                    .output();
                if let Ok(logs) = logs {
                    let text = [logs.stdout, logs.stderr].concat();
                    eprintln!(
                        "--- the last lines of {part}:\n{}",
                        String::from_utf8_lossy(&text)
                    );
                }
            }
        }
        // Nothing here has to end in good order: killed is quicker than stopped.
        let project = format!("label=com.docker.compose.project={}", self.project);
        if let Ok(ids) = try_docker(&["ps", "-aq", "--filter", &project]) {
            let ids: Vec<&str> = ids.split_whitespace().collect();
            let _ = try_docker(&[&["rm", "-f", "-v"], ids.as_slice()].concat());
        }
        if let Err(output) = self.run("down.sh") {
            eprintln!("cannot take {} down: {output}", self.project);
        }
    }
}

/// Runs a shell command with a volume at `/state`.
pub(crate) fn in_volume(volume: &str, command: &str) -> String {
    let mount = format!("{volume}:/state");
    let shell = ["--rm", "--user", "0", "-v", &mount, "--entrypoint", "sh"];
    docker(&[&["run"], &shell[..], &["colossus/haproxy", "-c", command]].concat())
}

pub(crate) fn loopback(port: u16) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, port))
}

/// Ports that nobody listens on, on any address, and that lie below those that the kernel gives away itself.
///
/// # Panics
/// When there are not enough.
pub fn free_ports<const N: usize>() -> [u16; N] {
    // Held until all are found, so that they differ.
    let mut found: Vec<(u16, TcpListener)> = Vec::new();
    while found.len() < N {
        let port = fastrand::u16(20_000..32_000);
        if let Ok(listener) = TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)) {
            found.push((port, listener));
        }
    }
    let ports: Vec<u16> = found.iter().map(|(port, _)| *port).collect();
    ports.try_into().expect("as many as asked for")
}
