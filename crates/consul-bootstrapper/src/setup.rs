//! From the command line to what the service works with. Nothing is bound or changed here.

use std::net::{IpAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::time::Duration;

use contract::DnsLabel;
use daemon::{Gate, RunError};
use etcd::LeaseId;
use sha2::{Digest, Sha256};
use tokio::sync::watch;
use tracing::warn;

use crate::args::{Args, TlsMode};
use crate::clients::Clients;
use crate::commands::Operator;
use crate::config::{Dns, Settings, TlsFiles};
use crate::error::Error;
use crate::files::{Files, Known};
use crate::keys::Keys;
use crate::metrics::Metrics;
use crate::observed::Me;
use crate::reconciler::{Identity, Parts, TlsSource};
use crate::role::by_fleet;
use crate::secrets::random;

/// What the command line says, checked.
#[derive(Debug)]
pub struct Setup {
    /// This node.
    pub identity: Identity,
    /// Consul's settings.
    pub settings: Settings,
    /// Where certificates come from.
    pub tls: TlsSource,
    /// See `--replace-after`.
    pub replace_after: Duration,
    /// See `--presence-ttl`.
    pub presence_ttl: Duration,
    /// etcd.
    pub etcd: etcd::Client,
    /// How to reach Consul.
    pub consul: consul::Config,
    /// File with the token for it, made by ourselves.
    pub consul_token: Option<PathBuf>,
    /// etcd's keys.
    pub keys: Keys,
    /// Files.
    pub files: Files,
    /// What an earlier process knew.
    pub known: Known,
}

impl Setup {
    /// Checks `args` and completes them with what the host knows of itself.
    ///
    /// # Errors
    /// [`RunError::config`] for what is wrong in them.
    pub async fn new(args: &Args) -> Result<Self, RunError> {
        let ttl = args.presence_ttl;
        if !(Duration::from_secs(5)..=Duration::from_secs(60)).contains(&ttl) {
            return Err(RunError::config(format!(
                "--presence-ttl {} is out of range: 5s to 60s",
                humantime::format_duration(ttl)
            )));
        }
        if args.replace_after < Duration::from_secs(30) {
            return Err(RunError::config(format!(
                "--replace-after {} is too short: a host that restarts would lose its slot; use 30s or more",
                humantime::format_duration(args.replace_after)
            )));
        }
        let node = match &args.node {
            Some(node) => node.clone(),
            None => own_name()?,
        };
        let address = match args.ip {
            Some(address) => address,
            None => daemon::host::host_address().map_err(RunError::config)?,
        };
        if address.is_unspecified() || address.is_multicast() {
            return Err(RunError::config(format!(
                "--ip {address} is nobody's address: give one of this host at which the others reach it"
            )));
        }
        let files = Files::new(args.state_dir.clone(), args.run_dir.clone());
        let (tls, tls_files) = tls_source(args, &files)?;
        let own_token = args.acl && args.consul.auth.consul_token_file.is_none();
        let settings = Settings {
            datacenter: args.datacenter.to_string(),
            data_dir: files.data_dir(),
            client_address: [127, 0, 0, 1].into(),
            dns: dns(args),
            tls: tls_files,
            acl: args.acl,
        };
        let machine = machine_id(&args.machine_id_file).map_err(RunError::config)?;
        // A damaged file costs what it held, and nothing else: etcd knows most of it.
        let known = files.known().unwrap_or_else(|error| {
            warn!("{}", daemon::error_chain(&error));
            Known::default()
        });
        let mut role = args.role.into();
        if let Some(endpoint) = &args.fleet {
            role = by_fleet(endpoint, &machine, role, known.role).await?;
        }
        let identity = Identity {
            me: Me {
                node,
                address,
                role,
                servers: args.servers,
                settings: settings.digest(),
            },
            host: host_id(&machine),
            instance: instance().map_err(RunError::failed)?,
        };
        Ok(Self {
            identity,
            settings,
            tls,
            replace_after: args.replace_after,
            presence_ttl: ttl,
            etcd: etcd::Client::new(args.etcd.config().map_err(RunError::config)?)
                .map_err(RunError::config)?,
            consul: args.consul.config(),
            consul_token: own_token.then(|| files.token("management")),
            keys: Keys::new(&args.cluster),
            files,
            known,
        })
    }

    /// What the reconciler works with.
    ///
    /// # Errors
    /// When Consul's address or files cannot be used.
    pub fn into_parts(
        self,
        lease: watch::Receiver<Option<LeaseId>>,
        metrics: Metrics,
        settled: Gate,
    ) -> Result<Parts, RunError> {
        Ok(Parts {
            identity: self.identity,
            settings: self.settings,
            tls: self.tls,
            replace_after: self.replace_after,
            presence_ttl: self.presence_ttl,
            etcd: self.etcd,
            consul: Clients::new(self.consul, self.consul_token).map_err(RunError::config)?,
            keys: self.keys,
            files: self.files,
            known: self.known,
            lease,
            metrics,
            settled,
        })
    }

    /// What commands work with.
    ///
    /// # Errors
    /// When Consul's address or files cannot be used.
    pub fn into_operator(self) -> Result<Operator, RunError> {
        Ok(Operator {
            node: self.identity.me.node,
            etcd: self.etcd,
            consul: Clients::new(self.consul, self.consul_token)
                .map_err(RunError::config)?
                .quick,
            keys: self.keys,
            files: self.files,
        })
    }
}

fn own_name() -> Result<DnsLabel, RunError> {
    let name = daemon::host::host_name().map_err(RunError::config)?;
    name.parse().map_err(|reason| {
        RunError::config(format!(
            "this host's name {name:?} cannot be a node's name: {reason}. Give one with --node (COLOSSUS_NODE)"
        ))
    })
}

fn tls_source(args: &Args, files: &Files) -> Result<(TlsSource, Option<TlsFiles>), RunError> {
    let given = [&args.tls_ca_file, &args.tls_cert_file, &args.tls_key_file];
    match args.tls {
        TlsMode::Files => match given {
            [Some(ca), Some(cert), Some(key)] => {
                let (ca, cert, key) = (ca.clone(), cert.clone(), key.clone());
                Ok((TlsSource::Files, Some(TlsFiles { ca, cert, key })))
            }
            _ => Err(RunError::config(
                "--tls=files needs all of --tls-ca-file, --tls-cert-file and --tls-key-file",
            )),
        },
        _ if given.iter().any(|file| file.is_some()) => Err(RunError::config(
            "--tls-ca-file, --tls-cert-file and --tls-key-file are used with --tls=files only: add it, or leave them out",
        )),
        TlsMode::Off => Ok((TlsSource::Off, None)),
        TlsMode::Auto => {
            let tls = TlsFiles {
                ca: files.tls("ca.pem"),
                cert: files.tls("cert.pem"),
                key: files.tls("key.pem"),
            };
            Ok((TlsSource::Auto, Some(tls)))
        }
    }
}

fn dns(args: &Args) -> Option<Dns> {
    // An address that is not this host's would keep Consul from starting.
    let (addresses, foreign): (Vec<_>, Vec<_>) = args.dns.iter().partition(|address| is_local(**address));
    if !foreign.is_empty() {
        warn!(
            ?foreign,
            "--dns names addresses that this host does not have: left out"
        );
    }
    if addresses.is_empty() {
        return None;
    }
    let recursors = match &args.dns_recursors {
        Some(recursors) => recursors.clone(),
        None => system_recursors(&addresses),
    };
    Some(Dns {
        addresses,
        port: args.dns_port,
        recursors,
    })
}

/// Whether the kernel lets one bind to it.
fn is_local(address: IpAddr) -> bool {
    UdpSocket::bind((address, 0)).is_ok()
}

/// The name servers of this host, without those that would be Consul itself or a stub on the loopback address, which asks
/// Consul in turn.
fn system_recursors(own: &[IpAddr]) -> Vec<IpAddr> {
    let text = std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
    text.lines()
        .filter_map(|line| line.strip_prefix("nameserver")?.trim().parse::<IpAddr>().ok())
        .filter(|server| !server.is_loopback() && !own.contains(server))
        .collect()
}

/// The machine's ID (machine-id(5)).
fn machine_id(path: &Path) -> Result<String, Error> {
    let shown = path.display().to_string();
    let text = std::fs::read_to_string(path).map_err(|source| Error::MachineId {
        path: shown.clone(),
        source,
    })?;
    let id = text.trim();
    if id.len() != 32 || !id.chars().all(|digit| digit.is_ascii_hexdigit()) {
        return Err(Error::NoMachineId { path: shown });
    }
    Ok(id.to_owned())
}

/// The machine's ID, hashed: it shall not be published as it is (machine-id(5)).
fn host_id(machine: &str) -> String {
    hex(&Sha256::digest(format!("colossus {machine}").as_bytes()))
}

fn instance() -> Result<String, Error> {
    Ok(hex(&random::<8>()?))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().take(16).map(|byte| format!("{byte:02x}")).collect()
}
