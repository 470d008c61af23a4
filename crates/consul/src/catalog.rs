//! The catalog: all nodes and services of a datacenter, and entries for what runs no agent (page "Catalog HTTP API" of
//! Consul's API documentation).

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::error::Error;
use crate::health::{CatalogService, HealthCheck, Node};
use crate::json::{lists, null_default, port};
use crate::path;
use crate::query::{QueryOptions, Response};
use crate::transport::{Call, Client};

/// An instance of a service with its node, as one flat record.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct CatalogInstance {
    /// The node's name.
    #[serde(deserialize_with = "null_default")]
    pub node: String,
    /// The node's address.
    #[serde(deserialize_with = "null_default")]
    pub address: String,
    /// The node's datacenter.
    #[serde(deserialize_with = "null_default")]
    pub datacenter: String,
    /// The node's meta data.
    #[serde(deserialize_with = "null_default")]
    pub node_meta: BTreeMap<String, String>,
    /// The instance's ID, unique on its node only.
    #[serde(rename = "ServiceID", deserialize_with = "null_default")]
    pub service_id: String,
    /// The service's name.
    #[serde(deserialize_with = "null_default")]
    pub service_name: String,
    /// The instance's tags.
    #[serde(deserialize_with = "null_default")]
    pub service_tags: Vec<String>,
    /// The instance's address; empty means the node's.
    #[serde(deserialize_with = "null_default")]
    pub service_address: String,
    /// The instance's port; 0 if it has none, or one that is no port.
    #[serde(deserialize_with = "port")]
    pub service_port: u16,
    /// The instance's meta data.
    #[serde(deserialize_with = "null_default")]
    pub service_meta: BTreeMap<String, String>,
    /// When it was first registered, as an index.
    #[serde(deserialize_with = "null_default")]
    pub create_index: u64,
    /// When it last changed, as an index.
    #[serde(deserialize_with = "null_default")]
    pub modify_index: u64,
}

/// A node and its services.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct NodeServices {
    /// The node.
    pub node: Node,
    /// Its services, by instance ID.
    #[serde(deserialize_with = "null_default")]
    pub services: BTreeMap<String, CatalogService>,
}

/// An entry for the catalog itself, for what runs no agent. What an agent runs is registered with the agent: entries
/// made here under an agent's node are removed again by its anti-entropy.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct CatalogRegistration {
    /// The node's name.
    pub node: String,
    /// The node's address.
    pub address: String,
    /// The datacenter; `None` is the client's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub datacenter: Option<String>,
    /// The node's meta data.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub node_meta: BTreeMap<String, String>,
    /// Leave an existing node as it is.
    pub skip_node_update: bool,
    /// A service on it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub service: Option<CatalogService>,
    /// Checks on it. Nobody runs them: who registers them must update them.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub checks: Vec<HealthCheck>,
}

/// What to remove from the catalog: a service, a check, or without either the whole node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct CatalogDeregistration {
    /// The node's name.
    pub node: String,
    /// The datacenter; `None` is the client's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub datacenter: Option<String>,
    /// Only this service instance.
    #[serde(rename = "ServiceID", skip_serializing_if = "Option::is_none")]
    pub service_id: Option<String>,
    /// Only this check.
    #[serde(rename = "CheckID", skip_serializing_if = "Option::is_none")]
    pub check_id: Option<String>,
}

/// The answer of `/v1/catalog/services`.
#[derive(Deserialize)]
#[serde(transparent)]
struct ServiceTags(#[serde(deserialize_with = "lists")] BTreeMap<String, Vec<String>>);

impl Client {
    /// All services of the datacenter and the union of their instances' tags.
    ///
    /// Blocking on it: Consul 1.8.7 wakes for every instance that is added, removed or changed, even when names and
    /// tags stay the same, and not for checks (measured). Newer versions may wake less often: rely only on being
    /// woken when the answer changes.
    ///
    /// # Errors
    /// Those of every call.
    pub async fn catalog_services(
        &self,
        options: &QueryOptions,
    ) -> Result<Response<BTreeMap<String, Vec<String>>>, Error> {
        let operation = "list the catalog's services".to_owned();
        let answer: Response<ServiceTags> = self
            .query_json(operation, "/v1/catalog/services", options)
            .await?;
        Ok(Response {
            value: answer.value.0,
            meta: answer.meta,
        })
    }

    /// All nodes of the datacenter.
    ///
    /// # Errors
    /// Those of every call.
    pub async fn catalog_nodes(&self, options: &QueryOptions) -> Result<Response<Vec<Node>>, Error> {
        self.query_json(
            "list the catalog's nodes".to_owned(),
            "/v1/catalog/nodes",
            options,
        )
        .await
    }

    /// A node and its services; `None` if the catalog has no such node.
    ///
    /// # Errors
    /// [`Error::Identifier`] for a name that cannot be sent, and those of every call.
    pub async fn catalog_node_services(
        &self,
        node: &str,
        options: &QueryOptions,
    ) -> Result<Response<Option<NodeServices>>, Error> {
        let operation = format!("list the services of node {node:?}");
        let path = format!("/v1/catalog/node/{}", path::segment(&operation, node)?);
        self.query_json(operation, &path, options).await
    }

    /// All instances of a service, without their health. None for a service nobody registered.
    ///
    /// # Errors
    /// As [`Client::catalog_node_services`].
    pub async fn catalog_service(
        &self,
        name: &str,
        options: &QueryOptions,
    ) -> Result<Response<Vec<CatalogInstance>>, Error> {
        let operation = format!("list the instances of service {name:?}");
        let path = format!("/v1/catalog/service/{}", path::segment(&operation, name)?);
        self.query_json(operation, &path, options).await
    }

    /// Makes or changes an entry in the catalog.
    ///
    /// # Errors
    /// Those of every call.
    pub async fn catalog_register(&self, registration: &CatalogRegistration) -> Result<(), Error> {
        let operation = format!("register node {:?} in the catalog", registration.node);
        Call::put(operation, "/v1/catalog/register")
            .with(self.datacenter_pair())
            .json(registration)?
            .send(self)
            .await?
            .ok()?;
        Ok(())
    }

    /// Removes an entry from the catalog. What is not there counts as removed.
    ///
    /// # Errors
    /// Those of every call.
    pub async fn catalog_deregister(&self, deregistration: &CatalogDeregistration) -> Result<(), Error> {
        let operation = format!("deregister from node {:?} in the catalog", deregistration.node);
        Call::put(operation, "/v1/catalog/deregister")
            .with(self.datacenter_pair())
            .json(deregistration)?
            .send(self)
            .await?
            .ok()?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn null_tags_are_no_tags_and_a_null_answer_is_no_answer() {
        let services: ServiceTags = serde_json::from_str(r#"{"web":null,"db":["a"]}"#).expect("services");
        assert_eq!(services.0["web"], Vec::<String>::new());
        assert!(serde_json::from_str::<ServiceTags>("null").is_err());
    }

    #[test]
    fn a_node_that_is_not_there_is_null() {
        assert_eq!(
            serde_json::from_str::<Option<NodeServices>>("null").expect("null"),
            None
        );
    }
}
