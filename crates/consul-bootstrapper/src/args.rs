//! The command line.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Parser, Subcommand, ValueEnum};
use consul::ConsulArgs;
use contract::{ClusterName, DnsLabel};
use daemon::{CommonArgs, HasCommon, InspectCommand, parse_duration};
use etcd::EtcdArgs;

use crate::observed::Role;

/// Forms the Consul cluster of these hosts through etcd, keeps it, and refuses what would make a second one.
///
/// Runs on every host beside its Consul. The first hosts that may be servers share the server slots among themselves;
/// the others are clients. A lost server is replaced by another host, one at a time. No address is ever written
/// down by hand.
#[derive(Debug, Parser)]
#[command(
    name = "consul-bootstrapper",
    version,
    args_conflicts_with_subcommands = false
)]
#[command(
    after_help = "Examples:\n  consul-bootstrapper --etcd http://10.0.0.11:2379,http://10.0.0.12:2379\n  \
                  consul-bootstrapper --role client\n  consul-bootstrapper --dry-run\n  consul-bootstrapper status\n  \
                  consul-bootstrapper decommission n3\n  consul-bootstrapper snapshot save /var/lib/colossus/consul/consul.snap\n\nExit codes: 0 \
                  stopped on request, 64 the configuration is wrong, 1 anything else."
)]
pub struct Args {
    /// Name of the Consul cluster, where several share one etcd.
    #[arg(long, env = "COLOSSUS_CLUSTER", value_name = "NAME", default_value = "main")]
    pub cluster: ClusterName,

    /// Name of this node [default: the host's name up to its first dot].
    #[arg(long, env = "COLOSSUS_NODE", value_name = "NAME")]
    pub node: Option<DnsLabel>,

    /// Address at which the other hosts reach this one [default: COREOS_PRIVATE_IPV4, else that of the interface with
    /// the default route].
    #[arg(long, env = "COLOSSUS_IP", value_name = "ADDRESS")]
    pub ip: Option<IpAddr>,

    /// What this node may be: `auto` takes a server slot while there is one, `client` never does.
    #[arg(
        long,
        env = "COLOSSUS_CONSUL_ROLE",
        value_name = "ROLE",
        value_enum,
        default_value = "auto"
    )]
    pub role: RoleArg,

    /// Read the role from this machine's fleet metadata `consul_role`, asking fleet's API here
    /// (unix:///run/fleet.sock, http://HOST:PORT). Without it there, --role holds.
    #[arg(long, env = "COLOSSUS_FLEET_API", value_name = "URI")]
    pub fleet: Option<String>,

    /// How many servers the cluster has: 1, 3, 5 or 7. A cluster that lives grows when this does; it never shrinks by itself.
    #[arg(long, env = "COLOSSUS_CONSUL_SERVERS", value_name = "N", default_value = "3", value_parser = server_count)]
    pub servers: u8,

    /// Consul's data centre.
    #[arg(long, env = "CONSUL_DATACENTER", value_name = "NAME", default_value = "dc1")]
    pub datacenter: DnsLabel,

    /// How long the holder of a server slot must be away before another host may take its slot; at least 30s.
    #[arg(long, env = "COLOSSUS_REPLACE_AFTER", value_name = "DURATION", default_value = "5m", value_parser = parse_duration)]
    pub replace_after: Duration,

    /// How long etcd remembers a node that has gone silent; 5s to 60s.
    #[arg(long, env = "COLOSSUS_PRESENCE_TTL", value_name = "DURATION", default_value = "10s", value_parser = parse_duration)]
    pub presence_ttl: Duration,

    /// Directory with Consul's configuration and data, and what is known from before.
    #[arg(long, value_name = "DIR", default_value = "/var/lib/colossus/consul")]
    pub state_dir: PathBuf,

    /// Directory for Consul's permit to run; it must be empty after the host's restart.
    #[arg(long, value_name = "DIR", default_value = "/run/colossus/consul")]
    pub run_dir: PathBuf,

    /// File with this host's machine ID; two hosts with the same one are clones.
    #[arg(long, value_name = "FILE", default_value = "/etc/machine-id")]
    pub machine_id_file: PathBuf,

    /// Let Consul answer DNS on port 53 of these addresses, for this host and its containers
    /// [with the flag alone: 172.17.0.1, Docker's bridge].
    #[arg(
        long,
        env = "COLOSSUS_DNS",
        value_name = "ADDRESSES",
        value_delimiter = ',',
        num_args = 0..,
        default_missing_value = "172.17.0.1"
    )]
    pub dns: Vec<IpAddr>,

    /// The port for --dns.
    #[arg(long, env = "COLOSSUS_DNS_PORT", value_name = "PORT", default_value = "53")]
    pub dns_port: u16,

    /// Name servers for what is not Consul's [default: those of /etc/resolv.conf that are not on this list of --dns].
    #[arg(
        long,
        env = "COLOSSUS_DNS_RECURSORS",
        value_name = "ADDRESSES",
        value_delimiter = ','
    )]
    pub dns_recursors: Option<Vec<IpAddr>>,

    /// TLS between Consul agents: `off`; `auto` makes an authority in etcd and a certificate for each node; `files` takes
    /// yours.
    #[arg(
        long,
        env = "COLOSSUS_CONSUL_TLS",
        value_name = "MODE",
        value_enum,
        default_value = "off"
    )]
    pub tls: TlsMode,

    /// With --tls=files: the CA (PEM) of the agents' certificates.
    #[arg(long, env = "COLOSSUS_CONSUL_TLS_CA_FILE", value_name = "FILE")]
    pub tls_ca_file: Option<PathBuf>,

    /// With --tls=files: this node's certificate (PEM), for `server.<datacenter>.consul`.
    #[arg(long, env = "COLOSSUS_CONSUL_TLS_CERT_FILE", value_name = "FILE")]
    pub tls_cert_file: Option<PathBuf>,

    /// With --tls=files: the key (PEM) of --tls-cert-file.
    #[arg(long, env = "COLOSSUS_CONSUL_TLS_KEY_FILE", value_name = "FILE")]
    pub tls_key_file: Option<PathBuf>,

    /// Let Consul ask for tokens; those for registrator and router-config are put into the state directory's `tokens`.
    #[arg(long, env = "COLOSSUS_CONSUL_ACL", num_args = 0..=1, default_value = "false", default_missing_value = "true")]
    pub acl: bool,

    /// Print what would be done now, change nothing, and exit.
    #[arg(long)]
    pub dry_run: bool,

    /// How to reach etcd.
    #[command(flatten)]
    pub etcd: EtcdArgs,

    /// How to reach the local Consul.
    #[command(flatten)]
    pub consul: ConsulArgs,

    /// What every service takes.
    #[command(flatten)]
    pub common: CommonArgs,

    /// What an operator does.
    #[command(subcommand)]
    pub command: Option<Command>,
}

/// The words of `--role`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum RoleArg {
    /// A server while there is a slot for it, else a client.
    Auto,
    /// As auto; for hosts that are meant to be servers.
    Server,
    /// Never a server.
    Client,
}

impl From<RoleArg> for Role {
    fn from(role: RoleArg) -> Self {
        match role {
            RoleArg::Auto => Self::Auto,
            RoleArg::Server => Self::Server,
            RoleArg::Client => Self::Client,
        }
    }
}

/// The words of `--tls`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum TlsMode {
    /// No TLS.
    Off,
    /// Certificates are made here.
    Auto,
    /// Certificates are given.
    Files,
}

/// What an operator does.
#[derive(Clone, Debug, PartialEq, Eq, Subcommand)]
pub enum Command {
    /// A question to the process that runs here.
    #[command(flatten)]
    Inspect(InspectCommand),
    /// After the loss of the quorum: goes on with this host's data, alone, and lets the others join anew
    ///
    /// Run it on the host whose data is to be kept. It is refused while the cluster has a leader, or while a server that
    /// you call lost is there with its data.
    Recover {
        /// The servers that will never come back with their data; all but this one.
        #[arg(
            long,
            value_name = "NODES",
            value_delimiter = ',',
            required_unless_present = "new_cluster"
        )]
        lost: Vec<DnsLabel>,
        /// Begin a new cluster with no data at all; refused while any node has data.
        #[arg(long, conflicts_with = "lost")]
        new_cluster: bool,
    },
    /// Makes a node leave Consul for good, and frees its server slot for another
    Decommission {
        /// Which node [default: this one].
        node: Option<DnsLabel>,
        /// Take it back: the node may take part again.
        #[arg(long)]
        undo: bool,
        /// How long to wait until it has left.
        #[arg(long, value_name = "DURATION", default_value = "2m", value_parser = parse_duration)]
        wait: Duration,
    },
    /// Restarts every Consul of the cluster, one after the other, each when all servers are healthy
    Restart,
    /// Consul's data as one file
    #[command(subcommand)]
    Snapshot(SnapshotCommand),
}

/// What can be done with a snapshot.
#[derive(Clone, Debug, PartialEq, Eq, Subcommand)]
pub enum SnapshotCommand {
    /// Takes one, and checks it
    Save {
        /// The file to write; it must not exist yet.
        file: PathBuf,
    },
    /// Replaces all that Consul knows by what is in the file
    Restore {
        /// The file to read.
        file: PathBuf,
    },
}

fn server_count(text: &str) -> Result<u8, String> {
    match text.parse() {
        Ok(count @ (1 | 3 | 5 | 7)) => Ok(count),
        _ => Err("use 1, 3, 5 or 7: an even number of servers bears no more losses than one less".to_owned()),
    }
}

impl HasCommon for Args {
    const DEFAULT_ADMIN_ADDR: &'static str = "127.0.0.1:9103";

    fn common(&self) -> &CommonArgs {
        &self.common
    }
}
