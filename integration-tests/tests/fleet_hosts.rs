//! The steps of docs/guides/fleet.md on hosts of the test bed: the platform started, spread and moved by fleet's stand-in,
//! from the same unit files.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test fails by panicking, also in the functions that its tests share"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::Duration;

use fleet::{Client, DesiredState, StateFilter, UnitFile, UnitName, check};
use integration_tests::cluster::{Cluster, ClusterOptions, Units};
use integration_tests::docker::try_docker;
use integration_tests::fleet::{Fleet, Host};
use integration_tests::wait::until;

/// Generous: what must happen within it takes some seconds on an idle machine.
const SOON: Duration = Duration::from_secs(90);

/// What fleet runs on every host. etcd it cannot: fleet itself needs it.
const GLOBAL: [&str; 5] = [
    "consul-bootstrapper",
    "consul",
    "haproxy",
    "router-config",
    "registrator",
];

fn name(text: &str) -> UnitName {
    UnitName::from_short(text).unwrap()
}

fn file(unit: &UnitName) -> UnitFile {
    let template = unit.template().unwrap_or_else(|| unit.clone());
    let root = PathBuf::from(std::env::var("CARGO_MANIFEST_DIR").unwrap());
    let text = std::fs::read_to_string(root.join("../fleet-units").join(template.as_str())).unwrap();
    let unit_file = UnitFile::parse(&text).unwrap();
    assert_eq!(check(unit, &unit_file), [], "{unit}");
    unit_file
}

async fn launch(client: &Client, text: &str) {
    let unit = name(text);
    client
        .create(&unit, &file(&unit), DesiredState::Launched)
        .await
        .unwrap();
}

/// The addresses of the machines on which a unit is active.
async fn active_on(client: &Client, unit: &str) -> Result<BTreeSet<String>, String> {
    let filter = StateFilter {
        unit: Some(name(unit)),
        machine_id: None,
    };
    let machines: BTreeMap<_, _> = client
        .machines()
        .await
        .map_err(|error| error.to_string())?
        .into_iter()
        .map(|machine| (machine.id, machine.primary_ip))
        .collect();
    let states = client.states(&filter).await.map_err(|error| error.to_string())?;
    let active = states
        .into_iter()
        .filter(|state| state.systemd_active_state == "active");
    Ok(active
        .filter_map(|state| machines.get(&state.machine_id).cloned())
        .collect())
}

async fn until_active(client: &Client, unit: &str, machines: usize) -> BTreeSet<String> {
    until(
        &format!("{unit} is active on {machines} machines"),
        SOON,
        || async {
            let found = active_on(client, unit).await?;
            if found.len() == machines {
                Ok(found)
            } else {
                Err(format!("{found:?}"))
            }
        },
    )
    .await
}

/// Waits until a service answers through the HAProxy of every node.
async fn until_answered(cluster: &Cluster, host: &str) {
    for node in cluster.nodes() {
        until(
            &format!("{host} answers through {}", node.hostname()),
            SOON,
            || async {
                let answer = node.get(host, "/").await?;
                if answer.status == 200 {
                    Ok(())
                } else {
                    Err(format!("{}", answer.status))
                }
            },
        )
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn fleet_runs_the_platform_and_applications_from_the_same_units() {
    // Bare hosts but for etcd, which fleet needs before it can run anything.
    let mut options = ClusterOptions::test(3);
    options.units = Units::Only(vec!["etcd".to_owned()]);
    options.settings = [("COLOSSUS_FLEET", "1"), ("COLOSSUS_CONSUL_SERVERS", "1")]
        .map(|(setting, value)| (setting.to_owned(), value.to_owned()))
        .to_vec();
    let cluster = Cluster::start(options).await;
    let fleet = Fleet::start(Vec::new()).await;
    for (node, role) in cluster.nodes().iter().zip(["client", "server", "client"]) {
        // This machine, as its hosts reach it.
        let gateway = node.sh("ip route show default | cut -d ' ' -f 3").await;
        let api = format!("http://{gateway}:{}", fleet.port());
        node.sh(&format!(
            "echo COLOSSUS_FLEET_API={api} >>/etc/colossus/environment"
        ))
        .await;
        fleet.join(Host::of(node, &[("consul_role", role)]).await);
    }
    let client = fleet.client();

    for unit in GLOBAL {
        launch(&client, unit).await;
    }
    for unit in GLOBAL {
        until_active(&client, unit, 3).await;
    }
    // One server, and it is the machine whose metadata says so.
    cluster.until_consul(1, 3, SOON).await.unwrap();
    let leader = cluster.node(1).consul().await.unwrap().leader;
    assert_eq!(leader, format!("{}:8300", cluster.node(2).address()));
    cluster.until_routing(SOON).await.unwrap();

    // Instances that conflict go to different machines, and answer on all.
    for unit in ["example-web@1", "example-web@2"] {
        launch(&client, unit).await;
    }
    let first = until_active(&client, "example-web@1", 1).await;
    let second = until_active(&client, "example-web@2", 1).await;
    assert_ne!(first, second);
    until_answered(&cluster, &cluster.host("example")).await;
    pair(&cluster, &client).await;

    // A machine is lost: its instance moves to the third, which had none.
    fleet.set_ttl(Duration::from_secs(5));
    let lost = cluster
        .nodes()
        .iter()
        .find(|node| first.contains(&node.address().to_string()))
        .unwrap();
    lost.power_cut().await;
    until("the instance has moved", SOON, || async {
        let now = active_on(&client, "example-web@1").await?;
        if now.len() == 1 && now != first && now != second {
            Ok(())
        } else {
            Err(format!("{now:?}"))
        }
    })
    .await;

    // It comes back, and gets what every machine has.
    lost.power_on().await;
    for unit in GLOBAL {
        until_active(&client, unit, 3).await;
    }
    cluster.until_consul(1, 3, SOON).await.unwrap();
    cluster.until_routing(SOON).await.unwrap();
    until_answered(&cluster, &cluster.host("example")).await;

    // Nothing of it is left when fleet is told to forget it.
    for unit in ["example-web@1", "example-web@2"].into_iter().chain(GLOBAL) {
        assert!(client.destroy(&name(unit)).await.unwrap(), "{unit}");
    }
    for node in cluster.nodes() {
        until(
            &format!("only etcd is left on {}", node.hostname()),
            SOON,
            || async {
                let left = "docker ps --format '{{.Names}}'; ls /run/fleet/units";
                let left = node.exec(&["sh", "-c", left]).await?;
                if left == "etcd" { Ok(()) } else { Err(left) }
            },
        )
        .await;
    }
}

/// nginx beside its PHP, where their images were built (deploy/images/examples.sh).
async fn pair(cluster: &Cluster, client: &Client) {
    if try_docker(&[
        "image",
        "inspect",
        "colossus/nginx:latest",
        "colossus/php-fpm:latest",
    ])
    .is_err()
    {
        return;
    }
    launch(client, "nginx@1").await;
    launch(client, "php-fpm@1").await;
    let php = until_active(client, "php-fpm@1", 1).await;
    assert_eq!(until_active(client, "nginx@1", 1).await, php);
    until_answered(cluster, &cluster.host("php")).await;
    let node = cluster
        .nodes()
        .iter()
        .find(|node| php.contains(&node.address().to_string()))
        .unwrap();
    let page = node.get(&cluster.host("php"), "/").await.unwrap();
    assert!(
        page.body.contains(&format!("Served by {}", node.hostname())),
        "{}",
        page.body
    );
    for unit in ["nginx@1", "php-fpm@1"] {
        client.destroy(&name(unit)).await.unwrap();
    }
}
