//! The routing table: which host name goes to which instances. A pure function of the services.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::SocketAddr;

use contract::{DomainName, HostName, RouteSpec, ServiceName};
use serde::Serialize;
use sha2::{Digest, Sha256};

use crate::instance::{Health, InstanceKey, ServiceInstance};

/// The name of a server within its backend: safe in HAProxy's configuration and on its command line, stable for
/// an instance, and telling to people.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct ServerName(String);

impl ServerName {
    /// The most of an ID that is shown. Long enough for `host:container:port`.
    const SHOWN: usize = 48;

    /// The name for an instance: what is safe of its ID, and a hash of the whole key, since two IDs may differ
    /// only in what is not safe, and two nodes may use the same ID.
    pub fn of(key: &InstanceKey) -> Self {
        let safe = |c: char| {
            if c.is_ascii_alphanumeric() || c == '-' || c == '.' {
                c
            } else {
                '_'
            }
        };
        let shown: String = key.id.chars().take(Self::SHOWN).map(safe).collect();
        let mut hasher = Sha256::new();
        // The length keeps ("a", "bc") and ("ab", "c") apart.
        hasher.update(key.node.len().to_le_bytes());
        hasher.update(&key.node);
        hasher.update(&key.id);
        Self(format!("{shown}-{}", short_hex(&hasher.finalize())))
    }

    /// As text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ServerName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The first eight hexadecimal digits: 32 bits tell the instances of one service apart.
fn short_hex(digest: &[u8]) -> String {
    digest.iter().take(4).map(|byte| format!("{byte:02x}")).collect()
}

/// One service as it is routed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Route {
    /// Name of the service in Consul.
    pub service: String,
    /// Where requests go; empty when nothing is healthy, which is answered with 503.
    pub servers: BTreeMap<ServerName, SocketAddr>,
    /// Instances that get no requests, and why.
    pub out: Vec<(InstanceKey, Health)>,
}

/// A service that gets no route, and why.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Conflict {
    /// Name of the service in Consul.
    pub service: String,
    /// Why, and what to change.
    pub reason: String,
}

/// Which requests go where.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct RoutingTable {
    /// By host name.
    pub routes: BTreeMap<HostName, Route>,
    /// Services that are left out.
    pub conflicts: BTreeSet<Conflict>,
}

impl RoutingTable {
    /// Number of instances that get requests.
    pub fn servers(&self) -> usize {
        self.routes.values().map(|route| route.servers.len()).sum()
    }
}

/// The routing table of `services` under `domain`.
///
/// Consul tells `web` and `Web` apart, DNS does not: of several services that claim one host name, the one whose
/// name comes last in byte order has it (`web` before `Web`: lower case is what people type). The rule depends on
/// nothing but the names, so every router decides alike.
pub fn routing_table(services: &BTreeMap<String, Vec<ServiceInstance>>, domain: &DomainName) -> RoutingTable {
    let mut table = RoutingTable::default();
    for (name, instances) in services.iter().rev() {
        let conflict = |reason: String| Conflict {
            service: name.clone(),
            reason,
        };
        let spec = match name.parse::<ServiceName>() {
            Ok(service) => RouteSpec::by_name(&service, domain).map_err(|error| error.to_string()),
            Err(error) => Err(format!("the service name cannot be used: {error}")),
        };
        match spec {
            Err(reason) => {
                table.conflicts.insert(conflict(reason));
            }
            Ok(spec) => match table.routes.get(&spec.host) {
                Some(route) => {
                    let holder = &route.service;
                    table.conflicts.insert(conflict(format!(
                        "the host name {} belongs to service {holder:?}: give one of them another SERVICE_NAME",
                        spec.host
                    )));
                }
                None => {
                    table.routes.insert(spec.host, route(name, instances));
                }
            },
        }
    }
    table
}

fn route(service: &str, instances: &[ServiceInstance]) -> Route {
    let mut route = Route {
        service: service.to_owned(),
        servers: BTreeMap::new(),
        out: Vec::new(),
    };
    for instance in instances {
        match instance.health {
            Health::Healthy => {
                route
                    .servers
                    .insert(ServerName::of(&instance.key), instance.endpoint());
            }
            health => route.out.push((instance.key.clone(), health)),
        }
    }
    route
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn instance(node: &str, id: &str, health: Health) -> ServiceInstance {
        ServiceInstance {
            key: InstanceKey {
                node: node.to_owned(),
                id: id.to_owned(),
            },
            address: "192.0.2.1".parse().unwrap(),
            port: 8080,
            health,
        }
    }

    fn table(services: &[(&str, Vec<ServiceInstance>)]) -> RoutingTable {
        let services = services
            .iter()
            .map(|(name, instances)| ((*name).to_owned(), instances.clone()))
            .collect();
        routing_table(&services, &"cluster.local".parse().unwrap())
    }

    #[test]
    fn a_service_is_routed_by_its_name_to_what_is_healthy() {
        let table = table(&[(
            "web",
            vec![
                instance("n1", "a", Health::Healthy),
                instance("n2", "a", Health::Healthy),
                instance("n1", "b", Health::Critical),
                instance("n1", "c", Health::Maintenance),
            ],
        )]);
        let route = &table.routes[&"web.cluster.local".parse().unwrap()];
        assert_eq!(
            route.servers.len(),
            2,
            "the same ID on two nodes is two instances: {route:?}"
        );
        assert_eq!(route.out.len(), 2);
        assert_eq!(table.servers(), 2);
    }

    #[test]
    fn a_service_with_nothing_healthy_keeps_its_route() {
        let table = table(&[
            ("web", vec![]),
            ("api", vec![instance("n1", "a", Health::Critical)]),
        ]);
        assert!(table.routes.values().all(|route| route.servers.is_empty()));
        assert_eq!(table.routes.len(), 2);
    }

    #[test]
    fn of_two_services_with_one_host_name_the_lower_case_one_has_it() {
        let table = table(&[
            ("WEB", vec![]),
            ("Web", vec![]),
            ("web", vec![instance("n1", "a", Health::Healthy)]),
            ("other", vec![]),
        ]);
        assert_eq!(table.routes[&"web.cluster.local".parse().unwrap()].service, "web");
        let left_out: Vec<_> = table
            .conflicts
            .iter()
            .map(|conflict| conflict.service.as_str())
            .collect();
        assert_eq!(left_out, ["WEB", "Web"]);
        assert_eq!(table.routes.len(), 2);
    }

    #[test]
    fn a_name_that_is_no_label_is_left_out_with_the_mend() {
        let table = table(&[("my_app", vec![]), ("good", vec![])]);
        assert_eq!(table.routes.len(), 1);
        let conflict = table.conflicts.first().unwrap();
        assert!(
            conflict.reason.contains("SERVICE_NAME=my-app"),
            "{}",
            conflict.reason
        );
    }

    #[test]
    fn server_names_show_the_id_and_differ_when_it_does() {
        let name = |node: &str, id: &str| {
            ServerName::of(&InstanceKey {
                node: node.to_owned(),
                id: id.to_owned(),
            })
        };
        assert!(name("n1", "n1:web:80").as_str().starts_with("n1_web_80-"));
        assert_ne!(name("n1", "n1:web:80"), name("n1", "n1_web_80"));
        assert_ne!(name("n1", "a"), name("n2", "a"));
        assert_ne!(name("a", "bc"), name("ab", "c"));
    }

    proptest! {
        #[test]
        fn every_service_is_either_routed_or_named_as_a_conflict(
            names in prop::collection::btree_set("[a-cA-C_.é -]{0,3}", 0..12)
        ) {
            let services: Vec<(&str, _)> = names.iter().map(|name| (name.as_str(), vec![])).collect();
            let table = table(&services);
            prop_assert_eq!(table.routes.len() + table.conflicts.len(), names.len());
        }

        #[test]
        fn a_server_name_is_safe_whatever_the_id(node in ".{0,80}", id in ".{0,80}") {
            let name = ServerName::of(&InstanceKey { node, id });
            prop_assert!(name.as_str().len() <= 60);
            prop_assert!(name.as_str().chars().all(|c| c.is_ascii_alphanumeric() || "-._".contains(c)));
        }
    }
}
