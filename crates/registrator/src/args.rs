//! The command line.

use std::net::IpAddr;
use std::time::Duration;

use clap::Parser;
use consul::{Config, ConsulAuthArgs};
use contract::ServiceId;
use daemon::host::{given_address, unicast_address};
use daemon::{BoxError, CommonArgs, HasCommon, InspectCommand};

use crate::definitions::tag_problem;
use crate::policy::PolicySource;
use crate::variables::split_list;

/// Registers this host's containers as services of the local Consul agent.
///
/// Every published port of a running container becomes one service instance, named after SERVICE_NAME or the
/// image. Start a container with `docker run -d -p 80 -e SERVICE_NAME=example IMAGE` and it appears in Consul as
/// `example`; stop it and it is gone. Services that registrator did not register are never touched.
#[derive(Debug, Parser)]
#[command(
    name = "registrator",
    version,
    args_conflicts_with_subcommands = true,
    subcommand_negates_reqs = true
)]
#[command(
    after_help = "Examples:\n  registrator consul://127.0.0.1:8500\n  registrator --ip 192.0.2.10 --dry-run \
                        consul://127.0.0.1:8500\n  registrator status\n\nExit codes: 0 stopped on request, 64 \
                        the configuration is wrong, 1 anything else."
)]
pub struct Args {
    /// Where to register: consul://HOST:PORT, or unix:///path/to/consul.sock.
    #[arg(value_name = "REGISTRY", required = true)]
    pub registry: Option<consul::Address>,

    /// Address to register for ports that are bound to all addresses of the host [default: COLOSSUS_IP, else
    /// COREOS_PRIVATE_IPV4, else the address of the interface with the default route].
    #[arg(long, env = "REGISTRATOR_IP", value_name = "ADDRESS", value_parser = unicast_address)]
    pub ip: Option<IpAddr>,

    /// Name of this host in service IDs [default: what Docker says].
    #[arg(long, env = "REGISTRATOR_HOSTNAME", value_name = "NAME")]
    pub hostname: Option<ServiceId>,

    /// Register the containers' own addresses and ports, whether published or not.
    #[arg(long)]
    pub internal: bool,

    /// Register only containers that have SERVICE_NAME or `SERVICE_<port>_NAME`.
    #[arg(long)]
    pub explicit: bool,

    /// Tags to add to every service, separated by commas; `\,` is a comma in a tag.
    #[arg(long, env = "REGISTRATOR_TAGS", value_name = "TAGS", default_value = "")]
    pub tags: String,

    /// How often to compare everything even if nothing seems to have happened.
    #[arg(long, env = "REGISTRATOR_RESYNC", value_name = "DURATION", default_value = "30s", value_parser = daemon::parse_duration)]
    pub resync: Duration,

    /// Docker's endpoint: unix:///path or tcp://HOST:PORT [default: unix:///var/run/docker.sock].
    #[arg(long, env = "DOCKER_HOST", value_name = "URI")]
    pub docker_host: Option<String>,

    /// Print what would be registered and deregistered, change nothing, and exit.
    #[arg(long)]
    pub dry_run: bool,

    /// How the agent lets us in.
    #[command(flatten)]
    pub auth: ConsulAuthArgs,

    /// What every service takes.
    #[command(flatten)]
    pub common: CommonArgs,

    /// A question to the registrator that runs here.
    #[command(subcommand)]
    pub command: Option<InspectCommand>,
}

impl Args {
    /// How to talk to the agent.
    pub fn consul_config(&self) -> Option<Config> {
        Some(self.auth.config(self.registry.clone()?))
    }

    /// What the operator said about how to register.
    ///
    /// # Errors
    /// When a tag cannot be one, or the environment gives an address that is none.
    pub fn policy_source(&self) -> Result<PolicySource, BoxError> {
        let tags = split_list(&self.tags);
        if let Some((tag, reason)) = tags.iter().find_map(|tag| Some((tag, tag_problem(tag)?))) {
            return Err(format!("--tags has the tag {tag:?}: {reason}").into());
        }
        let address = match self.ip {
            Some(address) => Some(address),
            None => given_address()?,
        };
        Ok(PolicySource {
            hostname: self.hostname.clone().map(String::from),
            address,
            internal: self.internal,
            explicit: self.explicit,
            tags,
        })
    }
}

impl HasCommon for Args {
    const DEFAULT_ADMIN_ADDR: &'static str = "127.0.0.1:9101";

    fn common(&self) -> &CommonArgs {
        &self.common
    }
}
