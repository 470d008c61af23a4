//! What this node may be, by fleet's metadata of its machine (`consul_role=server|client`).

use std::collections::BTreeMap;
use std::time::Duration;

use daemon::{RunError, error_chain};
use tracing::warn;

use crate::observed::Role;

/// fleet asks etcd in its turn.
const DEADLINE: Duration = Duration::from_secs(5);
const KEY: &str = "consul_role";

/// Asks fleet's API at `endpoint` for the metadata of `machine`.
///
/// While fleet does not answer, `known` holds, the role of an earlier life: a reboot without etcd must not keep Consul
/// from running. A machine without the key has the role `given`.
///
/// # Errors
/// When fleet does not answer and nothing is known, or the metadata has a word that is no role.
pub async fn by_fleet(
    endpoint: &str,
    machine: &str,
    given: Role,
    known: Option<Role>,
) -> Result<Role, RunError> {
    let endpoint = endpoint.parse().map_err(|reason| {
        RunError::config(format!(
            "--fleet {endpoint:?} is no address of fleet's API: {reason}"
        ))
    })?;
    let config = fleet::Config {
        timeout: DEADLINE,
        ..fleet::Config::new(endpoint)
    };
    let client = fleet::Client::new(config).map_err(RunError::config)?;
    match client.machines().await {
        Ok(machines) => {
            let Some(own) = machines.iter().find(|other| other.id == machine) else {
                warn!("fleet knows no machine with this host's ID: --role holds");
                return Ok(given);
            };
            role_in(&own.metadata, given).map_err(RunError::config)
        }
        Err(error) => match known {
            Some(known) => {
                warn!(
                    "fleet does not tell this machine's role, it stays as it was: {}",
                    error_chain(&error)
                );
                Ok(known)
            }
            None => Err(RunError::failed(error)),
        },
    }
}

fn role_in(metadata: &BTreeMap<String, String>, given: Role) -> Result<Role, String> {
    match metadata.get(KEY).map(String::as_str) {
        None => Ok(given),
        Some("server") => Ok(Role::Server),
        Some("client") => Ok(Role::Client),
        Some("auto") => Ok(Role::Auto),
        Some(other) => Err(format!(
            "fleet's metadata of this machine has {KEY}={other}: use server, client or auto"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_metadata_decides_and_without_it_the_command_line() {
        let role = |word: &str| role_in(&BTreeMap::from([(KEY.to_owned(), word.to_owned())]), Role::Auto);
        assert_eq!(role("server"), Ok(Role::Server));
        assert_eq!(role("client"), Ok(Role::Client));
        assert_eq!(role_in(&BTreeMap::new(), Role::Client), Ok(Role::Client));
        let error = role("sever").expect_err("no role");
        assert!(error.contains("consul_role=sever"), "{error}");
    }
}
