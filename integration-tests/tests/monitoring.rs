//! The dashboard and the alerts ask only for what the platform shows.
#![allow(
    clippy::unwrap_used,
    reason = "a test fails by panicking, also in the functions that its tests share"
)]

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::time::Duration;

use integration_tests::docker::{Container, docker, unique};
use integration_tests::http::get;
use integration_tests::platform::{Platform, free_ports};
use integration_tests::wait::until;

/// What our programs, HAProxy's and etcd's metrics begin with.
const PREFIXES: [&str; 8] = [
    "colossus_",
    "consul_bootstrapper_",
    "etcd_",
    "haproxy_",
    "process_",
    "registrator_",
    "router_config_",
    "vip_keeper_",
];

/// Names of metrics that a text contains.
fn metrics_in(text: &str) -> BTreeSet<String> {
    text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'))
        .filter(|word| PREFIXES.iter().any(|prefix| word.starts_with(prefix)))
        .map(str::to_owned)
        .collect()
}

/// States of consul-bootstrapper that a text asks for. One that is misspelt would never be heard of.
fn states_in(text: &str) -> BTreeSet<&str> {
    let selectors = text.split("consul_bootstrapper_state{state").skip(1);
    selectors
        .filter_map(|selector| selector.split('"').nth(1))
        .flat_map(|states| states.split('|'))
        .collect()
}

async fn metrics_of(address: SocketAddr) -> Result<String, String> {
    let answer = get(address, "localhost", "/metrics")
        .await
        .map_err(|error| error.to_string())?;
    Ok(answer.body)
}

/// A consul-bootstrapper beside the platform, of a cluster of its own and the only server in it. Its Consul never comes,
/// as nobody heeds the permit; until then it has shown all that it can show.
struct Bootstrapper {
    admin: SocketAddr,
    _container: Container,
    _machine_id: tempfile::NamedTempFile,
}

impl Bootstrapper {
    fn run(etcd_port: &str) -> Self {
        let machine_id = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(machine_id.path(), format!("{:032x}\n", fastrand::u128(..))).unwrap();
        // The image's user is another one.
        std::fs::set_permissions(machine_id.path(), std::fs::Permissions::from_mode(0o644)).unwrap();
        let mount = format!("{}:/machine-id:ro", machine_id.path().display());
        let (etcd, cluster) = (format!("http://127.0.0.1:{etcd_port}"), unique("monitoring"));
        let [port, nobody] = free_ports();
        let admin = SocketAddr::from(([127, 0, 0, 1], port));
        let (admin_option, consul) = (admin.to_string(), format!("http://127.0.0.1:{nobody}"));
        let options = [
            "--network=host",
            // Where else a volume would have to be given to the user of the image.
            "--tmpfs=/state:mode=1777",
            "-v",
            &mount,
        ];
        let arguments = [
            ["--etcd", &etcd],
            ["--cluster", &cluster],
            ["--consul", &consul],
            ["--admin-addr", &admin_option],
            ["--node", "n1"],
            ["--ip", "127.0.0.1"],
            ["--servers", "1"],
            ["--state-dir", "/state"],
            ["--run-dir", "/state/run"],
            ["--machine-id-file", "/machine-id"],
        ];
        Self {
            admin,
            _container: Container::run(&options, "colossus/consul-bootstrapper", &arguments.concat()),
            _machine_id: machine_id,
        }
    }

    /// What it shows once it has read a record and waits for its Consul.
    async fn metrics(&self) -> String {
        let waits = "consul_bootstrapper_state{state=\"awaits_leader\"} 1";
        until(
            "consul-bootstrapper waits for its Consul",
            Duration::from_secs(30),
            || async {
                let shown = metrics_of(self.admin).await?;
                if shown.contains(waits) {
                    Ok(shown)
                } else {
                    Err(shown)
                }
            },
        )
        .await
    }
}

/// A vip-keeper in a network of its own, without an etcd: it shows all its metrics from the start.
async fn metrics_of_vip_keeper() -> String {
    let options = [
        "--user=0:0",
        "--cap-drop=ALL",
        "--cap-add=NET_ADMIN",
        "--cap-add=NET_RAW",
    ];
    let arguments = [
        "--vip=10.99.99.99@eth0",
        "--etcd=http://127.0.0.1:1",
        "--admin-addr=0.0.0.0:9104",
        "--check=none",
    ];
    let keeper = Container::run(&options, "colossus/vip-keeper", &arguments);
    let admin = SocketAddr::new(keeper.ip().parse().unwrap(), 9104);
    until("vip-keeper shows its metrics", Duration::from_secs(30), || {
        metrics_of(admin)
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_dashboard_and_the_alerts_use_metrics_that_exist() {
    let directory = PathBuf::from(std::env::var("CARGO_MANIFEST_DIR").unwrap()).join("../deploy/monitoring");
    let read = |name: &str| std::fs::read_to_string(directory.join(name)).unwrap();
    let dashboard: serde_json::Value = serde_json::from_str(&read("dashboard.json")).unwrap();
    assert!(
        dashboard["panels"]
            .as_array()
            .is_some_and(|panels| panels.len() > 5)
    );
    let used = metrics_in(&format!("{}{}", read("dashboard.json"), read("alerts.yml")));
    for prefix in PREFIXES {
        assert!(
            used.iter().any(|name| name.starts_with(prefix)),
            "nothing of {prefix}* is watched"
        );
    }

    let platform = Platform::up();
    let etcd_port = docker(&["exec", &platform.container("etcd"), "printenv", "ETCD_PORT"]);
    let bootstrapper = Bootstrapper::run(&etcd_port);
    let of_bootstrapper = bootstrapper.metrics().await;
    for state in states_in(&read("alerts.yml")) {
        assert!(
            of_bootstrapper.contains(&format!("consul_bootstrapper_state{{state=\"{state}\"}}")),
            "there is no state {state}"
        );
    }
    let mut shown = metrics_in(&of_bootstrapper);
    shown.extend(metrics_in(&metrics_of_vip_keeper().await));
    for address in [
        platform.admin("registrator"),
        platform.admin("router-config"),
        platform.stats(),
        SocketAddr::from(([127, 0, 0, 1], etcd_port.parse().unwrap())),
    ] {
        shown.extend(metrics_in(&metrics_of(address).await.unwrap()));
    }
    let missing: Vec<_> = used.difference(&shown).collect();
    assert_eq!(missing, Vec::<&String>::new(), "metrics that nobody shows");
}
