//! The unit files: fleet's rules, systemd's rules, ours, and that every setting reaches its service and is documented.
//! That they start is for the tests that have hosts.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking, also in the functions that its tests share"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::process::Command;

use fleet::{Placement, UnitFile, UnitName, check};
use integration_tests::docker::{docker, try_docker};

const PLATFORM: [&str; 6] = [
    "etcd",
    "consul-bootstrapper",
    "consul",
    "haproxy",
    "router-config",
    "registrator",
];

const HOST_IMAGE: &str = "colossus/test-host";

fn root() -> PathBuf {
    PathBuf::from(std::env::var("CARGO_MANIFEST_DIR").unwrap()).join("..")
}

fn units() -> BTreeMap<UnitName, UnitFile> {
    let files = std::fs::read_dir(root().join("fleet-units")).unwrap();
    let mut units = BTreeMap::new();
    for path in files.map(|entry| entry.unwrap().path()) {
        if path.extension().is_some_and(|extension| extension != "md") {
            let name: UnitName = path.file_name().unwrap().to_str().unwrap().parse().unwrap();
            let text = std::fs::read_to_string(&path).unwrap();
            let unit = UnitFile::parse(&text).unwrap_or_else(|error| panic!("{name}: {error}"));
            units.insert(name, unit);
        }
    }
    assert!(units.len() >= 11, "{units:?}");
    units
}

fn is_platform(name: &UnitName) -> bool {
    PLATFORM.contains(&name.stem())
}

/// The value of an option that there must be one of.
fn one(name: &UnitName, unit: &UnitFile, section: &str, option: &str) -> String {
    let values: Vec<_> = unit.values(section, option).collect();
    assert_eq!(values.len(), 1, "{name}: {option}=");
    values[0].to_owned()
}

/// The names of the variables that a unit passes on.
fn passed(name: &UnitName, unit: &UnitFile) -> BTreeSet<String> {
    let command = one(name, unit, "Service", "ExecStart");
    let words: Vec<&str> = command.split_whitespace().collect();
    words
        .windows(2)
        .filter(|pair| pair[0] == "-e" && !pair[1].contains('='))
        .map(|pair| pair[1].to_owned())
        .collect()
}

#[test]
fn every_unit_does_with_fleet_what_it_says() {
    for (name, unit) in units() {
        assert_eq!(check(&name, &unit), [], "{name}");
        assert_eq!(Placement::of(&name, &unit).global, is_platform(&name), "{name}");
    }
}

#[test]
fn every_unit_keeps_the_rules_of_this_project() {
    for (name, unit) in units() {
        let text = std::fs::read_to_string(root().join("fleet-units").join(name.as_str())).unwrap();
        assert!(
            text.starts_with("# Part of Colossus"),
            "{name}: install.sh knows its own units by this"
        );
        assert!(unit.section("Install").next().is_none(), "{name}");

        let unit_option = |option| one(&name, &unit, "Unit", option);
        let service = |option| one(&name, &unit, "Service", option);
        assert_eq!(
            unit_option("StartLimitIntervalSec"),
            "0",
            "{name}: it must never give up"
        );
        assert_eq!(service("Restart"), "always", "{name}");
        for harsh in ["Requires", "BindsTo", "Requisite"] {
            assert_eq!(
                unit.values("Unit", harsh).count(),
                0,
                "{name}: the death of one must take no other with it"
            );
        }
        assert!(unit_option("After").contains("docker.service"), "{name}");
        let files: Vec<_> = unit.values("Service", "EnvironmentFile").collect();
        assert_eq!(
            files,
            ["-/etc/environment", "-/etc/colossus/environment"],
            "{name}"
        );

        let container = match name.is_template() {
            // One to a host, whatever its number: an operator's commands find it by its name.
            true if name.prefix() == "vip-keeper" => name.prefix().to_owned(),
            true => format!("{}-%i", name.prefix()),
            false => name.stem().to_owned(),
        };
        let start = service("ExecStart");
        for part in [
            &format!("/usr/bin/docker run --rm --name {container} "),
            "--log-driver local",
            "--read-only",
            "--cap-drop ALL",
            "--security-opt no-new-privileges",
        ] {
            assert!(start.contains(part), "{name}: {part}");
        }
        assert!(
            start.contains(&format!("/{}:", name.prefix())),
            "{name}: the image is named as the unit"
        );
        let leftover = unit.values("Service", "ExecStartPre").last().unwrap();
        assert!(leftover.contains(&format!("docker rm -f {container} ")), "{name}");

        let stop = service("ExecStop");
        let words: Vec<&str> = stop.split(' ').collect();
        assert_eq!(
            (words[0], words[1], words[2], words[4]),
            ("-/usr/bin/docker", "stop", "-t", container.as_str()),
            "{name}"
        );
        let (patience, limit): (u32, u32) = (
            words[3].parse().unwrap(),
            service("TimeoutStopSec").parse().unwrap(),
        );
        assert!(
            patience + 10 <= limit,
            "{name}: systemd must wait longer than docker does"
        );

        if is_platform(&name) {
            assert!(service("RestartPreventExitStatus").starts_with("64"), "{name}");
            assert!(start.contains("--network host"), "{name}");
            assert_eq!(unit_option("PartOf"), "colossus.target", "{name}");
        }
    }
}

/// Starting in one order is stopping in the other: applications first, then what takes note of that.
#[test]
fn the_order_is_that_of_the_architecture() {
    let units = units();
    let after = |name: &str| {
        let name: UnitName = name.parse().unwrap();
        one(&name, &units[&name], "Unit", "After")
    };
    for (later, earlier) in [
        ("consul-bootstrapper.service", "etcd.service"),
        ("consul.service", "consul-bootstrapper.service"),
        ("registrator.service", "consul.service"),
        ("router-config.service", "consul.service"),
        ("router-config.service", "haproxy.service"),
        ("example-web@.service", "registrator.service"),
        ("paas-monitor@.service", "registrator.service"),
        ("nginx@.service", "registrator.service"),
        ("nginx@.service", "php-fpm@%i.service"),
        ("registry.service", "registrator.service"),
    ] {
        assert!(
            after(later).split(' ').any(|unit| unit == earlier),
            "{later} is not after {earlier}"
        );
    }
}

/// Runs a script in the image of the hosts, which has systemd's and Docker's programs.
fn in_host(script: &str) -> Result<String, String> {
    if try_docker(&["image", "inspect", HOST_IMAGE]).is_err() {
        let build = root().join("integration-tests/images/host/build.sh");
        assert!(Command::new(build).status().unwrap().success());
    }
    let root = root().canonicalize().unwrap();
    let mounts: Vec<String> = ["fleet-units", "deploy"]
        .iter()
        .map(|directory| format!("{}:/project/{directory}:ro", root.join(directory).display()))
        .collect();
    let mut arguments = vec!["run", "--rm", "--label", "colossus.test", "--network", "none"];
    arguments.extend(mounts.iter().flat_map(|mount| ["-v", mount.as_str()]));
    arguments.extend(["--entrypoint", "bash", HOST_IMAGE, "-c", script]);
    try_docker(&arguments)
}

#[test]
fn systemd_finds_nothing_wrong() {
    in_host("systemd-analyze verify /project/fleet-units/*.service /project/deploy/host/colossus.target")
        .unwrap();
    // It does look: a mistake is found.
    let wrong = "sed s/^Restart=always/Restart=allways/ /project/fleet-units/etcd.service >/tmp/etcd.service; \
                 systemd-analyze verify /tmp/etcd.service 2>&1; exit 1";
    assert!(in_host(wrong).is_err());
    let said = in_host(&wrong.replace("exit 1", "true")).unwrap();
    assert!(
        said.contains("Failed to parse") && said.contains("allways"),
        "{said}"
    );
}

#[test]
fn install_refuses_what_makes_no_sense_before_it_changes_anything() {
    let good = "COLOSSUS_ETCD_CLUSTER=n1=http://192.0.2.1:2380";
    for (settings, code, part) in [
        (
            "COLOSSUS_DOMAIN=cluster.local",
            64,
            "COLOSSUS_ETCD_CLUSTER is missing",
        ),
        ("export A=b", 64, "line 1: \"export A=b\" is not NAME=VALUE"),
        (
            "COLOSSUS_ETCD_CLUSTER=n1=http://n1:2380",
            64,
            "\"n1=http://n1:2380\" is not NAME=http://IP:2380",
        ),
        (
            "COLOSSUS_ETCD_CLUSTER=n1=http://192.0.2.1:2380,n1=http://192.0.2.2:2380",
            64,
            "n1 is there twice",
        ),
        (
            &format!("{good}\nCOLOSSUS_CONSUL_SERVERS=4"),
            64,
            "it is not 1, 3, 5 or 7",
        ),
        (
            &format!("{good}\nCOLOSSUS_CONSUL_ROLE=boss"),
            64,
            "use auto, server or client",
        ),
        (
            &format!("{good}\nCOLOSSUS_DOMAIN=Bad_"),
            64,
            "it is not a domain name",
        ),
        (
            &format!("{good}\nCOLOSSUS_IP=192.0.2.77"),
            64,
            "this host does not have this address",
        ),
        (&format!("{good}\nCOLOSSUS_CLUSTER="), 64, "it is empty"),
        (
            &format!("{good}\nETCD_ENDPOINTS=n1"),
            64,
            "\"n1\" is not http://ADDRESS:2379",
        ),
    ] {
        let script = format!(
            "mkdir -p /run/systemd/system; printf '%s\\n' '{settings}' >/tmp/env; before=$(find /etc | sort | md5sum)
             said=$(/project/deploy/host/install.sh --environment /tmp/env 2>&1); echo \"$? $said\"
             [ \"$before\" = \"$(find /etc | sort | md5sum)\" ] || echo 'it has changed /etc'"
        );
        let said = in_host(&script).unwrap();
        assert!(
            said.starts_with(&format!("{code} ")) && said.contains(part) && said.contains("do:"),
            "{settings}: {said}"
        );
        assert!(!said.contains("it has changed"), "{settings}: {said}");
    }
    for (arguments, code, part) in [
        ("--bogus", 64, "unknown argument --bogus"),
        ("--environment", 64, "--environment needs a value"),
        ("--only etcd,foo", 64, "--only foo: there is no such service"),
        ("--with web@1", 64, "there is no web@.service"),
        ("--with example-web@", 64, "an instance is missing"),
        ("", 64, "/etc/colossus/environment does not exist"),
        ("--help", 0, "usage: install.sh"),
    ] {
        let script = format!(
            "mkdir -p /run/systemd/system; said=$(/project/deploy/host/install.sh {arguments} 2>&1); echo \"$? $said\""
        );
        let said = in_host(&script).unwrap();
        assert!(
            said.starts_with(&format!("{code} ")) && said.contains(part),
            "{arguments}: {said}"
        );
    }
    let bare = in_host("said=$(/project/deploy/host/install.sh 2>&1); echo \"$? $said\"").unwrap();
    assert!(
        bare.starts_with("1 ") && bare.contains("not run by systemd"),
        "{bare}"
    );
}

/// What a service can be told by its environment, from its own help.
fn settings_of(service: &str) -> BTreeSet<String> {
    let help = docker(&["run", "--rm", &format!("colossus/{service}"), "--help"]);
    let names = help
        .split("[env: ")
        .skip(1)
        .filter_map(|rest| rest.split(['=', ']']).next());
    names.map(str::to_owned).collect()
}

#[test]
fn every_setting_reaches_its_service() {
    // What the unit decides itself, and what is for other ways to run a service.
    const OWN: [&str; 11] = [
        "COLOSSUS_ADMIN_ADDR",
        "COLOSSUS_SHUTDOWN_DEADLINE",
        "CONSUL_HTTP_ADDR",
        "CONSUL_CACERT",
        "CONSUL_CLIENT_CERT",
        "CONSUL_CLIENT_KEY",
        "DOCKER_HOST",
        "ROUTER_STATE_DIR",
        "ROUTER_MASTER_SOCKET",
        "ROUTER_HAPROXY_USER",
        "CONSUL_HTTP_TOKEN_FILE",
    ];
    let units = units();
    for service in ["consul-bootstrapper", "registrator", "router-config"] {
        let name = UnitName::from_short(service).unwrap();
        let passed = passed(&name, &units[&name]);
        let missing: Vec<_> = settings_of(service)
            .into_iter()
            .filter(|setting| !passed.contains(setting) && !OWN.contains(&setting.as_str()))
            .collect();
        assert_eq!(
            missing,
            Vec::<String>::new(),
            "{service} can be told these, and its unit does not"
        );
    }
}

#[test]
fn every_unit_and_every_setting_is_documented() {
    let text = std::fs::read_to_string(root().join("docs/reference/units.md")).unwrap();
    let readme = std::fs::read_to_string(root().join("fleet-units/README.md")).unwrap();
    let mut missing = Vec::new();
    for (name, unit) in units() {
        let shown = format!("`{}`", name.stem());
        if !text.contains(&shown) || !readme.contains(&shown) {
            missing.push(shown);
        }
        missing.extend(
            passed(&name, &unit)
                .into_iter()
                .filter(|setting| !text.contains(&format!("`{setting}`"))),
        );
    }
    assert_eq!(missing, Vec::<String>::new());
}
