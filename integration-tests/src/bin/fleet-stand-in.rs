//! A stand-in for fleet on the hosts of `make cluster`, to try docs/guides/fleet.md with: fleet's API on a port of this
//! machine, its machines the hosts.

use std::io::Write;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use integration_tests::cluster::Cluster;
use integration_tests::fleet::{Fleet, Host};

/// Serves fleet's API for the hosts of a cluster, until it is interrupted. What it started goes on running.
#[derive(Debug, Parser)]
struct Options {
    /// The cluster: its hosts are the containers NAME-n1 and so on
    #[arg(long, env = "CLUSTER", default_value = "colossus")]
    name: String,
    /// Where to serve the API
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "0.0.0.0:49153")]
    listen: SocketAddr,
    /// Metadata of a machine, as n1:consul_role=server; may be repeated
    #[arg(long, value_name = "HOST:KEY=VALUE", value_parser = metadata)]
    metadata: Vec<(String, String, String)>,
    /// How long a machine may be silent before its units move
    #[arg(long, value_name = "DURATION", default_value = "25s", value_parser = humantime::parse_duration)]
    ttl: Duration,
}

fn metadata(text: &str) -> Result<(String, String, String), String> {
    text.split_once(':')
        .and_then(|(host, pair)| Some((host, pair.split_once('=')?)))
        .map(|(host, (key, value))| (host.to_owned(), key.to_owned(), value.to_owned()))
        .ok_or_else(|| "write it as n1:consul_role=server".to_owned())
}

#[tokio::main]
async fn main() -> ExitCode {
    match run(Options::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn run(options: Options) -> Result<(), String> {
    let found = Cluster::find(&options.name)
        .await
        .map_err(|error| error.to_string())?;
    let cluster = found.ok_or_else(|| format!("there is no cluster '{}': make cluster", options.name))?;
    let fleet = Fleet::start_at(options.listen, Vec::new())
        .await
        .map_err(|error| format!("cannot listen on {}: {error}", options.listen))?;
    fleet.set_ttl(options.ttl);
    for node in cluster.nodes() {
        let own: Vec<(&str, &str)> = options
            .metadata
            .iter()
            .filter(|(host, ..)| *host == node.hostname())
            .map(|(_, key, value)| (key.as_str(), value.as_str()))
            .collect();
        fleet.join(Host::of(node, &own).await);
    }
    let hosts = cluster.nodes().len();
    // Nobody may be listening.
    let _ = writeln!(
        std::io::stdout(),
        "{hosts} machines: export FLEETCTL_ENDPOINT={}",
        fleet.endpoint()
    );
    tokio::signal::ctrl_c().await.map_err(|error| error.to_string())
}
