//! From the command line to what the service works with. Nothing is bound or changed here.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use contract::DnsLabel;
use daemon::RunError;
use tokio::net::TcpListener;

use crate::args::{Args, Profile, WithoutEtcd};
use crate::election::{HOLD_MAX, Holder, ProcessId, Settings};
use crate::health::CheckUrl;
use crate::hooks::Hook;
use crate::net::{GateMode, KernelOptions};
use crate::peers::random_word;
use crate::store::Keys;
use crate::vip::Vip;

/// The port of the admin server when there is one keeper on a host; with another, the port tells it apart.
const USUAL_PORT: u16 = 9104;
/// With nothing but the address's lifetime to end it: the kernel looks for ended ones up to a second late.
const LIFETIME_SLACK: Duration = Duration::from_millis(1300);

/// What the command line says, checked.
#[derive(Debug)]
pub struct Setup {
    /// Who this process is.
    pub me: Holder,
    /// Where its host is.
    pub address: IpAddr,
    /// The times.
    pub settings: Settings,
    /// The addresses.
    pub vips: Vec<Vip>,
    /// Where the keys are.
    pub keys: Keys,
    /// etcd for renewals: gives up in time to try again within one right.
    pub fast: etcd::Client,
    /// etcd for everything else.
    pub slow: etcd::Client,
    /// What must answer here.
    pub checks: Vec<CheckUrl>,
    /// How often that is asked.
    pub check_every: Duration,
    /// How long it must have answered.
    pub rise: Duration,
    /// Who is told.
    pub hooks: Vec<Hook>,
    /// The other keepers, for `hold-if-alone`.
    pub peers: Vec<SocketAddr>,
    /// Where they ask.
    pub peer_addr: Option<SocketAddr>,
    /// How the kernel lets go.
    pub gate: GateMode,
    /// What tells several keepers on one host apart.
    pub instance: Option<String>,
    /// Where the keeper that runs here answers.
    pub admin: SocketAddr,
    /// Which etcd the times are for.
    pub profile: Profile,
}

impl Setup {
    /// Checks `args` and completes them with what the host knows of itself.
    ///
    /// # Errors
    /// [`RunError::config`] for what is wrong in them.
    pub fn new(args: &Args) -> Result<Self, RunError> {
        let vips = distinct(&args.vips)?;
        let node = match &args.node {
            Some(node) => node.clone(),
            None => own_name()?,
        };
        let address = match args.ip {
            Some(address) => address,
            None => daemon::host::host_address().map_err(RunError::config)?,
        };
        let me = Holder {
            node,
            process: ProcessId(random_word().map_err(RunError::failed)?),
        };
        let settings = settings(args, me.clone())?;
        let peers = peers(args, address)?;
        let mut config = args.etcd.config().map_err(RunError::config)?;
        let slow = etcd::Client::new(config.clone()).map_err(RunError::config)?;
        // A write that is not answered is tried elsewhere twice within half a right; then the election tries anew, counting from
        // then.
        config.timeout = settings.hold / 2;
        config.attempt_timeout = Some(settings.hold / 6);
        let fast = etcd::Client::new(config).map_err(RunError::config)?;
        Ok(Self {
            me,
            address,
            settings,
            vips,
            keys: Keys::new(&args.cluster),
            fast,
            slow,
            checks: args.checks.clone(),
            check_every: args.check_every,
            rise: args.rise,
            hooks: args.hooks.clone(),
            peers,
            peer_addr: args.peer_addr,
            gate: args.gate,
            instance: args.instance.clone(),
            admin: args.common.admin_addr,
            profile: args.profile,
        })
    }

    /// How the kernel is used. Two keepers on one host need tables of their own, and have admin ports of their own.
    pub fn kernel_options(&self, admin: SocketAddr) -> KernelOptions {
        let by_port = (admin.port() != USUAL_PORT).then(|| admin.port().to_string());
        KernelOptions {
            gate: self.gate,
            instance: self.instance.clone().or(by_port),
            ..KernelOptions::default()
        }
    }

    /// The times where the kernel has no gate: whole seconds, and as much more for it to be late. The records say so, and
    /// every other node waits as long.
    pub fn without_gate(&mut self) {
        let hold = self.settings.hold.as_millis().div_ceil(1000);
        let hold = Duration::from_secs(u64::try_from(hold).unwrap_or(u64::MAX));
        self.settings.slack = LIFETIME_SLACK;
        self.settings.hold = hold.saturating_add(LIFETIME_SLACK);
    }

    /// Binds `--peer-addr`, if there is one.
    ///
    /// # Errors
    /// When it cannot be bound.
    pub async fn bind_peers(&self) -> Result<Option<TcpListener>, RunError> {
        let Some(addr) = self.peer_addr else {
            return Ok(None);
        };
        match TcpListener::bind(addr).await {
            Ok(listener) => Ok(Some(listener)),
            Err(error) => Err(RunError::config(format!(
                "--peer-addr {addr} cannot be bound: {error}; give an address of this host and a port that is free"
            ))),
        }
    }
}

fn distinct(vips: &[Vip]) -> Result<Vec<Vip>, RunError> {
    if vips.is_empty() {
        return Err(RunError::config(
            "--vip is missing: give the virtual IP, for example --vip 10.0.0.100 (COLOSSUS_VIPS)",
        ));
    }
    if vips.len() > etcd::MAX_BATCH {
        return Err(RunError::config(format!(
            "--vip is given {} times; one keeper takes {} at most",
            vips.len(),
            etcd::MAX_BATCH
        )));
    }
    let (mut names, mut addresses) = (BTreeSet::new(), BTreeSet::new());
    for vip in vips {
        if !names.insert(&vip.name) || !addresses.insert(vip.address) {
            return Err(RunError::config(format!(
                "--vip {vip}: another has the same name or the same address; each needs its own"
            )));
        }
    }
    Ok(vips.to_vec())
}

fn own_name() -> Result<DnsLabel, RunError> {
    let name = daemon::host::host_name().map_err(RunError::config)?;
    let label = name.split('.').next().unwrap_or_default();
    label.parse().map_err(|error| {
        RunError::config(format!(
            "this host's name \"{name}\" cannot be a node's: {error}; give one with --node (COLOSSUS_NODE)"
        ))
    })
}

fn settings(args: &Args, me: Holder) -> Result<Settings, RunError> {
    let millis = Duration::from_millis;
    let (renew, hold, margin) = match args.profile {
        Profile::Lan => (millis(400), millis(1200), millis(150)),
        Profile::Default => (millis(500), millis(2400), millis(300)),
    };
    let renew = args.renew.unwrap_or(renew);
    let hold = args.hold.unwrap_or(hold);
    let margin = args.margin.unwrap_or(margin);
    let wrong = |flag: &str, value: Duration, mend: &str| {
        let value = humantime::format_duration(value);
        Err(RunError::config(format!("{flag} {value} {mend}")))
    };
    if renew < millis(50) {
        return wrong(
            "--renew",
            renew,
            "is too short: etcd would do little else; use 50ms or more",
        );
    }
    if hold > HOLD_MAX {
        return wrong("--hold", hold, "is too long: use an hour at most");
    }
    if hold < renew * 2 {
        return wrong(
            "--hold",
            hold,
            "is less than two renewals: one that is late would drop the address; use three times --renew",
        );
    }
    if margin < hold / 50 + millis(20) {
        return wrong(
            "--margin",
            margin,
            "is too short: it must cover the removal of the address and the drift of clocks; use a tenth of --hold",
        );
    }
    Ok(Settings {
        me,
        renew,
        hold,
        slack: Duration::ZERO,
        margin,
        priority: args.priority,
        preempt: args.preempt,
    })
}

fn peers(args: &Args, own: IpAddr) -> Result<Vec<SocketAddr>, RunError> {
    match args.without_etcd {
        WithoutEtcd::Release if args.peers.is_empty() => Ok(Vec::new()),
        // The same settings on every host are no mistake: those that only promise need no policy of their own.
        WithoutEtcd::Release => Ok(Vec::new()),
        WithoutEtcd::HoldIfAlone if args.peers.is_empty() => Err(RunError::config(
            "--without-etcd hold-if-alone needs --peers: every other keeper, as ADDRESS:PORT of its --peer-addr \
             (COLOSSUS_VIP_PEERS)",
        )),
        WithoutEtcd::HoldIfAlone if args.peer_addr.is_none() => Err(RunError::config(
            "--without-etcd hold-if-alone needs --peer-addr, where the other keepers ask this one (COLOSSUS_VIP_PEER_ADDR)",
        )),
        WithoutEtcd::HoldIfAlone => Ok(args
            .peers
            .iter()
            .copied()
            .filter(|peer| !args.peer_addr.is_some_and(|here| is_here(*peer, here, own)))
            .collect()),
    }
}

/// Whether `peer` is this keeper, which listens at `here`: the same list is given to every host.
fn is_here(peer: SocketAddr, here: SocketAddr, own: IpAddr) -> bool {
    let ip = if here.ip().is_unspecified() {
        own
    } else {
        here.ip()
    };
    peer == SocketAddr::new(ip, here.port())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_keeper_finds_itself_in_the_list_of_all_also_when_it_listens_everywhere() {
        let own = [10, 0, 0, 11].into();
        for (peer, here, expected) in [
            ("10.0.0.11:9105", "10.0.0.11:9105", true),
            ("10.0.0.11:9105", "0.0.0.0:9105", true),
            ("10.0.0.12:9105", "0.0.0.0:9105", false),
            ("10.0.0.11:9106", "10.0.0.11:9105", false),
        ] {
            let found = is_here(peer.parse().expect(peer), here.parse().expect(here), own);
            assert_eq!(found, expected, "{peer} {here}");
        }
    }
}
