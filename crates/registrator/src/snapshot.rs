//! A container as Docker described it, reduced to what registration needs and parsed once.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr};
use std::str::FromStr;

use bollard::models::{ContainerInspectResponse, PortBinding};
use serde::Serialize;

use crate::rejection::Rejection;
use crate::variables::{PREFIX, ServiceVariables};

/// The full ID of a container: 64 hexadecimal digits by Docker's making, not checked.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct ContainerId(pub String);

impl ContainerId {
    /// The first twelve characters, as `docker ps` shows them.
    pub fn short(&self) -> &str {
        self.0.get(..12).unwrap_or(&self.0)
    }
}

impl fmt::Display for ContainerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.short())
    }
}

/// Transport protocol of a port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

/// A port inside the container: `80/tcp`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ContainerPort {
    /// 1 to 65535.
    pub number: u16,
    /// Its protocol.
    pub protocol: Protocol,
}

impl FromStr for ContainerPort {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (number, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
        let number = number.parse().ok().filter(|number| *number != 0);
        let number = number.ok_or_else(|| "no port number from 1 to 65535".to_owned())?;
        let protocol = match protocol {
            "tcp" => Protocol::Tcp,
            "udp" => Protocol::Udp,
            other => {
                return Err(format!(
                    "protocol {other:?} cannot be registered: publish tcp or udp"
                ));
            }
        };
        Ok(Self { number, protocol })
    }
}

/// Where a port of the container is reached on the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct HostBinding {
    /// The host address it is bound to: one, or all of its family (`0.0.0.0`, `::`). Docker chooses ports for the two
    /// families apart, so the same port of a container may have two numbers.
    pub ip: IpAddr,
    /// 1 to 65535.
    pub port: u16,
}

/// How the container is attached to the network, as far as it matters for addresses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NetworkMode {
    /// Shares the host's network: every exposed port is a port of the host.
    Host,
    /// Has networks of its own.
    Own,
}

/// One running container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContainerSnapshot {
    /// Full ID.
    pub id: ContainerId,
    /// Name without the leading slash.
    pub name: String,
    /// Image reference it was started from.
    pub image: String,
    /// Running and not paused: able to answer.
    pub answers: bool,
    /// Its network mode.
    pub network: NetworkMode,
    /// Address on each of its networks, by network name.
    pub addresses: BTreeMap<String, IpAddr>,
    /// Exposed and published ports, with their bindings on the host (none for a port that is only exposed).
    pub ports: BTreeMap<ContainerPort, BTreeSet<HostBinding>>,
    /// Its `SERVICE_*` variables. Other variables are never kept: they hold the application's secrets.
    pub variables: ServiceVariables,
}

impl ContainerSnapshot {
    /// Reads Docker's inspect document; never fails, names what it leaves out.
    ///
    /// `None` when the document has no ID, which no engine does.
    pub fn from_inspect(document: ContainerInspectResponse) -> Option<(Self, Vec<Rejection>)> {
        let id = ContainerId(document.id?);
        let name = document
            .name
            .unwrap_or_default()
            .trim_start_matches('/')
            .to_owned();
        let config = document.config.unwrap_or_default();
        let state = document.state.unwrap_or_default();
        let settings = document.network_settings.unwrap_or_default();
        let host_config = document.host_config.unwrap_or_default();

        let labels = config.labels.unwrap_or_default();
        // A map without order: sorted, so that the same container always gives the same result.
        let labels: BTreeMap<&str, &str> = labels
            .iter()
            .filter(|(k, _)| k.starts_with(PREFIX))
            .map(|(k, v)| (k.as_str(), v.as_str()))
            .collect();
        let environment = config.env.unwrap_or_default();
        let (variables, mut rejections) =
            ServiceVariables::parse(&name, environment.iter().map(String::as_str), labels);

        let mut ports: BTreeMap<ContainerPort, BTreeSet<HostBinding>> = BTreeMap::new();
        let exposed = config
            .exposed_ports
            .unwrap_or_default()
            .into_iter()
            .map(|port| (port, None));
        let published = settings.ports.unwrap_or_default();
        for (text, bindings) in exposed.chain(published) {
            match text.parse::<ContainerPort>() {
                Ok(port) => ports
                    .entry(port)
                    .or_default()
                    .extend(bindings.iter().flatten().filter_map(binding)),
                Err(reason) => rejections.push(Rejection::new(&name, format!("port {text}"), reason)),
            }
        }

        let addresses = settings
            .networks
            .unwrap_or_default()
            .into_iter()
            .filter_map(|(network, endpoint)| {
                let v4 = endpoint.ip_address.and_then(|ip| ip.parse().ok());
                let v6 = endpoint.global_ipv6_address.and_then(|ip| ip.parse().ok());
                Some((network, v4.or(v6)?))
            })
            .collect();

        let network = match host_config.network_mode.as_deref() {
            Some("host") => NetworkMode::Host,
            _ => NetworkMode::Own,
        };
        let answers = state.running == Some(true)
            && state.paused != Some(true)
            && state.restarting != Some(true)
            && state.dead != Some(true);
        let image = config.image.unwrap_or_default();
        Some((
            Self {
                id,
                name,
                image,
                answers,
                network,
                addresses,
                ports,
                variables,
            },
            rejections,
        ))
    }
}

/// Docker writes the port as text, and an empty or zero one where nothing is bound yet.
fn binding(binding: &PortBinding) -> Option<HostBinding> {
    let port = binding
        .host_port
        .as_deref()?
        .parse()
        .ok()
        .filter(|port| *port != 0)?;
    let ip = match binding.host_ip.as_deref() {
        None | Some("") => Ipv4Addr::UNSPECIFIED.into(),
        Some(ip) => ip.parse().ok()?,
    };
    Some(HostBinding { ip, port })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn inspect(json: serde_json::Value) -> (ContainerSnapshot, Vec<Rejection>) {
        ContainerSnapshot::from_inspect(serde_json::from_value(json).unwrap()).unwrap()
    }

    #[test]
    fn an_inspect_document_is_reduced_to_what_matters() {
        let (snapshot, rejections) = inspect(serde_json::json!({
            "Id": "f00dfeedf00dfeed", "Name": "/web",
            "Config": {
                "Image": "nginx:1.27",
                "Env": ["SERVICE_NAME=example", "DB_PASSWORD=secret"],
                "Labels": {"SERVICE_TAGS": "a,b", "maintainer": "x"},
                "ExposedPorts": {"80/tcp": {}, "9000/udp": {}}
            },
            "State": {"Running": true, "Paused": false},
            "HostConfig": {"NetworkMode": "default"},
            "NetworkSettings": {
                "Ports": {
                    "80/tcp": [{"HostIp": "0.0.0.0", "HostPort": "49153"}, {"HostIp": "::", "HostPort": "49152"}],
                    "443/tcp": [{"HostIp": "127.0.0.1", "HostPort": "8443"}, {"HostIp": "", "HostPort": ""}]
                },
                "Networks": {"bridge": {"IPAddress": "172.17.0.2"}, "empty": {"IPAddress": ""}}
            }
        }));
        assert_eq!(rejections, []);
        assert_eq!(snapshot.name, "web");
        assert!(snapshot.answers);
        assert!(!format!("{snapshot:?}").contains("secret"));
        let binding = |ip: &str, port| HostBinding {
            ip: ip.parse().unwrap(),
            port,
        };
        let port = |text: &str| text.parse::<ContainerPort>().unwrap();
        assert_eq!(
            snapshot.ports,
            BTreeMap::from([
                (
                    port("80/tcp"),
                    BTreeSet::from([binding("0.0.0.0", 49153), binding("::", 49152)])
                ),
                (port("443/tcp"), BTreeSet::from([binding("127.0.0.1", 8443)])),
                (port("9000/udp"), BTreeSet::new()),
            ])
        );
        assert_eq!(
            snapshot.addresses,
            BTreeMap::from([("bridge".to_owned(), "172.17.0.2".parse().unwrap())])
        );
    }

    #[test]
    fn ports_out_of_range_are_named_and_the_rest_is_kept() {
        let (snapshot, rejections) = inspect(serde_json::json!({
            "Id": "1", "Name": "/web",
            "Config": {"ExposedPorts": {"80/tcp": {}, "99999/tcp": {}, "0/tcp": {}, "132/sctp": {}, "x/tcp": {}}}
        }));
        assert_eq!(snapshot.ports.len(), 1);
        let mut subjects: Vec<_> = rejections.iter().map(|r| r.subject.as_str()).collect();
        subjects.sort_unstable();
        assert_eq!(
            subjects,
            ["port 0/tcp", "port 132/sctp", "port 99999/tcp", "port x/tcp"]
        );
    }

    #[test]
    fn only_a_running_unpaused_container_answers() {
        for (state, answers) in [
            (serde_json::json!({"Running": true}), true),
            (serde_json::json!({"Running": false}), false),
            (serde_json::json!({"Running": true, "Paused": true}), false),
            (serde_json::json!({"Running": true, "Restarting": true}), false),
            (serde_json::json!({"Running": true, "Dead": true}), false),
            (serde_json::json!({}), false),
        ] {
            assert_eq!(
                inspect(serde_json::json!({"Id": "1", "State": state})).0.answers,
                answers,
                "{state}"
            );
        }
    }
}
