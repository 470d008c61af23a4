//! The client of fleet's API against a stand-in that follows fleet's measured behaviour.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test fails by panicking, also in the functions that its tests share"
)]

use std::collections::BTreeSet;
use std::time::Duration;

use fleet::{Client, Config, DesiredState, Error, StateFilter, UnitFile, UnitName, UnitState};
use integration_tests::fleet::{Fleet, Host};
use integration_tests::wait::until;

const SOON: Duration = Duration::from_secs(10);

fn name(text: &str) -> UnitName {
    text.parse().unwrap()
}

fn unit(fleet_section: &str) -> UnitFile {
    UnitFile::parse(&format!(
        "[Service]\nExecStart=/bin/true\n[X-Fleet]\n{fleet_section}\n"
    ))
    .unwrap()
}

fn only(unit: &UnitName) -> StateFilter {
    StateFilter {
        unit: Some(unit.clone()),
        machine_id: None,
    }
}

async fn three_machines() -> Fleet {
    let zones = [("a", "server"), ("b", "server"), ("b", "client")];
    let host = |(index, (zone, role)): (usize, (&str, &str))| {
        let number = u8::try_from(index + 1).unwrap();
        Host::in_memory(number, &[("zone", zone), ("consul_role", role)])
    };
    Fleet::start(zones.into_iter().enumerate().map(host).collect()).await
}

/// The machines, by number, on which a unit is active.
async fn active_on(client: &Client, unit: &UnitName) -> BTreeSet<String> {
    let states = client.states(&only(unit)).await.unwrap();
    let active = states
        .into_iter()
        .filter(|state| state.systemd_active_state == "active");
    active
        .map(|state| state.machine_id.trim_start_matches('0').to_owned())
        .collect()
}

async fn until_active_on(client: &Client, unit: &UnitName, machines: &[&str]) {
    until(&format!("{unit} is active on {machines:?}"), SOON, || async {
        let found = active_on(client, unit).await;
        if found.iter().map(String::as_str).eq(machines.iter().copied()) {
            Ok(())
        } else {
            Err(format!("{found:?}"))
        }
    })
    .await;
}

#[tokio::test]
async fn a_unit_is_created_once_changed_in_its_state_only_and_destroyed() {
    let fleet = three_machines().await;
    let client = fleet.client();
    let web = name("web.service");

    let error = client.set_state(&web, DesiredState::Launched).await.unwrap_err();
    assert!(error.is_conflict(), "{error}");
    assert_eq!(
        error.to_string(),
        "cannot set unit web.service to launched: fleet answered 409: unit does not exist and options field empty"
    );
    assert_eq!(client.unit(&web).await.unwrap(), None);

    assert!(
        client
            .create(&web, &unit("Conflicts=web*.timer"), DesiredState::Loaded)
            .await
            .unwrap()
    );
    let first = client.unit(&web).await.unwrap().unwrap();
    assert_eq!(first.desired_state, Some(DesiredState::Loaded));

    // Options are never changed in place, whatever is sent.
    assert!(
        !client
            .create(&web, &unit("Global=true"), DesiredState::Launched)
            .await
            .unwrap()
    );
    let second = client.unit(&web).await.unwrap().unwrap();
    assert_eq!(
        (second.options, second.desired_state),
        (first.options, Some(DesiredState::Launched))
    );
    until_active_on(&client, &web, &["1"]).await;

    client.set_state(&web, DesiredState::Inactive).await.unwrap();
    until_active_on(&client, &web, &[]).await;
    assert!(client.destroy(&web).await.unwrap());
    assert!(!client.destroy(&web).await.unwrap());
    assert_eq!(client.units().await.unwrap(), []);
}

#[tokio::test]
async fn a_replaced_unit_has_stopped_before_it_is_created_anew() {
    let fleet = three_machines().await;
    let client = fleet.client();
    let web = name("web.service");
    let (one, two) = (
        unit("MachineMetadata=zone=a"),
        unit("MachineMetadata=consul_role=client"),
    );

    assert!(
        !client.replace(&web, &one, DesiredState::Launched).await.unwrap(),
        "it is new"
    );
    until_active_on(&client, &web, &["1"]).await;
    assert!(
        !client.replace(&web, &one, DesiredState::Launched).await.unwrap(),
        "it is the same"
    );
    assert!(
        client.replace(&web, &two, DesiredState::Launched).await.unwrap(),
        "it is another"
    );
    until_active_on(&client, &web, &["3"]).await;
}

#[tokio::test]
async fn what_fleet_refuses_is_said_in_its_own_words() {
    let fleet = three_machines().await;
    let client = fleet.client();
    for (unit_name, section, part) in [
        (
            "a.service",
            "Global=true\nMachineOf=b.service",
            "400: Global cannot be used with Peers",
        ),
        (
            "a.service",
            "Replaces=b.service\nConflicts=c.service",
            "400: Conflicts cannot be used with Replaces",
        ),
        (
            "a.service",
            "MachineID=x\nConflicts=c.service",
            "400: MachineID cannot be used with Conflicts",
        ),
        (
            "a.service",
            "MachineOf=b.service\nConflicts=b*",
            "400: unresolvable requirements: peer \"b.service\" matches conflict \"b*\"",
        ),
        ("a@.service", "", "400: cannot activate template \"a@.service\""),
    ] {
        let error = client
            .create(&name(unit_name), &unit(section), DesiredState::Launched)
            .await
            .unwrap_err();
        assert!(error.to_string().contains(part), "{error}");
    }
    // What it does not know it takes: that is what `check` is for.
    assert!(
        client
            .create(
                &name("a.service"),
                &unit("Conflict=b.service"),
                DesiredState::Inactive
            )
            .await
            .unwrap()
    );
    assert!(
        client
            .create(&name("a@.service"), &unit(""), DesiredState::Inactive)
            .await
            .unwrap()
    );
}

#[tokio::test]
async fn lists_are_read_to_their_last_page() {
    for count in [0, 1, 99, 100, 101, 200] {
        let fleet = three_machines().await;
        let client = fleet.client();
        let names: BTreeSet<String> = (0..count)
            .map(|number| format!("unit-{number}.service"))
            .collect();
        for unit_name in &names {
            client
                .create(&name(unit_name), &unit(""), DesiredState::Launched)
                .await
                .unwrap();
        }
        let units = client.units().await.unwrap();
        assert_eq!(
            units.into_iter().map(|unit| unit.name).collect::<BTreeSet<_>>(),
            names,
            "{count}"
        );
        until(&format!("{count} states"), SOON, || async {
            let states = client.states(&StateFilter::default()).await.unwrap();
            let found: BTreeSet<String> = states.into_iter().map(|state| state.name).collect();
            if found == names {
                Ok(())
            } else {
                Err(format!("{} states", found.len()))
            }
        })
        .await;
    }
}

#[tokio::test]
async fn machines_have_their_metadata() {
    let fleet = three_machines().await;
    let machines = fleet.client().machines().await.unwrap();
    let shown: Vec<_> = machines
        .iter()
        .map(|machine| {
            (
                machine.primary_ip.as_str(),
                machine.metadata["consul_role"].as_str(),
            )
        })
        .collect();
    assert_eq!(
        shown,
        [
            ("192.0.2.1", "server"),
            ("192.0.2.2", "server"),
            ("192.0.2.3", "client")
        ]
    );
    assert_eq!(machines[0].id.len(), 32);
}

#[tokio::test]
async fn a_global_unit_reports_no_machine_and_inactive_and_its_states_tell_the_truth() {
    let fleet = three_machines().await;
    let client = fleet.client();
    let (all, servers) = (name("all.service"), name("servers.service"));
    client
        .create(&all, &unit("Global=true"), DesiredState::Launched)
        .await
        .unwrap();
    client
        .create(
            &servers,
            &unit("Global=true\nMachineMetadata=\"consul_role=server\""),
            DesiredState::Launched,
        )
        .await
        .unwrap();
    until_active_on(&client, &all, &["1", "2", "3"]).await;
    until_active_on(&client, &servers, &["1", "2"]).await;
    let unit = client.unit(&all).await.unwrap().unwrap();
    assert_eq!(
        (unit.machine_id.as_str(), unit.current_state),
        ("", Some(DesiredState::Inactive))
    );

    let of_two = StateFilter {
        unit: None,
        machine_id: Some(format!("{:032x}", 2)),
    };
    let states: Vec<UnitState> = client.states(&of_two).await.unwrap();
    assert_eq!(
        states.iter().map(|state| state.name.as_str()).collect::<Vec<_>>(),
        ["all.service", "servers.service"]
    );
}

#[tokio::test]
async fn conflicts_spread_and_machine_of_gathers() {
    let fleet = three_machines().await;
    let client = fleet.client();
    let mut places = BTreeSet::new();
    for number in 1..=3 {
        let php = name(&format!("php@{number}.service"));
        client
            .create(&php, &unit("Conflicts=php@*.service"), DesiredState::Launched)
            .await
            .unwrap();
        until(&format!("{php} runs"), SOON, || async {
            let found = active_on(&client, &php).await;
            if found.len() == 1 {
                Ok(())
            } else {
                Err(format!("{found:?}"))
            }
        })
        .await;
        places.extend(active_on(&client, &php).await);
    }
    assert_eq!(places.len(), 3, "one on each machine");
    let nginx = name("nginx@2.service");
    client
        .create(&nginx, &unit("MachineOf=php@%i.service"), DesiredState::Launched)
        .await
        .unwrap();
    let beside = active_on(&client, &name("php@2.service")).await;
    let beside: Vec<&str> = beside.iter().map(String::as_str).collect();
    until_active_on(&client, &nginx, &beside).await;

    // A fourth finds no place.
    let fourth = name("php@4.service");
    client
        .create(&fourth, &unit("Conflicts=php@*.service"), DesiredState::Launched)
        .await
        .unwrap();
    assert_eq!(client.unit(&fourth).await.unwrap().unwrap().machine_id, "");
}

#[tokio::test]
async fn units_of_a_lost_machine_move() {
    let fleet = three_machines().await;
    fleet.set_ttl(Duration::from_secs(1));
    let client = fleet.client();
    let web = name("web.service");
    client
        .create(&web, &unit("MachineMetadata=zone=b"), DesiredState::Launched)
        .await
        .unwrap();
    until_active_on(&client, &web, &["2"]).await;
    fleet.set_reachable(2, false);
    until_active_on(&client, &web, &["3"]).await;
    assert_eq!(client.machines().await.unwrap().len(), 2);
}

#[tokio::test]
async fn a_unix_socket_is_spoken_to_as_well() {
    let mut fleet = three_machines().await;
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("fleet.sock");
    fleet.listen_on(&socket);
    let endpoint = format!("unix://{}", socket.display()).parse().unwrap();
    let client = Client::new(Config::new(endpoint)).unwrap();
    assert_eq!(client.machines().await.unwrap().len(), 3);
    let odd = name("a\\x2db.service");
    client
        .create(&odd, &unit(""), DesiredState::Inactive)
        .await
        .unwrap();
    assert_eq!(client.unit(&odd).await.unwrap().unwrap().name, "a\\x2db.service");
}

/// What the client never sends, so that the stand-in is known to refuse it as fleet does.
#[tokio::test]
async fn the_stand_in_refuses_what_fleet_refuses() {
    let fleet = three_machines().await;
    let ask = |method: &'static str, path: &'static str, content_type: &'static str, body: &'static str| {
        let port = fleet.port();
        async move { request(port, method, path, content_type, body).await }
    };
    let json = "application/json";
    for (method, path, content_type, body, status, message) in [
        (
            "PUT",
            "units/a.service",
            "text/plain",
            "{}",
            415,
            "only acceptable Content-Type is application/json",
        ),
        ("PUT", "units/a.service", json, "{", 400, "unable to decode body"),
        (
            "PUT",
            "units/a.service",
            json,
            "{\"name\":\"b.service\"}",
            400,
            "differs from unit name in request body",
        ),
        (
            "PUT",
            "units/a.svc",
            json,
            "{\"desiredState\":\"launched\"}",
            400,
            "unit name",
        ),
        (
            "PUT",
            "units/a.service",
            json,
            "{\"desiredState\":\"launched\"}",
            409,
            "options field empty",
        ),
        (
            "POST",
            "units/a.service",
            json,
            "",
            405,
            "only GET, PUT and DELETE",
        ),
        ("POST", "units", json, "", 405, "only GET"),
        ("DELETE", "units/a.service", json, "", 404, "unit does not exist"),
        ("GET", "cats", json, "", 404, ""),
        ("GET", "units?nextPageToken=x", json, "", 400, ""),
        (
            "GET",
            "units?nextPageToken=AQACAA==",
            json,
            "",
            400,
            "token limit must be 100",
        ),
        (
            "GET",
            "units?nextPageToken=ZAAAAA==",
            json,
            "",
            400,
            "token page must be greater than zero",
        ),
    ] {
        let (code, answer) = ask(method, path, content_type, body).await;
        let answer: serde_json::Value = serde_json::from_str(&answer).unwrap();
        assert_eq!(
            (code, answer["error"]["code"].as_u64()),
            (status, Some(u64::from(status))),
            "{method} {path}"
        );
        assert!(
            answer["error"]["message"].as_str().unwrap().contains(message),
            "{method} {path}: {answer}"
        );
    }
}

async fn request(port: u16, method: &str, path: &str, content_type: &str, body: &str) -> (u16, String) {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let mut stream = tokio::net::TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    let length = body.len();
    let head = format!(
        "{method} /fleet/v1/{path} HTTP/1.1\r\nHost: fleet\r\nConnection: close\r\nContent-Type: {content_type}\r\n\
         Content-Length: {length}\r\n\r\n{body}"
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
}

#[tokio::test]
async fn a_fleet_that_goes_away_is_an_error_and_never_an_empty_list() {
    let fleet = three_machines().await;
    let client = fleet.client();
    assert_eq!(client.machines().await.unwrap().len(), 3);
    drop(fleet);
    until("the connection is refused", SOON, || async {
        match client.machines().await {
            Err(Error::Request { .. }) => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
}
