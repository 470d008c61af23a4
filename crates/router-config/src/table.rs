//! The routing table: which host name goes to which instances. A pure function of the services.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;

use contract::{DnsLabel, DomainName, HostName, RouteSpec, ServiceName, node_label};
use serde::{Serialize, Serializer};
use sha2::{Digest, Sha256};

use crate::instance::{Health, InstanceKey, ServiceInstance};

/// The name of a server within its backend: safe in HAProxy's configuration and on its command line, stable for
/// an instance, and telling to people.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct ServerName(Arc<str>);

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
        Self(format!("{shown}-{}", short_hex(&hasher.finalize())).into())
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

impl Serialize for ServerName {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
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
    pub service: ServiceName,
    /// Where requests go; empty when nothing is healthy, which is answered with 503.
    pub servers: BTreeMap<ServerName, SocketAddr>,
    /// Which of them are on one node, by the host name that answers from there only. All else under such a name needs no
    /// route: it is answered with 503 when the service is known.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub nodes: BTreeMap<HostName, Vec<ServerName>>,
    /// Instances that get no requests, and why.
    pub out: Vec<(InstanceKey, Health)>,
}

impl Route {
    fn new(service: ServiceName) -> Self {
        Self {
            service,
            servers: BTreeMap::new(),
            nodes: BTreeMap::new(),
            out: Vec::new(),
        }
    }
}

/// A service that gets no route, or not all that it would have, and why.
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
    /// Nodes to which there are no routes, and why.
    pub rejected_nodes: BTreeMap<String, String>,
}

impl RoutingTable {
    fn conflict(&mut self, service: &str, reason: String) {
        self.conflicts.insert(Conflict {
            service: service.to_owned(),
            reason,
        });
    }

    /// Number of host names that answer from one node only.
    pub fn node_routes(&self) -> usize {
        self.routes.values().map(|route| route.nodes.len()).sum()
    }

    /// Number of instances that get requests.
    pub fn servers(&self) -> usize {
        self.routes.values().map(|route| route.servers.len()).sum()
    }
}

/// How host names are made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Naming {
    /// Under which services answer.
    pub domain: DomainName,
    /// Whether they also answer as `<service>.<node>.<domain>`.
    pub node_routes: bool,
}

/// The routing table of `services`.
///
/// Consul tells `web` and `Web` apart, DNS does not: of several services that claim one host name, the one whose
/// name comes last in byte order has it (`web` before `Web`: lower case is what people type). So it is with nodes. The
/// rule depends on nothing but the names, so every router decides alike.
pub fn routing_table(services: &BTreeMap<String, Vec<ServiceInstance>>, naming: &Naming) -> RoutingTable {
    let mut table = RoutingTable::default();
    let mut nodes = BTreeMap::new();
    if naming.node_routes {
        (nodes, table.rejected_nodes) = node_labels(services);
    }
    for (name, instances) in services.iter().rev() {
        if let Err(reason) = add_route(&mut table, name, instances, &naming.domain, &nodes) {
            table.conflict(name, reason);
        }
    }
    table
}

/// Adds the route of one service, or says why it gets none.
fn add_route(
    table: &mut RoutingTable,
    name: &str,
    instances: &[ServiceInstance],
    domain: &DomainName,
    nodes: &BTreeMap<&str, DnsLabel>,
) -> Result<(), String> {
    let service = name
        .parse::<ServiceName>()
        .map_err(|error| format!("the service name cannot be used: {error}"))?;
    let host = RouteSpec::by_name(&service, domain)
        .map_err(|error| error.to_string())?
        .host;
    if let Some(route) = table.routes.get(&host) {
        let holder = &route.service;
        return Err(format!(
            "the host name {host} belongs to service \"{holder}\": give one of them another SERVICE_NAME"
        ));
    }
    let mut route = Route::new(service);
    for instance in instances {
        if instance.health != Health::Healthy {
            route.out.push((instance.key.clone(), instance.health));
            continue;
        }
        let server = ServerName::of(&instance.key);
        if let Some(node) = nodes.get(instance.key.node.as_str()) {
            match RouteSpec::on_node(&route.service, node, domain) {
                Ok(spec) => route.nodes.entry(spec.host).or_default().push(server.clone()),
                Err(error) => table.conflict(name, error.to_string()),
            }
        }
        route.servers.insert(server, instance.endpoint());
    }
    for servers in route.nodes.values_mut() {
        servers.sort();
    }
    table.routes.insert(host, route);
    Ok(())
}

/// The label of each node of `services`, and the nodes that have none, with the reason.
fn node_labels(
    services: &BTreeMap<String, Vec<ServiceInstance>>,
) -> (BTreeMap<&str, DnsLabel>, BTreeMap<String, String>) {
    let nodes: BTreeSet<&str> = services.values().flatten().map(|i| i.key.node.as_str()).collect();
    let mut holders: BTreeMap<DnsLabel, &str> = BTreeMap::new();
    let mut rejected = BTreeMap::new();
    for node in nodes.into_iter().rev() {
        let reason = match node_label(node) {
            Err(error) => error.to_string(),
            Ok(label) => match holders.get(&label) {
                None => {
                    holders.insert(label, node);
                    continue;
                }
                Some(holder) => {
                    format!("the label {label} belongs to node {holder:?}: give one of them another name")
                }
            },
        };
        rejected.insert(node.to_owned(), reason);
    }
    let labels = holders.into_iter().map(|(label, node)| (node, label)).collect();
    (labels, rejected)
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
        routing_table(&services, &naming(true))
    }

    fn naming(node_routes: bool) -> Naming {
        Naming {
            domain: "cluster.local".parse().unwrap(),
            node_routes,
        }
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
        assert_eq!(
            table.routes[&"web.cluster.local".parse().unwrap()]
                .service
                .as_str(),
            "web"
        );
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

    /// `host: servers` of each route to a node.
    fn node_routes(table: &RoutingTable) -> Vec<String> {
        let shown = |(host, servers): (&HostName, &Vec<ServerName>)| {
            let ids: Vec<&str> = servers.iter().map(|server| &server.as_str()[..1]).collect();
            format!("{host}: {}", ids.join(" "))
        };
        table
            .routes
            .values()
            .flat_map(|route| &route.nodes)
            .map(shown)
            .collect()
    }

    #[test]
    fn a_service_is_routed_to_each_node_where_an_instance_is_healthy() {
        let table = table(&[
            (
                "web",
                vec![
                    instance("n1", "a", Health::Healthy),
                    instance("n1", "b", Health::Healthy),
                    instance("N2", "a", Health::Healthy),
                    instance("n3", "a", Health::Critical),
                ],
            ),
            ("Web", vec![instance("n4", "a", Health::Healthy)]),
            ("my_app", vec![instance("n5", "a", Health::Healthy)]),
        ]);
        assert_eq!(
            node_routes(&table),
            ["web.n1.cluster.local: a b", "web.n2.cluster.local: a",]
        );
        assert_eq!(table.rejected_nodes, BTreeMap::new());
    }

    #[test]
    fn a_node_whose_name_is_no_label_or_another_ones_is_rejected_and_the_others_go_on() {
        let table = table(&[(
            "web",
            vec![
                instance("n1.example.org", "a", Health::Healthy),
                instance("N2", "b", Health::Healthy),
                instance("n2", "c", Health::Healthy),
            ],
        )]);
        assert_eq!(node_routes(&table), ["web.n2.cluster.local: c"]);
        assert_eq!(table.servers(), 3, "the service itself has them all");
        let rejected: Vec<_> = table.rejected_nodes.iter().collect();
        let [(taken, why_taken), (dotted, why_dotted)] = rejected[..] else {
            panic!("{rejected:?}")
        };
        assert_eq!((taken.as_str(), dotted.as_str()), ("N2", "n1.example.org"));
        assert_eq!(
            why_taken,
            "the label n2 belongs to node \"n2\": give one of them another name"
        );
        assert!(why_dotted.contains("n1-example-org"), "{why_dotted}");
        assert_eq!(table.conflicts, BTreeSet::new());
    }

    #[test]
    fn a_host_name_that_gets_too_long_with_the_node_is_a_conflict_and_the_service_is_routed() {
        let services = BTreeMap::from([(
            "n".repeat(60),
            vec![
                instance(&"m".repeat(60), "a", Health::Healthy),
                instance("n1", "b", Health::Healthy),
            ],
        )]);
        let domain = vec!["d".repeat(60); 3].join(".").parse().unwrap();
        let table = routing_table(
            &services,
            &Naming {
                domain,
                ..naming(true)
            },
        );
        assert_eq!(
            (table.servers(), table.node_routes(), table.conflicts.len()),
            (2, 1, 1)
        );
    }

    #[test]
    fn without_node_routes_nothing_is_said_of_nodes() {
        let services = BTreeMap::from([("web".to_owned(), vec![instance("a_b", "a", Health::Healthy)])]);
        let table = routing_table(&services, &naming(false));
        assert_eq!((table.routes.len(), table.node_routes()), (1, 0));
        assert_eq!(table.rejected_nodes, BTreeMap::new());
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

        /// Whatever nodes are called: a server of a service is that of exactly one of its nodes, or its node is named
        /// as rejected; and no host name has two meanings.
        #[test]
        fn each_server_is_on_one_node_or_its_node_is_rejected(
            instances in prop::collection::btree_set(("[a-bA-B.]{0,2}", "[a-c]", "[x-z]", any::<bool>()), 0..20)
        ) {
            let mut services: BTreeMap<String, Vec<ServiceInstance>> = BTreeMap::new();
            for (node, service, id, healthy) in &instances {
                let health = if *healthy { Health::Healthy } else { Health::Critical };
                services.entry(service.clone()).or_default().push(instance(node, id, health));
            }
            let table = routing_table(&services, &naming(true));
            let mut hosts = BTreeSet::new();
            for (host, route) in &table.routes {
                let mut on_nodes = BTreeSet::new();
                for (node_host, servers) in &route.nodes {
                    prop_assert!(!table.routes.contains_key(node_host) && hosts.insert(node_host), "{node_host}");
                    prop_assert!(!servers.is_empty());
                    for server in servers {
                        prop_assert!(route.servers.contains_key(server), "{host}: {server}");
                        prop_assert!(on_nodes.insert(server.clone()), "{host}: {server} on two nodes");
                    }
                }
                for instance in &services[route.service.as_str()] {
                    let server = ServerName::of(&instance.key);
                    let expected = route.servers.contains_key(&server)
                        && !table.rejected_nodes.contains_key(&instance.key.node);
                    prop_assert_eq!(on_nodes.contains(&server), expected);
                }
            }
        }

        #[test]
        fn a_server_name_is_safe_whatever_the_id(node in ".{0,80}", id in ".{0,80}") {
            let name = ServerName::of(&InstanceKey { node, id });
            prop_assert!(name.as_str().len() <= 60);
            prop_assert!(name.as_str().chars().all(|c| c.is_ascii_alphanumeric() || "-._".contains(c)));
        }
    }
}
