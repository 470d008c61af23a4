//! `make cluster`: several hosts on this machine, with the platform on them. deploy/cluster.sh builds what is needed and
//! calls this.

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};
use integration_tests::cluster::{Cluster, ClusterOptions, Error, Node, State, Steps, Subnet, Units, remove};

/// Several hosts on this machine.
#[derive(Debug, Parser)]
struct Options {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Makes a cluster, or brings the one of this name to what is asked for, and returns when it is ready
    Up(Up),
    /// Says what each host and each service on it is doing
    Status(Name),
    /// Writes what can be known of each host, also of one that is off or frozen
    Evidence {
        #[command(flatten)]
        name: Name,
        /// Where to [default: target/evidence/NAME]
        #[arg(long, value_name = "DIR")]
        to: Option<PathBuf>,
    },
    /// Removes it with all that is on it
    Down(Name),
}

#[derive(Debug, Args)]
struct Name {
    /// The hosts are the containers NAME-n1 and so on
    #[arg(long, env = "CLUSTER", default_value = "colossus")]
    name: String,
}

#[derive(Debug, Args)]
struct Up {
    #[command(flatten)]
    name: Name,
    /// How many hosts, 1 to 9
    #[arg(long, env = "NODES", value_name = "N", default_value_t = 3)]
    nodes: usize,
    /// Where their addresses are, A.B.C.0/24 [default: 10.213.0.0/24, or a free one for another name]
    #[arg(long, env = "CLUSTER_SUBNET", value_name = "NET")]
    subnet: Option<Subnet>,
    /// Services answer at SERVICE.DOMAIN
    #[arg(long, env = "DOMAIN", default_value = "cluster.local")]
    domain: String,
}

impl Up {
    fn options(self) -> Result<ClusterOptions, Error> {
        let Name { name } = self.name;
        let subnet = match self.subnet {
            // The default cluster has addresses that one can remember.
            None if name == "colossus" => Some("10.213.0.0/24".parse()?),
            given => given,
        };
        Ok(ClusterOptions {
            name,
            nodes: self.nodes,
            subnet,
            domain: self.domain,
            vips: 1,
            units: Units::Platform,
            settings: Vec::new(),
            test: false,
        })
    }
}

#[tokio::main]
async fn main() -> ExitCode {
    let options = match Options::try_parse() {
        Ok(options) => options,
        Err(error) => {
            let _ = error.print();
            // Help is no error; a setting that makes no sense is EX_USAGE.
            return ExitCode::from(if error.use_stderr() { 64 } else { 0 });
        }
    };
    match run(options.command).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            if let Some(mend) = error.mend() {
                eprintln!("  do:  {mend}");
            }
            ExitCode::from(error.code())
        }
    }
}

async fn run(command: Command) -> Result<(), Error> {
    match command {
        Command::Up(options) => up(options).await,
        Command::Status(name) => status(&find(&name).await?).await,
        Command::Evidence { name, to } => {
            let cluster = find(&name).await?;
            let directory = to.unwrap_or_else(|| cluster.evidence_directory());
            cluster.evidence(&directory).await?;
            say(&directory.display().to_string());
            Ok(())
        }
        Command::Down(Name { name }) => Ok(remove(&name)?),
    }
}

async fn up(options: Up) -> Result<(), Error> {
    let steps = Steps::told();
    match Cluster::up(options.options()?, &steps).await {
        Ok(mut cluster) => {
            cluster.keep();
            cluster.write_environment()?;
            Ok(())
        }
        Err((error, remains)) => {
            if let Some(mut cluster) = remains {
                // To be looked at.
                cluster.keep();
                let directory = cluster.evidence_directory();
                if cluster.evidence(&directory).await.is_ok() {
                    steps.say(&format!(
                        "what can be known of the hosts is in {}",
                        directory.display()
                    ));
                }
            }
            Err(error)
        }
    }
}

async fn find(name: &Name) -> Result<Cluster, Error> {
    let found = Cluster::find(&name.name).await?;
    found.ok_or_else(|| Error::from(format!("there is no cluster '{}'", name.name)))
}

async fn status(cluster: &Cluster) -> Result<(), Error> {
    for node in cluster.nodes() {
        say(&describe(node).await);
    }
    Ok(())
}

async fn describe(node: &Node) -> String {
    let head = format!("{} {} {}", node.hostname(), node.address(), node.container());
    let state = match node.state().await {
        Ok(State::On) => "on",
        Ok(State::Frozen) => return format!("{head}: frozen"),
        Ok(State::Off) => return format!("{head}: off"),
        Err(error) => return format!("{head}: {error}"),
    };
    let units = "for unit in etcd consul-bootstrapper consul haproxy router-config registrator vip-keeper@1; do \
                 echo \"  $unit $(systemctl show -p ActiveState,SubState,NRestarts --value $unit | tr '\\n' ' ')\"; done";
    let units = match node.exec(&["sh", "-c", units]).await {
        Ok(units) => units,
        Err(error) => error,
    };
    let etcd = match node.etcd_healthy().await {
        Ok(()) => "etcd is healthy".to_owned(),
        Err(error) => error,
    };
    let consul = match node.consul().await {
        Ok(consul) => format!(
            "Consul's leader is {}, with {} voters and {} members",
            consul.leader, consul.voters, consul.alive
        ),
        Err(error) => error,
    };
    format!("{head}: {state}\n  {units}\n  {etcd}\n  {consul}")
}

fn say(what: &str) {
    // Nobody may be listening any more.
    let _ = writeln!(std::io::stdout(), "{what}");
}
