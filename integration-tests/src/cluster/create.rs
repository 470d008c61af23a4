//! Making hosts, and putting the platform on them.

use futures_util::future::try_join_all;

use super::command::{LONG, SHORT, docker, run};
use super::node::RUN_OPTIONS;
use super::seed::{self, HOST_IMAGE, Image, Seed};
use super::{
    Cluster, ClusterOptions, Cuts, Error, KEEPER, LABEL, Node, State, Steps, Subnet, Units, root, subnet,
};

/// The services of the platform, each with its image and its unit.
const PLATFORM: [&str; 7] = [
    "etcd",
    "consul-bootstrapper",
    "consul",
    "haproxy",
    "router-config",
    "registrator",
    KEEPER,
];

/// Where the project's files are on a host, as deploy/host/install.sh wants them beside each other.
const FILES: &str = "/opt/colossus";

impl Cluster {
    /// Makes a cluster, or completes and updates the one of this name, and waits until it is ready.
    ///
    /// # Errors
    /// With what is left of it: to be dropped, or kept to be looked at.
    pub async fn up(options: ClusterOptions, steps: &Steps) -> Result<Self, (Error, Option<Self>)> {
        options.check().map_err(|error| (error, None))?;
        let prepared = prepare(options, steps).await;
        let (cluster, seed) = prepared.map_err(|error| (error, None))?;
        match cluster.build(seed, steps).await {
            Ok(()) => Ok(cluster),
            Err(error) => Err((error, Some(cluster))),
        }
    }

    /// The cluster of this name, if there is one. It is kept when this is dropped.
    ///
    /// # Errors
    /// When Docker does not answer.
    pub async fn find(name: &str) -> Result<Option<Self>, Error> {
        let nodes = existing(name).await?;
        let Some(subnet) = network(name).await? else {
            return Ok(None);
        };
        let options = ClusterOptions {
            name: name.to_owned(),
            nodes,
            ..ClusterOptions::test(nodes)
        };
        let mut cluster = Self::of(options, subnet, Vec::new());
        cluster.keep();
        Ok(Some(cluster))
    }

    fn of(options: ClusterOptions, subnet: Subnet, units: Vec<String>) -> Self {
        let nodes = (1..=options.nodes)
            .map(|number| Node::new(&options.name, subnet, number))
            .collect();
        Self {
            test: test_name().unwrap_or_else(|| options.name.clone()),
            options,
            subnet,
            units,
            nodes,
            cuts: Cuts::default(),
            kept: false,
        }
    }

    async fn build(&self, seed: Seed, steps: &Steps) -> Result<(), Error> {
        let missing = self.missing().await?;
        if !missing.is_empty() {
            let names: Vec<String> = missing.iter().map(|node| node.hostname()).collect();
            let what = format!("making {}", names.join(" "));
            steps.step(&what, self.make(&missing, &seed)).await?;
        }
        // Others may have it now.
        let images = seed.into_images();
        let booted = async { try_join_all(self.nodes.iter().map(switch_on)).await };
        steps
            .step("systemd and Docker answer on every host", booted)
            .await?;
        let images = try_join_all(
            self.nodes
                .iter()
                .map(|node| seed::update(node.container(), &images)),
        );
        images.await?;
        if self.options.units != Units::None {
            let what = format!("installing {}", self.units.join(" "));
            steps.step(&what, self.install()).await?;
        }
        self.ready(steps).await.map_err(|error| {
            Error::with_mend(
                error,
                format!(
                    "look at it: docker exec {} journalctl -u {}; make cluster-down ends it all",
                    self.node(1).container(),
                    self.units.join(" -u "),
                ),
            )
        })
    }

    async fn missing(&self) -> Result<Vec<&Node>, Error> {
        let containers = containers(&self.options.name).await?;
        let missing = |node: &&Node| !containers.iter().any(|name| name == node.container());
        Ok(self.nodes.iter().filter(missing).collect())
    }

    async fn make(&self, nodes: &[&Node], seed: &Seed) -> Result<(), Error> {
        let labels = self.options.labels();
        let labels: Vec<&str> = labels.iter().flat_map(|label| ["--label", label]).collect();
        for node in nodes {
            // One that a start which was broken off has left may be half a copy.
            docker(&["volume", "rm", "-f", node.volume()], SHORT).await?;
            docker(
                &[&["volume", "create"], &labels[..], &[node.volume()]].concat(),
                SHORT,
            )
            .await?;
        }
        let volumes: Vec<&str> = nodes.iter().map(|node| node.volume()).collect();
        seed.copy(&volumes, &labels).await?;
        for node in nodes {
            let (hostname, address) = (node.hostname(), node.address().to_string());
            let disk = format!("{}:/var", node.volume());
            let own = [
                "--name",
                node.container(),
                "--hostname",
                &hostname,
                "--network",
                &self.options.name,
                "--network-alias",
                &hostname,
                "--ip",
                &address,
                "-v",
                &disk,
            ];
            let arguments = [&["create"], &labels[..], &RUN_OPTIONS, &own, &[HOST_IMAGE]].concat();
            docker(&arguments, SHORT).await?;
        }
        Ok(())
    }

    /// Does on every host what a user does there.
    async fn install(&self) -> Result<(), String> {
        let directory = tempfile::tempdir().map_err(|error| error.to_string())?;
        let environment = self.options.environment(self.subnet);
        std::fs::write(directory.path().join("environment"), environment)
            .map_err(|error| error.to_string())?;
        let (root, own) = (root(), directory.path().to_string_lossy());
        let root = root.to_string_lossy();
        let files = [
            "-C",
            &root,
            "deploy/host",
            "fleet-units",
            "-C",
            &own,
            "environment",
        ];
        let tar = run("tar", &[&["-c"], &files[..]].concat(), None, SHORT).await?;
        try_join_all(self.nodes.iter().map(|node| self.install_on(node, &tar)))
            .await
            .map(drop)
    }

    async fn install_on(&self, node: &Node, tar: &[u8]) -> Result<(), String> {
        let unpack = format!("rm -rf {FILES} && mkdir -p {FILES} && tar -x -C {FILES}");
        node.exec_with_input(&["sh", "-c", &unpack], tar).await?;
        let (script, environment) = (
            format!("{FILES}/deploy/host/install.sh"),
            format!("{FILES}/environment"),
        );
        let only = self.units.join(",");
        let mut command = vec!["bash", &script, "--environment", &environment];
        if self.units.len() < PLATFORM.len() {
            command.extend(["--only", &only]);
        }
        if self.options.units == Units::Placed {
            command.push("--no-start");
        }
        node.exec_within(&command, LONG)
            .await
            .map(drop)
            .map_err(|error| format!("{}: {error}", node.hostname()))
    }
}

/// The name of the test that runs on this thread: the test harness names its threads after them.
pub(crate) fn test_name() -> Option<String> {
    let name = std::thread::current().name()?.replace("::", "-");
    (name != "main" && !name.starts_with("tokio-")).then_some(name)
}

/// Everything that can be known to fail, before anything is made; then the network, by which a cluster is found.
async fn prepare(options: ClusterOptions, steps: &Steps) -> Result<(Cluster, Seed), Error> {
    let name = &options.name;
    let there = existing(name).await?;
    let present = network(name).await?;
    match (present, options.subnet) {
        (Some(present), Some(wanted)) if present != wanted => {
            return Err(Error::usage(
                format!(
                    "the cluster '{name}' is there already, in {present}, not in CLUSTER_SUBNET={wanted}"
                ),
                format!("leave CLUSTER_SUBNET out, or end it first: {}", down(name)),
            ));
        }
        (None, Some(wanted)) => subnet::check_free(wanted).await?,
        _ => {}
    }
    if there > 0 {
        check_growth(&options, there)?;
        steps.say(&format!(
            "the cluster '{name}' is there already, with {there} hosts: what differs is brought about"
        ));
    }
    let seed = seed::ensure(steps).await?;
    let units = chosen(&options.units, &seed.images)?;
    let subnet = match present {
        Some(present) => present,
        None => make_network(&options).await?,
    };
    let left: Vec<&str> = PLATFORM
        .into_iter()
        .filter(|unit| !units.iter().any(|u| u == unit))
        .collect();
    if !left.is_empty() && options.units == Units::Platform {
        steps.say(&format!("without {}: no such images", left.join(" ")));
    }
    Ok((Cluster::of(options, subnet, units), seed))
}

/// A cluster of another size is only made of this one if its members of etcd stay the same.
fn check_growth(options: &ClusterOptions, there: usize) -> Result<(), Error> {
    let now = ClusterOptions {
        nodes: there,
        ..options.clone()
    };
    let name = &options.name;
    if options.nodes < there {
        Err(Error::usage(
            format!(
                "the cluster '{name}' has {there} hosts already, more than NODES={}",
                options.nodes
            ),
            format!(
                "use it: make cluster NODES={there}; or end it first: {}",
                down(name)
            ),
        ))
    } else if now.etcd_members() != options.etcd_members() {
        Err(Error::usage(
            format!(
                "the cluster '{name}' has {there} hosts and {} member of etcd; NODES={} needs {}",
                now.etcd_members(),
                options.nodes,
                options.etcd_members(),
            ),
            format!("end it first: {}", down(name)),
        ))
    } else {
        Ok(())
    }
}

fn down(name: &str) -> String {
    match name {
        "colossus" => "make cluster-down".to_owned(),
        other => format!("make cluster-down CLUSTER={other}"),
    }
}

fn chosen(units: &Units, images: &[Image]) -> Result<Vec<String>, Error> {
    // That of x@1 is x.
    let image_of = |unit: &str| unit.split('@').next().unwrap_or_default().to_owned();
    let has_image = |unit: &str| images.iter().any(|image| image.name == image_of(unit));
    let all = || {
        PLATFORM
            .into_iter()
            .filter(|unit| has_image(unit))
            .map(str::to_owned)
            .collect()
    };
    match units {
        Units::None => Ok(Vec::new()),
        Units::Platform | Units::Placed => Ok(all()),
        Units::Only(units) => match units.iter().find(|unit| !has_image(unit)) {
            None => Ok(units.clone()),
            Some(unit) => Err(Error::with_mend(
                format!("there is no image colossus/{}", image_of(unit)),
                "build it: make images",
            )),
        },
    }
}

async fn switch_on(node: &Node) -> Result<(), Error> {
    if node.state().await? == State::Frozen {
        node.unfreeze().await?;
    }
    node.boot().await
}

/// The names of a cluster's containers.
async fn containers(name: &str) -> Result<Vec<String>, Error> {
    let filter = format!("label={LABEL}={name}");
    let arguments = ["ps", "-a", "--filter", &filter, "--format", "{{.Names}}"];
    let names = docker(&arguments, SHORT).await?;
    Ok(names.split_whitespace().map(str::to_owned).collect())
}

/// The highest number of a cluster's hosts; 0 if there are none.
async fn existing(name: &str) -> Result<usize, Error> {
    let prefix = format!("{name}-n");
    let containers = containers(name).await?;
    let numbers = containers
        .iter()
        .filter_map(|container| container.strip_prefix(&prefix)?.parse().ok());
    Ok(numbers.max().unwrap_or(0))
}

/// Where a cluster's addresses are, if it has a network.
async fn network(name: &str) -> Result<Option<Subnet>, Error> {
    let filter = format!("label={LABEL}={name}");
    let ids = docker(&["network", "ls", "-q", "--filter", &filter], SHORT).await?;
    let Some(id) = ids.split_whitespace().next() else {
        return Ok(None);
    };
    let format = "{{range .IPAM.Config}}{{.Subnet}}{{end}}";
    let subnet = docker(&["network", "inspect", "-f", format, id], SHORT).await?;
    Ok(Some(subnet.parse()?))
}

async fn make_network(options: &ClusterOptions) -> Result<Subnet, Error> {
    let labels = options.labels();
    let labels: Vec<&str> = labels.iter().flat_map(|label| ["--label", label]).collect();
    let mut attempts = 3;
    loop {
        let subnet = match options.subnet {
            Some(subnet) => subnet,
            None => subnet::find_free().await?,
        };
        let (range, dynamic) = (subnet.to_string(), subnet.dynamic());
        let own = ["--subnet", &range, "--ip-range", &dynamic, &options.name];
        match docker(&[&["network", "create"], &labels[..], &own].concat(), SHORT).await {
            Ok(_) => return Ok(subnet),
            // Another cluster has found the same free one.
            Err(error) if options.subnet.is_none() && error.contains("overlaps") && attempts > 0 => {
                attempts -= 1;
            }
            Err(error) => return Err(error.into()),
        }
    }
}
