//! The command line.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Parser, Subcommand};
use fleet::Endpoint;

/// Checks unit files for fleet, and runs units with it.
///
/// fleet places systemd units on the machines of a cluster, as the section [X-Fleet] of each unit asks. `check` needs no
/// fleet: it names what fleet would refuse or silently ignore. All else asks fleet's API.
#[derive(Debug, Parser)]
#[command(name = "fleet-units", version)]
#[command(
    after_help = "Examples:\n  fleet-units check fleet-units/*.service\n  fleet-units machines\n  fleet-units start \
                  fleet-units/consul.service\n  fleet-units submit fleet-units/example-web@.service\n  fleet-units start \
                  example-web@1 example-web@2\n  fleet-units list\n\nA unit may be named without .service. A unit's file cannot \
                  be changed in fleet: --replace stops the unit and makes it anew.\n\nExit codes: 0 all is done, 1 something \
                  is wrong or failed, 64 wrong usage."
)]
pub(crate) struct Args {
    /// fleet's API: unix:///path/to/fleet.sock or http://HOST:PORT.
    #[arg(
        long,
        env = "FLEETCTL_ENDPOINT",
        value_name = "URI",
        default_value = "unix:///run/fleet.sock",
        global = true
    )]
    pub(crate) endpoint: Endpoint,

    /// The deadline of one call.
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = humantime::parse_duration, global = true)]
    pub(crate) timeout: Duration,

    /// What to do.
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Name what is wrong with unit files; asks no fleet.
    Check {
        /// Unit files.
        #[arg(required = true, value_name = "FILE")]
        files: Vec<PathBuf>,
    },
    /// List the machines of the cluster, with their metadata.
    Machines {
        /// Show whole IDs.
        #[arg(long)]
        full: bool,
    },
    /// List what runs where, as systemd on each machine says.
    List {
        /// List what fleet was asked for instead.
        #[arg(long)]
        files: bool,
    },
    /// Show one unit: what was asked for, what became of it, and where.
    Status {
        /// Units.
        #[arg(required = true, value_name = "UNIT")]
        units: Vec<String>,
    },
    /// Make units known to fleet without starting them; templates, above all.
    Submit {
        /// Unit files.
        #[arg(required = true, value_name = "FILE")]
        files: Vec<PathBuf>,
        /// Where fleet has another version: stop it everywhere, and take this one.
        #[arg(long)]
        replace: bool,
    },
    /// Start units: those that fleet knows, instances of templates that it knows, or files.
    Start {
        /// Units or unit files. web@1.service is made from web@.service, in fleet or beside it.
        #[arg(required = true, value_name = "UNIT|FILE")]
        units: Vec<String>,
        /// Where fleet has another version of a file: stop it everywhere, and start this one.
        #[arg(long)]
        replace: bool,
        /// How long to wait until each runs; 0s does not wait. Global units are not waited for.
        #[arg(long, value_name = "DURATION", default_value = "60s", value_parser = humantime::parse_duration)]
        wait: Duration,
    },
    /// Stop units; fleet still knows them, and keeps their places.
    Stop {
        /// Units.
        #[arg(required = true, value_name = "UNIT")]
        units: Vec<String>,
    },
    /// Stop units and make fleet forget them.
    Destroy {
        /// Units.
        #[arg(required = true, value_name = "UNIT")]
        units: Vec<String>,
    },
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        Args::command().debug_assert();
        let args = Args::try_parse_from([
            "fleet-units",
            "start",
            "web@1",
            "--wait",
            "5s",
            "--endpoint",
            "http://h:1",
        ])
        .unwrap();
        assert_eq!(args.endpoint.to_string(), "http://h:1");
        let bad = Args::try_parse_from(["fleet-units", "--endpoint", "h:1", "machines"])
            .unwrap_err()
            .to_string();
        assert!(bad.contains("write it as unix:///run/fleet.sock"), "{bad}");
    }
}
