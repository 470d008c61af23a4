//! The command line.

use std::path::PathBuf;
use std::time::Duration;

use clap::Parser;
use consul::ConsulArgs;
use contract::DomainName;
use daemon::{CommonArgs, HasCommon, InspectCommand, parse_duration};

use crate::haproxy::config::{BindAddress, WorkerUser};

/// Routes host names to the healthy instances in Consul by configuring HAProxy on this node.
///
/// Every service that registrator registered answers at `http://<service>.<domain>/` as soon as it has an instance, and
/// at `http://<service>.<node>.<domain>/` as soon as it has one on that node.
/// HAProxy runs on its own and goes on serving while router-config is down.
#[derive(Debug, Parser)]
#[command(name = "router-config", version, args_conflicts_with_subcommands = true)]
#[command(
    after_help = "Examples:\n  router-config --domain cluster.example.org --http-addr :80\n  router-config --domain \
                        cluster.example.org --dry-run\n  router-config status\n\nExit codes: 0 stopped on request, 64 \
                        the configuration is wrong, 1 anything else."
)]
pub struct Args {
    /// Services answer at `<service>.<domain>`.
    #[arg(
        long,
        env = "COLOSSUS_DOMAIN",
        value_name = "DOMAIN",
        default_value = "cluster.local"
    )]
    pub domain: DomainName,

    /// Whether services also answer at `<service>.<node>.<domain>`, from their instances on that node alone.
    #[arg(
        long,
        env = "ROUTER_NODE_ROUTES",
        value_name = "on|off",
        default_value = "on",
        hide_possible_values = true
    )]
    pub node_routes: Switch,

    /// Where HAProxy takes requests; repeat for several.
    #[arg(
        long,
        env = "ROUTER_HTTP_ADDR",
        value_name = "[IP]:PORT",
        default_value = ":80",
        value_delimiter = ','
    )]
    pub http_addr: Vec<BindAddress>,

    /// Where HAProxy serves its metrics (/metrics), statistics (/) and /health.
    #[arg(
        long,
        env = "ROUTER_STATS_ADDR",
        value_name = "[IP]:PORT",
        default_value = "127.0.0.1:8404"
    )]
    pub stats_addr: BindAddress,

    /// Directory shared with HAProxy: it reads haproxy.cfg there.
    #[arg(
        long,
        env = "ROUTER_STATE_DIR",
        value_name = "DIRECTORY",
        default_value = "/var/lib/colossus/router"
    )]
    pub state_dir: PathBuf,

    /// HAProxy's master socket (its option -S).
    #[arg(
        long,
        env = "ROUTER_MASTER_SOCKET",
        value_name = "PATH",
        default_value = "/var/lib/colossus/router/run/master.sock"
    )]
    pub master_socket: PathBuf,

    /// User and group that HAProxy's workers become; empty when HAProxy is not started as root.
    #[arg(
        long,
        env = "ROUTER_HAPROXY_USER",
        value_name = "USER",
        default_value = "haproxy"
    )]
    pub haproxy_user: WorkerUser,

    /// How long instances stay in use that are missing from Consul's answer after an outage of Consul.
    #[arg(long, env = "ROUTER_HOLD", value_name = "DURATION", default_value = "30s", value_parser = parse_duration)]
    pub hold: Duration,

    /// How long a service without any instance is answered with 503 instead of 404.
    #[arg(long, env = "ROUTER_REMEMBER", value_name = "DURATION", default_value = "24h", value_parser = parse_duration)]
    pub remember: Duration,

    /// Connections that HAProxy serves at the same time; each takes two file descriptors.
    #[arg(long, env = "ROUTER_MAX_CONNECTIONS", value_name = "COUNT", default_value_t = 4_000, value_parser = clap::value_parser!(u32).range(10..=1_000_000))]
    pub max_connections: u32,

    /// How often to compare with HAProxy even if nothing seems to have happened.
    #[arg(long, env = "ROUTER_RESYNC", value_name = "DURATION", default_value = "5s", value_parser = parse_duration)]
    pub resync: Duration,

    /// Print what would be changed and the configuration it leads to, change nothing, and exit.
    #[arg(long)]
    pub dry_run: bool,

    /// The agent, and how it lets us in.
    #[command(flatten)]
    pub consul: ConsulArgs,

    /// What every service takes.
    #[command(flatten)]
    pub common: CommonArgs,

    /// A question to the router-config that runs here.
    #[command(subcommand)]
    pub command: Option<InspectCommand>,
}

/// What can be had or left.
#[derive(clap::ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub enum Switch {
    /// Have it.
    On,
    /// Leave it.
    Off,
}

impl HasCommon for Args {
    const DEFAULT_ADMIN_ADDR: &'static str = "127.0.0.1:9102";

    fn common(&self) -> &CommonArgs {
        &self.common
    }
}
