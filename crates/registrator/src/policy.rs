//! The policy of this host: what the operator said, completed with what the host knows of itself.

use std::net::IpAddr;

use daemon::host::routed_address;

use crate::definitions::Policy;
use crate::docker::Engine;
use crate::error::Error;

/// What the operator said; `None` where the host is to be asked.
#[derive(Debug, Clone)]
pub struct PolicySource {
    /// First part of every service ID; Docker's name for the host when not given.
    pub hostname: Option<String>,
    /// Address of services; that of the interface with the default route when not given.
    pub address: Option<IpAddr>,
    /// See [`Policy::internal`].
    pub internal: bool,
    /// See [`Policy::explicit`].
    pub explicit: bool,
    /// See [`Policy::tags`].
    pub tags: Vec<String>,
}

impl PolicySource {
    /// Asks for what is missing. Worth repeating: at boot, neither Docker nor the network need be there yet.
    ///
    /// # Errors
    /// When Docker does not answer, or there is no default route.
    pub async fn resolve(&self, engine: &Engine) -> Result<Policy, Error> {
        let hostname = match &self.hostname {
            Some(hostname) => hostname.clone(),
            None => engine.host_name().await?,
        };
        let address = match self.address {
            Some(address) => address,
            None => routed_address()?,
        };
        let Self {
            internal,
            explicit,
            ref tags,
            ..
        } = *self;
        Ok(Policy {
            hostname,
            address,
            internal,
            explicit,
            tags: tags.clone(),
        })
    }
}
