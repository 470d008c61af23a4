//! `crates/consul` against real Consul: what it says, and what is seen of it when it fails.
//!
//! The tests that ask one thing and leave nothing behind share an agent, under names of their own; those that kill,
//! freeze, wipe or configure theirs have it to themselves.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

use std::collections::BTreeMap;
use std::error::Error as _;
use std::fmt::Debug;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use consul::{
    AclBootstrap, AclPolicyRequest, AclToken, AclTokenRequest, AutopilotConfiguration, CatalogDeregistration,
    CatalogRegistration, CatalogService, CheckDefinition, CheckRegistration, CheckStatus, Client, Config,
    Consistency, Continuity, Error, HealthCheck, KvOp, KvPair, MemberStatus, PutOptions, QueryOptions,
    RaftPeer, ServiceAddress, ServiceEntry, ServiceRegistration, SessionBehavior, SessionRequest, Snapshot,
    TlsConfig, TokenSource, Watch, WatchEvent, WatchOptions, Weights, verify_snapshot,
};
use integration_tests::agent::Agent;
use integration_tests::docker::{Container, docker, unique};
use integration_tests::platform::free_ports;
use integration_tests::wait::{throughout, until};
use secrecy::{ExposeSecret, SecretString};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;

/// Long enough for anything that is to happen, on a machine that does much else.
const SOON: Duration = Duration::from_secs(20);

/// A TTL that does not run out during a test.
const LONG: Duration = Duration::from_secs(600);

/// Names that Consul takes and that mean something to a URL, a shell or a reader of JSON.
const HOSTILE: &[&str] = &[
    "with space",
    "with/slash",
    "what?index=1",
    "hash#tag",
    "a&b=c+d;e",
    "100%",
    "quote\"'\\back",
    "<{[(`$HOME`)]}>",
    "host:web:80:udp",
    "naïve-漢字-🦀",
    " padded ",
];

fn now() -> QueryOptions {
    QueryOptions::default()
}

fn client_of(address: &str, change: impl FnOnce(&mut Config)) -> Client {
    let mut config = Config::new(address.parse().unwrap());
    change(&mut config);
    Client::new(config).unwrap()
}

/// An agent that all tests share which run at the same time. It is removed with the last of them.
struct Shared {
    agent: Arc<Agent>,
    /// Of this test alone: connections do not outlive the runtime they were made on.
    client: Client,
}

impl Shared {
    async fn agent() -> Shared {
        static AGENT: Mutex<Weak<Agent>> = Mutex::new(Weak::new());
        let agent = {
            let mut shared = AGENT.lock().unwrap_or_else(PoisonError::into_inner);
            shared.upgrade().unwrap_or_else(|| {
                let agent = Arc::new(Agent::start_with(&[]));
                *shared = Arc::downgrade(&agent);
                agent
            })
        };
        let shared = Shared {
            client: client_of(agent.address(), |_| {}),
            agent,
        };
        until_joined(&shared.client).await;
        shared
    }
}

/// Waits until the agent leads itself and its node is in the catalog with its check: nothing happens then by itself.
async fn until_joined(client: &Client) {
    until(
        "the agent's node is in the catalog",
        Duration::from_secs(30),
        || async {
            let checks = client
                .health_state(None, &now())
                .await
                .map_err(|error| error.to_string())?
                .value;
            let services = client
                .catalog_services(&now())
                .await
                .map_err(|error| error.to_string())?
                .value;
            let serf = checks
                .iter()
                .any(|check| check.check_id == "serfHealth" && check.status == CheckStatus::Passing);
            if serf && services.contains_key("consul") {
                Ok(())
            } else {
                Err(format!("{checks:?} {services:?}"))
            }
        },
    )
    .await;
}

async fn node_of(client: &Client) -> String {
    client.agent_self().await.unwrap().config.node_name
}

/// The instances of a service once `is` likes them.
async fn until_health(
    client: &Client,
    service: &str,
    is: impl Fn(&[ServiceEntry]) -> bool,
) -> Vec<ServiceEntry> {
    until(&format!("the health of {service:?}"), SOON, || async {
        let entries = client
            .health_service(service, &now())
            .await
            .map_err(|error| error.to_string())?
            .value;
        if is(&entries) {
            Ok(entries)
        } else {
            Err(format!("{entries:?}"))
        }
    })
    .await
}

async fn until_status(client: &Client, service: &str, status: CheckStatus) -> ServiceEntry {
    until_health(
        client,
        service,
        |entries| matches!(entries, [entry] if entry.aggregated_status() == status),
    )
    .await
    .remove(0)
}

async fn until_output(client: &Client, service: &str, check: &str, output: &str) {
    until_health(client, service, |entries| {
        entries
            .iter()
            .flat_map(|entry| &entry.checks)
            .any(|c| c.check_id == check && c.output == output)
    })
    .await;
}

fn ttl_check(id: &str, status: CheckStatus) -> CheckDefinition {
    CheckDefinition {
        id: id.to_owned(),
        status: Some(status),
        ..CheckDefinition::ttl(LONG)
    }
}

fn ids(entries: &[ServiceEntry]) -> Vec<&str> {
    entries.iter().map(|entry| entry.service.id.as_str()).collect()
}

/// An error and all that is below it, as a log line would have it.
fn chain(error: &Error) -> String {
    let mut text = error.to_string();
    let mut below = error.source();
    while let Some(cause) = below {
        text = format!("{text}: {cause}");
        below = cause.source();
    }
    text
}

// --- The agent's services ---------------------------------------------------------------------------------------------

#[tokio::test]
async fn a_service_is_listed_as_it_was_registered() {
    let Shared { client, .. } = &Shared::agent().await;
    let id = unique("given");
    let registration = ServiceRegistration {
        tags: vec!["b".into(), "a=1,x".into(), "漢".into()],
        address: "10.1.2.3".into(),
        tagged_addresses: BTreeMap::from([(
            "wan".into(),
            ServiceAddress {
                address: "192.0.2.1".into(),
                port: 81,
            },
        )]),
        port: 65_535,
        meta: BTreeMap::from([
            ("owner".into(), id.clone()),
            ("text".into(), "a \"quoted\" 漢 value".into()),
        ]),
        weights: Some(Weights {
            passing: 10,
            warning: 0,
        }),
        enable_tag_override: true,
        ..ServiceRegistration::new(&id, format!("{id}-name"))
    };
    client.register_service(&registration).await.unwrap();

    let filter = format!("Meta.owner == \"{id}\"");
    let listed = client.agent_services(Some(&filter)).await.unwrap();
    assert_eq!(
        listed.keys().collect::<Vec<_>>(),
        [&id],
        "the filter is the server's"
    );
    let service = &listed[&id];
    assert_eq!((&service.id, &service.service), (&id, &registration.name));
    assert_eq!(
        (&service.tags, &service.meta),
        (&registration.tags, &registration.meta)
    );
    assert_eq!((service.address.as_str(), service.port), ("10.1.2.3", 65_535));
    assert_eq!(
        service.tagged_addresses["wan"],
        registration.tagged_addresses["wan"]
    );
    assert_eq!(Some(service.weights), registration.weights);
    assert!(service.enable_tag_override && service.kind.is_empty());

    let entry = until_status(client, &registration.name, CheckStatus::Passing).await;
    assert_eq!(
        (entry.service.id.as_str(), &entry.service.tags),
        (id.as_str(), &registration.tags)
    );
    assert_eq!(Some(entry.service.weights), registration.weights);
    assert_eq!(
        (entry.endpoint_address(), &entry.node.node),
        ("10.1.2.3", &node_of(client).await)
    );
    let all = client.catalog_services(&now()).await.unwrap().value;
    assert_eq!(all[&registration.name].len(), registration.tags.len());
    let [instance] = client
        .catalog_service(&registration.name, &now())
        .await
        .unwrap()
        .value
        .try_into()
        .unwrap();
    assert_eq!((&instance.service_id, instance.service_port), (&id, 65_535));
    assert_eq!(
        (&instance.service_meta, instance.service_tags),
        (&registration.meta, registration.tags)
    );
    client.deregister_service(&id).await.unwrap();
}

#[tokio::test]
async fn registering_again_replaces_all_of_an_instance_and_nothing_of_another() {
    let Shared { client, .. } = &Shared::agent().await;
    let (id, other, name) = (unique("again"), unique("other"), unique("name"));
    let registration = |id: &str, tag: &str, checks: Vec<CheckDefinition>| ServiceRegistration {
        tags: vec![tag.to_owned()],
        meta: BTreeMap::from([(tag.to_owned(), String::new())]),
        checks,
        ..ServiceRegistration::new(id, &name)
    };
    let check = |suffix: &str, status| ttl_check(&format!("{id}-{suffix}"), status);
    client
        .register_service(&registration(&other, "old", vec![]))
        .await
        .unwrap();
    let checks = vec![
        check("kept", CheckStatus::Critical),
        check("gone", CheckStatus::Critical),
    ];
    client
        .register_service(&registration(&id, "old", checks))
        .await
        .unwrap();
    client
        .update_check(&format!("{id}-kept"), CheckStatus::Warning, "reported")
        .await
        .unwrap();

    let checks = vec![
        check("kept", CheckStatus::Passing),
        check("new", CheckStatus::Passing),
    ];
    client
        .register_service(&registration(&id, "new", checks))
        .await
        .unwrap();

    let services = client.agent_services(None).await.unwrap();
    assert_eq!(
        (services[&id].tags.as_slice(), services[&id].meta.len()),
        (&["new".to_owned()][..], 1)
    );
    assert!(services[&id].meta.contains_key("new"));
    assert_eq!(services[&other].tags, ["old"]);
    let checks = client
        .agent_checks(Some(&format!("ServiceID == \"{id}\"")))
        .await
        .unwrap();
    let states: Vec<_> = checks
        .values()
        .map(|c| (c.check_id.replace(&id, ""), c.status))
        .collect();
    assert_eq!(
        states,
        [
            ("-kept".to_owned(), CheckStatus::Warning),
            ("-new".to_owned(), CheckStatus::Passing)
        ],
        "a check that keeps its ID keeps its state, one that is no longer named goes"
    );
    for id in [&id, &other] {
        client.deregister_service(id).await.unwrap();
    }
}

#[tokio::test]
async fn deregistering_takes_the_instance_with_its_checks_and_no_other() {
    let Shared { client, .. } = &Shared::agent().await;
    let (gone, kept, name) = (unique("gone"), unique("kept"), unique("name"));
    for id in [&gone, &kept] {
        let checks = vec![ttl_check(&format!("{id}-check"), CheckStatus::Passing)];
        client
            .register_service(&ServiceRegistration {
                checks,
                ..ServiceRegistration::new(id, &name)
            })
            .await
            .unwrap();
    }
    until_health(client, &name, |entries| entries.len() == 2).await;

    client.deregister_service(&gone).await.unwrap();

    let left = until_health(client, &name, |entries| entries.len() == 1).await;
    assert_eq!(ids(&left), [&kept]);
    let checks = client.agent_checks(None).await.unwrap();
    assert!(!checks.contains_key(&format!("{gone}-check")) && checks.contains_key(&format!("{kept}-check")));
    // Consul 1.8.7 calls it done, newer versions say that there is none.
    if let Err(error) = client.deregister_service(&gone).await {
        assert!(error.is_not_found(), "{error:?}");
    }
    client.deregister_service(&kept).await.unwrap();
    until_health(client, &name, <[_]>::is_empty).await;
}

#[tokio::test]
async fn hostile_names_come_back_as_they_were_given() {
    let Shared { client, .. } = &Shared::agent().await;
    let mark = unique("hostile");
    // Whoever cuts a name short at a special character hits one of these.
    let decoys: Vec<String> = HOSTILE
        .iter()
        .map(|name| {
            format!(
                "{mark}{}",
                name.split(['/', '?', '#', '&', '%', ' ', '"']).next().unwrap()
            )
        })
        .collect();
    for id in &decoys {
        client
            .register_service(&ServiceRegistration::new(id, id))
            .await
            .unwrap();
    }
    for hostile in HOSTILE {
        let (id, name, check) = (
            format!("{mark}{hostile}"),
            format!("{mark}{hostile}s"),
            format!("{mark}{hostile}c"),
        );
        let checks = vec![ttl_check(&check, CheckStatus::Critical)];
        let tags = vec![(*hostile).to_owned()];
        let registration = ServiceRegistration {
            tags: tags.clone(),
            checks,
            ..ServiceRegistration::new(&id, &name)
        };
        client
            .register_service(&registration)
            .await
            .unwrap_or_else(|error| panic!("{id:?}: {error}"));

        let (service, _) = client
            .agent_service_blocking(&id, None, LONG)
            .await
            .unwrap()
            .expect(&id);
        assert_eq!(
            (&service.id, &service.service, &service.tags),
            (&id, &name, &tags)
        );
        client
            .update_check(&check, CheckStatus::Passing, hostile)
            .await
            .unwrap();
        until_output(client, &name, &check, hostile).await;
        let entry = until_status(client, &name, CheckStatus::Passing).await;
        assert_eq!((&entry.service.id, &entry.service.tags), (&id, &tags));
        client.set_service_maintenance(&id, true, hostile).await.unwrap();
        let entry = until_status(client, &name, CheckStatus::Maintenance).await;
        let maintenance = entry.checks.iter().find(|check| check.is_maintenance()).unwrap();
        assert_eq!(
            (maintenance.notes.as_str(), &maintenance.service_id),
            (*hostile, &id)
        );
        client.set_service_maintenance(&id, false, "").await.unwrap();
        until_status(client, &name, CheckStatus::Passing).await;

        let [instance] = client
            .catalog_service(&name, &now())
            .await
            .unwrap()
            .value
            .try_into()
            .unwrap();
        assert_eq!(
            (instance.service_id, instance.service_name),
            (id.clone(), name.clone())
        );
        assert!(
            client
                .catalog_services(&now())
                .await
                .unwrap()
                .value
                .contains_key(&name)
        );
        let [found] = client
            .health_checks(&name, &now())
            .await
            .unwrap()
            .value
            .try_into()
            .unwrap();
        assert_eq!((found.check_id, found.output.as_str()), (check.clone(), *hostile));

        client.deregister_check(&check).await.unwrap();
        assert!(!client.agent_checks(None).await.unwrap().contains_key(&check));
        client.deregister_service(&id).await.unwrap();
        let services = client.agent_services(None).await.unwrap();
        assert!(
            !services.contains_key(&id) || decoys.contains(&id),
            "{id:?} stayed"
        );
    }
    let services = client.agent_services(None).await.unwrap();
    for id in decoys
        .iter()
        .filter(|decoy| !HOSTILE.iter().any(|name| **decoy == format!("{mark}{name}")))
    {
        assert!(services.contains_key(id), "{id:?} was hit instead");
        client.deregister_service(id).await.unwrap();
    }
}

#[tokio::test]
async fn a_filter_that_cannot_be_parsed_is_an_error_and_not_an_empty_list() {
    let Shared { client, .. } = &Shared::agent().await;
    let options = QueryOptions {
        filter: Some("Meta.owner ==".into()),
        ..now()
    };
    assert!(
        client
            .agent_services(options.filter.as_deref())
            .await
            .unwrap_err()
            .status()
            .is_some()
    );
    assert!(
        client
            .health_service("consul", &options)
            .await
            .unwrap_err()
            .status()
            .is_some()
    );
    let mut watch = client.watch_health_service(
        "consul",
        WatchOptions {
            filter: options.filter,
            ..quick()
        },
    );
    assert!(outage(next(&mut watch).await).status().is_some());
}

#[tokio::test]
async fn a_blocking_read_of_a_service_wakes_when_it_changes_and_when_it_goes() {
    let Shared { client, .. } = &Shared::agent().await;
    let (id, other) = (unique("blocking"), unique("other"));
    let mut registration = ServiceRegistration::new(&id, &id);
    assert!(
        client
            .agent_service_blocking(&id, Some("0"), LONG)
            .await
            .unwrap()
            .is_none(),
        "does not block"
    );
    client.register_service(&registration).await.unwrap();
    let (_, first) = client
        .agent_service_blocking(&id, None, LONG)
        .await
        .unwrap()
        .unwrap();
    let (_, same) = client
        .agent_service_blocking(&id, Some(&first), Duration::from_millis(1))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(same, first, "the wait is over and nothing has changed");

    registration.port = 1;
    let (woken, _) = tokio::join!(client.agent_service_blocking(&id, Some(&first), LONG), async {
        // Neither wakes it.
        client
            .register_service(&ServiceRegistration::new(&other, &other))
            .await
            .unwrap();
        client
            .register_service(&ServiceRegistration::new(&id, &id))
            .await
            .unwrap();
        client.register_service(&registration).await.unwrap();
    });
    let (changed, second) = woken.unwrap().unwrap();
    assert!(changed.port == 1 && second != first);
    let (gone, _) = tokio::join!(client.agent_service_blocking(&id, Some(&second), LONG), async {
        client.deregister_service(&id).await.unwrap();
    });
    assert!(gone.unwrap().is_none());
    client.deregister_service(&other).await.unwrap();
}

#[tokio::test]
async fn maintenance_of_an_unknown_service_is_not_found() {
    let Shared { client, .. } = &Shared::agent().await;
    let error = client
        .set_service_maintenance(&unique("nobody"), true, "")
        .await
        .unwrap_err();
    assert!(error.is_not_found(), "{error:?}");
}

#[tokio::test]
async fn maintenance_outweighs_healthy_checks_of_this_instance_only() {
    let Shared { client, .. } = &Shared::agent().await;
    let (out, stays, name) = (unique("out"), unique("stays"), unique("name"));
    for id in [&out, &stays] {
        let checks = vec![ttl_check(&format!("{id}-check"), CheckStatus::Passing)];
        client
            .register_service(&ServiceRegistration {
                checks,
                ..ServiceRegistration::new(id, &name)
            })
            .await
            .unwrap();
    }
    let status = |entries: &[ServiceEntry], id: &str| {
        entries
            .iter()
            .find(|entry| entry.service.id == id)
            .map(ServiceEntry::aggregated_status)
    };
    for (enable, expected) in [(true, CheckStatus::Maintenance), (false, CheckStatus::Passing)] {
        client
            .set_service_maintenance(&out, enable, "a reason")
            .await
            .unwrap();
        let entries = until_health(client, &name, |entries| status(entries, &out) == Some(expected)).await;
        assert_eq!(status(&entries, &stays), Some(CheckStatus::Passing));
    }
    for id in [&out, &stays] {
        client.deregister_service(id).await.unwrap();
    }
}

// --- Checks -----------------------------------------------------------------------------------------------------------

#[tokio::test]
async fn the_worst_of_several_checks_counts() {
    let Shared { client, .. } = &Shared::agent().await;
    let id = unique("several");
    let check = |n: usize| format!("{id}-{n}");
    let checks = (0..3)
        .map(|n| ttl_check(&check(n), CheckStatus::Passing))
        .collect();
    client
        .register_service(&ServiceRegistration {
            checks,
            ..ServiceRegistration::new(&id, &id)
        })
        .await
        .unwrap();
    until_status(client, &id, CheckStatus::Passing).await;
    for (n, status, expected) in [
        (0, CheckStatus::Warning, CheckStatus::Warning),
        (1, CheckStatus::Critical, CheckStatus::Critical),
        (0, CheckStatus::Passing, CheckStatus::Critical),
        (2, CheckStatus::Warning, CheckStatus::Critical),
        (1, CheckStatus::Passing, CheckStatus::Warning),
        (2, CheckStatus::Passing, CheckStatus::Passing),
    ] {
        let output = format!("{n} is {status}");
        client.update_check(&check(n), status, &output).await.unwrap();
        until_output(client, &id, &check(n), &output).await;
        assert_eq!(
            until_status(client, &id, expected).await.checks.len(),
            4,
            "with the node's"
        );
        let state = client.health_state(Some(status), &now()).await.unwrap().value;
        assert!(
            state
                .iter()
                .any(|found| found.check_id == check(n) && found.service_name == id)
        );
    }
    client.deregister_service(&id).await.unwrap();
}

#[tokio::test]
async fn a_check_that_is_registered_later_counts_too_and_goes_by_itself() {
    let Shared { client, .. } = &Shared::agent().await;
    let id = unique("later");
    let check = format!("{id} check/1");
    client
        .register_service(&ServiceRegistration::new(&id, &id))
        .await
        .unwrap();
    until_status(client, &id, CheckStatus::Passing).await;
    let definition = CheckDefinition {
        name: "a check".into(),
        notes: "for people".into(),
        ..ttl_check(&check, CheckStatus::Warning)
    };
    let registration = CheckRegistration {
        check: definition,
        service_id: Some(id.clone()),
    };
    client.register_check(&registration).await.unwrap();
    let entry = until_status(client, &id, CheckStatus::Warning).await;
    let found = entry.checks.iter().find(|found| found.check_id == check).unwrap();
    assert_eq!(
        (
            found.name.as_str(),
            found.notes.as_str(),
            found.service_id.as_str()
        ),
        ("a check", "for people", id.as_str())
    );
    client.deregister_check(&check).await.unwrap();
    until_status(client, &id, CheckStatus::Passing).await;

    let orphan = CheckRegistration {
        service_id: Some(unique("nobody")),
        ..registration
    };
    assert!(
        client
            .register_check(&orphan)
            .await
            .unwrap_err()
            .status()
            .is_some(),
        "of no such service"
    );
    client.deregister_service(&id).await.unwrap();
}

#[tokio::test]
async fn a_ttl_check_is_critical_until_reported_and_once_the_time_is_over() {
    let Shared { client, .. } = &Shared::agent().await;
    let id = unique("ttl");
    let check = CheckDefinition {
        id: id.clone(),
        ..CheckDefinition::ttl(Duration::from_secs(1))
    };
    client
        .register_service(&ServiceRegistration {
            checks: vec![check],
            ..ServiceRegistration::new(&id, &id)
        })
        .await
        .unwrap();
    until_status(client, &id, CheckStatus::Critical).await;
    client
        .update_check(&id, CheckStatus::Passing, "fine")
        .await
        .unwrap();
    let checks = client.agent_checks(None).await.unwrap();
    assert_eq!(
        (checks[&id].status, checks[&id].output.as_str()),
        (CheckStatus::Passing, "fine")
    );
    let over = |entries: &[ServiceEntry]| {
        let checks = entries.iter().flat_map(|entry| &entry.checks);
        checks
            .into_iter()
            .any(|found| found.check_id == id && found.output.contains("TTL expired"))
    };
    let entries = until_health(client, &id, over).await;
    assert_eq!(entries[0].aggregated_status(), CheckStatus::Critical);
    client.deregister_service(&id).await.unwrap();
}

#[tokio::test]
async fn a_report_that_consul_cannot_take_is_an_error() {
    let Shared { client, .. } = &Shared::agent().await;
    let id = unique("report");
    let unknown = client
        .update_check(&id, CheckStatus::Passing, "")
        .await
        .unwrap_err();
    assert!(matches!(unknown.status(), Some(404 | 500)), "{unknown:?}");
    let checks = vec![ttl_check(&id, CheckStatus::Passing)];
    client
        .register_service(&ServiceRegistration {
            checks,
            ..ServiceRegistration::new(&id, &id)
        })
        .await
        .unwrap();
    let maintenance = client
        .update_check(&id, CheckStatus::Maintenance, "")
        .await
        .unwrap_err();
    assert_eq!(maintenance.status(), Some(400));
    client.deregister_service(&id).await.unwrap();
}

#[tokio::test]
async fn tcp_http_and_alias_checks_follow_what_they_check() {
    let Shared { client, agent } = &Shared::agent().await;
    let (id, alias) = (unique("followed"), unique("alias"));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let every = Duration::from_secs(1);
    let named = |suffix: &str, check: CheckDefinition| CheckDefinition {
        id: format!("{id}-{suffix}"),
        timeout: Some(every),
        ..check
    };
    let url = |path: &str| format!("{}{path}", agent.address());
    let checks = vec![
        named("tcp", CheckDefinition::tcp(address.to_string(), every)),
        named("http", CheckDefinition::http(url("/v1/status/leader"), every)),
        named("404", CheckDefinition::http(url("/nothing"), every)),
    ];
    client
        .register_service(&ServiceRegistration {
            checks,
            ..ServiceRegistration::new(&id, &id)
        })
        .await
        .unwrap();
    let checks = vec![CheckDefinition::alias(&id)];
    client
        .register_service(&ServiceRegistration {
            checks,
            ..ServiceRegistration::new(&alias, &alias)
        })
        .await
        .unwrap();

    let status = |entries: &[ServiceEntry], suffix: &str| {
        let mut checks = entries.iter().flat_map(|entry| &entry.checks);
        checks
            .find(|check| check.check_id == format!("{id}-{suffix}"))
            .map(|check| check.status)
    };
    until_health(client, &id, |entries| {
        ["tcp", "http"]
            .iter()
            .all(|suffix| status(entries, suffix) == Some(CheckStatus::Passing))
    })
    .await;
    // What a check says without a new state is in the catalog minutes later only; the agent knows at once.
    until("the 404", SOON, || async {
        let checks = client
            .agent_checks(None)
            .await
            .map_err(|error| error.to_string())?;
        let check = &checks[&format!("{id}-404")];
        if check.output.contains("404") {
            Ok(())
        } else {
            Err(format!("{check:?}"))
        }
    })
    .await;
    until_status(client, &id, CheckStatus::Critical).await;
    until_status(client, &alias, CheckStatus::Critical).await;
    client.deregister_check(&format!("{id}-404")).await.unwrap();
    until_status(client, &id, CheckStatus::Passing).await;
    until_status(client, &alias, CheckStatus::Passing).await;
    drop(listener);
    let entries = until_health(client, &id, |entries| {
        status(entries, "tcp") == Some(CheckStatus::Critical)
    })
    .await;
    assert_eq!(status(&entries, "http"), Some(CheckStatus::Passing));
    until_status(client, &alias, CheckStatus::Critical).await;
    for id in [&id, &alias] {
        client.deregister_service(id).await.unwrap();
    }
}

#[tokio::test]
async fn node_maintenance_takes_every_instance_of_the_node_out() {
    let agent = Agent::start().await;
    let client = agent.client();
    until_joined(client).await;
    let services = ["web", "db"];
    for id in services {
        let checks = vec![ttl_check(&format!("{id}-check"), CheckStatus::Passing)];
        client
            .register_service(&ServiceRegistration {
                checks,
                ..ServiceRegistration::new(id, id)
            })
            .await
            .unwrap();
        until_status(client, id, CheckStatus::Passing).await;
    }
    client.set_node_maintenance(true, "a new disk? #1").await.unwrap();
    for id in services {
        let entry = until_status(client, id, CheckStatus::Maintenance).await;
        let maintenance = entry.checks.iter().find(|check| check.is_maintenance()).unwrap();
        assert_eq!(
            (maintenance.notes.as_str(), maintenance.service_id.as_str()),
            ("a new disk? #1", "")
        );
    }
    client.set_node_maintenance(false, "").await.unwrap();
    for id in services {
        until_status(client, id, CheckStatus::Passing).await;
    }

    // So does any check of the node that is no service's.
    let check = CheckDefinition {
        name: "disk".into(),
        ..ttl_check("disk", CheckStatus::Critical)
    };
    client
        .register_check(&CheckRegistration {
            check,
            service_id: None,
        })
        .await
        .unwrap();
    for id in services {
        until_status(client, id, CheckStatus::Critical).await;
    }
    let node = node_of(client).await;
    let checks = client.health_node(&node, &now()).await.unwrap().value;
    assert!(
        checks
            .iter()
            .any(|check| check.check_id == "disk" && check.node == node)
    );
}

// --- The catalog ------------------------------------------------------------------------------------------------------

#[tokio::test]
async fn a_catalog_entry_is_listed_as_it_was_made_and_removed_part_by_part() {
    let Shared { client, .. } = &Shared::agent().await;
    let (node, name) = (format!("{} /?#漢", unique("node")), unique("printer"));
    let registration = CatalogRegistration {
        node: node.clone(),
        address: "192.0.2.7".into(),
        node_meta: BTreeMap::from([("external".into(), "true".into())]),
        service: Some(CatalogService {
            id: format!("{name}/1"),
            service: name.clone(),
            tags: vec!["lp".into()],
            port: 631,
            meta: BTreeMap::from([("floor".into(), "2".into())]),
            ..CatalogService::default()
        }),
        checks: vec![HealthCheck {
            node: node.clone(),
            check_id: format!("{name}/ink"),
            name: "ink".into(),
            status: CheckStatus::Warning,
            service_id: format!("{name}/1"),
            ..HealthCheck::default()
        }],
        ..CatalogRegistration::default()
    };
    client.catalog_register(&registration).await.unwrap();

    let nodes = client.catalog_nodes(&now()).await.unwrap().value;
    let found = nodes.iter().find(|found| found.node == node).expect("the node");
    assert_eq!(
        (found.address.as_str(), found.meta["external"].as_str()),
        ("192.0.2.7", "true")
    );
    let [entry] = client
        .health_service(&name, &now())
        .await
        .unwrap()
        .value
        .try_into()
        .unwrap();
    assert_eq!(
        (entry.aggregated_status(), entry.endpoint_address()),
        (CheckStatus::Warning, "192.0.2.7")
    );
    let found = client
        .catalog_node_services(&node, &now())
        .await
        .unwrap()
        .value
        .expect("the node");
    assert_eq!(
        (
            found.node.node.as_str(),
            found.services[&format!("{name}/1")].port
        ),
        (node.as_str(), 631)
    );
    let [instance] = client
        .catalog_service(&name, &now())
        .await
        .unwrap()
        .value
        .try_into()
        .unwrap();
    assert_eq!(
        (instance.address.as_str(), instance.service_address.as_str()),
        ("192.0.2.7", "")
    );
    assert_eq!(
        (
            instance.node_meta["external"].as_str(),
            instance.service_meta["floor"].as_str()
        ),
        ("true", "2")
    );

    let part = CatalogDeregistration {
        node: node.clone(),
        ..CatalogDeregistration::default()
    };
    let check = CatalogDeregistration {
        check_id: Some(format!("{name}/ink")),
        ..part.clone()
    };
    client.catalog_deregister(&check).await.unwrap();
    let [entry] = client
        .health_service(&name, &now())
        .await
        .unwrap()
        .value
        .try_into()
        .unwrap();
    assert_eq!(
        (entry.aggregated_status(), entry.checks.len()),
        (CheckStatus::Passing, 0)
    );
    let service = CatalogDeregistration {
        service_id: Some(format!("{name}/1")),
        ..part.clone()
    };
    client.catalog_deregister(&service).await.unwrap();
    let found = client
        .catalog_node_services(&node, &now())
        .await
        .unwrap()
        .value
        .expect("the node stays");
    assert!(found.services.is_empty());
    assert!(
        !client
            .catalog_services(&now())
            .await
            .unwrap()
            .value
            .contains_key(&name)
    );
    for _ in 0..2 {
        client.catalog_deregister(&part).await.unwrap();
        assert_eq!(
            client.catalog_node_services(&node, &now()).await.unwrap().value,
            None
        );
    }
    assert!(client.health_node(&node, &now()).await.unwrap().value.is_empty());
}

#[tokio::test]
async fn consistency_filter_and_nearness_reach_the_server() {
    let Shared { client, .. } = &Shared::agent().await;
    for consistency in [Consistency::Default, Consistency::Stale, Consistency::Consistent] {
        let options = QueryOptions {
            consistency,
            near: Some("_agent".into()),
            ..now()
        };
        let answer = client.health_service("consul", &options).await.unwrap();
        assert_eq!(answer.value.len(), 1);
        assert!(answer.meta.index > 0 && answer.meta.known_leader == Some(true));
        assert!(answer.meta.last_contact.is_some());
    }
    let filter = Some("Service.ID == \"nobody\"".into());
    assert!(
        client
            .health_service("consul", &QueryOptions { filter, ..now() })
            .await
            .unwrap()
            .value
            .is_empty()
    );
}

#[tokio::test]
async fn a_datacenter_that_is_not_there_is_an_error_and_not_an_empty_list() {
    let Shared { client, agent } = &Shared::agent().await;
    let elsewhere = client_of(agent.address(), |config| {
        config.datacenter = Some("nowhere".into());
    });
    let error = elsewhere.catalog_services(&now()).await.unwrap_err();
    assert!(error.status() == Some(500) && !error.is_no_leader(), "{error:?}");
    assert!(elsewhere.kv_put("a", "b", &PutOptions::default()).await.is_err());
    assert!(elsewhere.kv_get("a", &now()).await.is_err());
    assert!(
        elsewhere.agent_services(None).await.is_ok(),
        "the agent's own endpoints know no datacenter"
    );
    let here = QueryOptions {
        datacenter: Some("dc1".into()),
        ..now()
    };
    assert!(elsewhere.catalog_services(&here).await.is_ok());
    assert!(
        client.kv_get("a", &now()).await.unwrap().value.is_none(),
        "nothing was written here"
    );
}

// --- The key/value store ----------------------------------------------------------------------------------------------

async fn value(client: &Client, key: &str) -> Option<KvPair> {
    client.kv_get(key, &now()).await.unwrap().value
}

async fn put(client: &Client, key: &str, value: &str) -> u64 {
    assert!(
        client
            .kv_put(key, value.to_owned(), &PutOptions::default())
            .await
            .unwrap()
    );
    self::value(client, key).await.unwrap().modify_index
}

#[tokio::test]
async fn a_key_gives_back_the_bytes_and_flags_it_was_given() {
    let Shared { client, .. } = &Shared::agent().await;
    let folder = unique("bytes");
    let every_byte: Vec<u8> = (0..=255).cycle().take(100_000).collect();
    for (n, bytes) in [vec![], vec![0], b"\n{\"json\": null}\xff".to_vec(), every_byte]
        .into_iter()
        .enumerate()
    {
        let key = format!("{folder}/{n}");
        let flags = u64::MAX - n as u64;
        assert!(
            client
                .kv_put(
                    &key,
                    bytes.clone(),
                    &PutOptions {
                        flags,
                        ..PutOptions::default()
                    }
                )
                .await
                .unwrap()
        );
        let pair = value(client, &key).await.unwrap();
        assert_eq!(
            (pair.key, pair.flags, pair.session, pair.lock_index),
            (key, flags, None, 0)
        );
        assert!(pair.value == bytes, "{n}: {} bytes", pair.value.len());
    }
    let error = client
        .kv_put(
            &format!("{folder}/large"),
            vec![0; 600_000],
            &PutOptions::default(),
        )
        .await
        .unwrap_err();
    assert_eq!(error.status(), Some(413));
    client.kv_delete_recurse(&format!("{folder}/")).await.unwrap();
}

#[tokio::test]
async fn hostile_keys_come_back_as_they_were_given() {
    let Shared { client, .. } = &Shared::agent().await;
    let folder = unique("keys");
    let mut keys: Vec<String> = HOSTILE.iter().map(|name| format!("{folder}/{name}")).collect();
    keys.push(format!("{folder}/a folder/"));
    keys.push(format!("{folder}/.../.hidden"));
    for key in &keys {
        put(client, key, key).await;
    }
    keys.sort();
    let listed = client.kv_list(&format!("{folder}/"), &now()).await.unwrap().value;
    let found: Vec<(&str, &[u8])> = listed
        .iter()
        .map(|pair| (pair.key.as_str(), &pair.value[..]))
        .collect();
    assert_eq!(
        found,
        keys.iter()
            .map(|key| (key.as_str(), key.as_bytes()))
            .collect::<Vec<_>>()
    );
    assert_eq!(
        client
            .kv_keys(&format!("{folder}/"), None, &now())
            .await
            .unwrap()
            .value,
        keys
    );
    for key in &keys {
        assert!(client.kv_delete(key, None).await.unwrap());
        assert_eq!(value(client, key).await, None);
    }
    assert!(client.kv_list(&folder, &now()).await.unwrap().value.is_empty());
}

#[tokio::test]
async fn a_prefix_is_text_and_a_separator_makes_folders_of_it() {
    let Shared { client, .. } = &Shared::agent().await;
    let folder = unique("prefix");
    for key in ["a", "ab", "a/b", "a/c/d", "a/c/e", "b?c/d"] {
        put(client, &format!("{folder}/{key}"), key).await;
    }
    let keys = async |prefix: &str, separator: Option<&str>| -> Vec<String> {
        let keys = client
            .kv_keys(&format!("{folder}/{prefix}"), separator, &now())
            .await
            .unwrap()
            .value;
        keys.into_iter()
            .map(|key| key.replacen(&format!("{folder}/"), "", 1))
            .collect()
    };
    assert_eq!(keys("a", None).await, ["a", "a/b", "a/c/d", "a/c/e", "ab"]);
    assert_eq!(keys("a/", Some("/")).await, ["a/b", "a/c/"]);
    assert_eq!(keys("b", Some("?")).await, ["b?"]);
    assert!(keys("c", None).await.is_empty());
    let none = client.kv_list(&format!("{folder}/c"), &now()).await.unwrap();
    assert!(
        none.value.is_empty() && none.meta.index > 0,
        "no keys, said with an index"
    );

    client.kv_delete_recurse(&format!("{folder}/a/")).await.unwrap();
    assert_eq!(keys("", None).await, ["a", "ab", "b?c/d"]);
    client.kv_delete_recurse(&folder).await.unwrap();
    assert!(keys("", None).await.is_empty());
}

#[tokio::test]
async fn compare_and_swap_writes_and_deletes_only_what_was_read() {
    let Shared { client, .. } = &Shared::agent().await;
    let key = unique("cas");
    let put_if = async |index, value: &'static str| {
        client
            .kv_put(
                &key,
                value,
                &PutOptions {
                    cas: Some(index),
                    ..PutOptions::default()
                },
            )
            .await
            .unwrap()
    };
    assert!(!put_if(7, "no such key").await);
    assert!(put_if(0, "made").await && !put_if(0, "made again").await);
    let made = value(client, &key).await.unwrap();
    assert!(put_if(made.modify_index, "changed").await);
    assert!(!put_if(made.modify_index, "lost").await);
    let changed = value(client, &key).await.unwrap();
    assert_eq!(
        (&changed.value[..], changed.create_index),
        (&b"changed"[..], made.create_index)
    );
    assert!(changed.modify_index > made.modify_index);
    assert!(!client.kv_delete(&key, Some(made.modify_index)).await.unwrap());
    assert!(!client.kv_delete(&key, Some(0)).await.unwrap());
    assert!(client.kv_delete(&key, Some(changed.modify_index)).await.unwrap());
    assert_eq!(value(client, &key).await, None);
    assert!(
        client.kv_delete(&key, None).await.unwrap(),
        "what is not there counts as deleted"
    );

    // Of many that swap at once one wins.
    let attempts = (0..8).map(|n| {
        let (client, key) = (client.clone(), key.clone());
        tokio::spawn(async move {
            client
                .kv_put(
                    &key,
                    n.to_string(),
                    &PutOptions {
                        cas: Some(0),
                        ..PutOptions::default()
                    },
                )
                .await
                .unwrap()
        })
    });
    let mut won = 0;
    for attempt in attempts.collect::<Vec<_>>() {
        won += u32::from(attempt.await.unwrap());
    }
    assert_eq!(won, 1);
    client.kv_delete(&key, None).await.unwrap();
}

// --- Sessions and locks -----------------------------------------------------------------------------------------------

fn session(behavior: SessionBehavior) -> SessionRequest {
    SessionRequest {
        lock_delay: Some(Duration::ZERO),
        behavior,
        ..SessionRequest::default()
    }
}

async fn acquire(client: &Client, key: &str, session: &str) -> bool {
    let options = PutOptions {
        acquire: Some(session.to_owned()),
        ..PutOptions::default()
    };
    client.kv_put(key, session.to_owned(), &options).await.unwrap()
}

async fn release(client: &Client, key: &str, session: &str) -> bool {
    let options = PutOptions {
        release: Some(session.to_owned()),
        ..PutOptions::default()
    };
    client.kv_put(key, "released", &options).await.unwrap()
}

#[tokio::test]
async fn a_session_is_as_it_was_asked_for_until_it_is_destroyed() {
    let Shared { client, .. } = &Shared::agent().await;
    let request = SessionRequest {
        name: format!("{} 漢/?", unique("session")),
        lock_delay: Some(Duration::from_millis(1_500)),
        behavior: SessionBehavior::Delete,
        ttl: Some(Duration::from_secs(90)),
        node_checks: Some(vec![]),
        ..SessionRequest::default()
    };
    let id = client.session_create(&request).await.unwrap();
    let made = client
        .session_info(&id, &now())
        .await
        .unwrap()
        .value
        .expect("the session");
    assert_eq!(
        (&made.id, &made.name, &made.behavior),
        (&id, &request.name, &"delete".to_owned())
    );
    assert_eq!(
        (made.ttl, made.lock_delay, &made.node),
        (request.ttl, request.lock_delay, &node_of(client).await)
    );
    let renewed = client.session_renew(&id).await.unwrap();
    assert_eq!((renewed.id, renewed.ttl), (id.clone(), request.ttl));
    assert!(
        client
            .session_list(&now())
            .await
            .unwrap()
            .value
            .iter()
            .any(|session| session.id == id)
    );

    for _ in 0..2 {
        client.session_destroy(&id).await.unwrap();
        assert_eq!(client.session_info(&id, &now()).await.unwrap().value, None);
    }
    assert!(
        client
            .session_list(&now())
            .await
            .unwrap()
            .value
            .iter()
            .all(|session| session.id != id)
    );
    let error = client.session_renew(&id).await.unwrap_err();
    assert!(error.is_not_found() && !error.is_transient(), "{error:?}");
    let short = SessionRequest {
        ttl: Some(Duration::from_secs(1)),
        ..request
    };
    assert!(matches!(
        client.session_create(&short).await.unwrap_err().status(),
        Some(400 | 500)
    ));
}

#[tokio::test]
async fn a_lock_is_held_by_one_session_until_that_releases_it() {
    let Shared { client, .. } = &Shared::agent().await;
    let key = unique("lock");
    let first = client
        .session_create(&session(SessionBehavior::Release))
        .await
        .unwrap();
    let second = client
        .session_create(&session(SessionBehavior::Release))
        .await
        .unwrap();
    assert!(acquire(client, &key, &first).await);
    assert!(acquire(client, &key, &first).await, "again is no error");
    assert!(!acquire(client, &key, &second).await && !release(client, &key, &second).await);
    let held = value(client, &key).await.unwrap();
    assert_eq!(
        (held.session.as_deref(), held.lock_index),
        (Some(first.as_str()), 1)
    );
    assert_eq!(held.value, first, "what was refused wrote nothing");
    assert!(release(client, &key, &first).await);
    let free = value(client, &key).await.unwrap();
    assert_eq!((free.session, &free.value[..]), (None, &b"released"[..]));
    assert!(acquire(client, &key, &second).await);
    assert_eq!(value(client, &key).await.unwrap().lock_index, 2);
    let unknown = PutOptions {
        acquire: Some("5e551047-0000-4000-8000-000000000000".into()),
        ..PutOptions::default()
    };
    assert!(
        client.kv_put(&key, "x", &unknown).await.is_err(),
        "a session that is not there"
    );
    for id in [first, second] {
        client.session_destroy(&id).await.unwrap();
    }
    client.kv_delete(&key, None).await.unwrap();
}

#[tokio::test]
async fn a_session_that_ends_frees_or_deletes_what_it_locked() {
    let Shared { client, .. } = &Shared::agent().await;
    let (freed, deleted) = (unique("freed"), unique("deleted"));
    for (key, behavior) in [
        (&freed, SessionBehavior::Release),
        (&deleted, SessionBehavior::Delete),
    ] {
        let id = client.session_create(&session(behavior)).await.unwrap();
        assert!(acquire(client, key, &id).await);
        client.session_destroy(&id).await.unwrap();
    }
    assert_eq!(value(client, &freed).await.unwrap().session, None);
    assert_eq!(value(client, &deleted).await, None);
    client.kv_delete(&freed, None).await.unwrap();
}

#[tokio::test]
async fn a_critical_check_ends_the_session_and_wakes_who_waits_for_the_lock() {
    let Shared { client, .. } = &Shared::agent().await;
    // Of a node of its own, so that the others on this agent do not get a node with a critical check.
    let (node, key) = (unique("node"), unique("lost"));
    let with = |status| CatalogRegistration {
        node: node.clone(),
        address: "192.0.2.8".into(),
        checks: vec![HealthCheck {
            check_id: "alive".into(),
            name: "alive".into(),
            status,
            ..HealthCheck::default()
        }],
        ..CatalogRegistration::default()
    };
    client
        .catalog_register(&with(CheckStatus::Passing))
        .await
        .unwrap();
    let request = SessionRequest {
        node: Some(node.clone()),
        node_checks: Some(vec!["alive".into()]),
        ..session(SessionBehavior::Release)
    };
    let id = client.session_create(&request).await.unwrap();
    assert_eq!(
        client
            .session_info(&id, &now())
            .await
            .unwrap()
            .value
            .unwrap()
            .node_checks,
        ["alive"]
    );
    assert!(acquire(client, &key, &id).await);
    let mut watch = client.watch_kv_prefix(&key, quick());
    assert_eq!(
        snapshot(next(&mut watch).await).value[0].session,
        Some(id.clone())
    );

    client
        .catalog_register(&with(CheckStatus::Critical))
        .await
        .unwrap();

    let lost = snapshot(next(&mut watch).await);
    assert_eq!(
        (lost.continuity, &lost.value[0].session),
        (Continuity::Continued, &None)
    );
    assert_eq!(client.session_info(&id, &now()).await.unwrap().value, None);
    assert!(
        client.session_create(&request).await.is_err(),
        "no session hangs on a critical check"
    );
    client
        .catalog_deregister(&CatalogDeregistration {
            node,
            ..CatalogDeregistration::default()
        })
        .await
        .unwrap();
    client.kv_delete(&key, None).await.unwrap();
}

// --- Transactions -----------------------------------------------------------------------------------------------------

fn set(key: &str, value: &str) -> KvOp {
    KvOp::Set {
        key: key.to_owned(),
        value: value.to_owned().into(),
        flags: 7,
    }
}

#[tokio::test]
async fn a_transaction_does_all_of_it_in_order() {
    let Shared { client, .. } = &Shared::agent().await;
    let folder = unique("txn");
    // Keys travel in the body: even those that no URL can carry.
    let (a, b, c) = (
        format!("{folder}/a//../b"),
        format!("{folder}/b ?#漢"),
        format!("{folder}/c"),
    );
    let session = client
        .session_create(&session(SessionBehavior::Release))
        .await
        .unwrap();
    let results = client
        .txn(&[
            KvOp::CheckNotExists { key: a.clone() },
            set(&a, "1"),
            KvOp::Get { key: a.clone() },
            KvOp::Lock {
                key: b.clone(),
                value: "2".into(),
                session: session.clone(),
            },
            KvOp::CheckSession {
                key: b.clone(),
                session: session.clone(),
            },
            KvOp::Cas {
                key: c.clone(),
                value: "3".into(),
                flags: 0,
                index: 0,
            },
            KvOp::GetTree {
                prefix: format!("{folder}/"),
            },
        ])
        .await
        .unwrap();
    let shown: Vec<(&str, &[u8])> = results
        .iter()
        .map(|pair| (pair.key.as_str(), &pair.value[..]))
        .collect();
    let (a, b, c) = (a.as_str(), b.as_str(), c.as_str());
    let (one, two, three): (&[u8], &[u8], &[u8]) = (b"1", b"2", b"3");
    assert_eq!(
        shown,
        [
            (a, &[][..]),
            (a, one),
            (b, &[]),
            (b, &[]),
            (c, &[]),
            (a, one),
            (b, two),
            (c, three)
        ],
        "writes without their value, reads with it"
    );
    assert_eq!(
        (results[1].flags, &results[6].session),
        (7, &Some(session.clone()))
    );

    let index = results[7].modify_index;
    let results = client
        .txn(&[
            KvOp::CheckIndex {
                key: c.to_owned(),
                index,
            },
            KvOp::Unlock {
                key: b.to_owned(),
                value: "free".into(),
                session: session.clone(),
            },
            KvOp::DeleteCas {
                key: c.to_owned(),
                index,
            },
            KvOp::Delete { key: a.to_owned() },
        ])
        .await
        .unwrap();
    assert!(results.iter().all(|pair| pair.session.is_none()), "{results:?}");
    let left = client.kv_list(&folder, &now()).await.unwrap().value;
    assert_eq!(left.iter().map(|pair| pair.key.as_str()).collect::<Vec<_>>(), [b]);
    client
        .txn(&[KvOp::DeleteTree {
            prefix: folder.clone(),
        }])
        .await
        .unwrap();
    assert!(client.kv_list(&folder, &now()).await.unwrap().value.is_empty());
    client.session_destroy(&session).await.unwrap();
}

#[tokio::test]
async fn a_transaction_that_fails_leaves_nothing_and_names_each_failure() {
    let Shared { client, .. } = &Shared::agent().await;
    let folder = unique("back");
    let (kept, made) = (format!("{folder}/kept"), format!("{folder}/made"));
    let index = put(client, &kept, "before").await;
    let error = client
        .txn(&[
            set(&made, "x"),
            set(&kept, "after"),
            KvOp::Cas {
                key: made.clone(),
                value: "y".into(),
                flags: 0,
                index: 1,
            },
            KvOp::Delete { key: kept.clone() },
            KvOp::CheckNotExists { key: made.clone() },
        ])
        .await
        .unwrap_err();
    let Error::RolledBack { failures, .. } = &error else {
        panic!("{error:?}")
    };
    assert_eq!(
        failures
            .iter()
            .map(|failure| failure.op_index)
            .collect::<Vec<_>>(),
        [2, 4]
    );
    assert!(failures.iter().all(|failure| !failure.what.is_empty()));
    assert!(!error.is_transient());
    let pairs = client.kv_list(&folder, &now()).await.unwrap().value;
    let shown: Vec<_> = pairs
        .iter()
        .map(|pair| (pair.key.as_str(), &pair.value[..], pair.modify_index))
        .collect();
    assert_eq!(shown, [(kept.as_str(), &b"before"[..], index)]);

    let reads = [KvOp::Get { key: made.clone() }];
    assert!(
        matches!(client.txn(&reads).await, Err(Error::RolledBack { .. })),
        "a read of what is not there"
    );
    let many = vec![set(&made, "x"); 65];
    assert!(
        client.txn(&many).await.unwrap_err().status().is_some(),
        "more than 64"
    );
    assert_eq!(value(client, &made).await, None);
    client.kv_delete_recurse(&folder).await.unwrap();
}

// --- The cluster ------------------------------------------------------------------------------------------------------

#[tokio::test]
async fn leader_peers_members_and_the_agent_itself_agree() {
    let Shared { client, .. } = &Shared::agent().await;
    let leader = client.leader().await.unwrap().expect("a leader");
    assert_eq!(client.peers().await.unwrap(), [leader]);
    let agent = client.agent_self().await.unwrap();
    assert!(agent.config.server && agent.config.datacenter == "dc1");
    assert!(
        agent.config.version.starts_with(|c: char| c.is_ascii_digit()),
        "{:?}",
        agent.config
    );
    assert_eq!(agent.stats["raft"]["state"], "Leader");
    let [member] = client.agent_members(false).await.unwrap().try_into().unwrap();
    assert!(member.is_server() && member.status == MemberStatus::Alive);
    assert_eq!(
        (&member.name, &agent.member.name),
        (&agent.config.node_name, &agent.config.node_name)
    );
    let error = client.join("127.0.0.1:1", false).await.unwrap_err();
    assert_eq!(error.status(), Some(500), "nobody is there");
    assert!(client.force_leave(&unique("nobody"), true).await.is_err());
}

// --- Watch ------------------------------------------------------------------------------------------------------------

/// A watch that soon notices and soon comes back.
fn quick() -> WatchOptions {
    WatchOptions {
        backoff_max: Duration::from_millis(200),
        ..WatchOptions::default()
    }
}

async fn next<T: Send + Debug + 'static>(watch: &mut Watch<T>) -> WatchEvent<T> {
    tokio::time::timeout(SOON, watch.next())
        .await
        .expect("the watch says something")
}

#[track_caller]
fn snapshot<T: Debug>(event: WatchEvent<T>) -> Snapshot<T> {
    match event {
        WatchEvent::Value(snapshot) => snapshot,
        other => panic!("{other:?}"),
    }
}

#[track_caller]
fn outage<T: Debug>(event: WatchEvent<T>) -> Error {
    match event {
        WatchEvent::Unavailable { error, .. } => error,
        other => panic!("{other:?}"),
    }
}

/// The next value, and the errors before it. Attempts must be counted from 1.
async fn value_after_outage<T: Send + Debug + 'static>(watch: &mut Watch<T>) -> (Snapshot<T>, Vec<Error>) {
    let mut errors = Vec::new();
    loop {
        match next(watch).await {
            WatchEvent::Value(snapshot) => return (snapshot, errors),
            WatchEvent::Unavailable { error, .. } => errors.push(error),
        }
    }
}

/// A service that the watch has seen, far from the first index of a new agent.
async fn with_a_watched_service(client: &Client, options: WatchOptions) -> Watch<Vec<ServiceEntry>> {
    for n in 0..40 {
        put(client, "counter", &n.to_string()).await;
    }
    client
        .register_service(&ServiceRegistration::new("web-1", "web"))
        .await
        .unwrap();
    until_status(client, "web", CheckStatus::Passing).await;
    let mut watch = client.watch_health_service("web", options);
    let first = snapshot(next(&mut watch).await);
    assert_eq!(
        (first.continuity, ids(&first.value)),
        (Continuity::First, vec!["web-1"])
    );
    watch
}

#[tokio::test]
async fn a_watch_wakes_within_a_second_of_a_new_instance() {
    let Shared { client, .. } = &Shared::agent().await;
    let (name, id) = (unique("woken"), unique("instance"));
    client
        .register_service(&ServiceRegistration::new(&name, &name))
        .await
        .unwrap();
    until_health(client, &name, |entries| entries.len() == 1).await;
    let mut health = client.watch_health_service(&name, WatchOptions::default());
    let mut catalog = client.watch_catalog_services(WatchOptions::default());
    assert_eq!(snapshot(next(&mut health).await).continuity, Continuity::First);
    assert!(!snapshot(next(&mut catalog).await).value.contains_key(&id));

    let registered = Instant::now();
    // Both wait when it comes, as they do in a service.
    let (woken, woken_catalog, ()) = tokio::join!(
        async {
            loop {
                let seen = snapshot(next(&mut health).await);
                assert_eq!(seen.continuity, Continuity::Continued);
                if ids(&seen.value).contains(&id.as_str()) {
                    return registered.elapsed();
                }
            }
        },
        async {
            loop {
                let seen = snapshot(next(&mut catalog).await);
                assert!(seen.continuity == Continuity::Continued && seen.value.contains_key(&name));
                if seen.value.contains_key(&id) {
                    return registered.elapsed();
                }
            }
        },
        async {
            client
                .register_service(&ServiceRegistration::new(&id, &name))
                .await
                .unwrap();
            client
                .register_service(&ServiceRegistration::new(format!("{id}-too"), &id))
                .await
                .unwrap();
        }
    );
    println!("woken after {woken:?} and {woken_catalog:?}");
    assert!(
        woken.max(woken_catalog) < Duration::from_secs(1),
        "{woken:?} {woken_catalog:?}"
    );
    for id in [&name, &id, &format!("{id}-too")] {
        client.deregister_service(id).await.unwrap();
    }
}

#[tokio::test]
async fn a_watch_says_nothing_while_nothing_changes() {
    let agent = Agent::start().await;
    let client = agent.client();
    until_joined(client).await;
    // Many waits end during the test: their answers are no news.
    let options = WatchOptions {
        wait: Duration::from_millis(50),
        ..WatchOptions::default()
    };
    let mut services = with_a_watched_service(client, options.clone()).await;
    let mut keys = client.watch_kv_prefix("counter", options);
    assert_eq!(snapshot(next(&mut keys).await).continuity, Continuity::First);

    throughout("silence", Duration::from_secs(1), || async {
        // Writes elsewhere are no news either.
        client
            .kv_put("elsewhere", "x", &PutOptions::default())
            .await
            .map_err(|error| error.to_string())?;
        Ok(())
    })
    .await;
    let silence = Duration::from_millis(300);
    assert!(
        tokio::time::timeout(silence, services.next()).await.is_err(),
        "the instances did not change"
    );
    assert!(
        tokio::time::timeout(silence, keys.next()).await.is_err(),
        "the key did not change"
    );

    put(client, "counter", "changed").await;
    let changed = snapshot(next(&mut keys).await);
    assert_eq!(
        (changed.continuity, &changed.value[0].value[..]),
        (Continuity::Continued, &b"changed"[..])
    );
}

#[tokio::test]
async fn a_restarted_agent_is_an_outage_and_never_an_empty_value() {
    let agent = Agent::start().await;
    let client = agent.client();
    until_joined(client).await;
    let mut watch = with_a_watched_service(client, quick()).await;
    let mut keys = client.watch_kv_prefix("counter", quick());
    assert_eq!(snapshot(next(&mut keys).await).value.len(), 1);

    agent.container().command(&["kill"]);
    let (first, second) = tokio::join!(next(&mut watch), next(&mut keys));
    for error in [outage(first), outage(second)] {
        assert!(
            matches!(error, Error::Request { .. }) && error.is_transient(),
            "{error:?}"
        );
    }
    agent.container().command(&["start"]);

    let ((back, errors), (keys, more)) =
        tokio::join!(value_after_outage(&mut watch), value_after_outage(&mut keys));
    assert!(
        errors.iter().chain(&more).all(Error::is_transient),
        "{errors:?} {more:?}"
    );
    assert_eq!((keys.continuity, keys.value.len()), (Continuity::Resumed, 1));
    assert_eq!(
        (back.continuity, ids(&back.value)),
        (Continuity::Resumed, vec!["web-1"])
    );
    // It goes on as before.
    client
        .register_service(&ServiceRegistration::new("web-2", "web"))
        .await
        .unwrap();
    let changed = snapshot(next(&mut watch).await);
    assert_eq!(
        (changed.continuity, ids(&changed.value)),
        (Continuity::Continued, vec!["web-1", "web-2"])
    );
}

#[tokio::test]
async fn a_server_that_replays_its_log_is_not_taken_for_one_that_knows_less() {
    let agent = Agent::start().await;
    let client = agent.client();
    until_joined(client).await;
    // A log that takes a while to replay, and at its end what is watched.
    let keys: Vec<String> = (0..64).map(|n| format!("replayed/{n}")).collect();
    for n in 0..400 {
        let writes: Vec<KvOp> = keys.iter().map(|key| set(key, &n.to_string())).collect();
        client.txn(&writes).await.unwrap();
    }
    let options = WatchOptions {
        backoff_max: Duration::from_millis(20),
        ..WatchOptions::default()
    };
    let mut watch = with_a_watched_service(client, options.clone()).await;
    for _ in 0..2 {
        agent.container().command(&["kill"]);
        outage(next(&mut watch).await);
        // One that begins now, as that of a router does which starts with its node.
        let mut new = client.watch_health_service("web", options.clone());
        outage(next(&mut new).await);
        agent.container().command(&["start"]);
        let ((back, _), (first, _)) =
            tokio::join!(value_after_outage(&mut watch), value_after_outage(&mut new));
        assert_eq!(
            (back.continuity, ids(&back.value)),
            (Continuity::Resumed, vec!["web-1"]),
            "{}",
            back.index
        );
        assert_eq!(
            (first.continuity, ids(&first.value)),
            (Continuity::First, vec!["web-1"]),
            "{}",
            first.index
        );
    }
}

#[tokio::test]
async fn a_wiped_agent_is_an_outage_and_then_a_reset() {
    let mut agent = Agent::start().await;
    let client = agent.client().clone();
    until_joined(&client).await;
    let mut instances = with_a_watched_service(&client, quick()).await;
    let mut services = client.watch_catalog_services(quick());
    let mut keys = client.watch_kv_prefix("counter", quick());
    assert!(snapshot(next(&mut services).await).value.contains_key("web"));
    assert_eq!(snapshot(next(&mut keys).await).value.len(), 1);

    let (instances, services, keys, ()) = tokio::join!(
        value_after_outage(&mut instances),
        value_after_outage(&mut services),
        value_after_outage(&mut keys),
        agent.wipe()
    );
    for (errors, continuity, has) in [
        (instances.1, instances.0.continuity, !instances.0.value.is_empty()),
        (
            services.1,
            services.0.continuity,
            services.0.value.contains_key("web"),
        ),
        (keys.1, keys.0.continuity, !keys.0.value.is_empty()),
    ] {
        assert!(
            !errors.is_empty() && errors.iter().all(Error::is_transient),
            "{errors:?}"
        );
        assert_eq!((continuity, has), (Continuity::Reset, false));
    }
}

#[tokio::test]
async fn a_frozen_agent_is_found_by_the_deadline_and_resumes() {
    let agent = Agent::start().await;
    let client = client_of(agent.address(), |config| {
        config.timeout = Duration::from_millis(500);
    });
    until_joined(&client).await;
    let options = WatchOptions {
        wait: Duration::from_millis(320),
        ..quick()
    };
    let mut watch = with_a_watched_service(&client, options).await;

    agent.container().command(&["kill", "-s", "STOP"]);
    let frozen = Instant::now();
    let error = outage(next(&mut watch).await);
    assert!(
        matches!(error, Error::Deadline { after, .. } if after == Duration::from_millis(840)),
        "{error:?}"
    );
    assert!(
        error.is_transient() && frozen.elapsed() < Duration::from_secs(5),
        "{:?}",
        frozen.elapsed()
    );
    // It stays an outage, attempt by attempt.
    for expected in 2..=3 {
        match next(&mut watch).await {
            WatchEvent::Unavailable {
                error: Error::Deadline { .. },
                attempts,
            } => assert_eq!(attempts, expected),
            other => panic!("{other:?}"),
        }
    }
    agent.container().command(&["kill", "-s", "CONT"]);
    let (back, _) = value_after_outage(&mut watch).await;
    assert_eq!(
        (back.continuity, ids(&back.value)),
        (Continuity::Resumed, vec!["web-1"])
    );
}

#[tokio::test]
async fn a_server_without_leader_never_gives_a_watch_a_value() {
    // By default a server holds a call for 7 s, in the hope of a leader, before it says that there is none.
    let agent = Agent::start_with(&[
        "-bootstrap-expect=3",
        "-hcl=performance { rpc_hold_timeout = \"100ms\" }",
    ]);
    let client = agent.client();
    until("its agent answers", SOON, || async {
        client.agent_self().await.map_err(|e| e.to_string())
    })
    .await;
    assert_eq!(client.leader().await.unwrap(), None);
    assert!(client.peers().await.unwrap().is_empty());

    for consistency in [Consistency::Default, Consistency::Stale, Consistency::Consistent] {
        let options = WatchOptions {
            consistency,
            ..quick()
        };
        let mut services = client.watch_catalog_services(options.clone());
        let mut instances = client.watch_health_service("web", options.clone());
        let mut keys = client.watch_kv_prefix("a", options);
        for _ in 0..4 {
            let errors = tokio::join!(next(&mut services), next(&mut instances), next(&mut keys));
            for error in [outage(errors.0), outage(errors.1), outage(errors.2)] {
                assert!(
                    error.is_no_leader() && error.is_transient(),
                    "{consistency:?}: {error:?}"
                );
            }
        }
    }
    let stale = QueryOptions {
        consistency: Consistency::Stale,
        ..now()
    };
    for error in [
        client.catalog_services(&now()).await.unwrap_err(),
        client.catalog_services(&stale).await.unwrap_err(),
        client.kv_put("a", "b", &PutOptions::default()).await.unwrap_err(),
        client
            .session_create(&SessionRequest::default())
            .await
            .unwrap_err(),
        client.txn(&[set("a", "b")]).await.unwrap_err(),
    ] {
        assert!(error.is_no_leader(), "{error:?}");
    }
    // The agent itself takes services: they wait there for the leader.
    client
        .register_service(&ServiceRegistration::new("web-1", "web"))
        .await
        .unwrap();
    assert!(client.agent_services(None).await.unwrap().contains_key("web-1"));
}

// --- Calls that fail on their way -------------------------------------------------------------------------------------

/// A way to an agent that says when a request has gone through.
async fn observed(agent: &Agent) -> (String, mpsc::Receiver<()>) {
    let target = agent.address().trim_start_matches("http://").to_owned();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let (sender, receiver) = mpsc::channel(16);
    tokio::spawn(async move {
        while let Ok((near, _)) = listener.accept().await {
            let (target, sender) = (target.clone(), sender.clone());
            tokio::spawn(async move {
                let far = TcpStream::connect(target).await?;
                let ((mut from, mut to), (mut back_from, mut back_to)) =
                    (near.into_split(), far.into_split());
                let requests = async {
                    let mut buffer = [0; 4096];
                    loop {
                        let length = from.read(&mut buffer).await?;
                        back_to.write_all(&buffer[..length]).await?;
                        if length == 0 {
                            return std::io::Result::Ok(());
                        }
                        let _ = sender.try_send(());
                    }
                };
                // The far end's close closes the near one, whatever it waits for.
                tokio::select! {
                    result = requests => result,
                    result = tokio::io::copy(&mut back_from, &mut to) => result.map(drop),
                }
            });
        }
    });
    (address, receiver)
}

#[tokio::test]
async fn an_agent_killed_during_a_call_is_a_transient_error_at_once() {
    let agent = Agent::start().await;
    until_joined(agent.client()).await;
    let index = put(agent.client(), "key", "value").await;
    let (address, mut sent) = observed(&agent).await;
    let client = client_of(&address, |_| {});
    let waiting = QueryOptions {
        index: Some(index),
        wait: Some(LONG),
        ..now()
    };
    let (result, killed) = tokio::join!(client.kv_get("key", &waiting), async {
        sent.recv().await.expect("the call is on its way");
        agent.container().command(&["kill"]);
        Instant::now()
    });
    let error = result.unwrap_err();
    assert!(
        matches!(error, Error::Request { .. }) && error.is_transient(),
        "{error:?}"
    );
    assert!(
        error.source().is_some() && error.to_string().contains("read key \"key\""),
        "{}",
        chain(&error)
    );
    assert!(killed.elapsed() < Duration::from_secs(5));
    let error = agent
        .client()
        .kv_put("key", "lost", &PutOptions::default())
        .await
        .unwrap_err();
    assert!(
        matches!(error, Error::Request { .. }) && error.is_transient(),
        "{error:?}"
    );
}

#[tokio::test]
async fn what_was_acknowledged_before_a_kill_is_there_after_it() {
    let agent = Agent::start().await;
    let client = agent.client();
    until_joined(client).await;
    let written = Mutex::new(0_u32);
    let (error, ()) = tokio::join!(
        async {
            loop {
                let n = *written.lock().unwrap() + 1;
                match client
                    .kv_put(&format!("n/{n}"), n.to_string(), &PutOptions::default())
                    .await
                {
                    Ok(true) => *written.lock().unwrap() = n,
                    Ok(false) => panic!("an unconditional write was refused"),
                    Err(error) => return error,
                }
            }
        },
        async {
            let enough = async || {
                if *written.lock().unwrap() > 30 {
                    Ok(())
                } else {
                    Err("not yet".to_owned())
                }
            };
            until("some writes", SOON, enough).await;
            let id = agent.container().id().to_owned();
            // On another thread, so that writes go on meanwhile.
            tokio::task::spawn_blocking(move || integration_tests::docker::docker(&["kill", &id]))
                .await
                .unwrap();
        }
    );
    assert!(
        matches!(error, Error::Request { .. }) && error.is_transient(),
        "{error:?}"
    );
    agent.container().command(&["start"]);
    agent.until_leader().await;
    let written = written.into_inner().unwrap();
    let options = QueryOptions {
        consistency: Consistency::Consistent,
        ..now()
    };
    let found = until("the keys are read", SOON, || async {
        client
            .kv_keys("n/", None, &options)
            .await
            .map_err(|error| error.to_string())
    })
    .await
    .value;
    let lost: Vec<u32> = (1..=written)
        .filter(|n| !found.contains(&format!("n/{n}")))
        .collect();
    assert!(lost.is_empty(), "of {written}: {lost:?}");
    assert!(
        found.len() as u32 - written <= 1,
        "the call that failed may have been done, and no other"
    );
}

// --- Access control ---------------------------------------------------------------------------------------------------

const MASTER: &str = "6d617374-6572-4000-8000-000000000001";
const WRONG: &str = "77726f6e-6700-4000-8000-000000000002";

/// An agent that refuses whoever has no token, and a client whose token is in the file.
async fn guarded(file: &Path) -> (Agent, Client) {
    let acl =
        format!("acl {{ enabled = true default_policy = \"deny\" tokens {{ master = \"{MASTER}\" }} }}");
    let agent = Agent::start_with(&["-hcl", &acl]);
    write_token(file, MASTER);
    let client = client_of(agent.address(), |config| {
        config.token = TokenSource::File(file.to_owned());
    });
    until("the token is known", Duration::from_secs(30), || async {
        client
            .kv_put("a", "b", &PutOptions::default())
            .await
            .map_err(|error| error.to_string())
    })
    .await;
    (agent, client)
}

/// As an operator's tool does it: the new file is moved over the old one.
fn write_token(file: &Path, token: &str) {
    let new = file.with_extension("new");
    fs::write(&new, format!("{token}\n")).unwrap();
    fs::rename(new, file).unwrap();
}

#[tokio::test]
async fn a_token_is_taken_from_its_file_and_from_its_new_content_without_a_restart() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("token");
    let (agent, client) = guarded(&file).await;
    client
        .register_service(&ServiceRegistration::new("web-1", "web"))
        .await
        .unwrap();
    let mut watch = client.watch_kv_prefix(
        "a",
        WatchOptions {
            wait: Duration::from_millis(100),
            ..quick()
        },
    );
    assert_eq!(snapshot(next(&mut watch).await).value.len(), 1);

    write_token(&file, WRONG);
    for error in [
        client.kv_get("a", &now()).await.unwrap_err(),
        client.kv_put("a", "c", &PutOptions::default()).await.unwrap_err(),
        client.catalog_services(&now()).await.unwrap_err(),
        client.health_service("web", &now()).await.unwrap_err(),
        client.agent_services(None).await.unwrap_err(),
        client
            .register_service(&ServiceRegistration::new("web-2", "web"))
            .await
            .unwrap_err(),
        client.deregister_service("web-1").await.unwrap_err(),
        client
            .session_create(&SessionRequest::default())
            .await
            .unwrap_err(),
        outage(next(&mut watch).await),
    ] {
        assert!(
            error.is_forbidden() && !error.is_transient() && !error.is_not_found(),
            "{error:?}"
        );
        assert!(
            !chain(&error).contains(WRONG) && !format!("{error:?}").contains(WRONG),
            "{error:?}"
        );
    }
    assert!(outage(next(&mut watch).await).is_forbidden(), "and never a value");

    write_token(&file, MASTER);
    assert_eq!(value(&client, "a").await.unwrap().value, "b");
    assert!(client.agent_services(None).await.unwrap().contains_key("web-1"));
    let (back, errors) = value_after_outage(&mut watch).await;
    assert!(errors.iter().all(Error::is_forbidden), "{errors:?}");
    assert_eq!((back.continuity, back.value.len()), (Continuity::Resumed, 1));

    let given = client_of(agent.address(), |config| {
        config.token = TokenSource::Value(MASTER.into());
    });
    assert_eq!(value(&given, "a").await.unwrap().value, "b");
    fs::remove_file(&file).unwrap();
    assert!(
        matches!(client.kv_get("a", &now()).await, Err(Error::Token { .. })),
        "the last token is not used"
    );
    assert!(matches!(outage(next(&mut watch).await), Error::Token { .. }));
}

#[tokio::test]
async fn without_a_token_keys_are_refused_and_lists_are_hidden() {
    let directory = tempfile::tempdir().unwrap();
    let (agent, client) = guarded(&directory.path().join("token")).await;
    client
        .register_service(&ServiceRegistration::new("web-1", "web"))
        .await
        .unwrap();
    until_health(&client, "web", |entries| entries.len() == 1).await;
    let anonymous = agent.client();
    assert!(anonymous.kv_get("a", &now()).await.unwrap_err().is_forbidden());
    assert!(
        anonymous
            .kv_put("a", "c", &PutOptions::default())
            .await
            .unwrap_err()
            .is_forbidden()
    );
    assert!(
        anonymous
            .deregister_service("web-1")
            .await
            .unwrap_err()
            .is_forbidden()
    );
    // Consul 1.8.7 hides from lists what a token may not see, without a word: an operator who gives no token where one
    // is needed gets an empty world. Newer versions say so in a header.
    let services = anonymous.catalog_services(&now()).await.unwrap();
    assert!(services.value.is_empty() && anonymous.agent_services(None).await.unwrap().is_empty());
}

// --- TLS and the Unix socket ------------------------------------------------------------------------------------------

/// A certificate authority that lives as long as the test.
struct Authority {
    issuer: rcgen::CertifiedIssuer<'static, rcgen::KeyPair>,
}

impl Authority {
    fn new(name: &str) -> Authority {
        let mut params = rcgen::CertificateParams::default();
        params.distinguished_name.push(rcgen::DnType::CommonName, name);
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        params.key_usages = vec![
            rcgen::KeyUsagePurpose::KeyCertSign,
            rcgen::KeyUsagePurpose::CrlSign,
        ];
        let key = rcgen::KeyPair::generate().unwrap();
        Authority {
            issuer: rcgen::CertifiedIssuer::self_signed(params, key).unwrap(),
        }
    }

    /// Writes its certificate.
    fn write(&self, directory: &Path, name: &str) -> PathBuf {
        written(directory, name, &self.issuer.pem())
    }

    /// Writes a certificate for these names, and its key.
    fn issue(&self, directory: &Path, name: &str, names: &[&str]) -> (PathBuf, PathBuf) {
        let names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
        let mut params = rcgen::CertificateParams::new(names).unwrap();
        params.distinguished_name.push(rcgen::DnType::CommonName, name);
        params.use_authority_key_identifier_extension = true;
        params.extended_key_usages = vec![
            rcgen::ExtendedKeyUsagePurpose::ServerAuth,
            rcgen::ExtendedKeyUsagePurpose::ClientAuth,
        ];
        let key = rcgen::KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        (
            written(directory, &format!("{name}.pem"), &certificate.pem()),
            written(directory, &format!("{name}.key"), &key.serialize_pem()),
        )
    }
}

fn written(directory: &Path, name: &str, text: &str) -> PathBuf {
    let path = directory.join(name);
    fs::write(&path, text).unwrap();
    // The agent runs as another user.
    fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
    path
}

/// A directory that the agent's user may enter, and write to.
fn open_directory() -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o777)).unwrap();
    directory
}

/// An agent with HTTPS beside HTTP, with a certificate of `authority` for `names`; and its port.
async fn secured(directory: &Path, authority: &Authority, names: &[&str], more: &str) -> (Agent, u16) {
    let ca = authority.write(directory, "agent-ca.pem");
    let (certificate, key) = authority.issue(directory, "agent", names);
    let [port] = free_ports();
    let tls = format!(
        "ports {{ https = {port} }} ca_file = {ca:?} cert_file = {certificate:?} key_file = {key:?} {more}"
    );
    let agent = Agent::start_mounting(directory, &["-hcl", &tls]);
    agent.until_leader().await;
    until_joined(agent.client()).await;
    (agent, port)
}

#[tokio::test]
async fn https_works_with_the_right_ca_and_says_what_is_wrong_with_another() {
    let directory = open_directory();
    let (right, wrong) = (Authority::new("right"), Authority::new("wrong"));
    let (_agent, port) = secured(directory.path(), &right, &["127.0.0.1"], "").await;
    let ca_file = Some(right.write(directory.path(), "right.pem"));
    let wrong_ca_file = Some(wrong.write(directory.path(), "wrong.pem"));
    let address = format!("https://127.0.0.1:{port}");
    let with = |address: &str, ca_file: &Option<PathBuf>| {
        client_of(address, |config| {
            config.tls = TlsConfig {
                ca_file: ca_file.clone(),
                ..TlsConfig::default()
            }
        })
    };

    let client = with(&address, &ca_file);
    assert!(client.leader().await.unwrap().is_some());
    let index = put(&client, "key", "value").await;
    let mut watch = client.watch_kv_prefix("key", quick());
    assert_eq!(snapshot(next(&mut watch).await).index, index);

    let error = with(&address, &wrong_ca_file).leader().await.unwrap_err();
    assert!(matches!(error, Error::Request { .. }), "{error:?}");
    assert!(
        chain(&error).contains("UnknownIssuer") && chain(&error).contains(&address),
        "{}",
        chain(&error)
    );
    let error = outage(next(&mut with(&address, &wrong_ca_file).watch_catalog_services(quick())).await);
    assert!(chain(&error).contains("UnknownIssuer"), "{}", chain(&error));

    let error = with(&format!("https://localhost:{port}"), &ca_file)
        .leader()
        .await
        .unwrap_err();
    assert!(
        chain(&error).contains("not valid for name \"localhost\""),
        "{}",
        chain(&error)
    );
    // Plain HTTP at the port of HTTPS: an error, not an answer.
    let error = with(&format!("http://127.0.0.1:{port}"), &None)
        .leader()
        .await
        .unwrap_err();
    assert!(
        matches!(error, Error::Status { code: 400, .. } | Error::Request { .. }),
        "{error:?}"
    );
}

#[tokio::test]
async fn an_agent_that_verifies_its_callers_takes_a_certificate_of_its_ca_and_no_other() {
    let directory = open_directory();
    let (right, wrong) = (Authority::new("right"), Authority::new("wrong"));
    let (_agent, port) = secured(directory.path(), &right, &["127.0.0.1"], "verify_incoming = true").await;
    let ca_file = Some(right.write(directory.path(), "right.pem"));
    let with = |identity: Option<(PathBuf, PathBuf)>| {
        let (client_cert_file, client_key_file) = identity.unzip();
        client_of(&format!("https://127.0.0.1:{port}"), |config| {
            config.tls = TlsConfig {
                ca_file: ca_file.clone(),
                client_cert_file,
                client_key_file,
            };
        })
    };
    let client = with(Some(right.issue(directory.path(), "client", &["client"])));
    put(&client, "key", "value").await;
    assert_eq!(value(&client, "key").await.unwrap().value, "value");

    let foreign = with(Some(wrong.issue(directory.path(), "foreign", &["client"])));
    for client in [with(None), foreign] {
        let error = client.leader().await.unwrap_err();
        assert!(matches!(error, Error::Request { .. }), "{error:?}");
        assert!(
            chain(&error).to_lowercase().contains("certificate"),
            "{}",
            chain(&error)
        );
    }
}

#[tokio::test]
async fn a_unix_socket_serves_all_that_a_port_does() {
    let directory = open_directory();
    let socket = format!("unix://{}", directory.path().join("consul.sock").display());
    // For a tester who is not root.
    let hcl = format!("addresses {{ http = {socket:?} }} unix_sockets {{ mode = \"0777\" }}");
    let agent = Agent::start_mounting(directory.path(), &["-hcl", &hcl]);
    let client = client_of(&socket, |_| {});
    until_joined(&client).await;
    let mut watch = with_a_watched_service(&client, quick()).await;
    client
        .register_service(&ServiceRegistration::new("web-2", "web"))
        .await
        .unwrap();
    let changed = snapshot(next(&mut watch).await);
    assert_eq!(
        (changed.continuity, changed.value.len()),
        (Continuity::Continued, 2)
    );

    agent.container().command(&["kill"]);
    let error = outage(next(&mut watch).await);
    assert!(
        matches!(error, Error::Request { .. }) && error.to_string().contains(&socket),
        "{error:?}"
    );
    agent.container().command(&["start"]);
    let (back, _) = value_after_outage(&mut watch).await;
    assert_eq!((back.continuity, back.value.len()), (Continuity::Resumed, 2));
}

// --- Several servers --------------------------------------------------------------------------------------------------

/// An agent at a loopback address of its own, all of a cluster with the same ports.
struct Node {
    container: Container,
    client: Client,
    ip: String,
}

/// Agents that find each other, and nobody else.
struct Cluster {
    /// The first three bytes of their addresses.
    network: String,
    /// HTTP, server, gossip.
    ports: [u16; 3],
    nodes: Vec<Node>,
}

impl Cluster {
    /// Starts three servers, and waits until all have a vote and are healthy.
    async fn of_three_servers() -> Cluster {
        let mut cluster = Cluster {
            network: format!("127.{}.{}", fastrand::u8(1..), fastrand::u8(..)),
            ports: free_ports(),
            nodes: Vec::new(),
        };
        for _ in 0..3 {
            cluster.start(&[
                "-server",
                "-bootstrap-expect=3",
                "-hcl",
                "autopilot { server_stabilization_time = \"1s\" }",
            ]);
        }
        let first = &cluster.nodes[0].client;
        for other in [2, 3] {
            let address = cluster.gossip(other);
            until("a server is joined", SOON, || async {
                first
                    .join(&address, false)
                    .await
                    .map_err(|error| error.to_string())
            })
            .await;
        }
        until("three voters are healthy", Duration::from_secs(60), || async {
            match first.autopilot_health().await {
                Ok(health) if health.healthy && health.servers.iter().filter(|s| s.voter).count() == 3 => {
                    Ok(())
                }
                other => Err(format!("{other:?}")),
            }
        })
        .await;
        cluster
    }

    /// Starts one more agent, which knows nobody.
    fn start(&mut self, arguments: &[&str]) -> &Node {
        let ip = format!("{}.{}", self.network, self.nodes.len() + 1);
        let [http, server, gossip] = self.ports;
        let named = [
            "agent".to_owned(),
            format!("-node={}", unique("node")),
            "-data-dir=/var/lib/colossus/consul".to_owned(),
            format!("-bind={ip}"),
            format!("-client={ip}"),
            format!("-http-port={http}"),
            format!("-server-port={server}"),
            format!("-serf-lan-port={gossip}"),
            "-serf-wan-port=-1".to_owned(),
            "-dns-port=-1".to_owned(),
            "-hcl=leave_on_terminate = false performance { raft_multiplier = 1 rpc_hold_timeout = \"100ms\" }"
                .to_owned(),
        ];
        let arguments: Vec<&str> = named
            .iter()
            .map(String::as_str)
            .chain(arguments.iter().copied())
            .collect();
        let options = ["--network=host", "--entrypoint=consul"];
        self.nodes.push(Node {
            container: Container::run(&options, "colossus/consul", &arguments),
            client: client_of(&format!("http://{ip}:{http}"), |_| {}),
            ip,
        });
        self.nodes.last().unwrap()
    }

    fn gossip(&self, node: usize) -> String {
        format!("{}.{node}:{}", self.network, self.ports[2])
    }

    /// The server at the address that Raft or autopilot gives.
    fn at(&self, address: &str) -> &Node {
        let found = self
            .nodes
            .iter()
            .find(|node| address.starts_with(&format!("{}:", node.ip)));
        found.unwrap_or_else(|| panic!("nobody is at {address}"))
    }

    /// The leader, and the servers that follow.
    async fn roles(&self) -> (&Node, Vec<&Node>) {
        let servers = self.nodes[0]
            .client
            .raft_configuration(true)
            .await
            .unwrap()
            .servers;
        let (leaders, followers): (Vec<_>, Vec<_>) = servers.iter().partition(|server| server.leader);
        assert_eq!(leaders.len(), 1, "{servers:?}");
        (
            self.at(&leaders[0].address),
            followers.iter().map(|server| self.at(&server.address)).collect(),
        )
    }
}

#[tokio::test]
async fn servers_are_known_to_raft_gossip_and_autopilot_by_the_same_ids_and_addresses() {
    let cluster = Cluster::of_three_servers().await;
    let client = &cluster.nodes[0].client;
    let raft = client.raft_configuration(false).await.unwrap();
    assert_eq!(raft.servers.len(), 3);
    assert!(
        raft.servers
            .iter()
            .all(|s| s.voter && s.protocol_version == "3" && s.socket_address().is_some()),
        "{raft:?}"
    );
    let mut peers = client.peers().await.unwrap();
    peers.sort();
    let mut addresses: Vec<_> = raft.servers.iter().map(|s| s.address.clone()).collect();
    addresses.sort();
    assert_eq!(addresses, peers);
    let leader = raft.servers.iter().find(|s| s.leader).unwrap();
    assert_eq!(client.leader().await.unwrap(), Some(leader.address.clone()));
    for node in &cluster.nodes {
        let stale = node.client.raft_configuration(true).await.unwrap();
        assert_eq!(stale.servers.len(), 3, "{stale:?}");
    }

    let members = client.agent_members(false).await.unwrap();
    let health = client.autopilot_health().await.unwrap();
    assert!(
        health.healthy && health.failure_tolerance == 1 && health.servers.len() == 3,
        "{health:?}"
    );
    for server in &raft.servers {
        let member = members.iter().find(|m| m.name == server.node).unwrap();
        assert_eq!(
            (member.is_server(), member.node_id(), member.expects()),
            (true, Some(server.id.as_str()), Some(3))
        );
        let seen = health.servers.iter().find(|s| s.id == server.id).unwrap();
        assert_eq!(
            (&seen.name, &seen.address, seen.leader, seen.serf_status),
            (&server.node, &server.address, server.leader, MemberStatus::Alive)
        );
        assert!(
            seen.healthy && seen.voter && seen.last_contact.is_some(),
            "{seen:?}"
        );

        let node = cluster.at(&server.address);
        let agent = node.client.agent_self().await.unwrap();
        assert_eq!(
            (&agent.config.node_id, &agent.config.node_name),
            (&server.id, &server.node)
        );
        let ip = Some(node.ip.parse().unwrap());
        assert_eq!(
            (
                agent.debug_config.advertise_address,
                agent.debug_config.bind_address
            ),
            (ip, ip)
        );
        assert_eq!(agent.debug_config.bootstrap_expect, Some(3));
        assert_eq!(
            (agent.debug_config.bootstrap, agent.debug_config.acls_enabled),
            (Some(false), Some(false))
        );
        assert_eq!(
            agent.debug_config.data_dir.as_deref(),
            Some("/var/lib/colossus/consul")
        );
    }
}

#[tokio::test]
async fn a_lost_server_makes_the_cluster_unhealthy_until_it_is_removed() {
    let cluster = Cluster::of_three_servers().await;
    let (leader, followers) = cluster.roles().await;
    let client = &leader.client;

    let old = client.autopilot_configuration().await.unwrap();
    assert!(old.cleanup_dead_servers && old.server_stabilization_time == Some(Duration::from_secs(1)));
    let new = AutopilotConfiguration {
        cleanup_dead_servers: false,
        ..old.clone()
    };
    let stale = Some(old.modify_index + 1_000);
    assert!(!client.set_autopilot_configuration(&new, stale).await.unwrap());
    assert_eq!(client.autopilot_configuration().await.unwrap(), old);
    assert!(
        client
            .set_autopilot_configuration(&new, Some(old.modify_index))
            .await
            .unwrap()
    );
    let read = client.autopilot_configuration().await.unwrap();
    assert!(read.modify_index > old.modify_index);
    assert_eq!(
        AutopilotConfiguration {
            modify_index: old.modify_index,
            ..read
        },
        new,
        "nothing else has changed"
    );

    let lost = followers[0];
    lost.container.command(&["kill"]);
    let health = until("autopilot misses the server", Duration::from_secs(60), || async {
        let health = client
            .autopilot_health()
            .await
            .map_err(|error| error.to_string())?;
        let failed = health
            .servers
            .iter()
            .any(|s| s.serf_status == MemberStatus::Failed && !s.healthy);
        if failed {
            Ok(health)
        } else {
            Err(format!("{health:?}"))
        }
    })
    .await;
    assert!(!health.healthy && health.failure_tolerance == 0, "{health:?}");
    let dead = health.servers.iter().find(|s| !s.healthy).unwrap().clone();
    assert!(
        dead.address.starts_with(&lost.ip) && dead.last_contact.is_none() && dead.voter,
        "{dead:?}"
    );

    assert!(client.raft_remove_peer(RaftPeer::Id(&dead.id)).await.unwrap());
    for peer in [RaftPeer::Id(&dead.id), RaftPeer::Address(&dead.address)] {
        assert!(
            !client.raft_remove_peer(peer).await.unwrap(),
            "{peer} is gone already"
        );
    }
    let left = client.raft_configuration(false).await.unwrap();
    assert_eq!(left.servers.len(), 2, "{left:?}");
    client.force_leave(&dead.name, true).await.unwrap();
    until("gossip forgets it", SOON, || async {
        let members = client.agent_members(false).await.map_err(|e| e.to_string())?;
        if members.iter().any(|m| m.name == dead.name) {
            Err(format!("{members:?}"))
        } else {
            Ok(())
        }
    })
    .await;
}

#[tokio::test]
async fn without_a_leader_only_stale_answers_are_to_be_had() {
    let cluster = Cluster::of_three_servers().await;
    let (leader, followers) = cluster.roles().await;
    client_writes_a_key(&leader.client, "kept").await;
    let client = &followers[0].client;
    until("it has the key", SOON, || async {
        let stale = QueryOptions {
            consistency: Consistency::Stale,
            ..now()
        };
        let found = client.kv_get("kept", &stale).await.map_err(|e| e.to_string())?;
        found.value.map(drop).ok_or_else(|| "not yet".to_owned())
    })
    .await;
    leader.container.command(&["kill"]);
    followers[1].container.command(&["kill"]);
    until("there is no leader", Duration::from_secs(30), || async {
        match client.leader().await {
            Ok(None) => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;

    let mut saved = Vec::new();
    for error in [
        client.raft_configuration(false).await.unwrap_err(),
        client.autopilot_health().await.unwrap_err(),
        client.autopilot_configuration().await.unwrap_err(),
        client
            .raft_remove_peer(RaftPeer::Address("127.0.0.1:1"))
            .await
            .unwrap_err(),
        client.snapshot_save(&mut saved, false, SOON).await.unwrap_err(),
    ] {
        assert!(error.is_no_leader() && error.is_transient(), "{error:?}");
    }
    assert!(saved.is_empty());
    let raft = client.raft_configuration(true).await.unwrap();
    assert!(
        raft.servers.len() == 3 && raft.servers.iter().all(|s| !s.leader),
        "{raft:?}"
    );
    let info = client.snapshot_save(&mut saved, true, SOON).await.unwrap();
    assert_eq!(verify_snapshot(&mut saved.as_slice()).await.unwrap(), info);
}

#[tokio::test]
async fn a_client_joins_and_leaves_without_a_trace_in_raft() {
    let mut cluster = Cluster::of_three_servers().await;
    let server = cluster.gossip(1);
    cluster.start(&[]);
    let [first, .., joining] = &cluster.nodes[..] else {
        panic!("four nodes")
    };
    until("the client joins", SOON, || async {
        joining
            .client
            .join(&server, false)
            .await
            .map_err(|error| error.to_string())
    })
    .await;
    let name = node_of(&joining.client).await;
    let seen = |status| {
        let name = &name;
        until("the servers see it", SOON, move || async move {
            let members = first
                .client
                .agent_members(false)
                .await
                .map_err(|e| e.to_string())?;
            let found = members
                .iter()
                .find(|m| m.name == *name && m.status == status)
                .cloned();
            found.ok_or_else(|| format!("{members:?}"))
        })
    };
    let member = seen(MemberStatus::Alive).await;
    assert_eq!(
        (member.is_server(), member.expects(), member.addr.as_str()),
        (false, None, joining.ip.as_str())
    );
    let agent = joining.client.agent_self().await.unwrap();
    assert_eq!(
        (agent.config.server, Some(agent.config.node_id.as_str())),
        (false, member.node_id())
    );
    // A client asks the servers, once its own gossip has told it of them.
    let raft = until("it knows the servers", SOON, || async {
        joining
            .client
            .raft_configuration(false)
            .await
            .map_err(|error| error.to_string())
    })
    .await;
    assert_eq!(raft.servers.len(), 3);

    // It may be gone before it has answered.
    let _ = joining.client.leave().await;
    seen(MemberStatus::Left).await;
    assert_eq!(
        first
            .client
            .raft_configuration(false)
            .await
            .unwrap()
            .servers
            .len(),
        3
    );
}

// --- The agent's own configuration ------------------------------------------------------------------------------------

#[tokio::test]
async fn a_reload_takes_what_is_new_and_a_mistake_changes_nothing() {
    let directory = open_directory();
    let define = |name: &str| {
        let text = format!("service {{ id = \"from-file\" name = \"{name}\" }}");
        written(directory.path(), "service.hcl", &text);
    };
    define("old");
    let path = directory.path().to_str().unwrap();
    let agent = Agent::start_mounting(directory.path(), &["-config-dir", path]);
    agent.until_leader().await;
    let client = agent.client();
    let name = || async {
        client.agent_services(None).await.unwrap()["from-file"]
            .service
            .clone()
    };
    assert_eq!(name().await, "old");
    define("new");
    client.reload().await.unwrap();
    assert_eq!(name().await, "new");
    written(directory.path(), "service.hcl", "service {");
    let error = client.reload().await.unwrap_err();
    assert_eq!(error.status(), Some(500), "{error:?}");
    assert_eq!(name().await, "new");
}

// --- The gossip keyring -----------------------------------------------------------------------------------------------

const OLD_KEY: &str = "pUqJrVyVRj5jsiYEkM/tFQYfWyJIv4s3XkvDwy7Cu5s=";
const NEW_KEY: &str = "8vwKVTMRH3ed8io6IrLQbkFFUY70xyFwgvcK9AVKex4=";

/// Each key of the LAN pool, with the agents that read and that write with it.
async fn keys(client: &Client) -> BTreeMap<String, (u32, u32)> {
    let rings = client.keyring().await.unwrap();
    assert!(
        !format!("{rings:?}").contains(OLD_KEY),
        "a key is not in debug output"
    );
    let ring = rings.iter().find(|ring| !ring.wan).expect("the LAN pool");
    assert_eq!((ring.datacenter.as_str(), ring.nodes), ("dc1", 1));
    ring.keys
        .iter()
        .map(|key| (key.key.expose_secret().to_owned(), (key.nodes, key.primary_on)))
        .collect()
}

#[tokio::test]
async fn a_gossip_key_is_installed_used_and_the_old_one_removed() {
    let agent = Agent::start_with(&["-encrypt", OLD_KEY]);
    agent.until_leader().await;
    let client = agent.client();
    let (old, new) = (SecretString::from(OLD_KEY), SecretString::from(NEW_KEY));
    let at = |key: &str, counts| (key.to_owned(), counts);
    assert_eq!(keys(client).await, BTreeMap::from([at(OLD_KEY, (1, 1))]));

    let error = client.keyring_use(&new).await.unwrap_err();
    assert_eq!(error.status(), Some(500), "not installed yet: {error:?}");
    assert!(!format!("{error:?}").contains(NEW_KEY), "{error:?}");
    for _ in 0..2 {
        client.keyring_install(&new).await.unwrap();
    }
    assert_eq!(
        keys(client).await,
        BTreeMap::from([at(OLD_KEY, (1, 1)), at(NEW_KEY, (1, 0))])
    );
    let error = client.keyring_remove(&old).await.unwrap_err();
    assert_eq!(error.status(), Some(500), "it is in use: {error:?}");
    client.keyring_use(&new).await.unwrap();
    for _ in 0..2 {
        client.keyring_remove(&old).await.unwrap();
    }
    assert_eq!(keys(client).await, BTreeMap::from([at(NEW_KEY, (1, 1))]));
    for wrong in ["c2hvcnQ=", "no base64"] {
        assert!(client.keyring_install(&wrong.into()).await.is_err(), "{wrong}");
    }
}

#[tokio::test]
async fn without_encryption_there_is_no_keyring_and_without_access_control_none_to_bootstrap() {
    let Shared { client, .. } = &Shared::agent().await;
    let error = client.keyring().await.unwrap_err();
    assert_eq!(error.status(), Some(500), "{error:?}");
    let error = client.acl_bootstrap().await.unwrap_err();
    assert!(error.is_forbidden() && !error.is_transient(), "{error:?}");
}

// --- Snapshots --------------------------------------------------------------------------------------------------------

async fn client_writes_a_key(client: &Client, key: &str) {
    assert!(client.kv_put(key, "v", &PutOptions::default()).await.unwrap());
}

#[tokio::test]
async fn a_snapshot_brings_back_what_was_there_and_a_broken_one_changes_nothing() {
    let agent = Agent::start().await;
    let client = agent.client();
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("snapshot");
    client_writes_a_key(client, "before").await;

    let mut file = tokio::fs::File::create(&path).await.unwrap();
    let info = client.snapshot_save(&mut file, false, SOON).await.unwrap();
    let saved = fs::read(&path).unwrap();
    assert_eq!(
        (info.archive_size, info.index > 0, info.term > 0),
        (saved.len() as u64, true, true)
    );
    let mut file = tokio::fs::File::open(&path).await.unwrap();
    assert_eq!(verify_snapshot(&mut file).await.unwrap(), info);

    client_writes_a_key(client, "after").await;
    let unchanged = || async {
        assert!(value(client, "before").await.is_some() && value(client, "after").await.is_some());
    };
    for cut in [0, 1, saved.len() / 2, saved.len() - 1] {
        let part = std::io::Cursor::new(saved[..cut].to_vec());
        assert!(matches!(
            verify_snapshot(&mut part.clone()).await,
            Err(Error::Archive { .. })
        ));
        let error = client.snapshot_restore(part, SOON).await.unwrap_err();
        assert_eq!(error.status(), Some(500), "{cut}: {error:?}");
        unchanged().await;
    }
    let failing = failing_reader(&saved[..saved.len() / 2]);
    let error = client.snapshot_restore(failing, SOON).await.unwrap_err();
    assert!(
        matches!(error, Error::Request { .. }) && chain(&error).contains("the disk is gone"),
        "{}",
        chain(&error)
    );
    unchanged().await;

    let file = tokio::fs::File::open(&path).await.unwrap();
    client.snapshot_restore(file, SOON).await.unwrap();
    assert!(value(client, "before").await.is_some());
    assert!(
        value(client, "after").await.is_none(),
        "what came later is gone with it"
    );
}

/// Gives these bytes and then fails.
fn failing_reader(bytes: &[u8]) -> impl tokio::io::AsyncRead + Send + Unpin + 'static {
    struct Failing;
    impl tokio::io::AsyncRead for Failing {
        fn poll_read(
            self: std::pin::Pin<&mut Self>,
            _: &mut std::task::Context<'_>,
            _: &mut tokio::io::ReadBuf<'_>,
        ) -> std::task::Poll<std::io::Result<()>> {
            std::task::Poll::Ready(Err(std::io::Error::other("the disk is gone")))
        }
    }
    std::io::Cursor::new(bytes.to_vec()).chain(Failing)
}

// --- Bootstrapping access control -------------------------------------------------------------------------------------

fn with_token(agent: &Agent, token: &AclToken) -> Client {
    client_of(agent.address(), |config| {
        config.token = TokenSource::Value(token.secret_id.clone());
    })
}

/// The first token, once the servers have agreed to use access control.
async fn bootstrapped(client: &Client) -> AclToken {
    until(
        "access control is bootstrapped",
        Duration::from_secs(30),
        || async {
            match client.acl_bootstrap().await {
                Ok(AclBootstrap::Done(token)) => Ok(token),
                Ok(other) => panic!("{other:?}"),
                Err(error) => {
                    assert!(error.is_transient(), "{error:?}");
                    Err(error.to_string())
                }
            }
        },
    )
    .await
}

#[tokio::test]
async fn of_all_who_bootstrap_access_control_one_gets_the_token_and_the_others_how_to_reset() {
    let agent = Agent::start_with(&["-hcl", "acl { enabled = true default_policy = \"deny\" }"]);
    agent.until_leader().await;
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..8 {
        let client = agent.client().clone();
        tasks.spawn(async move {
            until("an outcome", Duration::from_secs(30), || async {
                client.acl_bootstrap().await.map_err(|error| error.to_string())
            })
            .await
        });
    }
    let outcomes = tasks.join_all().await;
    let mut tokens = outcomes.iter().filter_map(|outcome| match outcome {
        AclBootstrap::Done(token) => Some(token),
        AclBootstrap::AlreadyDone { .. } => None,
    });
    let first = tokens.next().expect("a winner");
    assert!(tokens.next().is_none(), "{outcomes:?}");
    // Who loses by a hair is not told the index.
    let reset_index = || async {
        match agent.client().acl_bootstrap().await.unwrap() {
            AclBootstrap::AlreadyDone { reset_index } => reset_index.expect("an index"),
            AclBootstrap::Done(_) => panic!("twice"),
        }
    };
    let index = reset_index().await;
    for outcome in &outcomes {
        if let AclBootstrap::AlreadyDone {
            reset_index: Some(told),
        } = outcome
        {
            assert_eq!(*told, index);
        }
    }
    assert!(!format!("{outcomes:?}").contains(first.secret_id.expose_secret()));

    let write = |number: u64| {
        let write = format!("printf {number} > /var/lib/colossus/consul/acl-bootstrap-reset");
        docker(&["exec", agent.container().id(), "sh", "-c", &write]);
    };
    write(index + 1);
    assert_eq!(reset_index().await, index, "a wrong number resets nothing");
    write(index);
    let second = bootstrapped(agent.client()).await;
    assert_ne!(first.secret_id.expose_secret(), second.secret_id.expose_secret());
    for token in [first, &second] {
        let read = with_token(&agent, token).acl_token_self().await.unwrap();
        assert_eq!(read.accessor_id, token.accessor_id);
        assert_eq!(read.policies[0].name, "global-management");
    }
}

#[tokio::test]
async fn a_token_may_do_what_its_policies_say_and_no_more() {
    let agent = Agent::start_with(&["-hcl", "acl { enabled = true default_policy = \"deny\" }"]);
    agent.until_leader().await;
    let admin = with_token(&agent, &bootstrapped(agent.client()).await);

    let mut request = AclPolicyRequest {
        name: "keys".into(),
        description: "for the test".into(),
        rules: "key_prefix \"a/\" { policy = \"read\" }".into(),
        datacenters: vec![],
    };
    assert_eq!(admin.acl_policy("keys").await.unwrap(), None);
    let unknown = AclTokenRequest::with_policies(["keys"]);
    assert_eq!(
        admin.acl_token_create(&unknown).await.unwrap_err().status(),
        Some(500)
    );
    let made = admin.acl_policy_create(&request).await.unwrap();
    assert_eq!(admin.acl_policy("keys").await.unwrap(), Some(made.clone()));
    assert_eq!(
        (&made.name, &made.description, &made.rules),
        (&request.name, &request.description, &request.rules)
    );
    assert_eq!(
        admin.acl_policy_create(&request).await.unwrap_err().status(),
        Some(500),
        "taken"
    );
    let listed = admin.acl_policies().await.unwrap();
    let mut names: Vec<_> = listed.iter().map(|policy| policy.name.as_str()).collect();
    names.sort_unstable();
    assert_eq!(names, ["global-management", "keys"]);

    let request_token = AclTokenRequest {
        description: "for the test".into(),
        accessor_id: Some("6d617374-6572-4000-8000-00000000000a".into()),
        secret_id: Some("6d617374-6572-4000-8000-00000000000b".into()),
        ..unknown
    };
    let token = admin.acl_token_create(&request_token).await.unwrap();
    assert_eq!(
        (Some(&token.accessor_id), token.secret_id.expose_secret()),
        (
            request_token.accessor_id.as_ref(),
            "6d617374-6572-4000-8000-00000000000b"
        )
    );
    assert_eq!(
        (token.policies[0].id.as_str(), token.policies[0].name.as_str()),
        (made.id.as_str(), "keys")
    );
    let error = admin.acl_token_create(&request_token).await.unwrap_err();
    assert!(
        error.status() == Some(500) && !format!("{error:?}").contains(token.secret_id.expose_secret()),
        "{error:?}"
    );
    let other = admin
        .acl_token_create(&AclTokenRequest::with_policies(["keys"]))
        .await
        .unwrap();
    assert_ne!(other.secret_id.expose_secret(), token.secret_id.expose_secret());

    let client = with_token(&agent, &token);
    let read = client.acl_token_self().await.unwrap();
    assert_eq!(
        (&read.description, read.local),
        (&request_token.description, false)
    );
    client.kv_get("a/b", &now()).await.unwrap();
    let put = || async { client.kv_put("a/b", "v", &PutOptions::default()).await };
    assert!(put().await.unwrap_err().is_forbidden());
    assert!(client.acl_policies().await.unwrap_err().is_forbidden());
    assert!(client.raft_configuration(true).await.unwrap_err().is_forbidden());
    assert!(client.keyring().await.unwrap_err().is_forbidden());
    assert!(client.reload().await.unwrap_err().is_forbidden());
    let error = client
        .snapshot_save(&mut Vec::new(), false, SOON)
        .await
        .unwrap_err();
    assert!(error.is_forbidden(), "{error:?}");

    request.rules = "key_prefix \"a/\" { policy = \"write\" }".into();
    let updated = admin.acl_policy_update(&made.id, &request).await.unwrap();
    assert!(updated.modify_index > made.modify_index && updated.id == made.id);
    until("the policy's new rules hold", SOON, || async {
        put().await.map_err(|error| error.to_string())
    })
    .await;

    let stranger = client_of(agent.address(), |config| {
        config.token = TokenSource::Value(WRONG.into());
    });
    assert!(stranger.acl_token_self().await.unwrap_err().is_forbidden());
    assert!(stranger.acl_policy("keys").await.unwrap_err().is_forbidden());
    assert!(
        agent
            .client()
            .acl_policy("keys")
            .await
            .unwrap_err()
            .is_forbidden()
    );
}
