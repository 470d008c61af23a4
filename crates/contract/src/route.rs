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
}

fn suggest(label: Option<&DnsLabel>) -> String {
    label
        .map(|label| format!("; SERVICE_NAME={label} would get a route"))
        .unwrap_or_default()
}

impl RouteSpec {
    /// The route that every service has by its name: `<name>.<domain>`.
    ///
    /// # Errors
    /// [`RouteSpecError`] when the name is no DNS label, or too long with the domain.
    pub fn by_name(name: &ServiceName, domain: &DomainName) -> Result<Self, RouteSpecError> {
        let label: DnsLabel = name.as_str().parse().map_err(|reason| RouteSpecError::Name {
            name: name.clone(),
            reason,
            suggestion: DnsLabel::nearest(name.as_str()),
        })?;
        let host = HostName::under(&label, domain).map_err(|reason| RouteSpecError::Host {
            name: name.clone(),
            domain: domain.clone(),
            reason,
        })?;
        Ok(Self { host })
    }
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
    fn a_name_too_long_with_its_domain_is_refused() {
        let domain = vec!["d".repeat(60); 4].join(".").parse().unwrap();
        let error = RouteSpec::by_name(&"n".repeat(60).parse().unwrap(), &domain).unwrap_err();
        assert!(matches!(error, RouteSpecError::Host { .. }), "{error}");
    }
}
