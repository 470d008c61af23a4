//! One host: a machine, a disk, Consul and consul-bootstrapper.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::site::Net;
use super::watch::{KEPT, Place, Places};
use crate::docker::{docker, try_docker};
use crate::http::get_json;

/// Where a machine shows its Consul's HTTP API to this one.
pub(super) const CONSUL_PORT: u16 = 18500;
/// Where it shows consul-bootstrapper's admin server.
pub(super) const ADMIN_PORT: u16 = 19103;

const STATE: &str = "/var/lib/colossus/consul";
const RUN: &str = "/run/colossus/consul";
/// As in the units: 65532 with a root file system that cannot be written, and no right but for port 53.
const CONSUL_RIGHTS: &[&str] = &[
    "--read-only",
    "--security-opt=no-new-privileges",
    "--user=0:65532",
    "--cap-drop=ALL",
    "--cap-add=NET_BIND_SERVICE",
    "--cap-add=SETUID",
    "--cap-add=SETGID",
    "--env=CONSUL_PERMIT=/run/colossus/consul/permit",
    "--restart=always",
];
const BOOTSTRAPPER_RIGHTS: &[&str] = &[
    "--read-only",
    "--security-opt=no-new-privileges",
    "--cap-drop=ALL",
    "--restart=always",
];

/// What runs on a host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Service {
    /// Consul.
    Consul,
    /// consul-bootstrapper.
    Bootstrapper,
}

impl Service {
    fn word(self) -> &'static str {
        match self {
            Self::Consul => "consul",
            Self::Bootstrapper => "bootstrapper",
        }
    }
}

/// What a command of consul-bootstrapper came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// Its exit code.
    pub code: Option<i32>,
    /// What it printed, errors last.
    pub text: String,
}

/// Raft's peers, as a host's Consul says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Raft {
    /// The leader's address.
    pub leader: Option<String>,
    /// The voters' addresses.
    pub voters: BTreeSet<String>,
    /// The addresses of the rest.
    pub others: BTreeSet<String>,
}

/// How a node stands, by its `/status`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Standing {
    /// The name of its state, or of the refusal.
    pub state: String,
    /// The same in a sentence.
    pub summary: String,
    /// The error of its last run.
    pub error: Option<String>,
    /// Whether its Consul's part is that of a server.
    pub server: bool,
}

/// A host. Its containers end with its [`Site`](super::Site).
#[derive(Debug)]
pub struct Host {
    net: Net,
    places: Places,
    name: String,
    number: usize,
    address: String,
    machine_id: String,
    settings: BTreeMap<String, String>,
    options: Vec<String>,
    disk_options: Vec<String>,
    cut_at_boot: Vec<String>,
}

impl Host {
    pub(super) fn new(net: &Net, places: &Places, endpoints: &str, number: usize) -> Self {
        let name = format!("n{number}");
        let settings = [
            ("ETCD_ENDPOINTS", endpoints),
            ("COLOSSUS_NODE", &name),
            ("COLOSSUS_REPLACE_AFTER", "30s"),
            ("COLOSSUS_PRESENCE_TTL", "5s"),
            ("ETCD_TIMEOUT", "1s"),
        ];
        Self {
            net: net.clone(),
            places: places.clone(),
            number,
            address: net.address(10 + number),
            machine_id: format!("{:032x}", fastrand::u128(..)),
            settings: settings
                .map(|(name, value)| (name.to_owned(), value.to_owned()))
                .into(),
            options: Vec::new(),
            disk_options: Vec::new(),
            cut_at_boot: Vec::new(),
            name,
        }
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Where the others reach it.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// The name of its Consul cluster.
    pub fn cluster(&self) -> &str {
        self.settings
            .get("COLOSSUS_CLUSTER")
            .map_or("main", String::as_str)
    }

    /// Its machine ID.
    pub fn machine_id(&self) -> &str {
        &self.machine_id
    }

    /// Gives it a setting of consul-bootstrapper (environment). It holds from the next start on.
    #[must_use]
    pub fn with(mut self, name: &str, value: &str) -> Self {
        self.set(name, value);
        self
    }

    /// The same for a host that is there.
    pub fn set(&mut self, name: &str, value: &str) {
        self.settings.insert(name.to_owned(), value.to_owned());
    }

    /// Gives its Consul and consul-bootstrapper options of `docker run`.
    pub fn mount(&mut self, options: &[&str]) {
        self.options.extend(options.iter().map(ToString::to_string));
    }

    /// Gives its disk other options of `docker create` than a volume.
    pub fn disk(&mut self, options: &[&str]) {
        self.disk_options = options.iter().map(ToString::to_string).collect();
    }

    /// Makes it another machine's clone.
    pub fn take_machine_id_of(&mut self, other: &Host) {
        other.machine_id.clone_into(&mut self.machine_id);
    }

    /// Gives it the name of another.
    pub fn take_name_of(&mut self, other: &Host) {
        self.set("COLOSSUS_NODE", &other.name);
    }

    /// Gives it another address, from the next boot on.
    pub fn move_to(&mut self, number: usize) {
        self.address = self.net.address(10 + number);
    }

    fn container(&self, part: &str) -> String {
        self.net.container(&format!("{}-{part}", self.name))
    }

    fn of(&self, service: Service) -> String {
        self.container(service.word())
    }

    /// A directory on this machine that its services see as `/scratch`, once it is mounted with
    /// [`Host::mount_scratch`].
    pub fn scratch(&self) -> std::path::PathBuf {
        self.net.scratch().join(&self.name)
    }

    /// See [`Host::scratch`].
    ///
    /// # Panics
    /// When it cannot be made.
    pub fn mount_scratch(&mut self) {
        use std::os::unix::fs::PermissionsExt;
        let directory = self.scratch();
        std::fs::create_dir_all(&directory).expect("a directory");
        // Their user is not ours.
        std::fs::set_permissions(&directory, PermissionsExt::from_mode(0o777)).expect("its mode");
        self.mount(&["-v", &format!("{}:/scratch", directory.display())]);
    }

    /// Switches it on. Gives the time of consul-bootstrapper's start.
    pub fn boot(&self) -> Instant {
        let (disk, machine) = (self.container("disk"), self.container("machine"));
        if try_docker(&["container", "inspect", &disk]).is_err() {
            let mut options: Vec<&str> = self.disk_options.iter().map(String::as_str).collect();
            if options.is_empty() {
                options = vec!["-v", STATE];
            }
            self.net.make(
                &["create"],
                &disk,
                &[options.as_slice(), &["--entrypoint=true"]].concat(),
                "colossus/consul",
                &[],
            );
        }
        let options = ["--hostname", &self.name, "--volumes-from", &disk, "-v", RUN];
        self.net.machine(&machine, &self.address, &options);
        let forward = |from, to| {
            format!(
                "iptables -t nat -A PREROUTING -p tcp --dport {from} -j DNAT --to-destination 127.0.0.1:{to}"
            )
        };
        // What the units do before they start a container, and a way in to the loopback ports.
        let prepare = format!(
            "install -d -m 0700 -o 65532 -g 65532 {RUN} && {} && {}",
            forward(CONSUL_PORT, 8500),
            forward(ADMIN_PORT, 9103)
        );
        docker(&["exec", &machine, "sh", "-c", &prepare]);
        if !self.cut_at_boot.is_empty() {
            self.net.cut(&machine, &self.cut_at_boot);
        }
        self.launch(Service::Consul);
        let started = Instant::now();
        self.launch(Service::Bootstrapper);
        self.places.put(self.number, self.place());
        started
    }

    fn place(&self) -> Place {
        Place {
            name: self.name.clone(),
            cluster: self.cluster().to_owned(),
            consul: self.at(CONSUL_PORT),
            admin: self.at(ADMIN_PORT),
        }
    }

    fn at(&self, port: u16) -> SocketAddr {
        format!("{}:{port}", self.address).parse().expect("an address")
    }

    /// Makes the container of a service, as its unit does.
    pub fn launch(&self, service: Service) {
        let machine = self.container("machine");
        let network = format!("--network=container:{machine}");
        let mut options = vec![network.as_str(), "--volumes-from", &machine];
        options.extend(self.options.iter().map(String::as_str));
        match service {
            Service::Consul => {
                options.extend(CONSUL_RIGHTS);
                self.net.run(&self.of(service), &options, "colossus/consul", &[]);
            }
            Service::Bootstrapper => {
                let id = self.net.scratch().join(format!("machine-id-{}", self.machine_id));
                std::fs::write(&id, format!("{}\n", self.machine_id)).expect("a file");
                let id = format!("{}:/etc/machine-id:ro", id.display());
                let mut settings: Vec<_> = self
                    .settings
                    .iter()
                    .map(|(name, value)| format!("--env={name}={value}"))
                    .collect();
                settings.push(format!("--env=COLOSSUS_IP={}", self.address));
                options.extend(["-v", &id]);
                options.extend(settings.iter().map(String::as_str));
                options.extend(BOOTSTRAPPER_RIGHTS);
                self.net
                    .run(&self.of(service), &options, "colossus/consul-bootstrapper", &[]);
            }
        }
    }

    /// Ends it as a power cut does: all at once, nobody is told, and what is in memory is gone.
    pub fn power_cut(&self) {
        self.places.take(self.number);
        let parts = [
            self.of(Service::Bootstrapper),
            self.of(Service::Consul),
            self.container("machine"),
        ];
        self.places.keep_logs(&[&parts[0], &parts[1]]);
        docker(&["rm", "-f", "-v", &parts[0], &parts[1], &parts[2]]);
    }

    /// Shuts it down in good order.
    pub fn shut_down(&self) {
        // systemd's order: what was started last ends first.
        self.command(Service::Consul, &["stop", "-t", "20"]);
        self.command(Service::Bootstrapper, &["stop", "-t", "15"]);
        self.power_cut();
    }

    /// Removes its disk, while it is off. The next boot finds an empty one.
    pub fn lose_disk(&self) {
        docker(&["rm", "-f", "-v", &self.container("disk")]);
    }

    /// Copies another host's disk onto this one's, which must be off.
    pub fn copy_disk_of(&self, other: &Host) {
        let disk = self.container("disk");
        self.net.make(
            &["create"],
            &disk,
            &["-v", STATE, "--entrypoint=true"],
            "colossus/consul",
            &[],
        );
        let volume = |disk: &str| docker(&["inspect", "-f", "{{(index .Mounts 0).Name}}", disk]);
        let from = format!("{}:/from:ro", volume(&other.container("disk")));
        let to = format!("{}:/to", volume(&disk));
        let copy = ["--entrypoint=cp", "colossus/consul", "-a", "/from/.", "/to/"];
        docker(
            &[
                &["run", "--rm", "--user=0", "-v", &from, "-v", &to],
                copy.as_slice(),
            ]
            .concat(),
        );
    }

    /// Runs a shell command on its disk, while it is off.
    pub fn on_disk(&self, command: &str) -> String {
        let disk = self.container("disk");
        docker(&[
            "run",
            "--rm",
            "--user=0",
            "--volumes-from",
            &disk,
            "--entrypoint=sh",
            "colossus/consul",
            "-c",
            &format!("cd {STATE} && {command}"),
        ])
    }

    /// `docker <verb> CONTAINER` for a service: `kill`, `start`, `restart`, `pause`, `unpause`, `stop`.
    pub fn command(&self, service: Service, verb: &[&str]) {
        docker(&[verb, &[&self.of(service)]].concat());
    }

    /// Ends a service and starts it with the settings as they are now.
    pub fn relaunch(&self, service: Service) {
        let container = self.of(service);
        docker(&["stop", "-t", "15", &container]);
        self.places.keep_logs(&[&container]);
        docker(&["rm", "-f", &container]);
        self.launch(service);
    }

    /// Puts something at the address of its Consul's API that is none.
    pub fn answer_nonsense(&self) {
        // Nor is it to be believed by who watches.
        self.places.take(self.number);
        self.command(Service::Consul, &["stop", "-t", "20"]);
        let network = format!("--network=container:{}", self.container("machine"));
        self.net.run(
            &self.container("nonsense"),
            &[&network, "--env=PORT=8500", "--user=0"],
            "colossus/example-web",
            &[],
        );
    }

    /// Undoes [`Host::answer_nonsense`].
    pub fn answer_sense(&self) {
        docker(&["rm", "-f", "-v", &self.container("nonsense")]);
        self.command(Service::Consul, &["start"]);
        self.places.put(self.number, self.place());
    }

    /// Loses all packets between it and these addresses, both ways.
    pub fn cut_from(&self, addresses: &[&str]) {
        let addresses: Vec<_> = addresses.iter().map(ToString::to_string).collect();
        self.net.cut(&self.container("machine"), &addresses);
    }

    /// The same from its next boot on, before anything runs.
    pub fn cut_at_boot_from(&mut self, addresses: &[String]) {
        self.cut_at_boot = addresses.to_vec();
    }

    /// Undoes [`Host::cut_from`].
    pub fn mend(&self) {
        self.net.mend(&self.container("machine"));
    }

    /// Runs a shell command on it, as root; its disk is below `/var/lib/colossus/consul`.
    pub fn sh(&self, command: &str) -> String {
        docker(&[
            "exec",
            &self.container("machine"),
            "sh",
            "-c",
            &format!("cd {STATE} && {command}"),
        ])
    }

    /// Runs an operator's command on it.
    ///
    /// # Panics
    /// When Docker does not run.
    pub fn operate(&self, arguments: &[&str]) -> Outcome {
        let container = self.of(Service::Bootstrapper);
        let output = Command::new("docker")
            .args([&["exec", &container, "/bin/consul-bootstrapper"], arguments].concat())
            .output()
            .expect("docker exec");
        Outcome {
            code: output.status.code(),
            text: format!(
                "{}{}",
                String::from_utf8_lossy(&output.stdout),
                String::from_utf8_lossy(&output.stderr)
            ),
        }
    }

    /// What a service has logged since its container was made.
    pub fn logs(&self, service: Service) -> String {
        self.places.logs(&self.of(service))
    }

    /// When a service's process was last started, and how often it has been started again by itself.
    pub fn starts(&self, service: Service) -> String {
        docker(&[
            "inspect",
            "-f",
            "{{.State.StartedAt}} {{.RestartCount}}",
            &self.of(service),
        ])
    }

    /// All that Docker knows of a service: its arguments and environment, too.
    pub fn inspect(&self, service: Service) -> String {
        format!(
            "{}\n{}",
            docker(&["inspect", &self.of(service)]),
            docker(&["top", &self.of(service), "-eo", "pid,args"])
        )
    }

    /// A client of its Consul.
    ///
    /// # Panics
    /// When it cannot be built.
    pub fn consul(&self) -> consul::Client {
        self.consul_with(None)
    }

    /// A client of its Consul with a token.
    ///
    /// # Panics
    /// When it cannot be built.
    pub fn consul_with(&self, token: Option<&str>) -> consul::Client {
        let address = format!("http://{}", self.at(CONSUL_PORT))
            .parse()
            .expect("an address");
        let mut config = consul::Config::new(address);
        config.timeout = Duration::from_secs(10);
        if let Some(token) = token {
            config.token = consul::TokenSource::Value(token.to_owned().into());
        }
        consul::Client::new(config).expect("a client")
    }

    /// A value read with the consent of a quorum.
    ///
    /// # Errors
    /// When Consul does not answer, or has no leader.
    pub async fn read(&self) -> Result<Option<String>, String> {
        let options = consul::QueryOptions {
            consistency: consul::Consistency::Consistent,
            ..consul::QueryOptions::default()
        };
        let answer = self
            .consul()
            .kv_get(KEPT, &options)
            .await
            .map_err(|error| error.to_string())?;
        Ok(answer
            .value
            .map(|pair| String::from_utf8_lossy(&pair.value).into_owned()))
    }

    /// Raft's peers.
    ///
    /// # Errors
    /// When Consul does not answer, or has no leader.
    pub async fn raft(&self) -> Result<Raft, String> {
        let configuration = self
            .consul()
            .raft_configuration(false)
            .await
            .map_err(|error| error.to_string())?;
        let mut raft = Raft::default();
        for server in configuration.servers {
            let address = server.address.split(':').next().unwrap_or_default().to_owned();
            if server.leader {
                raft.leader = Some(address.clone());
            }
            let peers = if server.voter {
                &mut raft.voters
            } else {
                &mut raft.others
            };
            peers.insert(address);
        }
        Ok(raft)
    }

    /// Whether its Consul answers and knows a leader.
    pub async fn led(&self) -> bool {
        self.consul().leader().await.is_ok_and(|leader| leader.is_some())
    }

    /// Whether its Consul answers.
    pub async fn answers(&self) -> bool {
        tokio::net::TcpStream::connect(self.at(CONSUL_PORT)).await.is_ok()
    }

    /// Consul's ID for this node.
    ///
    /// # Errors
    /// When Consul does not answer.
    pub async fn node_id(&self) -> Result<String, String> {
        let agent = get_json(self.at(CONSUL_PORT), "/v1/agent/self").await?;
        let id = agent["Config"]["NodeID"].as_str();
        id.map(str::to_owned).ok_or_else(|| format!("{agent:#}"))
    }

    /// How many servers each member that is alive says it expects, by the gossip of this host.
    ///
    /// # Errors
    /// When Consul does not answer.
    pub async fn expectations(&self) -> Result<BTreeMap<String, Option<u32>>, String> {
        let members = self
            .consul()
            .agent_members(false)
            .await
            .map_err(|error| error.to_string())?;
        Ok(members
            .into_iter()
            .filter(|member| member.is_server() && member.status == consul::MemberStatus::Alive)
            .map(|member| (member.name.clone(), member.expects()))
            .collect())
    }

    /// What its consul-bootstrapper says.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn status(&self) -> Result<Value, String> {
        get_json(self.at(ADMIN_PORT), "/status").await
    }

    /// How it stands, by that.
    ///
    /// # Errors
    /// When it does not answer, or has not looked yet.
    pub async fn standing(&self) -> Result<Standing, String> {
        let status = self.status().await?;
        let cluster = &status["cluster"];
        let view = &status["consul_cluster"];
        let text = |value: &Value| value.as_str().map(str::to_owned);
        Ok(Standing {
            state: text(&view["state"])
                .or_else(|| text(&view["refusal"]))
                .ok_or_else(|| format!("no standing yet: {}", cluster["last_error"]))?,
            summary: text(&view["summary"]).unwrap_or_default(),
            error: text(&cluster["last_run"]["error"]),
            server: view["server"].as_bool().unwrap_or(false),
        })
    }
}
