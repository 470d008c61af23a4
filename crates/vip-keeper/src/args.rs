//! The command line.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use clap::{Parser, Subcommand, ValueEnum};
use contract::{ClusterName, DnsLabel};
use daemon::{CommonArgs, HasCommon, InspectCommand, parse_duration};
use etcd::EtcdArgs;

use crate::health::CheckUrl;
use crate::hooks::Hook;
use crate::net::GateMode;
use crate::vip::{Vip, VipName};

/// Keeps a virtual IP on exactly one healthy node of the cluster.
///
/// Runs on every host that may have it. The holder renews a record in etcd; when it stops doing so another takes the
/// address, and the kernel of the old one has let go before that, whatever became of the process. A planned move takes
/// milliseconds.
#[derive(Debug, Parser)]
#[command(
    name = "vip-keeper",
    version,
    after_help = "Examples:\n  vip-keeper --vip 10.0.0.100\n  vip-keeper --vip web=10.0.0.100@eth1 --vip fd00::100\n  \
                  vip-keeper --vip 10.0.0.100 --dry-run\n  vip-keeper explain\n  vip-keeper hand-over --to n2\n  \
                  vip-keeper doctor\n\nExit codes: 0 stopped on request, 64 the configuration is wrong, 1 anything else."
)]
pub struct Args {
    /// A virtual IP, as `[NAME=]ADDRESS[@INTERFACE]`; several with commas between, or given again. Without an interface it goes to
    /// the one whose network holds it.
    #[arg(
        long = "vip",
        env = "COLOSSUS_VIPS",
        value_name = "VIP",
        value_delimiter = ',',
        global = true
    )]
    pub vips: Vec<Vip>,

    /// Name of the cluster, where several share one etcd.
    #[arg(
        long,
        env = "COLOSSUS_CLUSTER",
        value_name = "NAME",
        default_value = "main",
        global = true
    )]
    pub cluster: ClusterName,

    /// Name of this node [default: the host's name up to its first dot].
    #[arg(long, env = "COLOSSUS_NODE", value_name = "NAME", global = true)]
    pub node: Option<DnsLabel>,

    /// Address of this host, for the others to see [default: COREOS_PRIVATE_IPV4, else that of the interface with the
    /// default route].
    #[arg(long, env = "COLOSSUS_IP", value_name = "ADDRESS")]
    pub ip: Option<IpAddr>,

    /// Which times fit: `lan` for an etcd with heartbeats of 100 ms and elections of 500 ms, as the unit etcd.service sets
    /// them; `default` for one with etcd's own 1000 ms.
    #[arg(
        long,
        env = "COLOSSUS_VIP_PROFILE",
        value_name = "PROFILE",
        value_enum,
        default_value = "default",
        global = true
    )]
    pub profile: Profile,

    /// How often the holder renews [default: the profile's].
    #[arg(long, env = "COLOSSUS_VIP_RENEW", value_name = "DURATION", value_parser = parse_duration)]
    pub renew: Option<Duration>,

    /// How long after the sending of its last renewal the holder may have the address; others wait as long and a margin before
    /// they take it [default: the profile's].
    #[arg(long, env = "COLOSSUS_VIP_HOLD", value_name = "DURATION", value_parser = parse_duration)]
    pub hold: Option<Duration>,

    /// How much longer than the holder's time the others wait [default: the profile's].
    #[arg(long, env = "COLOSSUS_VIP_MARGIN", value_name = "DURATION", value_parser = parse_duration)]
    pub margin: Option<Duration>,

    /// What the holder does when etcd cannot be reached: `release` lets go at the end of --hold; `hold-if-alone` goes on
    /// as long as all --peers promise not to take the address. (To hold for N seconds give --hold N.)
    #[arg(
        long,
        env = "COLOSSUS_VIP_WITHOUT_ETCD",
        value_name = "POLICY",
        value_enum,
        default_value = "release"
    )]
    pub without_etcd: WithoutEtcd,

    /// For hold-if-alone: every other keeper of the cluster, as ADDRESS:PORT of its --peer-addr, commas between.
    #[arg(
        long,
        env = "COLOSSUS_VIP_PEERS",
        value_name = "ADDRESSES",
        value_delimiter = ','
    )]
    pub peers: Vec<SocketAddr>,

    /// Where to promise the other keepers not to take an address; needed on all of them for hold-if-alone.
    #[arg(long, env = "COLOSSUS_VIP_PEER_ADDR", value_name = "ADDRESS:PORT")]
    pub peer_addr: Option<SocketAddr>,

    /// Of several healthy nodes the one with the highest takes the address; 0 to 255.
    #[arg(long, env = "COLOSSUS_VIP_PRIORITY", value_name = "N", default_value = "100")]
    pub priority: u8,

    /// Move the address to a node of a higher priority when that has been well for this long [default: never].
    #[arg(long, env = "COLOSSUS_VIP_PREEMPT", value_name = "DURATION", value_parser = parse_duration)]
    pub preempt: Option<Duration>,

    /// What must answer for this node to be well: http://ADDRESS:PORT/PATH (any answer under 500) or tcp://ADDRESS:PORT; all
    /// of them. `none` for no check. The first one's connection is kept open, and its end noticed at once.
    #[arg(
        long = "check",
        env = "COLOSSUS_VIP_CHECKS",
        value_name = "URL",
        value_delimiter = ',',
        default_value = "http://127.0.0.1:8404/health,tcp://127.0.0.1:80"
    )]
    pub checks: Vec<CheckUrl>,

    /// How often to check.
    #[arg(long, env = "COLOSSUS_VIP_CHECK_EVERY", value_name = "DURATION", default_value = "500ms", value_parser = parse_duration)]
    pub check_every: Duration,

    /// How long all checks must have been passed for a node to be well again.
    #[arg(long, env = "COLOSSUS_VIP_RISE", value_name = "DURATION", default_value = "2s", value_parser = parse_duration)]
    pub rise: Duration,

    /// A program, or an http(s) URL to POST to, that is told of every change; may be given several times.
    #[arg(
        long = "hook",
        env = "COLOSSUS_VIP_HOOKS",
        value_name = "PROGRAM|URL",
        value_delimiter = ','
    )]
    pub hooks: Vec<Hook>,

    /// How the kernel lets go by itself: `auto` takes nftables where it is there, else the address's lifetime, in whole seconds.
    #[arg(
        long,
        env = "COLOSSUS_VIP_GATE",
        value_name = "GATE",
        value_enum,
        default_value = "auto"
    )]
    pub gate: GateMode,

    /// Tells several keepers on one host apart; each has virtual IPs and an --admin-addr of its own.
    #[arg(long, env = "COLOSSUS_VIP_INSTANCE", value_name = "NAME", global = true)]
    pub instance: Option<String>,

    /// Say what would be done now, change nothing, and exit.
    #[arg(long)]
    pub dry_run: bool,

    /// How to reach etcd.
    #[command(flatten)]
    pub etcd: EtcdArgs,

    /// What every service takes.
    #[command(flatten)]
    pub common: CommonArgs,

    /// What an operator does.
    #[command(subcommand)]
    pub command: Option<Command>,
}

/// The words of `--profile`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Profile {
    /// For an etcd that elects within 500 ms.
    Lan,
    /// For an etcd that elects within 1000 ms.
    Default,
}

/// The words of `--without-etcd`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum WithoutEtcd {
    /// Nobody holds without proof.
    Release,
    /// As long as all others promise.
    HoldIfAlone,
}

/// What an operator does.
#[derive(Clone, Debug, PartialEq, Eq, Subcommand)]
pub enum Command {
    /// A question to the process that runs here.
    #[command(flatten)]
    Inspect(InspectCommand),
    /// Says in words who holds each address, why, and what would move it
    Explain {
        /// Which [default: all].
        vip: Option<VipName>,
    },
    /// Moves addresses to another node; from any node
    HandOver {
        /// To which node [default: the best that is well].
        #[arg(long, value_name = "NODE")]
        to: Option<DnsLabel>,
        /// Which address [default: all of --vip].
        #[arg(long = "only", value_name = "NAME")]
        only: Option<VipName>,
    },
    /// Moves an address there and back, and tells how long each part took
    Drill {
        /// To which node [default: the best that is well].
        #[arg(long, value_name = "NODE")]
        to: Option<DnsLabel>,
        /// Which address [default: the first of --vip].
        #[arg(long = "only", value_name = "NAME")]
        only: Option<VipName>,
    },
    /// Looks at etcd, the kernel, the links and the settings, and says what is wrong and what a fail-over would take
    Doctor,
    /// Removes what a keeper that was killed has left in this host's kernel; refused while one runs
    Cleanup,
}

impl HasCommon for Args {
    const DEFAULT_ADMIN_ADDR: &'static str = "127.0.0.1:9104";

    fn common(&self) -> &CommonArgs {
        &self.common
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Args::command().debug_assert();
    }

    #[test]
    fn several_addresses_are_given_with_commas_or_again() {
        let args = Args::try_parse_from(["vip-keeper", "--vip", "10.0.0.1,10.0.0.2", "--vip", "fd00::1"])
            .expect("good");
        assert_eq!(args.vips.len(), 3);
    }

    #[test]
    fn a_wrong_value_is_named_with_its_flag_and_the_mend() {
        for (flag, value, mend) in [
            ("--vip", "10.0.0.1/24", "without a prefix length"),
            ("--check", "ftp://127.0.0.1", "http://ADDRESS:PORT/PATH"),
            ("--hook", "relative/path", "/absolute/path"),
            ("--hold", "10", "such as 500ms"),
            ("--priority", "256", "0..=255"),
        ] {
            let text = Args::try_parse_from(["vip-keeper", flag, value])
                .expect_err(value)
                .to_string();
            assert!(
                text.contains(flag) && text.contains(value) && text.contains(mend),
                "{text}"
            );
        }
    }
}
