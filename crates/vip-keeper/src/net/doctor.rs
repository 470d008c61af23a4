//! What this host has, for `doctor`: facts, without a judgement.
//!
//! Everything is read anew at each call. What the kernel does not tell is `None`.

use std::path::Path;
use std::time::Duration;

use nix::time::{ClockId, clock_gettime};

use super::netlink::NetlinkError;
use super::nft::{Gate, GateHook};
use super::privilege;
use super::route::Marks;

/// How long one question to the kernel may take.
const DEADLINE: Duration = Duration::from_millis(500);
/// The first kernel that keeps a mark on an address (`IFA_PROTO`).
const MARKS_SINCE: (u32, u32) = (5, 18);
/// Where the kernel tells of its clock.
const CLOCK_SOURCE: &str = "/sys/devices/system/clocksource/clocksource0";

/// What the kernel of this host can do, and what this process may.
#[derive(Debug)]
pub struct HostFacts {
    /// The kernel's release, such as `6.1.0-28-amd64`.
    pub release: Option<String>,
    /// Whether it keeps a mark on an address. Without it an address is ours if it has a lifetime.
    pub keeps_marks: bool,
    /// Whether the gate can be made, and where in the way of a packet; or why not. Needs `NET_ADMIN`.
    pub gate: Result<GateHook, NetlinkError>,
    /// The capabilities that are needed and missing.
    pub missing_capabilities: Vec<&'static str>,
    /// The clock.
    pub clock: ClockFacts,
}

/// The clock that rights are counted on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClockFacts {
    /// What it counts by: `tsc`, `kvm-clock`, `arch_sys_counter`. With `jiffies` or `refined-jiffies` it is not to be trusted.
    pub source: Option<String>,
    /// What it could count by, the best first. If the source in use is not the first, the kernel has found that one unstable.
    pub available: Vec<String>,
    /// For how long the machine has been suspended since its boot. Not zero: such times do come here.
    pub suspended: Option<Duration>,
    /// How much the clock advances at once: the exactness of a gate is not better than that of the kernel's timers.
    pub resolution: Option<Duration>,
}

/// How an interface treats addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InterfaceFacts {
    /// Its name.
    pub interface: String,
    /// `rp_filter`, the greater of `all` and its own: 0 off, 1 strict (what comes in by another way than the answer would
    /// go is dropped), 2 loose.
    pub rp_filter: Option<u32>,
    /// `arp_ignore`, likewise. 0 and 1 do no harm. With 2 the kernel answers only who is in a network of the interface, with
    /// 8 nobody.
    pub arp_ignore: Option<u32>,
    /// `arp_announce`, likewise.
    pub arp_announce: Option<u32>,
    /// `disable_ipv6` of the interface: then no IPv6 address can be added to it.
    pub ipv6_disabled: Option<bool>,
}

impl HostFacts {
    /// Asks the kernel. Changes nothing.
    pub async fn read() -> Self {
        Self {
            release: release(),
            keeps_marks: keeps_marks().0,
            gate: Gate::probe(DEADLINE).await,
            missing_capabilities: privilege::missing(),
            clock: ClockFacts::read(),
        }
    }
}

impl ClockFacts {
    /// Asks the kernel.
    #[must_use]
    pub fn read() -> Self {
        Self::read_in(Path::new(CLOCK_SOURCE))
    }

    fn read_in(path: &Path) -> Self {
        let available = text(&path.join("available_clocksource")).unwrap_or_default();
        let now = |clock| clock_gettime(clock).ok().map(Duration::from);
        // Read in this order the difference is never too great.
        let (boot, monotonic) = (now(ClockId::CLOCK_BOOTTIME), now(ClockId::CLOCK_MONOTONIC));
        Self {
            source: text(&path.join("current_clocksource")),
            available: available.split_whitespace().map(str::to_owned).collect(),
            suspended: boot
                .zip(monotonic)
                .map(|(boot, monotonic)| boot.saturating_sub(monotonic)),
            resolution: nix::time::clock_getres(ClockId::CLOCK_BOOTTIME)
                .ok()
                .map(Duration::from),
        }
    }
}

impl InterfaceFacts {
    /// Reads the settings of an interface.
    #[must_use]
    pub fn read(interface: &str) -> Self {
        Self::read_in(Path::new("/proc/sys/net"), interface)
    }

    fn read_in(root: &Path, interface: &str) -> Self {
        let number = |family: &str, interface: &str, name: &str| {
            text(&root.join(family).join("conf").join(interface).join(name))?
                .parse()
                .ok()
        };
        let greater = |name| number("ipv4", "all", name).max(number("ipv4", interface, name));
        Self {
            interface: interface.to_owned(),
            rp_filter: greater("rp_filter"),
            arp_ignore: greater("arp_ignore"),
            arp_announce: greater("arp_announce"),
            ipv6_disabled: number("ipv6", interface, "disable_ipv6").map(|disabled: u32| disabled != 0),
        }
    }
}

/// Whether the kernel that runs keeps marks. If it does not tell its release, it is taken for one that does: then
/// nothing is removed that does not bear one.
pub(crate) fn keeps_marks() -> Marks {
    let version = release().as_deref().and_then(version);
    Marks(version.is_none_or(|version| version >= MARKS_SINCE))
}

fn release() -> Option<String> {
    text(Path::new("/proc/sys/kernel/osrelease"))
}

/// The first two numbers of a release.
fn version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(str::parse);
    Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
}

fn text(path: &Path) -> Option<String> {
    Some(std::fs::read_to_string(path).ok()?.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_release_is_read_by_its_first_two_numbers() {
        for (release, expected) in [
            ("6.18.44", Some((6, 18))),
            ("5.4.0-150-generic", Some((5, 4))),
            ("6.1-rc3", Some((6, 1))),
            ("6", None),
            ("", None),
            ("six.one", None),
            ("99999999999.1", None),
        ] {
            assert_eq!(version(release), expected, "{release}");
        }
    }

    #[test]
    fn the_greater_setting_of_all_and_the_interface_counts() {
        let root = tempfile::tempdir().expect("a directory");
        let set = |path: &str, text: &str| {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().expect("a parent")).expect("directories");
            fs::write(path, text).expect("a file");
        };
        set("ipv4/conf/all/rp_filter", "2\n");
        set("ipv4/conf/eth0.10/rp_filter", "1\n");
        set("ipv4/conf/eth0.10/arp_ignore", "1\n");
        set("ipv6/conf/eth0.10/disable_ipv6", "1\n");
        let expected = InterfaceFacts {
            interface: "eth0.10".into(),
            rp_filter: Some(2),
            arp_ignore: Some(1),
            arp_announce: None,
            ipv6_disabled: Some(true),
        };
        assert_eq!(InterfaceFacts::read_in(root.path(), "eth0.10"), expected);
    }

    #[test]
    fn the_clock_tells_what_it_counts_by() {
        let directory = tempfile::tempdir().expect("a directory");
        fs::write(directory.path().join("current_clocksource"), "tsc\n").expect("a file");
        fs::write(
            directory.path().join("available_clocksource"),
            "kvm-clock tsc acpi_pm \n",
        )
        .expect("a file");
        let facts = ClockFacts::read_in(directory.path());
        assert_eq!(facts.source.as_deref(), Some("tsc"));
        assert_eq!(facts.available, ["kvm-clock", "tsc", "acpi_pm"]);
        assert!(facts.suspended.is_some() && facts.resolution.is_some());
    }

    proptest! {
        #[test]
        fn no_release_panics(release in "\\PC{0,40}") {
            let _ = version(&release);
        }
    }
}
