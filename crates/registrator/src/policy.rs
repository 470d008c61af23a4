//! The policy of this host: what the operator said, completed with what the host knows of itself.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use tokio::net::UdpSocket;

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
            None => default_route_address().await?,
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

/// The source address the kernel would use towards the rest of the world.
///
/// "Connecting" a UDP socket only looks up the route; no packet is sent. The address asked for is one that
/// RFC 5737 keeps for documentation: any will do that is in no network of this host.
async fn default_route_address() -> Result<IpAddr, Error> {
    let probe = SocketAddr::from((Ipv4Addr::new(198, 51, 100, 1), 9));
    let lookup = async {
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).await?;
        socket.connect(probe).await?;
        socket.local_addr()
    };
    lookup
        .await
        .map(|address| address.ip())
        .map_err(|source| Error::HostAddress { probe, source })
}
