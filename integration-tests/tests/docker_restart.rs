//! registrator and a Docker engine that goes away and comes back.
#![allow(
    clippy::unwrap_used,
    reason = "a test fails by panicking, also in the functions that its tests share"
)]

use std::collections::BTreeSet;
use std::time::Duration;

use integration_tests::agent::Agent;
use integration_tests::docker::Container;
use integration_tests::engine::Engine;
use integration_tests::platform::free_ports;
use integration_tests::wait::{throughout, until};

const SOON: Duration = Duration::from_secs(30);

/// `name address:port` of everything the agent holds.
async fn registered(agent: &Agent) -> Result<BTreeSet<String>, String> {
    let services = agent
        .client()
        .agent_services(None)
        .await
        .map_err(|error| error.to_string())?;
    Ok(services
        .into_values()
        .map(|s| format!("{} {}:{}", s.service, s.address, s.port))
        .collect())
}

/// Where the engine says that a container's port 80 is published.
fn published(engine: &Engine, container: &str) -> Result<String, String> {
    let ports = engine.docker(&["port", container, "80"])?;
    let port = ports.lines().find_map(|line| line.strip_prefix("0.0.0.0:"));
    port.map(|port| format!("{container} 192.0.2.1:{port}"))
        .ok_or(ports)
}

async fn until_registered(
    agent: &Agent,
    what: &str,
    expected: impl Fn() -> Result<BTreeSet<String>, String>,
) {
    until(what, SOON, || async {
        let (found, expected) = (registered(agent).await?, expected()?);
        if found == expected {
            Ok(())
        } else {
            Err(format!("{found:?}, not {expected:?}"))
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_docker_that_is_killed_and_restarted_costs_no_registration_and_is_followed_again() {
    let (engine, agent) = (Engine::start().await, Agent::start().await);
    let [admin] = free_ports();
    let mount = format!("{}:/shared", engine.directory().display());
    let _registrator = Container::run(
        &[
            "--network=host",
            "--user=0",
            "-v",
            &mount,
            "-e",
            "DOCKER_HOST=unix:///shared/docker.sock",
        ],
        "colossus/registrator",
        &[
            "--admin-addr",
            &format!("127.0.0.1:{admin}"),
            "--ip",
            "192.0.2.1",
            agent.address(),
        ],
    );
    let start = |name: &str, restart: &str| {
        let service = format!("SERVICE_NAME={name}");
        let options = [
            "run",
            "-d",
            "-p",
            "80",
            "--name",
            name,
            "--restart",
            restart,
            "-e",
            &service,
        ];
        engine
            .docker(&[&options[..], &["colossus/example-web"]].concat())
            .unwrap();
    };
    start("lasting", "always");
    start("passing", "no");
    let both = || {
        Ok(BTreeSet::from([
            published(&engine, "lasting")?,
            published(&engine, "passing")?,
        ]))
    };
    until_registered(&agent, "both are registered", both).await;

    let before = registered(&agent).await.unwrap();
    engine.kill();
    throughout(
        "nothing is taken for gone while Docker is",
        Duration::from_secs(2),
        || async {
            let found = registered(&agent).await?;
            if found == before {
                Ok(())
            } else {
                Err(format!("{found:?}"))
            }
        },
    )
    .await;

    // Docker comes back with the one it restarts, possibly at another port, and without the other.
    engine.release().await;
    let lasting = || Ok(BTreeSet::from([published(&engine, "lasting")?]));
    until_registered(&agent, "what runs is registered", lasting).await;

    // And its events are followed again.
    start("later", "no");
    let later = || {
        Ok(BTreeSet::from([
            published(&engine, "lasting")?,
            published(&engine, "later")?,
        ]))
    };
    until_registered(&agent, "a later one is registered", later).await;
    engine.docker(&["rm", "-f", "lasting", "later"]).unwrap();
    until_registered(&agent, "nothing is left", || Ok(BTreeSet::new())).await;
}
