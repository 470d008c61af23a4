//! Consul's configuration: plan, settings and secrets → JSON. Pure.

use std::net::IpAddr;
use std::path::PathBuf;

use serde::Serialize;
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use crate::observed::{AgentPlan, Mode};
use crate::secrets::Secrets;

/// How the agents of the cluster are configured, beside what is decided for each.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Settings {
    /// Consul's data centre.
    pub datacenter: String,
    /// Where Consul keeps its data.
    pub data_dir: PathBuf,
    /// Where Consul's HTTP API and DNS answer for this host alone.
    pub client_address: IpAddr,
    /// DNS for this host and its containers, if any.
    pub dns: Option<Dns>,
    /// TLS between agents, if any.
    pub tls: Option<TlsFiles>,
    /// Whether Consul asks for tokens.
    pub acl: bool,
}

/// Where Consul answers DNS, and whom it asks for what it does not know.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Dns {
    /// The addresses it listens at.
    pub addresses: Vec<IpAddr>,
    /// The port, usually 53.
    pub port: u16,
    /// Name servers for all other names.
    pub recursors: Vec<IpAddr>,
}

/// The files that TLS between agents needs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct TlsFiles {
    /// Certificates that may sign those of agents.
    pub ca: PathBuf,
    /// This agent's certificate.
    pub cert: PathBuf,
    /// Its key.
    pub key: PathBuf,
}

impl Settings {
    /// Names the settings: two that differ have different ones.
    pub fn digest(&self) -> String {
        // A map of plain values cannot fail to be JSON.
        digest(&serde_json::to_string(self).unwrap_or_default())
    }
}

/// What a permit says: it changes exactly when Consul must be restarted.
pub fn permit_token(plan: &AgentPlan) -> String {
    let AgentPlan {
        cluster,
        node,
        address,
        mode,
        join: _,
        restart,
        settings,
    } = plan;
    let role = if mode.is_server() { "server" } else { "client" };
    format!("{cluster} {node} {address} {role} restart={restart} settings={settings}\n")
}

/// The name of the meta data by which a Consul tells the permit that it runs by.
pub const PERMIT_META: &str = "colossus-permit";

/// What a Consul that runs by the permit `token` tells of it.
pub fn permit_digest(token: &str) -> String {
    digest(token)
}

fn digest(text: &str) -> String {
    let hash = Sha256::digest(text.as_bytes());
    hash.iter().take(8).map(|byte| format!("{byte:02x}")).collect()
}

/// The text of the configuration. It holds secrets.
///
/// The names are those that Consul 1.8 knows and later versions still take.
pub fn render(plan: &AgentPlan, settings: &Settings, secrets: &Secrets) -> String {
    let server = plan.mode.is_server();
    let mut config = Map::new();
    let mut set = |name: &str, value: Value| {
        config.insert(name.to_owned(), value);
    };
    set("node_name", json!(plan.node));
    set("datacenter", json!(settings.datacenter));
    set("data_dir", json!(settings.data_dir));
    // Consul stops a moment after its permit has changed: until then the one that answers is the one before.
    set(
        "node_meta",
        json!({ (PERMIT_META): permit_digest(&permit_token(plan)) }),
    );
    set("server", json!(server));
    set("bind_addr", json!(plan.address));
    set("advertise_addr", json!(plan.address));
    set("client_addr", json!(settings.client_address));
    // A server that stops comes back as itself; only a client says good-bye. Without that, the name of one that comes back
    // with other data, as a server that has lost its own, would be taken in Consul's catalogue by who it was before.
    set("leave_on_terminate", json!(!server));
    set("skip_leave_on_interrupt", json!(server));
    set("rejoin_after_leave", json!(true));
    set("disable_update_check", json!(true));
    set("performance", json!({ "raft_multiplier": 1 }));
    set("encrypt", json!(secrets.gossip.expose()));
    let mut ports = Map::from_iter([("serf_wan".to_owned(), json!(-1)), ("grpc".to_owned(), json!(-1))]);
    if let Some(dns) = &settings.dns {
        let addresses: Vec<String> = dns.addresses.iter().map(ToString::to_string).collect();
        set("addresses", json!({ "dns": addresses.join(" ") }));
        ports.insert("dns".to_owned(), json!(dns.port));
        if !dns.recursors.is_empty() {
            set("recursors", json!(dns.recursors));
        }
    }
    set("ports", Value::Object(ports));
    if !plan.join.is_empty() {
        set("retry_join", json!(plan.join));
        set("retry_interval", json!("1s"));
    }
    if let Mode::Server { expect } = plan.mode {
        if let Some(expect) = expect {
            set("bootstrap_expect", json!(expect));
        }
        // Dead servers are taken out here, one at a time, once another has their slot. Consul's own clean-up would take
        // out one that merely restarts, and after a second loss its return would not bring back the quorum.
        set("autopilot", json!({ "cleanup_dead_servers": false }));
    }
    if let Some(tls) = &settings.tls {
        set("ca_file", json!(tls.ca));
        set("cert_file", json!(tls.cert));
        set("key_file", json!(tls.key));
        set("verify_incoming_rpc", json!(true));
        set("verify_outgoing", json!(true));
        set("verify_server_hostname", json!(true));
    }
    if let Some(acl) = secrets.acl.as_ref().filter(|_| settings.acl) {
        let mut tokens = vec![("agent", &acl.agent), ("default", &acl.reader)];
        if server {
            tokens.push(("master", &acl.management));
        }
        let tokens: Map<_, _> = tokens
            .into_iter()
            .map(|(name, token)| (name.to_owned(), json!(token.expose())))
            .collect();
        set(
            "acl",
            json!({
                "enabled": true,
                "default_policy": "deny",
                "down_policy": "extend-cache",
                "tokens": tokens,
            }),
        );
    }
    let mut text = serde_json::to_string_pretty(&Value::Object(config)).unwrap_or_default();
    text.push('\n');
    text
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::secrets::{AclSecrets, Secret};

    fn plan(mode: Mode, join: &[&str]) -> AgentPlan {
        AgentPlan {
            cluster: "c1".into(),
            node: "n1".parse().expect("a label"),
            address: "10.0.0.1".parse().expect("an address"),
            mode,
            join: join
                .iter()
                .map(|address| address.parse().expect("an address"))
                .collect(),
            restart: 0,
            settings: "s".to_owned(),
        }
    }

    fn settings() -> Settings {
        Settings {
            datacenter: "dc1".to_owned(),
            data_dir: "/var/lib/colossus/consul/data".into(),
            client_address: [127, 0, 0, 1].into(),
            dns: None,
            tls: None,
            acl: false,
        }
    }

    fn secrets() -> Secrets {
        Secrets {
            gossip: Secret::new("gossip".to_owned()),
            acl: Some(AclSecrets::new().expect("random")),
        }
    }

    fn rendered(plan: &AgentPlan, settings: &Settings) -> Value {
        serde_json::from_str(&render(plan, settings, &secrets())).expect("JSON")
    }

    #[test]
    fn only_a_server_that_may_bootstrap_expects_others() {
        for (mode, expect) in [
            (Mode::Server { expect: Some(3) }, json!(3)),
            (Mode::Server { expect: None }, Value::Null),
            (Mode::Client, Value::Null),
        ] {
            let config = rendered(&plan(mode.clone(), &["10.0.0.2"]), &settings());
            assert_eq!(config["bootstrap_expect"], expect);
            assert_eq!(config["server"], json!(mode.is_server()));
            // A server that stops stays a member of raft; a client says good-bye.
            assert_eq!(config["leave_on_terminate"], json!(!mode.is_server()));
        }
    }

    #[test]
    fn the_join_list_is_never_an_empty_string() {
        let config = rendered(&plan(Mode::Client, &[]), &settings());
        assert_eq!(config["retry_join"], Value::Null);
        let config = rendered(&plan(Mode::Client, &["10.0.0.2", "10.0.0.3"]), &settings());
        assert_eq!(config["retry_join"], json!(["10.0.0.2", "10.0.0.3"]));
    }

    #[test]
    fn the_management_token_is_for_servers_and_no_token_is_there_without_acl() {
        let with_acl = Settings {
            acl: true,
            ..settings()
        };
        let server = rendered(&plan(Mode::Server { expect: None }, &[]), &with_acl);
        assert!(server["acl"]["tokens"]["master"].is_string());
        let client = rendered(&plan(Mode::Client, &[]), &with_acl);
        assert!(client["acl"]["tokens"]["master"].is_null() && client["acl"]["tokens"]["agent"].is_string());
        assert!(rendered(&plan(Mode::Client, &[]), &settings())["acl"].is_null());
    }

    #[test]
    fn consul_tells_by_which_permit_it_runs() {
        let plan = plan(Mode::Client, &["10.0.0.2"]);
        let config = rendered(&plan, &settings());
        assert_eq!(
            config["node_meta"][PERMIT_META],
            permit_digest(&permit_token(&plan))
        );
    }

    #[test]
    fn a_permit_changes_when_consul_must_be_restarted_and_only_then() {
        let base = plan(Mode::Server { expect: Some(3) }, &["10.0.0.2"]);
        let same = AgentPlan {
            mode: Mode::Server { expect: None },
            join: BTreeSet::new(),
            ..base.clone()
        };
        assert!(!base.needs_restart(&same));
        assert_eq!(permit_token(&base), permit_token(&same));
        let others = [
            AgentPlan {
                cluster: "c2".into(),
                ..base.clone()
            },
            AgentPlan {
                node: "n2".parse().expect("a label"),
                ..base.clone()
            },
            AgentPlan {
                address: "10.0.0.9".parse().expect("an address"),
                ..base.clone()
            },
            AgentPlan {
                mode: Mode::Client,
                ..base.clone()
            },
            AgentPlan {
                restart: 1,
                ..base.clone()
            },
            AgentPlan {
                settings: "t".to_owned(),
                ..base.clone()
            },
        ];
        for other in others {
            assert!(base.needs_restart(&other), "{other:?}");
            assert_ne!(permit_token(&base), permit_token(&other), "{other:?}");
        }
    }

    #[test]
    fn each_setting_counts_in_the_digest() {
        let tls = TlsFiles {
            ca: "a".into(),
            cert: "b".into(),
            key: "c".into(),
        };
        let dns = Dns {
            addresses: vec![[172, 17, 0, 1].into()],
            port: 53,
            recursors: vec![],
        };
        let all = [
            settings(),
            Settings {
                datacenter: "dc2".to_owned(),
                ..settings()
            },
            Settings {
                tls: Some(tls),
                ..settings()
            },
            Settings {
                dns: Some(dns),
                ..settings()
            },
            Settings {
                acl: true,
                ..settings()
            },
        ];
        let digests: BTreeSet<_> = all.iter().map(Settings::digest).collect();
        assert_eq!(digests.len(), all.len());
    }
}
