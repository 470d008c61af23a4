//! What fleet's agent does on a machine: it loads, starts, stops and unloads units, and asks systemd about them.

use std::collections::BTreeMap;
use std::process::Stdio;
use std::time::Duration;

use fleet::{UnitName, UnitState};
use tokio::io::AsyncWriteExt;
use tokio::process::Command;

use super::Host;

/// How long one step on a host may take; stopping a unit is the longest.
const STEP: Duration = Duration::from_secs(90);

/// Writes what it reads as a unit's file and shows it to systemd.
const LOAD: &str = "mkdir -p /run/fleet/units && cat >\"/run/fleet/units/$1\" && \
                    systemctl link --quiet --runtime \"/run/fleet/units/$1\"";

const UNLOAD: &str = "systemctl stop \"$1\"; systemctl reset-failed --quiet \"$1\" 2>/dev/null; \
                      systemctl disable --quiet --runtime \"$1\"; rm -f \"/run/fleet/units/$1\"; systemctl daemon-reload";

/// Whether the container of a host runs: a frozen one cannot be talked to.
pub(super) async fn answers(container: &str) -> bool {
    let format = "{{.State.Status}}";
    docker(&["inspect", "-f", format, container], "")
        .await
        .is_ok_and(|status| status.trim() == "running")
}

pub(super) async fn load(container: &str, name: &UnitName, text: &str) -> Result<(), String> {
    shell(container, LOAD, name, text).await
}

pub(super) async fn start(container: &str, name: &UnitName) -> Result<(), String> {
    shell(container, "systemctl start --no-block \"$1\"", name, "").await
}

pub(super) async fn stop(container: &str, name: &UnitName) -> Result<(), String> {
    shell(container, "systemctl stop \"$1\"", name, "").await
}

pub(super) async fn unload(container: &str, name: &UnitName) -> Result<(), String> {
    shell(container, UNLOAD, name, "").await
}

/// What systemd says of these units, by name.
pub(super) async fn states(
    container: &str,
    host: &Host,
    names: &[UnitName],
) -> Result<BTreeMap<UnitName, UnitState>, String> {
    let mut arguments = vec![
        "exec",
        container,
        "systemctl",
        "show",
        "-p",
        "Id,LoadState,ActiveState,SubState",
        "--",
    ];
    arguments.extend(names.iter().map(UnitName::as_str));
    let shown = if names.is_empty() {
        String::new()
    } else {
        docker(&arguments, "").await?
    };
    let mut states = BTreeMap::new();
    for block in shown.split("\n\n") {
        let values: BTreeMap<_, _> = block.lines().filter_map(|line| line.split_once('=')).collect();
        let value = |key| values.get(key).copied().unwrap_or_default().to_owned();
        if let Ok(name) = value("Id").parse::<UnitName>() {
            let state = UnitState {
                name: name.to_string(),
                machine_id: host.id.clone(),
                hash: String::new(),
                systemd_load_state: value("LoadState"),
                systemd_active_state: value("ActiveState"),
                systemd_sub_state: value("SubState"),
            };
            states.insert(name, state);
        }
    }
    Ok(states)
}

async fn shell(container: &str, script: &str, name: &UnitName, input: &str) -> Result<(), String> {
    let arguments = [
        "exec",
        "-i",
        container,
        "sh",
        "-c",
        script,
        "fleet",
        name.as_str(),
    ];
    docker(&arguments, input).await.map(drop)
}

async fn docker(arguments: &[&str], input: &str) -> Result<String, String> {
    let mut child = Command::new("docker")
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(|error| error.to_string())?;
    let stdin = child.stdin.take();
    let finish = async {
        if let Some(mut stdin) = stdin {
            // One that ends without reading says why itself.
            let _ = stdin.write_all(input.as_bytes()).await;
        }
        child.wait_with_output().await
    };
    let output = tokio::time::timeout(STEP, finish)
        .await
        .map_err(|_| format!("docker {}: not done within {STEP:?}", arguments.join(" ")))?
        .map_err(|error| error.to_string())?;
    if output.status.success() {
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    } else {
        let said = String::from_utf8_lossy(&output.stderr);
        Err(format!("docker {}: {}", arguments.join(" "), said.trim()))
    }
}
