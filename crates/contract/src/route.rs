//! What a service asks of the routers.

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::{DnsLabel, DnsNameError, DomainName, HostName, ServiceName};

/// The route of one service: which requests are its own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RouteSpec {
    /// The host name it answers to.
    pub host: HostName,
}

/// Why a service gets no route; the message says how to give it one.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum RouteSpecError {
    /// The name cannot be part of a host name.
    #[error("the service name \"{name}\" is no DNS label ({reason}){}", suggest(.suggestion.as_ref()))]
    Name {
        /// The name found.
        name: ServiceName,
        /// What is wrong with it.
        reason: DnsNameError,
        /// A name that would do.
        suggestion: Option<DnsLabel>,
    },
    /// Name and domain together exceed what DNS carries.
    #[error("{name}.{domain} is no host name ({reason})")]
    Host {
        /// The name found.
        name: ServiceName,
        /// The cluster's domain.
        domain: DomainName,
        /// What is wrong with it.
        reason: DnsNameError,
    },
    /// Name, node and domain together exceed what DNS carries.
    #[error("{name}.{node}.{domain} is no host name ({reason})")]
    NodeHost {
        /// The name found.
        name: ServiceName,
        /// The node.
        node: DnsLabel,
        /// The cluster's domain.
        domain: DomainName,
        /// What is wrong with it.
        reason: DnsNameError,
    },
}

/// Why the instances on a node get no routes by its name; the message says how to give them some.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("the node name {node:?} is no DNS label ({reason}){}", suggest_node(.suggestion.as_ref()))]
pub struct NodeNameError {
    /// The name found.
    pub node: String,
    /// What is wrong with it.
    pub reason: DnsNameError,
    /// A name that would do.
    pub suggestion: Option<DnsLabel>,
}

fn suggest(label: Option<&DnsLabel>) -> String {
    label
        .map(|label| format!("; SERVICE_NAME={label} would get a route"))
        .unwrap_or_default()
}

fn suggest_node(label: Option<&DnsLabel>) -> String {
    label
        .map(|label| format!("; with the node_name {label} in Consul's configuration there would be routes"))
        .unwrap_or_default()
}

/// The label that a node's name in Consul is in host names.
///
/// # Errors
/// [`NodeNameError`] when it is no DNS label.
pub fn node_label(node: &str) -> Result<DnsLabel, NodeNameError> {
    node.parse().map_err(|reason| NodeNameError {
        node: node.to_owned(),
        reason,
        suggestion: DnsLabel::nearest(node),
    })
}

impl RouteSpec {
    /// The route that every service has by its name: `<name>.<domain>`.
    ///
    /// # Errors
    /// [`RouteSpecError`] when the name is no DNS label, or too long with the domain.
    pub fn by_name(name: &ServiceName, domain: &DomainName) -> Result<Self, RouteSpecError> {
        let label = service_label(name)?;
        let host = HostName::under(&label, domain).map_err(|reason| RouteSpecError::Host {
            name: name.clone(),
            domain: domain.clone(),
            reason,
        })?;
        Ok(Self { host })
    }

    /// The route to the instances on one node alone: `<name>.<node>.<domain>`.
    ///
    /// It is no other service's: a name is one label, so this host name has one label more than all by name.
    ///
    /// # Errors
    /// [`RouteSpecError`] when the name is no DNS label, or too long with node and domain.
    pub fn on_node(name: &ServiceName, node: &DnsLabel, domain: &DomainName) -> Result<Self, RouteSpecError> {
        let label = service_label(name)?;
        let host = format!("{label}.{node}.{domain}")
            .parse()
            .map_err(|reason| RouteSpecError::NodeHost {
                name: name.clone(),
                node: node.clone(),
                domain: domain.clone(),
                reason,
            })?;
        Ok(Self { host })
    }
}

fn service_label(name: &ServiceName) -> Result<DnsLabel, RouteSpecError> {
    name.as_str().parse().map_err(|reason| RouteSpecError::Name {
        name: name.clone(),
        reason,
        suggestion: DnsLabel::nearest(name.as_str()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn route(name: &str) -> Result<RouteSpec, RouteSpecError> {
        RouteSpec::by_name(&name.parse().unwrap(), &"cluster.local".parse().unwrap())
    }

    #[test]
    fn a_service_answers_under_its_name() {
        assert_eq!(route("example").unwrap().host.as_str(), "example.cluster.local");
        assert_eq!(route("Example").unwrap().host.as_str(), "example.cluster.local");
    }

    #[test]
    fn a_name_that_is_no_label_is_refused_with_a_suggestion() {
        let message = route("my_app").unwrap_err().to_string();
        assert_eq!(
            message,
            "the service name \"my_app\" is no DNS label ('_' is not allowed in a DNS label: use letters, digits \
             and hyphens); SERVICE_NAME=my-app would get a route"
        );
    }

    #[test]
    fn a_service_answers_on_one_node_under_both_names() {
        let on = |name: &str, node: &str, domain: &str| {
            let node = node_label(node).unwrap();
            RouteSpec::on_node(&name.parse().unwrap(), &node, &domain.parse().unwrap())
        };
        let route = on("Example", "N1", "cluster.local").unwrap();
        assert_eq!(route.host.as_str(), "example.n1.cluster.local");
        let error = on("my_app", "n1", "cluster.local").unwrap_err();
        assert!(matches!(error, RouteSpecError::Name { .. }), "{error}");
        let error = on(
            &"n".repeat(60),
            &"m".repeat(60),
            &vec!["d".repeat(60); 3].join("."),
        )
        .unwrap_err();
        assert!(matches!(error, RouteSpecError::NodeHost { .. }), "{error}");
    }

    #[test]
    fn a_node_name_that_is_no_label_is_refused_with_a_suggestion() {
        assert_eq!(
            node_label("n1.example.org").unwrap_err().to_string(),
            "the node name \"n1.example.org\" is no DNS label ('.' is not allowed in a DNS label: use letters, digits \
             and hyphens); with the node_name n1-example-org in Consul's configuration there would be routes"
        );
        assert!(!node_label("").unwrap_err().to_string().contains("node_name"));
    }

    #[test]
    fn a_name_too_long_with_its_domain_is_refused() {
        let domain = vec!["d".repeat(60); 4].join(".").parse().unwrap();
        let error = RouteSpec::by_name(&"n".repeat(60).parse().unwrap(), &domain).unwrap_err();
        assert!(matches!(error, RouteSpecError::Host { .. }), "{error}");
    }
}
