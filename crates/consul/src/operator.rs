//! The operator's endpoints: the Raft configuration, autopilot and the gossip keyring (page "Operator HTTP API" of
//! Consul's API documentation).

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

use reqwest::Method;
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Deserializer, Serialize};

use crate::agent::MemberStatus;
use crate::error::Error;
use crate::json::{null_default, optional_duration, serialize_duration};
use crate::transport::{Answer, Call, Client};

/// The servers that Raft counts, whether they run or not.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct RaftConfiguration {
    /// When it last changed, as a Raft index. Consul 1.8.7 always says 0 (measured).
    #[serde(default)]
    pub index: u64,
    /// The servers.
    pub servers: Vec<RaftServer>,
}

/// A server as Raft knows it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct RaftServer {
    /// Its node's UUID. With Raft protocol 2 its address.
    #[serde(rename = "ID", deserialize_with = "null_default")]
    pub id: String,
    /// Its node's name; `(unknown)` when its gossip knows no server at that address.
    #[serde(deserialize_with = "null_default")]
    pub node: String,
    /// Its server port's address, as Raft spells it: what [`RaftPeer::Address`] takes. See
    /// [`RaftServer::socket_address`].
    #[serde(deserialize_with = "null_default")]
    pub address: String,
    /// Whether it leads.
    #[serde(deserialize_with = "null_default")]
    pub leader: bool,
    /// Whether it has a vote. A server that has just joined has none until autopilot finds it steady.
    #[serde(deserialize_with = "null_default")]
    pub voter: bool,
    /// The version of the Raft protocol it speaks; empty when it is not known.
    #[serde(deserialize_with = "null_default")]
    pub protocol_version: String,
}

impl RaftServer {
    /// Its address; `None` for one that is not `ip:port`.
    #[must_use]
    pub fn socket_address(&self) -> Option<SocketAddr> {
        self.address.parse().ok()
    }
}

/// Which server to take out of the Raft configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RaftPeer<'a> {
    /// The one with this [`RaftServer::id`].
    Id(&'a str),
    /// The one at this [`RaftServer::address`].
    Address(&'a str),
}

impl fmt::Display for RaftPeer<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RaftPeer::Id(id) => write!(f, "with ID {id:?}"),
            RaftPeer::Address(address) => write!(f, "at {address:?}"),
        }
    }
}

/// How autopilot looks after the servers.
///
/// Setting it replaces all of it, so change one that was read: what is not said becomes zero.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct AutopilotConfiguration {
    /// Whether servers that failed are removed once a new one has come, as long as most are left.
    pub cleanup_dead_servers: bool,
    /// How long a server may be without word from the leader and be healthy.
    #[serde(
        default,
        deserialize_with = "optional_duration",
        serialize_with = "serialize_duration",
        skip_serializing_if = "Option::is_none"
    )]
    pub last_contact_threshold: Option<Duration>,
    /// How many log entries a server may be behind the leader and be healthy.
    #[serde(default)]
    pub max_trailing_logs: u64,
    /// No server is removed if fewer than this many would be left.
    #[serde(default)]
    pub min_quorum: u32,
    /// How long a new server must have been healthy to get its vote.
    #[serde(
        default,
        deserialize_with = "optional_duration",
        serialize_with = "serialize_duration",
        skip_serializing_if = "Option::is_none"
    )]
    pub server_stabilization_time: Option<Duration>,
    /// When it last changed, as an index; what `cas` compares with.
    #[serde(default)]
    pub modify_index: u64,
    /// What this client does not know, to be sent back as it came.
    #[serde(flatten)]
    pub other: BTreeMap<String, serde_json::Value>,
}

/// What autopilot thinks of the servers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct AutopilotHealth {
    /// Whether all servers are healthy.
    pub healthy: bool,
    /// How many healthy voters may still be lost without losing the quorum.
    #[serde(default)]
    pub failure_tolerance: u32,
    /// The servers. Empty while there is no leader, and on a leader that has not looked yet (measured).
    #[serde(default, deserialize_with = "null_default")]
    pub servers: Vec<AutopilotServer>,
}

/// What autopilot thinks of a server.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct AutopilotServer {
    /// Its node's UUID.
    #[serde(rename = "ID", deserialize_with = "null_default")]
    pub id: String,
    /// Its node's name.
    #[serde(deserialize_with = "null_default")]
    pub name: String,
    /// Its server port's address.
    #[serde(deserialize_with = "null_default")]
    pub address: String,
    /// Its state in gossip.
    #[serde(deserialize_with = "serf_status")]
    pub serf_status: MemberStatus,
    /// Its version.
    #[serde(deserialize_with = "null_default")]
    pub version: String,
    /// Whether it leads.
    #[serde(deserialize_with = "null_default")]
    pub leader: bool,
    /// How long ago it had word from the leader, zero for the leader; `None` when it could not be asked.
    #[serde(deserialize_with = "optional_duration")]
    pub last_contact: Option<Duration>,
    /// The term of its last log entry.
    #[serde(deserialize_with = "null_default")]
    pub last_term: u64,
    /// The index of its last log entry.
    #[serde(deserialize_with = "null_default")]
    pub last_index: u64,
    /// Whether it is healthy.
    #[serde(deserialize_with = "null_default")]
    pub healthy: bool,
    /// Whether it has a vote.
    #[serde(deserialize_with = "null_default")]
    pub voter: bool,
    /// Since when its health is what it is, in RFC 3339.
    #[serde(deserialize_with = "null_default")]
    pub stable_since: String,
}

fn serf_status<'de, D: Deserializer<'de>>(deserializer: D) -> Result<MemberStatus, D::Error> {
    // Serf's words here, its numbers in the list of members.
    Ok(match Option::<String>::deserialize(deserializer)?.as_deref() {
        Some("alive") => MemberStatus::Alive,
        Some("leaving") => MemberStatus::Leaving,
        Some("left") => MemberStatus::Left,
        Some("failed") => MemberStatus::Failed,
        _ => MemberStatus::Unknown,
    })
}

/// The gossip keys of one pool.
#[derive(Clone, Debug, Default)]
pub struct Keyring {
    /// Whether the pool is the one between datacenters.
    pub wan: bool,
    /// The datacenter.
    pub datacenter: String,
    /// How many agents answered.
    pub nodes: u32,
    /// The keys that any of them has.
    pub keys: Vec<KeyringKey>,
}

/// A gossip key and how far it has spread.
#[derive(Clone, Debug, Default)]
pub struct KeyringKey {
    /// The key, in base64.
    pub key: SecretString,
    /// How many agents can read with it.
    pub nodes: u32,
    /// How many agents write with it. 0 on versions before 1.8.
    pub primary_on: u32,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct WireKeyring {
    #[serde(rename = "WAN", default)]
    wan: bool,
    #[serde(default, deserialize_with = "null_default")]
    datacenter: String,
    keys: BTreeMap<String, u32>,
    #[serde(default, deserialize_with = "null_default")]
    primary_keys: BTreeMap<String, u32>,
    #[serde(default)]
    num_nodes: u32,
}

impl From<WireKeyring> for Keyring {
    fn from(wire: WireKeyring) -> Keyring {
        let WireKeyring {
            keys, primary_keys, ..
        } = wire;
        Keyring {
            wan: wire.wan,
            datacenter: wire.datacenter,
            nodes: wire.num_nodes,
            keys: keys
                .into_iter()
                .map(|(key, nodes)| KeyringKey {
                    primary_on: primary_keys.get(&key).copied().unwrap_or_default(),
                    key: key.into(),
                    nodes,
                })
                .collect(),
        }
    }
}

/// 429 is how Consul says that the servers are not healthy, with the same body. A 429 without it is a limit on calls.
fn health(answer: Answer) -> Result<AutopilotHealth, Error> {
    if answer.status.as_u16() == 429
        && let Ok(health) = serde_json::from_slice::<AutopilotHealth>(&answer.body)
        && !health.healthy
    {
        return Ok(health);
    }
    answer.ok()?.json()
}

impl Client {
    /// The Raft configuration. With `stale` the agent asked, or the server it asks, answers from its own copy, which
    /// works without a leader.
    ///
    /// # Errors
    /// Those of every call.
    pub async fn raft_configuration(&self, stale: bool) -> Result<RaftConfiguration, Error> {
        Call::get("read the Raft configuration", "/v1/operator/raft/configuration")
            .with(self.datacenter_pair())
            .with(stale.then_some(("stale", "")))
            .send(self)
            .await?
            .ok()?
            .json()
    }

    /// Takes a server out of the Raft configuration, for good: one that still runs must be stopped first, or it comes
    /// back by itself. `false`: it is not in it.
    ///
    /// # Errors
    /// Those of every call.
    pub async fn raft_remove_peer(&self, peer: RaftPeer<'_>) -> Result<bool, Error> {
        let pair = match peer {
            RaftPeer::Id(id) => ("id", id),
            RaftPeer::Address(address) => ("address", address),
        };
        let operation = format!("remove the Raft peer {peer}");
        let answer = Call::new(Method::DELETE, operation, "/v1/operator/raft/peer")
            .with(self.datacenter_pair())
            .with([pair])
            .send(self)
            .await?;
        // The words of 1.8.7, of newer ones too: a 500 that says nothing else about itself.
        if answer.status.is_server_error() && answer.text().contains("not found in the Raft configuration") {
            return Ok(false);
        }
        answer.ok()?;
        Ok(true)
    }

    /// How autopilot looks after the servers.
    ///
    /// # Errors
    /// Those of every call.
    pub async fn autopilot_configuration(&self) -> Result<AutopilotConfiguration, Error> {
        Call::get(
            "read autopilot's configuration",
            "/v1/operator/autopilot/configuration",
        )
        .with(self.datacenter_pair())
        .send(self)
        .await?
        .ok()?
        .json()
    }

    /// Replaces autopilot's configuration; with `cas` only if its `modify_index` is that. `false`: it is not, and nothing
    /// was written.
    ///
    /// # Errors
    /// Those of every call; 400 for a field the server does not know.
    pub async fn set_autopilot_configuration(
        &self,
        configuration: &AutopilotConfiguration,
        cas: Option<u64>,
    ) -> Result<bool, Error> {
        Call::put(
            "write autopilot's configuration",
            "/v1/operator/autopilot/configuration",
        )
        .with(self.datacenter_pair())
        .with(cas.map(|index| ("cas", index.to_string())))
        .json(configuration)?
        .send(self)
        .await?
        .ok()?
        .json()
    }

    /// What autopilot thinks of the servers, healthy or not.
    ///
    /// # Errors
    /// Those of every call.
    pub async fn autopilot_health(&self) -> Result<AutopilotHealth, Error> {
        health(
            Call::get("read the servers' health", "/v1/operator/autopilot/health")
                .with(self.datacenter_pair())
                .send(self)
                .await?,
        )
    }

    /// The gossip keys of every pool: the agent asks all the others, which takes a moment.
    ///
    /// # Errors
    /// Those of every call; 500 when gossip is not encrypted, or some agent does not answer.
    pub async fn keyring(&self) -> Result<Vec<Keyring>, Error> {
        let answer = Call::get("list the gossip keys", "/v1/operator/keyring")
            .send(self)
            .await?;
        let rings: Vec<WireKeyring> = answer.ok()?.json()?;
        Ok(rings.into_iter().map(Keyring::from).collect())
    }

    /// Gives all agents another gossip key, 16, 24 or 32 bytes in base64, to read with. One they have already is no
    /// error.
    ///
    /// # Errors
    /// Those of every call; 500 for a key that is none, and when some agent could not be given it.
    pub async fn keyring_install(&self, key: &SecretString) -> Result<(), Error> {
        self.change_keyring(Method::POST, "install a gossip key", key)
            .await
    }

    /// Makes all agents write with this key, which all must have.
    ///
    /// # Errors
    /// Those of every call; 500 when some agent does not have it.
    pub async fn keyring_use(&self, key: &SecretString) -> Result<(), Error> {
        self.change_keyring(Method::PUT, "change the primary gossip key", key)
            .await
    }

    /// Takes a key from all agents. One they do not have is no error.
    ///
    /// # Errors
    /// Those of every call; 500 for the key they write with.
    pub async fn keyring_remove(&self, key: &SecretString) -> Result<(), Error> {
        self.change_keyring(Method::DELETE, "remove a gossip key", key)
            .await
    }

    async fn change_keyring(&self, method: Method, operation: &str, key: &SecretString) -> Result<(), Error> {
        Call::new(method, operation, "/v1/operator/keyring")
            .json(&serde_json::json!({ "Key": key.expose_secret() }))?
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
    fn an_autopilot_configuration_is_sent_back_as_it_came() {
        let text = r#"{"CleanupDeadServers":true,"LastContactThreshold":"200ms","MaxTrailingLogs":250,"MinQuorum":0,
            "ServerStabilizationTime":"10s","RedundancyZoneTag":"zone","DisableUpgradeMigration":false,
            "CreateIndex":6,"ModifyIndex":7}"#;
        let read: AutopilotConfiguration = serde_json::from_str(text).expect("configuration");
        assert_eq!(read.server_stabilization_time, Some(Duration::from_secs(10)));
        assert_eq!(read.other.len(), 3, "{:?}", read.other);
        assert_eq!(
            serde_json::to_value(&read).expect("json"),
            serde_json::from_str::<serde_json::Value>(text).expect("json")
        );
    }

    #[test]
    fn a_configuration_without_servers_is_not_an_empty_one() {
        for text in ["{}", "null", r#"{"Servers":null,"Index":0}"#] {
            assert!(serde_json::from_str::<RaftConfiguration>(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_server_that_could_not_be_asked_has_no_last_contact() {
        let text = r#"{"Healthy":false,"FailureTolerance":0,"Servers":[
            {"ID":"a","SerfStatus":"failed","LastContact":"-1ns"},{"ID":"b","SerfStatus":"new","LastContact":"5ms"}]}"#;
        let health: AutopilotHealth = serde_json::from_str(text).expect("health");
        let seen: Vec<_> = health
            .servers
            .iter()
            .map(|s| (s.serf_status, s.last_contact))
            .collect();
        assert_eq!(
            seen,
            [
                (MemberStatus::Failed, None),
                (MemberStatus::Unknown, Some(Duration::from_millis(5)))
            ]
        );
    }

    #[test]
    fn a_key_is_not_in_debug_output() {
        let text = r#"[{"WAN":false,"Datacenter":"dc1","Keys":{"s3cret=":2},"PrimaryKeys":{"s3cret=":1},"NumNodes":2}]"#;
        let rings: Vec<WireKeyring> = serde_json::from_str(text).expect("keyring");
        let rings: Vec<Keyring> = rings.into_iter().map(Keyring::from).collect();
        assert_eq!((rings[0].keys[0].nodes, rings[0].keys[0].primary_on), (2, 1));
        assert!(!format!("{rings:?}").contains("s3cret"));
    }
}
