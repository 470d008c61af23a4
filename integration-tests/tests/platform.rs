//! The one-machine platform does its main job, and goes on doing it while its parts die.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "a test fails by panicking, also in the functions that its tests share"
)]

use std::time::Duration;

use consul::{CatalogRegistration, CatalogService, QueryOptions};
use contract::META_OWNER;
use integration_tests::agent::Agent;
use integration_tests::docker::{Container, docker, try_docker, unique};
use integration_tests::http::Client;
use integration_tests::load::{Load, Tally};
use integration_tests::platform::Platform;
use integration_tests::router::{Router, routed_service};
use integration_tests::wait::{throughout, until};

/// Generous: what must happen within it takes tens of milliseconds on an idle machine.
const SOON: Duration = Duration::from_secs(20);

const CLIENTS: usize = 8;
const PAUSE: Duration = Duration::from_millis(5);

/// A load on `service` that is under way: the first answers are in.
async fn load_on(platform: &Platform, service: &str) -> Load {
    platform.until_status(service, 200, SOON).await;
    Load::start(platform.http(), &platform.host(service), CLIENTS, PAUSE)
}

async fn no_request_was_lost(load: Load) -> Tally {
    let tally = load.stop().await;
    assert_eq!(tally.failed, [].into(), "of {} requests", tally.ok);
    assert!(tally.ok > 20, "too few requests to say anything: {}", tally.ok);
    tally
}

/// The host names of the instances that answer, seen until `count` different ones have.
async fn answering(platform: &Platform, service: &str, count: usize) -> Vec<String> {
    until(
        &format!("{count} instances of {service} answer"),
        SOON,
        || async {
            let mut hosts = std::collections::BTreeSet::new();
            for _ in 0..count * 4 {
                let answer = platform.get(service).await?;
                let json: serde_json::Value =
                    serde_json::from_str(&answer.body).map_err(|e| format!("{e}: {answer:?}"))?;
                hosts.insert(json["host"].as_str().unwrap_or_default().to_owned());
            }
            if hosts.len() == count {
                Ok(hosts.into_iter().collect())
            } else {
                Err(format!("{hosts:?} answer"))
            }
        },
    )
    .await
}

/// Waits until HAProxy runs a configuration in which `service` has exactly these servers.
async fn until_applied(platform: &Platform, service: &str, servers: &[String]) {
    until(
        &format!("{service} has the servers {servers:?}"),
        SOON,
        || async {
            let status = platform.router_status().await?;
            let routed = status["routing"]["routes"][platform.host(service)]["servers"].as_object();
            let routed: Option<Vec<_>> =
                routed.map(|servers| servers.values().filter_map(|server| server.as_str()).collect());
            let applied = &status["routes"]["last_change"]["report"]["generation"];
            if routed.is_some_and(|routed| routed == servers) && *applied == status["routing"]["generation"] {
                Ok(())
            } else {
                Err(format!("{:#}", status["routes"]))
            }
        },
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_started_container_answers_by_name_and_a_stopped_one_is_not_missed() {
    let platform = Platform::up();
    let service = unique("example");
    assert_eq!(platform.get(&service).await.unwrap().status, 404);

    let first = Container::example(&service, &[]);
    platform.until_status(&service, 200, SOON).await;
    let second = Container::example(&service, &[]);
    let mut expected = [first.hostname().to_owned(), second.hostname().to_owned()];
    expected.sort();
    assert_eq!(answering(&platform, &service, 2).await, expected);

    let load = load_on(&platform, &service).await;
    first.command(&["stop"]);
    assert_eq!(answering(&platform, &service, 1).await, [second.hostname()]);
    no_request_was_lost(load).await;

    second.command(&["stop"]);
    platform.until_status(&service, 503, SOON).await;
    let page = platform.get(&service).await.unwrap();
    assert!(
        page.body.contains(&platform.host(&service)),
        "the page names the service: {}",
        page.body
    );
    assert_eq!(page.header("cache-control"), Some("no-store"));

    // Both explain what they did last and how long it took.
    let registrator = platform.registrator_status().await.unwrap();
    let change = &registrator["containers"]["last_change"];
    assert!(
        change["report"]["deregistered"][0]
            .as_str()
            .unwrap()
            .ends_with(":80"),
        "{change:#}"
    );
    assert!(
        change["took_ms"].is_u64() && change["reasons"][0].as_str().unwrap().contains("die"),
        "{change:#}"
    );
    let router = platform.router_status().await.unwrap();
    let change = &router["routes"]["last_change"];
    assert_eq!(
        change["report"]["reasons"][0]["reason"], "server_removed",
        "{change:#}"
    );
    assert!(
        change["report"]["reload_ms"].is_u64() && change["took_ms"].is_u64(),
        "{change:#}"
    );

    // And it is still known when the router starts anew.
    platform.command(&["restart"], "router-config");
    platform.until_part_ready("router-config").await;
    assert_eq!(platform.get(&service).await.unwrap().status, 503);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_answers_by_the_name_of_a_node_from_its_instances_there_only() {
    let platform = Platform::up();
    let consul = platform.consul();
    let service = unique("placed");
    let nodes = consul.catalog_nodes(&QueryOptions::default()).await.unwrap();
    let here = nodes.value[0].node.to_ascii_lowercase();
    let on = |node: &str| format!("{service}.{node}");

    let first = Container::example(&service, &[]);
    platform.until_status(&on(&here), 200, SOON).await;
    // Instances of nodes that have no agent here, at the address of one container; one name is no DNS label.
    let far = Container::run(&[], "colossus/example-web", &[]);
    for (node, id) in [("Elsewhere", "far"), ("no_label", "unroutable")] {
        let instance = CatalogService {
            id: id.to_owned(),
            service: service.clone(),
            address: far.ip(),
            port: 80,
            meta: [(META_OWNER.to_owned(), "integration-tests".to_owned())].into(),
            ..CatalogService::default()
        };
        consul
            .catalog_register(&CatalogRegistration {
                node: node.to_owned(),
                address: far.ip(),
                service: Some(instance),
                ..CatalogRegistration::default()
            })
            .await
            .unwrap();
    }
    platform.until_status(&on("elsewhere"), 200, SOON).await;
    let second = Container::example(&service, &[]);
    let mut expected = [first.hostname().to_owned(), second.hostname().to_owned()];
    expected.sort();
    assert_eq!(answering(&platform, &on(&here), 2).await, expected);
    assert_eq!(answering(&platform, &on("elsewhere"), 1).await, [far.hostname()]);
    assert_eq!(answering(&platform, &service, 3).await.len(), 3);
    until("the node without a label is named", SOON, || async {
        let rejected = &platform.router_status().await?["routing"]["rejected_nodes"];
        match rejected["no_label"].as_str() {
            Some(reason) if reason.contains("no-label") => Ok(()),
            _ => Err(rejected.to_string()),
        }
    })
    .await;

    // A node where a known service has nothing is no reason for 404, a service that nobody knows is.
    for node in ["nowhere", "no_label", "a.b"] {
        let status = platform.get(&on(node)).await.unwrap().status;
        assert_eq!(status, if node == "nowhere" { 503 } else { 404 }, "{node}");
    }
    let unknown = format!("{}.{here}", unique("unknown"));
    assert_eq!(platform.get(&unknown).await.unwrap().status, 404);

    // The last ones on this node go under load: the others have nothing to do with it.
    let load = load_on(&platform, &on("elsewhere")).await;
    first.command(&["stop"]);
    second.command(&["stop"]);
    platform.until_status(&on(&here), 503, SOON).await;
    let answer = platform.get(&on(&here)).await.unwrap();
    assert!(
        answer.body.contains(&platform.host(&on(&here))),
        "the page names the host: {}",
        answer.body
    );
    assert_eq!(answer.header("cache-control"), Some("no-store"));
    assert_eq!(answering(&platform, &service, 1).await, [far.hostname()]);
    no_request_was_lost(load).await;

    // It dies and nobody says so: the node's route knows from the checks of the service's.
    far.command(&["kill"]);
    platform.until_status(&on("elsewhere"), 503, SOON).await;
    platform.until_status(&service, 503, SOON).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn taking_it_down_leaves_nothing() {
    let platform = Platform::up();
    let project = platform.project().to_owned();
    // Twice up is once up.
    platform.run("up.sh").unwrap();
    drop(platform);
    let label = format!("label=com.docker.compose.project={project}");
    for list in [
        &["ps", "-aq"][..],
        &["volume", "ls", "-q"],
        &["network", "ls", "-q"],
    ] {
        assert_eq!(docker(&[list, &["--filter", &label]].concat()), "", "{list:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn killing_each_part_under_load_loses_no_request_and_each_recovers() {
    let platform = Platform::up();
    let service = unique("steady");
    let _instance = Container::example(&service, &[]);
    let load = load_on(&platform, &service).await;

    for part in ["registrator", "router-config", "consul"] {
        platform.command(&["kill"], part);
        let name = unique(&format!("after-{part}"));
        let late = Container::example(&name, &[]);
        // Nothing routes it while the part is dead, and nothing else suffers.
        throughout("the rest goes on", Duration::from_millis(500), || async {
            match (
                platform.get(&service).await?.status,
                platform.get(&name).await?.status,
            ) {
                (200, 404) => Ok(()),
                other => Err(format!("{other:?}")),
            }
        })
        .await;
        platform.command(&["start"], part);
        platform.until_status(&name, 200, SOON).await;
        platform.until_ready().await;
        drop(late);
        platform.until_status(&name, 503, SOON).await;
    }
    no_request_was_lost(load).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_consul_that_comes_back_empty_empties_no_route() {
    let platform = Platform::up();
    let service = unique("kept");
    let instance = Container::example(&service, &[]);
    let load = load_on(&platform, &service).await;

    // Registrator stays away, so that nobody registers anything again: all that is left is what the router knew.
    platform.command(&["stop"], "registrator");
    platform.wipe_consul().await;
    // Other tests' containers may be held, too.
    let held = || async {
        let consul = &platform.router_status().await?["consul"];
        let held = consul["held"]
            .as_array()
            .into_iter()
            .flatten()
            .filter(|held| held["service"] == *service)
            .count();
        Ok::<_, String>((consul["available"] == true, held))
    };
    until("Consul is back and the instance is held", SOON, || async {
        match held().await? {
            (true, 1) => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
    throughout("the route stays", Duration::from_millis(500), || async {
        match platform.get(&service).await?.status {
            200 => Ok(()),
            other => Err(other.to_string()),
        }
    })
    .await;

    // A router that starts now knows it, too.
    platform.command(&["restart"], "router-config");
    platform.until_part_ready("router-config").await;
    assert_eq!(platform.get(&service).await.unwrap().status, 200);

    // Once registered again, it is confirmed; then its end is believed at once.
    platform.command(&["start"], "registrator");
    until("it is not held any more", SOON, || async {
        match held().await? {
            (true, 0) => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
    no_request_was_lost(load).await;
    instance.command(&["stop"]);
    platform.until_status(&service, 503, SOON).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn registrator_repairs_an_agent_that_was_restarted_or_wiped() {
    let platform = Platform::up();
    let service = unique("repaired");
    let _instance = Container::example(&service, &[]);
    platform.until_status(&service, 200, SOON).await;
    let consul = platform.consul();
    let registered = || async {
        let services = consul
            .agent_services(None)
            .await
            .map_err(|error| error.to_string())?;
        if services.values().any(|s| s.service == service) {
            Ok(())
        } else {
            Err("it is not there".to_owned())
        }
    };
    platform.wipe_consul().await;
    until("registered again after a wipe", SOON, registered).await;

    platform.command(&["restart"], "consul");
    until("registered again after a restart", SOON, registered).await;

    let id = consul
        .agent_services(None)
        .await
        .unwrap()
        .into_iter()
        .find(|(_, s)| s.service == service)
        .unwrap()
        .0;
    consul.deregister_service(&id).await.unwrap();
    until(
        "registered again after somebody's deregistration",
        SOON,
        registered,
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn haproxy_serves_what_it_last_served_when_it_starts_without_router_config() {
    let platform = Platform::up();
    let service = unique("cold");
    let _instance = Container::example(&service, &[]);
    platform.until_status(&service, 200, SOON).await;

    platform.command(&["stop"], "router-config");
    platform.command(&["kill"], "haproxy");
    platform.command(&["start"], "haproxy");
    platform.until_status(&service, 200, SOON).await;

    // And a change that came while HAProxy was dead is in what it starts with.
    platform.command(&["start"], "router-config");
    platform.until_ready().await;
    platform.command(&["kill"], "haproxy");
    let late = unique("late");
    let _late = Container::example(&late, &[]);
    until(
        "router-config says that HAProxy is away, and has written",
        SOON,
        || async {
            let status = platform.router_status().await?;
            let error = status["routes"]["last_run"]["error"].as_str().unwrap_or_default();
            let routed = &status["routing"]["routes"][platform.host(&late)]["servers"];
            if error.contains("does not answer")
                && routed.as_object().is_some_and(|servers| servers.len() == 1)
            {
                Ok(())
            } else {
                Err(format!("{status:#}"))
            }
        },
    )
    .await;
    platform.command(&["start"], "haproxy");
    platform.until_status(&late, 200, SOON).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn twenty_reloads_under_load_lose_no_request() {
    let platform = Platform::up();
    let service = unique("steady");
    let _instances = [
        Container::example(&service, &[]),
        Container::example(&service, &[]),
    ];
    let load = load_on(&platform, &service).await;
    let reloads = r#"router_config_reloads_total{result="ok"}"#;
    let before = platform.router_metric(reloads).await.unwrap();
    let consul = platform.consul();
    let made = unique("made");
    for port in 1001..=1020 {
        consul
            .register_service(&routed_service(&made, "127.0.0.1", port))
            .await
            .unwrap();
        until_applied(&platform, &made, &[format!("127.0.0.1:{port}")]).await;
    }
    assert!(platform.router_metric(reloads).await.unwrap() - before >= 20.0);
    no_request_was_lost(load).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_configuration_that_haproxy_refuses_changes_nothing() {
    let platform = Platform::up();
    let service = unique("steady");
    let _instance = Container::example(&service, &[]);
    let load = load_on(&platform, &service).await;
    platform.command(&["stop"], "router-config");
    let before = platform.router_file("haproxy.cfg");

    // An address that this host does not have: the file is well-formed and HAProxy cannot run it.
    let wrong = platform.run_router_config(&["--http-addr", "203.0.113.1:8099"]);
    until("router-config says that HAProxy refused it", SOON, || async {
        let status = platform.router_status().await?;
        let error = status["routes"]["last_run"]["error"]
            .as_str()
            .unwrap_or_default()
            .to_owned();
        if error.contains("refused the configuration") && error.contains("203.0.113.1:8099") {
            Ok(())
        } else {
            Err(error)
        }
    })
    .await;
    until("the last good file is back", SOON, || async {
        if platform.router_file("haproxy.cfg") == before {
            Ok(())
        } else {
            Err("it is another one".to_owned())
        }
    })
    .await;
    drop(wrong);

    platform.command(&["start"], "router-config");
    platform.until_ready().await;
    no_request_was_lost(load).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_under_the_configuration_keeps_the_old_one_and_is_told() {
    let agent = Agent::start().await;
    let router = Router::start_with_space(&agent, 1).await;
    let web = Container::run(&[], "colossus/example-web", &[]);
    let register = |service: String| {
        let (client, address) = (agent.client(), web.ip());
        async move {
            client
                .register_service(&routed_service(&service, &address, 80))
                .await
                .unwrap();
        }
    };
    let (early, late) = (unique("early"), unique("late"));
    register(early.clone()).await;
    router.until_status(&early, 200, SOON).await;

    router.in_state_directory("dd if=/dev/zero of=/state/filler bs=4k 2>/dev/null; true");
    register(late.clone()).await;
    until("router-config says that the disk is full", SOON, || async {
        let status = router.status().await?;
        let error = status["routes"]["last_run"]["error"]
            .as_str()
            .unwrap_or_default()
            .to_owned();
        if error.contains("No space left") && error.contains("the old one is kept") {
            Ok(())
        } else {
            Err(error)
        }
    })
    .await;
    assert_eq!(router.get(&late).await.unwrap().status, 404);
    router.haproxy().command(&["restart"]);
    router.until_status(&early, 200, SOON).await;

    router.in_state_directory("rm /state/filler");
    router.until_status(&late, 200, SOON).await;
    router.until_status(&early, 200, SOON).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_containers_are_named_and_the_good_ones_beside_them_are_served() {
    let platform = Platform::up();
    let (good, clash) = (unique("good"), unique("clash"));
    let bad_items = [
        "-e",
        "SERVICE_99999_NAME=x",
        "-l",
        "SERVICE_BAD.KEY=1",
        "-e",
        "SERVICE_COLOSSUS-OWNER=me",
    ];
    let _good = Container::example(&good, &bad_items);
    let no_label = unique("no_label");
    let _no_label = Container::example(&no_label, &[]);
    // What Consul takes, and then cannot be asked about.
    let unspeakable = unique("unspeakable");
    let _unspeakable = [".", "..", "g\u{200b}y"]
        .map(|id| Container::example(&unspeakable, &["-e", &format!("SERVICE_ID={id}")]));
    let _consul = Container::example("consul", &[]);
    let _lower = Container::example(&clash, &[]);
    platform.until_status(&clash, 200, SOON).await;
    let upper = Container::example(&clash.to_uppercase(), &[]);
    platform.until_status(&good, 200, SOON).await;

    until("registrator names what it left out", SOON, || async {
        let rejected = platform.registrator_status().await?["host"]["rejected"].to_string();
        let subjects = [
            "SERVICE_99999_NAME",
            "bad.key",
            "colossus-owner",
            "service ID \\\".\\\" of",
            "service name consul of",
        ];
        if subjects.iter().all(|subject| rejected.contains(subject)) {
            Ok(())
        } else {
            Err(rejected)
        }
    })
    .await;
    until(
        "router-config names the services without a route",
        SOON,
        || async {
            let conflicts = platform.router_status().await?["routing"]["conflicts"].to_string();
            let mend = format!("SERVICE_NAME={}", no_label.replace('_', "-"));
            if conflicts.contains(&clash.to_uppercase()) && conflicts.contains(&mend) {
                Ok(())
            } else {
                Err(conflicts)
            }
        },
    )
    .await;
    // Consul gives the instances of both for either name; only one of the two has the host name.
    for _ in 0..10 {
        let answer = platform.get(&clash).await.unwrap();
        assert_eq!(answer.status, 200);
        let other = upper.hostname();
        assert!(
            !answer.body.contains(other),
            "the first one keeps the name: {}",
            answer.body
        );
    }

    // None of them keeps a registrator that starts now from being ready.
    platform.command(&["restart"], "registrator");
    platform.until_ready().await;
    assert_eq!(
        platform.registrator_status().await.unwrap()["containers"]["consecutive_failures"],
        0
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_registrator_did_not_register_is_left_alone() {
    let platform = Platform::up();
    let consul = platform.consul();
    let service = unique("mine");
    let id = unique("taken");
    consul
        .register_service(&consul::ServiceRegistration::new(&id, "made-by-hand"))
        .await
        .unwrap();
    let _instance = Container::example(&service, &["-e", &format!("SERVICE_ID={id}")]);
    until("registrator says that the ID is taken", SOON, || async {
        let foreign = platform.registrator_status().await?["host"]["foreign"].to_string();
        if foreign.contains(&id) {
            Ok(())
        } else {
            Err(foreign)
        }
    })
    .await;
    platform.command(&["restart"], "registrator");
    platform.until_ready().await;
    let services = consul.agent_services(None).await.unwrap();
    assert_eq!(services[&id].service, "made-by-hand");
    // It bears no mark, so it is not routed either, although the router has seen it.
    let index = consul
        .health_service("made-by-hand", &consul::QueryOptions::default())
        .await
        .unwrap()
        .meta
        .index;
    until("router-config has seen it", SOON, || async {
        let seen = platform.router_status().await?["consul"]["index"].as_u64();
        if seen >= Some(index) {
            Ok(())
        } else {
            Err(format!("{seen:?}, not {index}"))
        }
    })
    .await;
    assert_eq!(platform.get("made-by-hand").await.unwrap().status, 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn containers_that_die_at_once_leave_nothing_behind() {
    let platform = Platform::up();
    let service = unique("flash");
    let containers: Vec<_> = (0..10)
        .map(|_| Container::example(&service, &["-e", "EXAMPLE_CRASH_AFTER_MS=1"]))
        .collect();
    until("all are dead", SOON, || async {
        let alive = containers
            .iter()
            .filter(|c| docker(&["inspect", "-f", "{{.State.Running}}", c.id()]) == "true");
        match alive.count() {
            0 => Ok(()),
            n => Err(format!("{n} run")),
        }
    })
    .await;
    until("none is registered and nothing fails", SOON, || async {
        let status = platform.registrator_status().await?;
        let services = status["host"]["services"].as_object().into_iter().flatten();
        let left = services.filter(|(_, record)| record["name"] == *service).count();
        match (left, status["containers"]["consecutive_failures"].as_u64()) {
            (0, Some(0)) => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn many_containers_at_once_are_all_routed() {
    const COUNT: usize = 40;
    let platform = Platform::up();
    let names: Vec<String> = (0..COUNT).map(|_| unique("one-of-many")).collect();
    let starts = names
        .iter()
        .cloned()
        .map(|name| tokio::task::spawn_blocking(move || Container::example(&name, &[])));
    let starts: Vec<_> = starts.collect();
    let mut containers = Vec::new();
    for start in starts {
        containers.push(start.await.unwrap());
    }
    for name in &names {
        platform.until_status(name, 200, SOON).await;
    }
    drop(containers);
    for name in &names {
        platform.until_status(name, 503, SOON).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn paused_renamed_and_slow_containers_are_followed() {
    let platform = Platform::up();
    let service = unique("moody");
    let instance = Container::example(&service, &["-e", "EXAMPLE_START_DELAY_MS=1500"]);
    platform.until_status(&service, 503, SOON).await;
    platform.until_status(&service, 200, SOON).await;

    instance.command(&["pause"]);
    // Asked only once HAProxy does not know it any more: a frozen container still accepts connections, and would keep
    // the request waiting.
    until_applied(&platform, &service, &[]).await;
    platform.until_status(&service, 503, SOON).await;
    instance.command(&["unpause"]);
    platform.until_status(&service, 200, SOON).await;

    let name = unique("renamed");
    docker(&["rename", instance.id(), &name]);
    until("its ID follows its name", SOON, || async {
        let services = platform.registrator_status().await?["host"]["services"].to_string();
        if services.contains(&format!(":{name}:80")) {
            Ok(())
        } else {
            Err(services)
        }
    })
    .await;
    platform.until_status(&service, 200, SOON).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_proxy_forwards_headers_websockets_and_repeats_only_what_is_safe() {
    let platform = Platform::up();
    let service = unique("proxied");
    let host = platform.host(&service);
    let instances = [
        Container::example(&service, &[]),
        Container::example(&service, &[]),
    ];
    answering(&platform, &service, 2).await;

    let mut client = Client::new(platform.http());
    let headers = client.request("GET", &host, "/headers", "").await.unwrap();
    let headers: serde_json::Value = serde_json::from_str(&headers.body).unwrap();
    assert_eq!(headers["host"][0], host);
    assert_eq!(headers["x-forwarded-host"][0], host);
    assert_eq!(headers["x-forwarded-proto"][0], "http");
    assert_eq!(headers["x-forwarded-port"][0], platform.http().port().to_string());
    assert_eq!(headers["x-forwarded-for"][0], "127.0.0.1");
    assert_eq!(headers["x-real-ip"][0], "127.0.0.1");

    assert_eq!(
        integration_tests::http::websocket_echo(platform.http(), &host, "/ws", "hello")
            .await
            .unwrap(),
        "hello"
    );

    // Case, a port and the root's dot make no other host of it.
    for spelled in [
        host.to_uppercase(),
        format!("{host}:{}", platform.http().port()),
        format!("{host}."),
    ] {
        assert_eq!(
            client.request("GET", &spelled, "/", "").await.unwrap().status,
            200,
            "{spelled}"
        );
    }

    // A POST that kills its server is not sent to the other one.
    // On a new connection HAProxy answers 502; where it had sent the request on a kept connection to the server, it
    // closes instead, and leaves it to the client to decide whether to repeat.
    match Client::new(platform.http())
        .request("POST", &host, "/crash", "")
        .await
    {
        Ok(answer) => assert_eq!(answer.status, 502),
        Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::UnexpectedEof, "{error}"),
    }
    let running = |c: &&Container| docker(&["inspect", "-f", "{{.State.Running}}", c.id()]) == "true";
    let alive = || async {
        match instances.iter().filter(running).count() {
            1 => Ok(()),
            n => Err(format!("{n} instances run")),
        }
    };
    until("the one that was asked is dead", SOON, alive).await;
    throughout("the other one is not asked", Duration::from_millis(500), alive).await;
    platform.until_status(&service, 200, SOON).await;
}

#[test]
fn wrong_configuration_exits_with_64_before_anything_is_bound() {
    for (image, arguments, named) in [
        (
            "registrator",
            &["--ip", "nowhere", "consul://127.0.0.1:1"][..],
            "--ip",
        ),
        ("registrator", &["ftp://127.0.0.1"], "ftp"),
        ("registrator", &[], "REGISTRY"),
        (
            "registrator",
            &["--docker-host", "ftp://x", "consul://127.0.0.1:1"],
            "DOCKER_HOST",
        ),
        ("router-config", &["--http-addr", ":99999"], "--http-addr"),
        ("router-config", &["--domain", "not_a_domain"], "--domain"),
        ("router-config", &["--hold", "30"], "--hold"),
        ("router-config", &["--haproxy-user", "a b"], "--haproxy-user"),
        ("router-config", &["--max-connections", "0"], "--max-connections"),
    ] {
        let image = format!("colossus/{image}");
        let name = unique("colossus-test-usage");
        let label = format!("{}=usage", integration_tests::docker::LABEL);
        let run = [
            &["run", "--name", &name, "--label", &label, &image][..],
            arguments,
        ]
        .concat();
        let complaint = try_docker(&run).expect_err("it must not start");
        let code = docker(&["inspect", "-f", "{{.State.ExitCode}}", &name]);
        docker(&["rm", "-f", &name]);
        assert_eq!(code, "64", "{image} {arguments:?}: {complaint}");
        assert!(
            complaint.contains(named),
            "{image} {arguments:?} must name {named}: {complaint}"
        );
    }
}

#[test]
fn help_teaches_and_exits_with_0() {
    for (image, taught) in [
        ("registrator", "SERVICE_NAME=example"),
        ("router-config", "--domain"),
    ] {
        let help = docker(&["run", "--rm", &format!("colossus/{image}"), "--help"]);
        assert!(help.contains("Examples:") && help.contains(taught), "{help}");
    }
}
