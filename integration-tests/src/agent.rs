//! A Consul agent alone, on the loopback address with ports of its own.

use std::path::Path;
use std::time::Duration;

use crate::docker::Container;
use crate::platform::free_ports;
use crate::wait::until;

/// A single Consul server; removed when dropped.
#[derive(Debug)]
pub struct Agent {
    container: Container,
    options: Vec<String>,
    client: consul::Client,
    address: String,
}

impl Agent {
    /// Starts one and waits until it has elected itself.
    ///
    /// # Panics
    /// When it does not.
    pub async fn start() -> Self {
        let agent = Self::start_with(&[]);
        agent.until_leader().await;
        agent
    }

    /// Starts one with more arguments (`-bootstrap-expect=3` never has a leader) and waits for nothing.
    pub fn start_with(arguments: &[&str]) -> Self {
        Self::start_opted(&[], arguments)
    }

    /// The same with `directory` mounted at the path it has here: for certificates, and for a Unix socket.
    pub fn start_mounting(directory: &Path, arguments: &[&str]) -> Self {
        let path = directory.display();
        Self::start_opted(&[format!("--volume={path}:{path}")], arguments)
    }

    fn start_opted(more: &[String], arguments: &[&str]) -> Self {
        let [http, dns, server, serf] = free_ports();
        let ports = [
            ("CONSUL_PORT", http),
            ("CONSUL_DNS_PORT", dns),
            ("CONSUL_SERVER_PORT", server),
            ("CONSUL_SERF_PORT", serf),
        ];
        let mut options = vec!["--network=host".to_owned()];
        options.extend(ports.map(|(name, port)| format!("--env={name}={port}")));
        options.extend_from_slice(more);
        let address = format!("http://127.0.0.1:{http}");
        let client =
            consul::Client::new(consul::Config::new(address.parse().expect("an address"))).expect("a client");
        let container = run(&options, arguments);
        Self {
            container,
            options,
            client,
            address,
        }
    }

    /// A client of it.
    pub fn client(&self) -> &consul::Client {
        &self.client
    }

    /// Its URL.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Its container: to stop, freeze, kill, start.
    pub fn container(&self) -> &Container {
        &self.container
    }

    /// Ends it and starts one at the same address that knows nothing.
    ///
    /// # Panics
    /// When it does not start.
    pub async fn wipe(&mut self) {
        self.container.command(&["rm", "-f", "-v"]);
        self.container = run(&self.options, &[]);
        self.until_leader().await;
    }

    /// Waits until it knows a leader.
    ///
    /// # Panics
    /// When it does not within 30 s.
    pub async fn until_leader(&self) {
        until("a leader", Duration::from_secs(30), || async {
            match self.client.leader().await {
                Ok(Some(_)) => Ok(()),
                Ok(None) => Err("none yet".to_owned()),
                Err(error) => Err(error.to_string()),
            }
        })
        .await;
    }
}

fn run(options: &[String], arguments: &[&str]) -> Container {
    let options: Vec<&str> = options.iter().map(String::as_str).collect();
    Container::run(&options, "colossus/consul", arguments)
}
