//! HAProxy and router-config alone, for a Consul that the test fills by hand.

use std::net::SocketAddr;
use std::time::Duration;

use consul::ServiceRegistration;
use contract::META_OWNER;
use serde_json::Value;

use crate::agent::Agent;
use crate::docker::{Container, docker, try_docker, unique};
use crate::http::{Answer, get, get_json};
use crate::platform::{DOMAIN, free_ports, in_volume, loopback};
use crate::wait::until;

/// A router; removed when dropped.
#[derive(Debug)]
pub struct Router {
    router_config: Container,
    haproxy: Container,
    http: SocketAddr,
    admin: SocketAddr,
    // Dropped last: a volume in use cannot be removed.
    volume: Volume,
}

#[derive(Debug)]
struct Volume(String);

impl Router {
    /// Starts one whose configuration directory has `megabytes` of space, in memory, and waits until it is ready.
    ///
    /// # Panics
    /// When it is not ready within 30 s.
    pub async fn start_with_space(agent: &Agent, megabytes: u32) -> Self {
        let name = unique("colossus-test-router");
        let size = format!("o=size={megabytes}m,uid=65532,gid=65532,mode=2770");
        docker(&[
            "volume",
            "create",
            "--opt",
            "type=tmpfs",
            "--opt",
            "device=tmpfs",
            "--opt",
            &size,
            &name,
        ]);
        let volume = Volume(name);
        let mount = format!("{}:/var/lib/colossus/router", volume.0);
        let [http, admin, stats] = free_ports();
        let host = ["--network=host", "-v", &mount];
        let haproxy = Container::run(
            &[&host[..], &["-e", &format!("HTTP_PORT={http}")]].concat(),
            "colossus/haproxy",
            &[],
        );
        let router_config = Container::run(
            &host,
            "colossus/router-config",
            &[
                "--admin-addr",
                &format!("127.0.0.1:{admin}"),
                "--consul",
                agent.address(),
                "--domain",
                DOMAIN,
                "--http-addr",
                &format!("127.0.0.1:{http}"),
                "--stats-addr",
                &format!("127.0.0.1:{stats}"),
            ],
        );
        let (http, admin) = (loopback(http), loopback(admin));
        until("router-config is ready", Duration::from_secs(30), || {
            get_json(admin, "/ready")
        })
        .await;
        Self {
            router_config,
            haproxy,
            http,
            admin,
            volume,
        }
    }

    /// HAProxy's container.
    pub fn haproxy(&self) -> &Container {
        &self.haproxy
    }

    /// router-config's container.
    pub fn router_config(&self) -> &Container {
        &self.router_config
    }

    /// `/status` of router-config.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn status(&self) -> Result<Value, String> {
        get_json(self.admin, "/status").await
    }

    /// One GET of a service through HAProxy.
    ///
    /// # Errors
    /// When there is no answer.
    pub async fn get(&self, service: &str) -> Result<Answer, String> {
        get(self.http, &format!("{service}.{DOMAIN}"), "/")
            .await
            .map_err(|error| error.to_string())
    }

    /// Waits until a service answers with `status`.
    ///
    /// # Panics
    /// When it does not within `within`.
    pub async fn until_status(&self, service: &str, status: u16, within: Duration) {
        until(&format!("{service} answers {status}"), within, || async {
            let answer = self.get(service).await?;
            if answer.status == status {
                Ok(())
            } else {
                Err(format!("it answers {}", answer.status))
            }
        })
        .await;
    }

    /// Runs a shell command with the configuration directory at `/state`.
    pub fn in_state_directory(&self, command: &str) -> String {
        in_volume(&self.volume.0, command)
    }
}

impl Drop for Volume {
    fn drop(&mut self) {
        if let Err(error) = try_docker(&["volume", "rm", &self.0]) {
            eprintln!("cannot remove volume {}: {error}", self.0);
        }
    }
}

/// A registration of an instance of `service` at `address` that routers take for one of ours, and registrator for somebody
/// else's.
pub fn routed_service(service: &str, address: &str, port: u16) -> ServiceRegistration {
    ServiceRegistration {
        address: address.to_owned(),
        port,
        meta: [(META_OWNER.to_owned(), "integration-tests".to_owned())].into(),
        ..ServiceRegistration::new(service, service)
    }
}
