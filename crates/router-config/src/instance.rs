//! Instances of a service as routing sees them, parsed once from Consul's answer.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use consul::{CheckStatus, ServiceEntry};
use contract::{TAG_UDP, is_owned};
use serde::{Deserialize, Serialize};

/// What tells an instance apart from all others: service IDs are unique on their node.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct InstanceKey {
    /// Name of the Consul node it is registered on.
    pub node: String,
    /// Service ID.
    pub id: String,
}

impl fmt::Display for InstanceKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} on {}", self.id, self.node)
    }
}

/// One instance that requests can be sent to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceInstance {
    /// Which one.
    pub key: InstanceKey,
    /// Where it listens.
    pub address: IpAddr,
    /// 1 to 65535.
    pub port: u16,
    /// What its Consul checks say, all taken together.
    pub health: Health,
}

impl ServiceInstance {
    /// Where it listens.
    pub fn endpoint(&self) -> SocketAddr {
        SocketAddr::new(self.address, self.port)
    }
}

/// Whether an instance gets requests, and if not, why.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Health {
    /// Passing, or warning: a warning asks for a look, not for less capacity (as Consul's own DNS has it).
    Healthy,
    /// A check of the instance or of its node is critical.
    Critical,
    /// The instance or its node is in maintenance.
    Maintenance,
}

/// An instance that could not be used.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Rejection {
    /// Which one.
    pub instance: InstanceKey,
    /// Why, and what to change.
    pub reason: String,
}

/// The instances of `service` in Consul's answer that are Colossus' own and speak TCP, sorted; and those that cannot be
/// used.
///
/// Consul looks services up without regard to case (1.8.7: `/v1/health/service/web` also gives the instances of `Web`)
/// although it lists them apart, so what is not of exactly this service is left out.
pub fn parse_instances(service: &str, entries: Vec<ServiceEntry>) -> (Vec<ServiceInstance>, Vec<Rejection>) {
    let mut instances = Vec::new();
    let mut rejections = Vec::new();
    for entry in entries {
        let is_udp = entry.service.tags.iter().any(|tag| tag == TAG_UDP);
        if entry.service.service != service || !is_owned(&entry.service.meta) || is_udp {
            continue;
        }
        let key = InstanceKey {
            node: entry.node.node.clone(),
            id: entry.service.id.clone(),
        };
        let address = entry.endpoint_address();
        let reason = match (address.parse(), entry.service.port) {
            (Err(_), _) => format!("the address {address:?} is no IP address: register one"),
            (_, 0) => "the port is 0: register one from 1 to 65535".to_owned(),
            (Ok(address), port) => {
                let health = match entry.aggregated_status() {
                    CheckStatus::Passing | CheckStatus::Warning => Health::Healthy,
                    CheckStatus::Maintenance => Health::Maintenance,
                    CheckStatus::Critical => Health::Critical,
                };
                instances.push(ServiceInstance {
                    key,
                    address,
                    port,
                    health,
                });
                continue;
            }
        };
        rejections.push(Rejection {
            instance: key,
            reason,
        });
    }
    instances.sort_by(|a, b| a.key.cmp(&b.key));
    (instances, rejections)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entries(json: serde_json::Value) -> Vec<ServiceEntry> {
        serde_json::from_value(json).unwrap()
    }

    fn entry(
        id: &str,
        address: &str,
        port: i32,
        meta: &str,
        tags: &[&str],
        status: &str,
    ) -> serde_json::Value {
        serde_json::json!({
            "Node": {"ID": "", "Node": "n1", "Address": "192.0.2.1", "Datacenter": "dc1"},
            "Service": {"ID": id, "Service": if id == "other" { "Web" } else { "web" }, "Tags": tags, "Address": address, "Port": port,
                        "Meta": {meta: "registrator"}},
            "Checks": [{"Node": "n1", "CheckID": "serfHealth", "Name": "serf", "Status": "passing"},
                       {"Node": "n1", "CheckID": "service:web", "Name": "web", "Status": status, "ServiceID": id}]
        })
    }

    #[test]
    fn only_our_own_instances_with_an_address_are_used() {
        let (instances, rejections) = parse_instances(
            "web",
            entries(serde_json::json!([
                entry(
                    "web-2",
                    "192.0.2.2",
                    8080,
                    "colossus-owner",
                    &["udpish"],
                    "warning"
                ),
                entry("web-1", "", 80, "colossus-owner", &[], "passing"),
                entry("sick", "192.0.2.3", 80, "colossus-owner", &[], "critical"),
                entry("other", "192.0.2.9", 80, "colossus-owner", &[], "passing"),
                entry("foreign", "192.0.2.4", 80, "other", &[], "passing"),
                entry("dns", "192.0.2.5", 53, "colossus-owner", &["udp"], "passing"),
                entry("named", "db.example.org", 80, "colossus-owner", &[], "passing"),
                entry("portless", "192.0.2.6", 0, "colossus-owner", &[], "passing"),
            ])),
        );
        let listed: Vec<_> = instances
            .iter()
            .map(|i| (i.key.id.as_str(), i.endpoint().to_string(), i.health))
            .collect();
        assert_eq!(
            listed,
            [
                ("sick", "192.0.2.3:80".to_owned(), Health::Critical),
                ("web-1", "192.0.2.1:80".to_owned(), Health::Healthy),
                ("web-2", "192.0.2.2:8080".to_owned(), Health::Healthy),
            ]
        );
        let rejected: Vec<_> = rejections
            .iter()
            .map(|r| (r.instance.id.as_str(), r.reason.as_str()))
            .collect();
        assert_eq!(
            rejected,
            [
                (
                    "named",
                    "the address \"db.example.org\" is no IP address: register one"
                ),
                ("portless", "the port is 0: register one from 1 to 65535"),
            ]
        );
    }
}
