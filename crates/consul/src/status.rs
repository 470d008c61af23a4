//! The state of the servers' consensus (page "Status HTTP Endpoint" of Consul's API documentation).

use crate::error::Error;
use crate::transport::{Call, Client};

impl Client {
    /// The leader's address, `host:port` of its server port; `None` while there is none.
    ///
    /// # Errors
    /// Those of every call. An agent that knows no server answers 500.
    pub async fn leader(&self) -> Result<Option<String>, Error> {
        let call = Call::get("read the leader", "/v1/status/leader").with(self.datacenter_pair());
        let leader: String = call.send(self).await?.ok()?.json()?;
        Ok(Some(leader).filter(|leader| !leader.is_empty()))
    }

    /// The addresses of all servers in the Raft configuration, `host:port` of their server ports.
    ///
    /// # Errors
    /// Those of every call.
    pub async fn peers(&self) -> Result<Vec<String>, Error> {
        let call = Call::get("list the Raft peers", "/v1/status/peers").with(self.datacenter_pair());
        call.send(self).await?.ok()?.json()
    }
}
