//! The local agent: what it runs, registering and deregistering, checks, membership (pages "Agent", "Agent: Services"
//! and "Agent: Checks" of Consul's HTTP API documentation).

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize};

use crate::error::Error;
use crate::health::{CheckStatus, HealthCheck, Weights};
use crate::json::{count_or_none, null_default, parsed, port, serialize_duration};
use crate::path;
use crate::query::{clamp_wait, wait_text};
use crate::transport::{Call, Client};

/// One of a service's addresses for a special use, for example `wan`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct ServiceAddress {
    /// IP or host name.
    #[serde(deserialize_with = "null_default")]
    pub address: String,
    /// Port; 0 if it is none.
    #[serde(deserialize_with = "port")]
    pub port: u16,
}

/// A service instance as the agent holds it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct AgentService {
    /// The instance's ID, unique on this agent.
    #[serde(rename = "ID", deserialize_with = "null_default")]
    pub id: String,
    /// The service's name.
    #[serde(deserialize_with = "null_default")]
    pub service: String,
    /// Its tags.
    #[serde(deserialize_with = "null_default")]
    pub tags: Vec<String>,
    /// Its address; empty means the node's.
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
    /// Its kind, empty for an ordinary service, for example `connect-proxy`.
    #[serde(deserialize_with = "null_default")]
    pub kind: String,
    /// The hash of all this; only set when a single service was asked for.
    #[serde(deserialize_with = "null_default")]
    pub content_hash: String,
}

/// A service instance to register.
///
/// ```
/// use consul::{CheckDefinition, ServiceRegistration};
/// use std::time::Duration;
///
/// let service = ServiceRegistration {
///     port: 8080,
///     checks: vec![CheckDefinition::tcp("127.0.0.1:8080", Duration::from_secs(10))],
///     ..ServiceRegistration::new("web-1", "web")
/// };
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct ServiceRegistration {
    /// The instance's ID, unique on the agent. Registering it again replaces it.
    #[serde(rename = "ID")]
    pub id: String,
    /// The service's name.
    pub name: String,
    /// Its tags.
    pub tags: Vec<String>,
    /// Its address; empty means the agent's.
    pub address: String,
    /// Its addresses by use.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub tagged_addresses: BTreeMap<String, ServiceAddress>,
    /// Its port; 0 is none.
    pub port: u16,
    /// Its meta data. Consul allows 64 pairs, keys of 128 and values of 512 characters, and in keys only letters,
    /// digits, `-` and `_`.
    pub meta: BTreeMap<String, String>,
    /// Its weights; `None` leaves it to Consul, which takes 1 and 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub weights: Option<Weights>,
    /// Whether others may change its tags in the catalog; otherwise the agent puts them right again.
    pub enable_tag_override: bool,
    /// Its checks. They replace all that the instance had.
    pub checks: Vec<CheckDefinition>,
}

impl ServiceRegistration {
    /// A registration with nothing but an ID and a name.
    #[must_use]
    pub fn new(id: impl Into<String>, name: impl Into<String>) -> ServiceRegistration {
        ServiceRegistration {
            id: id.into(),
            name: name.into(),
            ..ServiceRegistration::default()
        }
    }
}

/// A check to register: exactly one of `http`, `tcp`, `ttl`, `grpc`, `args` and the aliases says what is done. Build it
/// with the constructors and change what else is to differ.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct CheckDefinition {
    /// The check's ID, unique on the agent; empty lets Consul make one from the service's.
    #[serde(rename = "CheckID", skip_serializing_if = "String::is_empty")]
    pub id: String,
    /// The check's name; empty lets Consul make one. Needed for a check that belongs to no service.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// For people.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub notes: String,
    /// Ask this URL: 2xx passes, 429 warns, all else is critical.
    #[serde(rename = "HTTP", skip_serializing_if = "Option::is_none")]
    pub http: Option<String>,
    /// With this method; `None` is GET.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub method: Option<String>,
    /// With these headers.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub header: BTreeMap<String, Vec<String>>,
    /// With this body.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub body: Option<String>,
    /// Without verifying the certificate, for `https` and gRPC with TLS.
    #[serde(rename = "TLSSkipVerify", skip_serializing_if = "is_false")]
    pub tls_skip_verify: bool,
    /// Connect to this `host:port`.
    #[serde(rename = "TCP", skip_serializing_if = "Option::is_none")]
    pub tcp: Option<String>,
    /// Wait for reports ([`Client::update_check`]), and be critical when none has come for this long.
    #[serde(
        rename = "TTL",
        serialize_with = "serialize_duration",
        skip_serializing_if = "Option::is_none"
    )]
    pub ttl: Option<Duration>,
    /// Ask the gRPC health service at this `host:port` or `host:port/service`.
    #[serde(rename = "GRPC", skip_serializing_if = "Option::is_none")]
    pub grpc: Option<String>,
    /// With TLS.
    #[serde(rename = "GRPCUseTLS", skip_serializing_if = "is_false")]
    pub grpc_use_tls: bool,
    /// Run this program with these arguments: exit code 0 passes, 1 warns. The agent must have
    /// `enable_script_checks`; otherwise registering is a 500.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub args: Vec<String>,
    /// Run the program in this Docker container.
    #[serde(rename = "DockerContainerID", skip_serializing_if = "Option::is_none")]
    pub docker_container_id: Option<String>,
    /// With this shell in the container; `None` is `/bin/sh`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub shell: Option<String>,
    /// Do as the instance with this ID does.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub alias_service: Option<String>,
    /// Do as this node does, or look for `alias_service` there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub alias_node: Option<String>,
    /// How often. Needed for `http`, `tcp`, `grpc` and `args`.
    #[serde(
        serialize_with = "serialize_duration",
        skip_serializing_if = "Option::is_none"
    )]
    pub interval: Option<Duration>,
    /// How long one try may take; `None` is Consul's 10 s (30 s for programs).
    #[serde(
        serialize_with = "serialize_duration",
        skip_serializing_if = "Option::is_none"
    )]
    pub timeout: Option<Duration>,
    /// The state until the first result; `None` is critical. A check that is registered again under its ID keeps
    /// the state it has.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<CheckStatus>,
    /// How many passes in a row it takes to be passing; 0 leaves it to Consul.
    #[serde(skip_serializing_if = "is_zero")]
    pub success_before_passing: u32,
    /// How many failures in a row it takes to be critical; 0 leaves it to Consul.
    #[serde(skip_serializing_if = "is_zero")]
    pub failures_before_critical: u32,
    /// Deregister the instance when the check has been critical for this long. Consul raises it to 1 minute and
    /// looks every 30 s.
    #[serde(
        serialize_with = "serialize_duration",
        skip_serializing_if = "Option::is_none"
    )]
    pub deregister_critical_service_after: Option<Duration>,
}

#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "serde hands over a reference to the field"
)]
fn is_false(value: &bool) -> bool {
    !value
}

#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "serde hands over a reference to the field"
)]
fn is_zero(value: &u32) -> bool {
    *value == 0
}

impl CheckDefinition {
    /// GET `url` every `interval`.
    #[must_use]
    pub fn http(url: impl Into<String>, interval: Duration) -> CheckDefinition {
        CheckDefinition {
            http: Some(url.into()),
            interval: Some(interval),
            ..CheckDefinition::default()
        }
    }

    /// Connect to `address` (`host:port`) every `interval`.
    #[must_use]
    pub fn tcp(address: impl Into<String>, interval: Duration) -> CheckDefinition {
        CheckDefinition {
            tcp: Some(address.into()),
            interval: Some(interval),
            ..CheckDefinition::default()
        }
    }

    /// Ask the gRPC health service at `address` every `interval`.
    #[must_use]
    pub fn grpc(address: impl Into<String>, interval: Duration) -> CheckDefinition {
        CheckDefinition {
            grpc: Some(address.into()),
            interval: Some(interval),
            ..CheckDefinition::default()
        }
    }

    /// Run a program every `interval`.
    #[must_use]
    pub fn script(args: Vec<String>, interval: Duration) -> CheckDefinition {
        CheckDefinition {
            args,
            interval: Some(interval),
            ..CheckDefinition::default()
        }
    }

    /// Expect reports at least every `ttl`.
    #[must_use]
    pub fn ttl(ttl: Duration) -> CheckDefinition {
        CheckDefinition {
            ttl: Some(ttl),
            ..CheckDefinition::default()
        }
    }

    /// Do as another instance on this agent does.
    #[must_use]
    pub fn alias(service_id: impl Into<String>) -> CheckDefinition {
        CheckDefinition {
            alias_service: Some(service_id.into()),
            ..CheckDefinition::default()
        }
    }
}

/// A check to register on its own, for the node or for an instance that is registered already.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CheckRegistration {
    /// The check. Its name must not be empty.
    pub check: CheckDefinition,
    /// The instance it belongs to; `None` is the node.
    pub service_id: Option<String>,
}

/// The body of `/v1/agent/check/register`. Consul 1.8 refuses unknown fields there, and calls the ID `ID`, while a check
/// inside a service calls it `CheckID` (measured).
fn check_body(registration: &CheckRegistration) -> Result<serde_json::Value, serde_json::Error> {
    let mut body = serde_json::to_value(&registration.check)?;
    if let Some(fields) = body.as_object_mut() {
        if let Some(id) = fields.remove("CheckID") {
            fields.insert("ID".to_owned(), id);
        }
        if let Some(id) = &registration.service_id {
            fields.insert("ServiceID".to_owned(), id.as_str().into());
        }
    }
    Ok(body)
}

/// What the agent says about itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct AgentSelf {
    /// Its name, place and version.
    pub config: AgentConfig,
    /// The rest of its configuration, as far as it is of use.
    #[serde(deserialize_with = "null_default")]
    pub debug_config: AgentDebugConfig,
    /// Itself as a member of the cluster.
    pub member: AgentMember,
    /// Counters and states by subsystem, all as text, for example `stats["raft"]["state"]`. For people and for what has
    /// no endpoint; the names may change between versions.
    #[serde(deserialize_with = "null_default")]
    pub stats: BTreeMap<String, BTreeMap<String, String>>,
    /// The node's meta data.
    #[serde(deserialize_with = "null_default")]
    pub meta: BTreeMap<String, String>,
}

/// The part of the agent's configuration that is fit to rely on.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct AgentConfig {
    /// Its datacenter.
    #[serde(deserialize_with = "null_default")]
    pub datacenter: String,
    /// Its node's name.
    #[serde(deserialize_with = "null_default")]
    pub node_name: String,
    /// Its node's UUID.
    #[serde(rename = "NodeID", deserialize_with = "null_default")]
    pub node_id: String,
    /// Whether it is a server.
    #[serde(deserialize_with = "null_default")]
    pub server: bool,
    /// Its version, for example `1.8.7`.
    #[serde(deserialize_with = "null_default")]
    pub version: String,
}

/// Settings the agent runs with, beyond [`AgentConfig`]. Consul promises nothing about their names: what this version of
/// it does not say is `None`, and is no reason to fail.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct AgentDebugConfig {
    /// The address other agents reach it at.
    #[serde(rename = "AdvertiseAddrLAN", deserialize_with = "parsed")]
    pub advertise_address: Option<IpAddr>,
    /// The address it listens at for other agents.
    #[serde(rename = "BindAddr", deserialize_with = "parsed")]
    pub bind_address: Option<IpAddr>,
    /// How many servers it waits for before the first election. 0 for a client, and for 1 (measured on Consul 1.8.7,
    /// where that is `bootstrap`).
    #[serde(deserialize_with = "count_or_none")]
    pub bootstrap_expect: Option<u32>,
    /// Whether it may elect itself, alone.
    pub bootstrap: Option<bool>,
    /// Where it keeps its data.
    pub data_dir: Option<String>,
    /// Whether it looks at tokens.
    #[serde(rename = "ACLsEnabled")]
    pub acls_enabled: Option<bool>,
}

/// What serf knows of a member's state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum MemberStatus {
    /// Not said, or a number this version does not know.
    #[default]
    Unknown,
    /// Reachable.
    Alive,
    /// On its way out.
    Leaving,
    /// Left on purpose.
    Left,
    /// Not reachable.
    Failed,
}

impl<'de> Deserialize<'de> for MemberStatus {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<MemberStatus, D::Error> {
        // The numbers are serf's `MemberStatus` constants.
        Ok(match Option::<i64>::deserialize(deserializer)? {
            Some(1) => MemberStatus::Alive,
            Some(2) => MemberStatus::Leaving,
            Some(3) => MemberStatus::Left,
            Some(4) => MemberStatus::Failed,
            _ => MemberStatus::Unknown,
        })
    }
}

/// A member of the cluster as this agent's gossip sees it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct AgentMember {
    /// Its name; in the WAN pool with the datacenter behind a dot.
    #[serde(deserialize_with = "null_default")]
    pub name: String,
    /// Its IP.
    #[serde(deserialize_with = "null_default")]
    pub addr: String,
    /// Its gossip port.
    #[serde(deserialize_with = "port")]
    pub port: u16,
    /// What it says of itself, for example `role` (`consul` for servers, `node` for clients) and `dc`.
    #[serde(deserialize_with = "null_default")]
    pub tags: BTreeMap<String, String>,
    /// Its state.
    pub status: MemberStatus,
}

impl AgentMember {
    /// Whether it is a server.
    #[must_use]
    pub fn is_server(&self) -> bool {
        self.tags.get("role").is_some_and(|role| role == "consul")
    }

    /// Its node's UUID.
    #[must_use]
    pub fn node_id(&self) -> Option<&str> {
        self.tags
            .get("id")
            .map(String::as_str)
            .filter(|id| !id.is_empty())
    }

    /// How many servers it was told to wait for before the first election: `bootstrap_expect`, 1 for `bootstrap`.
    /// `None` for clients, and for servers that only join.
    #[must_use]
    pub fn expects(&self) -> Option<u32> {
        if self.tags.contains_key("bootstrap") {
            return Some(1);
        }
        self.tags.get("expect")?.parse().ok()
    }
}

impl Client {
    /// The services registered with this agent, by ID. `filter` is a filter expression, for example
    /// `Meta.owner == "x"`; it is evaluated by the agent.
    ///
    /// # Errors
    /// Those of every call. A filter that cannot be parsed is a 500 on Consul 1.8.
    pub async fn agent_services(
        &self,
        filter: Option<&str>,
    ) -> Result<BTreeMap<String, AgentService>, Error> {
        Call::get("list the agent's services", "/v1/agent/services")
            .with(filter.map(|filter| ("filter", filter)))
            .send(self)
            .await?
            .ok()?
            .json()
    }

    /// One service of this agent and its hash. Given the `hash` of an earlier answer, it blocks until the service is
    /// different or for `wait` (1 ms to 10 min, plus up to a sixteenth).
    ///
    /// `None`: the agent does not have the service. That answer never blocks, so pace yourself. Measured on
    /// Consul 1.8.7: deregistering wakes the query with `None`; an agent that shuts down in good order wakes it
    /// with the old value and the old hash; a check's new state and other services do not wake it; registering
    /// the same again neither.
    ///
    /// # Errors
    /// Those of every call, and [`Error::MissingHeader`] for an answer without a hash.
    pub async fn agent_service_blocking(
        &self,
        id: &str,
        hash: Option<&str>,
        wait: Duration,
    ) -> Result<Option<(AgentService, String)>, Error> {
        let operation = format!("read the agent's service {id:?}");
        let mut call = Call::get(
            operation.clone(),
            format!("/v1/agent/service/{}", path::segment(&operation, id)?),
        );
        if let Some(hash) = hash {
            let wait = clamp_wait(wait);
            call = call
                .with([("hash", hash.to_owned()), ("wait", wait_text(wait))])
                .waiting(wait);
        }
        let answer = call.send(self).await?;
        // "unknown service ID: x" on all versions. A 404 that does not speak of a service is not the agent's word on
        // this one: a proxy's, or an agent too old for the endpoint.
        if answer.status.as_u16() == 404 && contains_ignoring_case(&answer.body, "service") {
            return Ok(None);
        }
        let answer = answer.ok()?;
        let header = answer.content_hash.clone();
        let service: AgentService = answer.json()?;
        let hash = header
            .or_else(|| Some(service.content_hash.clone()).filter(|hash| !hash.is_empty()))
            .ok_or(Error::MissingHeader {
                operation,
                header: "X-Consul-ContentHash",
            })?;
        Ok(Some((service, hash)))
    }

    /// Registers a service instance, or replaces the one with the same ID, with exactly the checks given: those it had
    /// and that are not among them are removed. A check that keeps its ID keeps its state.
    ///
    /// # Errors
    /// Those of every call, and [`Error::Identifier`] for an ID that could not be named again to deregister it.
    pub async fn register_service(&self, service: &ServiceRegistration) -> Result<(), Error> {
        let operation = format!("register service {:?}", service.id);
        path::segment(&operation, &service.id)?;
        Call::put(operation, "/v1/agent/service/register")
            .with([("replace-existing-checks", "true")])
            .json(service)?
            .send(self)
            .await?
            .ok()?;
        Ok(())
    }

    /// Deregisters a service instance and its checks.
    ///
    /// # Errors
    /// Those of every call. For an ID the agent does not know newer versions answer 404
    /// ([`Error::is_not_found`]); Consul 1.8.7 answers 200 (measured).
    pub async fn deregister_service(&self, id: &str) -> Result<(), Error> {
        let operation = format!("deregister service {id:?}");
        let path = format!("/v1/agent/service/deregister/{}", path::segment(&operation, id)?);
        Call::put(operation, path).send(self).await?.ok()?;
        Ok(())
    }

    /// Takes a service instance out of service, or back in. The reason is shown to people, and only kept when enabling.
    ///
    /// # Errors
    /// Those of every call; 404 ([`Error::is_not_found`]) for an ID the agent does not know.
    pub async fn set_service_maintenance(&self, id: &str, enable: bool, reason: &str) -> Result<(), Error> {
        let operation = format!("set the maintenance of service {id:?}");
        let path = format!("/v1/agent/service/maintenance/{}", path::segment(&operation, id)?);
        self.maintenance(operation, path, enable, reason).await
    }

    /// Takes the agent's whole node out of service, or back in.
    ///
    /// # Errors
    /// Those of every call.
    pub async fn set_node_maintenance(&self, enable: bool, reason: &str) -> Result<(), Error> {
        self.maintenance(
            "set the node's maintenance".to_owned(),
            "/v1/agent/maintenance".to_owned(),
            enable,
            reason,
        )
        .await
    }

    async fn maintenance(
        &self,
        operation: String,
        path: String,
        enable: bool,
        reason: &str,
    ) -> Result<(), Error> {
        Call::put(operation, path)
            .with([("enable", enable.to_string()), ("reason", reason.to_owned())])
            .send(self)
            .await?
            .ok()?;
        Ok(())
    }

    /// The checks registered with this agent, by ID.
    ///
    /// # Errors
    /// Those of every call.
    pub async fn agent_checks(&self, filter: Option<&str>) -> Result<BTreeMap<String, HealthCheck>, Error> {
        Call::get("list the agent's checks", "/v1/agent/checks")
            .with(filter.map(|filter| ("filter", filter)))
            .send(self)
            .await?
            .ok()?
            .json()
    }

    /// Registers a check on its own.
    ///
    /// # Errors
    /// Those of every call, and [`Error::Identifier`] for an ID that could not be named again.
    pub async fn register_check(&self, registration: &CheckRegistration) -> Result<(), Error> {
        let operation = format!("register check {:?}", registration.check.id);
        path::check(&operation, &registration.check.id)?;
        let body = check_body(registration).map_err(|source| Error::Encode {
            operation: operation.clone(),
            source,
        })?;
        Call::put(operation, "/v1/agent/check/register")
            .json(&body)?
            .send(self)
            .await?
            .ok()?;
        Ok(())
    }

    /// Deregisters a check.
    ///
    /// # Errors
    /// As [`Client::deregister_service`].
    pub async fn deregister_check(&self, id: &str) -> Result<(), Error> {
        let operation = format!("deregister check {id:?}");
        let path = format!("/v1/agent/check/deregister/{}", path::segment(&operation, id)?);
        Call::put(operation, path).send(self).await?.ok()?;
        Ok(())
    }

    /// Reports the state of a TTL check. Consul keeps the first 4 KiB of `output`.
    ///
    /// # Errors
    /// Those of every call. A check that is unknown or has no TTL is a 500 on Consul 1.8.7 (measured) and a 404 on
    /// newer versions; [`CheckStatus::Maintenance`] is no state a check may report, and a 400.
    pub async fn update_check(&self, id: &str, status: CheckStatus, output: &str) -> Result<(), Error> {
        let operation = format!("update check {id:?}");
        let path = format!("/v1/agent/check/update/{}", path::segment(&operation, id)?);
        let body = serde_json::json!({ "Status": status.as_str(), "Output": output });
        Call::put(operation, path).json(&body)?.send(self).await?.ok()?;
        Ok(())
    }

    /// What the agent says about itself.
    ///
    /// # Errors
    /// Those of every call.
    pub async fn agent_self(&self) -> Result<AgentSelf, Error> {
        Call::get("read the agent", "/v1/agent/self")
            .send(self)
            .await?
            .ok()?
            .json()
    }

    /// The members this agent's gossip knows, of the LAN pool or, on servers, of the WAN pool.
    ///
    /// # Errors
    /// Those of every call.
    pub async fn agent_members(&self, wan: bool) -> Result<Vec<AgentMember>, Error> {
        Call::get("list the agent's members", "/v1/agent/members")
            .with(wan.then_some(("wan", "1")))
            .send(self)
            .await?
            .ok()?
            .json()
    }

    /// Makes the agent read its configuration's files again. Takes effect for what Consul calls reloadable: checks,
    /// services, tokens, the log level and a few more; other changes wait for a restart, without a word.
    ///
    /// # Errors
    /// Those of every call; 500 for a configuration that is wrong, of which the agent then keeps the old one.
    pub async fn reload(&self) -> Result<(), Error> {
        Call::put("reload the agent's configuration", "/v1/agent/reload")
            .send(self)
            .await?
            .ok()?;
        Ok(())
    }

    /// Makes the agent join the cluster of the agent at `address` (`host` or `host:port`, its gossip port).
    ///
    /// # Errors
    /// Those of every call; 500 when nobody can be reached there.
    pub async fn join(&self, address: &str, wan: bool) -> Result<(), Error> {
        let operation = format!("join {address:?}");
        let path = format!("/v1/agent/join/{}", path::segment(&operation, address)?);
        Call::put(operation, path)
            .with(wan.then_some(("wan", "1")))
            .send(self)
            .await?
            .ok()?;
        Ok(())
    }

    /// Makes the agent leave the cluster in good order and stop.
    ///
    /// # Errors
    /// Those of every call. The agent may go before it has answered: look for it rather than trust an error.
    pub async fn leave(&self) -> Result<(), Error> {
        Call::put("leave the cluster", "/v1/agent/leave")
            .send(self)
            .await?
            .ok()?;
        Ok(())
    }

    /// Declares a failed node to have left; with `prune` it is also forgotten at once.
    ///
    /// # Errors
    /// Those of every call; 500 for an unknown node.
    pub async fn force_leave(&self, node: &str, prune: bool) -> Result<(), Error> {
        let operation = format!("force {node:?} to leave");
        let path = format!("/v1/agent/force-leave/{}", path::segment(&operation, node)?);
        Call::put(operation, path)
            .with(prune.then_some(("prune", "")))
            .send(self)
            .await?
            .ok()?;
        Ok(())
    }
}

fn contains_ignoring_case(text: &[u8], word: &str) -> bool {
    String::from_utf8_lossy(text).to_ascii_lowercase().contains(word)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_registration_is_written_as_consul_reads_it() {
        let service = ServiceRegistration {
            port: 80,
            checks: vec![CheckDefinition {
                id: "c".into(),
                status: Some(CheckStatus::Passing),
                deregister_critical_service_after: Some(Duration::from_secs(60)),
                ..CheckDefinition::http("http://h/", Duration::from_millis(1500))
            }],
            ..ServiceRegistration::new("web-1", "web")
        };
        assert_eq!(
            serde_json::to_value(&service).expect("json"),
            serde_json::json!({
                "ID": "web-1", "Name": "web", "Tags": [], "Address": "", "Port": 80, "Meta": {},
                "EnableTagOverride": false,
                "Checks": [{
                    "CheckID": "c", "HTTP": "http://h/", "Interval": "1500ms", "Status": "passing",
                    "DeregisterCriticalServiceAfter": "60s",
                }],
            })
        );
    }

    #[test]
    fn a_check_on_its_own_calls_its_id_by_another_name() {
        let registration = CheckRegistration {
            check: CheckDefinition {
                id: "c".into(),
                ..CheckDefinition::ttl(Duration::from_secs(5))
            },
            service_id: Some("web-1".into()),
        };
        assert_eq!(
            check_body(&registration).expect("json"),
            serde_json::json!({ "ID": "c", "TTL": "5s", "ServiceID": "web-1" })
        );
    }

    #[test]
    fn nulls_and_unknown_fields_of_a_service_are_tolerated() {
        let text =
            r#"{"a":{"ID":"a","Service":"web","Tags":null,"Meta":null,"Port":-1,"Weights":null,"New":1}}"#;
        let services: BTreeMap<String, AgentService> = serde_json::from_str(text).expect("services");
        assert_eq!(services["a"].service, "web");
        assert_eq!(services["a"].port, 0);
    }

    #[test]
    fn an_unknown_member_state_is_no_error() {
        let text = r#"[{"Name":"a","Status":1,"Tags":{"role":"consul"}},{"Name":"b","Status":9}]"#;
        let members: Vec<AgentMember> = serde_json::from_str(text).expect("members");
        assert!(members[0].is_server() && members[0].status == MemberStatus::Alive);
        assert_eq!(members[1].status, MemberStatus::Unknown);
    }

    #[test]
    fn what_a_server_expects_is_in_its_tags() {
        for (tags, expects) in [
            (&[("role", "consul"), ("expect", "3")][..], Some(3)),
            (&[("role", "consul"), ("bootstrap", "1")], Some(1)),
            (&[("role", "consul"), ("expect", "many")], None),
            (&[("role", "node")], None),
        ] {
            let member = AgentMember {
                tags: tags
                    .iter()
                    .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
                    .collect(),
                ..AgentMember::default()
            };
            assert_eq!((member.expects(), member.node_id()), (expects, None), "{tags:?}");
        }
    }

    #[test]
    fn settings_that_are_not_said_or_not_understood_are_none() {
        for text in [
            r#"{}"#,
            r#"{"DebugConfig":null}"#,
            r#"{"DebugConfig":{"AdvertiseAddrLAN":"","BindAddr":"eth0","BootstrapExpect":-1,"New":{}}}"#,
        ] {
            let agent: AgentSelf = serde_json::from_str(text).expect(text);
            assert_eq!(agent.debug_config, AgentDebugConfig::default(), "{text}");
        }
    }
}
