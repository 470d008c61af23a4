//! The settings that all hosts share, and what is told about the cluster to scripts and people.

use std::path::PathBuf;

use super::{Cluster, ClusterOptions, Error, MOST_NODES, Node, Subnet, target};

impl ClusterOptions {
    /// Makes sure that they make sense.
    pub(crate) fn check(&self) -> Result<(), Error> {
        if !(1..=MOST_NODES).contains(&self.nodes) {
            return Err(Error::usage(
                format!("NODES={} is not a number from 1 to {MOST_NODES}", self.nodes),
                "three are usual: make cluster NODES=3",
            ));
        }
        let word = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        let named = self.name.starts_with(|c: char| c.is_ascii_lowercase()) && self.name.chars().all(word);
        if !named || self.name.len() > 40 {
            return Err(Error::usage(
                format!("CLUSTER={} is not a name for a cluster", self.name),
                "use up to 40 small letters, digits and -, beginning with a letter",
            ));
        }
        if self.vips > Subnet::MOST_VIPS {
            return Err(Error::usage(
                format!("{} virtual IPs are more than {}", self.vips, Subnet::MOST_VIPS),
                "one is usual",
            ));
        }
        Ok(())
    }

    /// `/etc/colossus/environment`: the same on every host.
    pub(crate) fn environment(&self, subnet: Subnet) -> String {
        let members: Vec<Node> = (1..=self.etcd_members())
            .map(|number| Node::new(&self.name, subnet, number))
            .collect();
        let each =
            |format: &dyn Fn(&Node) -> String| members.iter().map(format).collect::<Vec<_>>().join(",");
        let cluster = each(&|node| format!("{}=http://{}", node.hostname(), node.port(2380)));
        let mut own = vec![
            ("COLOSSUS_DOMAIN", self.domain.clone()),
            ("COLOSSUS_ETCD_CLUSTER", cluster),
            ("ETCD_ENDPOINTS", etcd_endpoints(&members)),
            ("COLOSSUS_CONSUL_SERVERS", self.consul_servers().to_string()),
        ];
        if self.vips > 0 {
            let vips: Vec<String> = subnet.vips(self.vips).iter().map(ToString::to_string).collect();
            own.push(("COLOSSUS_VIPS", vips.join(",")));
            // As etcd runs here: its unit sets the times that go with it.
            own.push(("COLOSSUS_VIP_PROFILE", "lan".to_owned()));
        }
        let given = |name: &str| self.settings.iter().any(|(given, _)| given == name);
        let own = own.into_iter().filter(|(name, _)| !given(name));
        let further = self
            .settings
            .iter()
            .map(|(name, value)| format!("{name}={value}\n"));
        own.map(|(name, value)| format!("{name}={value}\n"))
            .chain(further)
            .collect()
    }
}

fn etcd_endpoints(members: &[Node]) -> String {
    let endpoints: Vec<String> = members
        .iter()
        .map(|node| format!("http://{}", node.port(2379)))
        .collect();
    endpoints.join(",")
}

impl Cluster {
    /// The hosts that run etcd.
    pub fn etcd_members(&self) -> &[Node] {
        self.nodes
            .get(..self.options.etcd_members())
            .unwrap_or(&self.nodes)
    }

    /// Writes `cluster.env` for scripts and people to source; where it is.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write_environment(&self) -> Result<PathBuf, String> {
        let path = environment_file(&self.options.name);
        let mut lines = vec![
            "# Written by make cluster; make cluster-down removes it.".to_owned(),
            format!("CLUSTER={}", self.options.name),
            format!("NODES={}", self.nodes.len()),
        ];
        lines.extend(
            self.nodes
                .iter()
                .map(|node| format!("N{}_IP={}", node.number(), node.address())),
        );
        lines.extend([
            format!("VIP={}", self.subnet.vip()),
            format!("DOMAIN={}", self.options.domain),
            format!("SUBNET={}", self.subnet),
            format!("ETCD_ENDPOINTS={}", etcd_endpoints(self.etcd_members())),
        ]);
        // Renamed, so that nobody reads half of it.
        let part = path.with_extension("env.part");
        std::fs::write(&part, lines.join("\n") + "\n")
            .and_then(|()| std::fs::rename(&part, &path))
            .map_err(|error| format!("cannot write {}: {error}", path.display()))?;
        Ok(path)
    }
}

/// As deploy/cluster.sh removes it.
fn environment_file(name: &str) -> PathBuf {
    target().join(match name {
        "colossus" => "cluster.env".to_owned(),
        other => format!("cluster-{other}.env"),
    })
}
