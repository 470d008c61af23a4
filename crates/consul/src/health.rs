//! Instances with their node and checks: the health endpoints (page "Health HTTP Endpoint" of Consul's API
//! documentation).

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Deserializer, Serialize};

use crate::agent::ServiceAddress;
use crate::error::Error;
use crate::json::{count, null_default, port};
use crate::path;
use crate::query::{QueryOptions, Response};
use crate::transport::Client;

/// The ID of the check that a node in maintenance has.
const NODE_MAINTENANCE: &str = "_node_maintenance";

/// How the ID of the check begins that a service in maintenance has; the service's ID follows.
const SERVICE_MAINTENANCE: &str = "_service_maintenance:";

/// How a check, or an instance as a whole, does. Ordered from best to worst.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum CheckStatus {
    /// All is well.
    Passing,
    /// In trouble but working.
    Warning,
    /// Not working. Also what an unknown word reads as, and what a check starts as: nothing is routed to what nobody
    /// has called healthy.
    #[default]
    Critical,
    /// Taken out by an operator. Consul reports it as a critical check with a reserved ID.
    Maintenance,
}

impl CheckStatus {
    /// Consul's word for it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            CheckStatus::Passing => "passing",
            CheckStatus::Warning => "warning",
            CheckStatus::Critical => "critical",
            CheckStatus::Maintenance => "maintenance",
        }
    }

    /// Reads Consul's word; an unknown one is critical.
    #[must_use]
    pub fn from_word(word: &str) -> CheckStatus {
        match word {
            "passing" => CheckStatus::Passing,
            "warning" => CheckStatus::Warning,
            "maintenance" => CheckStatus::Maintenance,
            _ => CheckStatus::Critical,
        }
    }
}

impl fmt::Display for CheckStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl<'de> Deserialize<'de> for CheckStatus {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<CheckStatus, D::Error> {
        let word = Option::<String>::deserialize(deserializer)?.unwrap_or_default();
        Ok(CheckStatus::from_word(&word))
    }
}

/// A node of the cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Node {
    /// The node's UUID; empty for nodes that were registered without one.
    #[serde(rename = "ID", deserialize_with = "null_default")]
    pub id: String,
    /// The node's name.
    #[serde(deserialize_with = "null_default")]
    pub node: String,
    /// Its address: an IP, or a host name.
    #[serde(deserialize_with = "null_default")]
    pub address: String,
    /// Its datacenter.
    #[serde(deserialize_with = "null_default")]
    pub datacenter: String,
    /// Its addresses by use, for example `lan` and `wan`.
    #[serde(deserialize_with = "null_default")]
    pub tagged_addresses: BTreeMap<String, String>,
    /// Its meta data.
    #[serde(deserialize_with = "null_default")]
    pub meta: BTreeMap<String, String>,
    /// When it was first registered, as an index.
    #[serde(deserialize_with = "null_default", skip_serializing)]
    pub create_index: u64,
    /// When it last changed, as an index.
    #[serde(deserialize_with = "null_default", skip_serializing)]
    pub modify_index: u64,
}

/// How much of the traffic an instance should get, by its state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Weights {
    /// While passing. Default 1.
    #[serde(deserialize_with = "count")]
    pub passing: u32,
    /// While warning. Default 1.
    #[serde(deserialize_with = "count")]
    pub warning: u32,
}

impl Default for Weights {
    fn default() -> Weights {
        Weights {
            passing: 1,
            warning: 1,
        }
    }
}

/// An instance as the catalog knows it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct CatalogService {
    /// The instance's ID, unique on its node only.
    #[serde(rename = "ID", deserialize_with = "null_default")]
    pub id: String,
    /// The service's name.
    #[serde(deserialize_with = "null_default")]
    pub service: String,
    /// Its tags.
    #[serde(deserialize_with = "null_default")]
    pub tags: Vec<String>,
    /// Its address; empty means the node's. See [`ServiceEntry::endpoint_address`].
    #[serde(deserialize_with = "null_default")]
    pub address: String,
    /// Its addresses by use.
    #[serde(deserialize_with = "null_default")]
    pub tagged_addresses: BTreeMap<String, ServiceAddress>,
    /// Its port; 0 if it has none, or one that is no port.
    #[serde(deserialize_with = "port")]
    pub port: u16,
    /// Its meta data.
    #[serde(deserialize_with = "null_default")]
    pub meta: BTreeMap<String, String>,
    /// Its weights.
    #[serde(deserialize_with = "null_default")]
    pub weights: Weights,
    /// Whether others may change its tags in the catalog.
    #[serde(deserialize_with = "null_default")]
    pub enable_tag_override: bool,
    /// When it was first registered, as an index.
    #[serde(deserialize_with = "null_default", skip_serializing)]
    pub create_index: u64,
    /// When it last changed, as an index.
    #[serde(deserialize_with = "null_default", skip_serializing)]
    pub modify_index: u64,
}

/// A check and how it does, from the agent's or the catalog's point of view.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct HealthCheck {
    /// The node it is on.
    #[serde(deserialize_with = "null_default")]
    pub node: String,
    /// Its ID, unique on its node only.
    #[serde(rename = "CheckID", deserialize_with = "null_default")]
    pub check_id: String,
    /// Its name.
    #[serde(deserialize_with = "null_default")]
    pub name: String,
    /// How it does.
    pub status: CheckStatus,
    /// What its author wrote.
    #[serde(deserialize_with = "null_default")]
    pub notes: String,
    /// What it last said. Comes from the checked program: not to be trusted.
    #[serde(deserialize_with = "null_default")]
    pub output: String,
    /// The instance it checks; empty for a check of the node.
    #[serde(rename = "ServiceID", deserialize_with = "null_default")]
    pub service_id: String,
    /// The name of that instance's service.
    #[serde(deserialize_with = "null_default")]
    pub service_name: String,
    /// That instance's tags.
    #[serde(deserialize_with = "null_default")]
    pub service_tags: Vec<String>,
    /// Its kind, for example `http` or `ttl`. Empty on servers that do not say.
    #[serde(rename = "Type", deserialize_with = "null_default", skip_serializing)]
    pub kind: String,
    /// When it was first registered, as an index.
    #[serde(deserialize_with = "null_default", skip_serializing)]
    pub create_index: u64,
    /// When it last changed, as an index.
    #[serde(deserialize_with = "null_default", skip_serializing)]
    pub modify_index: u64,
}

impl HealthCheck {
    /// Whether this is the check that stands for maintenance, of the node or of the instance.
    #[must_use]
    pub fn is_maintenance(&self) -> bool {
        self.check_id == NODE_MAINTENANCE || self.check_id.starts_with(SERVICE_MAINTENANCE)
    }
}

/// An instance with its node and the checks of both.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct ServiceEntry {
    /// Where it runs.
    pub node: Node,
    /// The instance.
    pub service: CatalogService,
    /// The instance's checks and its node's.
    #[serde(deserialize_with = "null_default")]
    pub checks: Vec<HealthCheck>,
}

impl ServiceEntry {
    /// The worst of all checks; passing without any. Maintenance is told by the reserved check IDs
    /// `_node_maintenance` and `_service_maintenance:…` and outweighs everything, as in Consul's own clients.
    #[must_use]
    pub fn aggregated_status(&self) -> CheckStatus {
        self.checks
            .iter()
            .map(|check| {
                if check.is_maintenance() {
                    CheckStatus::Maintenance
                } else {
                    check.status
                }
            })
            .max()
            .unwrap_or(CheckStatus::Passing)
    }

    /// Where to connect: the service's address, or its node's when it has none.
    #[must_use]
    pub fn endpoint_address(&self) -> &str {
        if self.service.address.is_empty() {
            &self.node.address
        } else {
            &self.service.address
        }
    }
}

impl Client {
    /// All instances of a service, healthy or not. A service nobody registered has none: Consul does not tell the
    /// two apart.
    ///
    /// # Errors
    /// [`Error::Identifier`] for a name that cannot be sent, and those of every call.
    pub async fn health_service(
        &self,
        name: &str,
        options: &QueryOptions,
    ) -> Result<Response<Vec<ServiceEntry>>, Error> {
        let operation = format!("read the health of service {name:?}");
        let path = format!("/v1/health/service/{}", path::segment(&operation, name)?);
        self.query_json(operation, &path, options).await
    }

    /// All checks on a node, its services' included. Empty for a node that is not there.
    ///
    /// # Errors
    /// As [`Client::health_service`].
    pub async fn health_node(
        &self,
        node: &str,
        options: &QueryOptions,
    ) -> Result<Response<Vec<HealthCheck>>, Error> {
        let operation = format!("read the health of node {node:?}");
        let path = format!("/v1/health/node/{}", path::segment(&operation, node)?);
        self.query_json(operation, &path, options).await
    }

    /// The checks of a service's instances, without those of their nodes.
    ///
    /// # Errors
    /// As [`Client::health_service`].
    pub async fn health_checks(
        &self,
        service: &str,
        options: &QueryOptions,
    ) -> Result<Response<Vec<HealthCheck>>, Error> {
        let operation = format!("read the checks of service {service:?}");
        let path = format!("/v1/health/checks/{}", path::segment(&operation, service)?);
        self.query_json(operation, &path, options).await
    }

    /// All checks of the cluster in this state; `None` is any. Consul has no maintenance state: look for critical
    /// checks and [`HealthCheck::is_maintenance`].
    ///
    /// # Errors
    /// Those of every call.
    pub async fn health_state(
        &self,
        state: Option<CheckStatus>,
        options: &QueryOptions,
    ) -> Result<Response<Vec<HealthCheck>>, Error> {
        let state = state.map_or("any", CheckStatus::as_str);
        let operation = format!("list the checks in state {state}");
        self.query_json(operation, &format!("/v1/health/state/{state}"), options)
            .await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn entry(checks: &[(&str, &str)]) -> ServiceEntry {
        let check = |(id, status): &(&str, &str)| HealthCheck {
            check_id: (*id).to_owned(),
            status: CheckStatus::from_word(status),
            ..HealthCheck::default()
        };
        ServiceEntry {
            checks: checks.iter().map(check).collect(),
            ..ServiceEntry::default()
        }
    }

    #[test]
    fn the_worst_check_counts_and_maintenance_is_told_by_its_id() {
        use CheckStatus::{Critical, Maintenance, Passing, Warning};
        for (checks, status) in [
            (vec![], Passing),
            (vec![("a", "passing"), ("b", "warning")], Warning),
            (vec![("a", "critical"), ("b", "warning")], Critical),
            (vec![("a", "something new")], Critical),
            (
                vec![("a", "critical"), ("_node_maintenance", "critical")],
                Maintenance,
            ),
            (vec![("_service_maintenance:web-1", "critical")], Maintenance),
        ] {
            assert_eq!(entry(&checks).aggregated_status(), status, "{checks:?}");
        }
    }

    #[test]
    fn the_nodes_address_stands_in_for_an_empty_one() {
        let mut entry = ServiceEntry::default();
        entry.node.address = "10.0.0.1".into();
        assert_eq!(entry.endpoint_address(), "10.0.0.1");
        entry.service.address = "10.0.0.2".into();
        assert_eq!(entry.endpoint_address(), "10.0.0.2");
    }

    #[test]
    fn nulls_absences_and_unknown_fields_are_tolerated() {
        let text = r#"[{"Node":{"Node":"n1","Meta":null},"Service":{"ID":"w","Service":"web","Tags":null,
            "Meta":null,"Port":70000,"Weights":null,"TaggedAddresses":null,"Proxy":{"x":1}},"Checks":null,"New":[]}]"#;
        let entries: Vec<ServiceEntry> = serde_json::from_str(text).expect("entries");
        let service = &entries[0].service;
        assert_eq!(
            (service.port, service.weights, service.tags.len()),
            (0, Weights::default(), 0)
        );
    }

    #[test]
    fn a_null_answer_is_not_an_empty_list() {
        assert!(serde_json::from_str::<Vec<ServiceEntry>>("null").is_err());
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = serde_json::from_slice::<Vec<ServiceEntry>>(&bytes);
        }

        #[test]
        fn what_was_written_is_read_back(
            id in "\\PC{0,20}", tags in proptest::collection::vec("\\PC{0,10}", 0..4), port in any::<u16>(),
        ) {
            let service = CatalogService { id, tags, port, ..CatalogService::default() };
            let text = serde_json::to_string(&service).expect("json");
            prop_assert_eq!(serde_json::from_str::<CatalogService>(&text).expect("back"), service);
        }
    }
}
