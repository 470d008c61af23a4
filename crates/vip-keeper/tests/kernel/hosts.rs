//! Two hosts on one link.

use std::fs::File;
use std::io::ErrorKind;
use std::net::UdpSocket;
use std::os::fd::AsRawFd;
use std::process::{Command, Output};
use std::time::Duration;

use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::socket::{setsockopt, sockopt::ReceiveTimestampns};
use vip_keeper::net::{BootInstant, GateMode, Kernel, KernelEvents, KernelOptions, Mac};
use vip_keeper::vip::{Vip, VipName};

use crate::observer::Observer;

/// No test may hang: nothing here takes a tenth of this.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);
/// The virtual IPs of the tests.
pub(crate) const VIP4: &str = "10.0.0.100";
pub(crate) const VIP6: &str = "fd00::100";
/// The addresses of the host that observes.
pub(crate) const OBSERVER4: &str = "10.0.0.2";
pub(crate) const OBSERVER6: &str = "fd00::2";
pub(crate) const HOST_MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
const OBSERVER_MAC: [u8; 6] = [2, 0, 0, 0, 0, 2];

/// A network namespace. It is there as long as this is.
pub(crate) struct Namespace(File);

impl Namespace {
    fn new() -> Self {
        let made = std::thread::spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET)
                .expect("a network namespace: these tests need root (CAP_SYS_ADMIN)");
            Self::current()
        });
        made.join().expect("a network namespace")
    }

    fn current() -> Self {
        Self(File::open("/proc/thread-self/ns/net").unwrap())
    }

    fn enter(&self) {
        setns(&self.0, CloneFlags::CLONE_NEWNET).expect("enter a network namespace");
    }

    /// Does something in it. Sockets that are opened and processes that are started stay there.
    pub(crate) fn run<T>(&self, work: impl FnOnce() -> T) -> T {
        let before = Self::current();
        self.enter();
        let result = work();
        before.enter();
        result
    }

    /// Runs `ip` in it.
    pub(crate) fn ip(&self, arguments: &str) -> String {
        let output =
            self.run(|| program("ip", arguments).expect("the program ip: install the package iproute2"));
        let (out, err) = (text(&output.stdout), text(&output.stderr));
        assert!(output.status.success(), "ip {arguments}: {err}");
        out
    }

    /// Runs `nft` in it, if this machine has it.
    pub(crate) fn nft(&self, arguments: &str) -> Option<String> {
        let output = self.run(|| program("nft", arguments))?;
        assert!(
            output.status.success(),
            "nft {arguments}: {}",
            text(&output.stderr)
        );
        Some(text(&output.stdout))
    }
}

fn program(name: &str, arguments: &str) -> Option<Output> {
    match Command::new(name).args(arguments.split_whitespace()).output() {
        Err(error) if error.kind() == ErrorKind::NotFound => None,
        output => Some(output.unwrap()),
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// The host that has the addresses, and the one that observes it.
pub(crate) struct Hosts {
    pub(crate) host: Namespace,
    pub(crate) other: Namespace,
    /// The kernel notes when packets come only while a socket wants to know, and begins some time after the first one did.
    _wants_times: UdpSocket,
}

impl Hosts {
    fn new() -> Self {
        let wants_times = UdpSocket::bind("127.0.0.1:0").unwrap();
        setsockopt(&wants_times, ReceiveTimestampns, &true).unwrap();
        let hosts = Self {
            host: Namespace::new(),
            other: Namespace::new(),
            _wants_times: wants_times,
        };
        let [host, other] = [HOST_MAC, OBSERVER_MAC].map(Mac);
        hosts.host.ip(&format!(
            "link add eth0 address {host} type veth peer name eth0 address {other} netns {}",
            hosts.other.path()
        ));
        for namespace in [&hosts.host, &hosts.other] {
            namespace.ip("link set lo up");
            // Without one of its own: to see that nobody else has it would take a second.
            namespace.ip("link set eth0 up addrgenmode none");
        }
        for (namespace, v4, v6) in [
            (&hosts.host, "10.0.0.1", "fd00::1"),
            (&hosts.other, OBSERVER4, OBSERVER6),
        ] {
            namespace.ip(&format!("address add {v4}/24 dev eth0"));
            namespace.ip(&format!("address add {v6}/64 dev eth0 nodad"));
            namespace.ip(&format!("address add fe80::{}/64 dev eth0 nodad", &v6[6..]));
        }
        // A thread of the kernel makes them ready.
        let is_ready = |namespace: &Namespace| namespace.ip("-6 address show dev eth0 tentative").is_empty();
        let end = BootInstant::now().saturating_add(PATIENCE / 2);
        while !(is_ready(&hosts.host) && is_ready(&hosts.other)) {
            assert!(!end.is_over(), "the addresses of the hosts are not ready");
            std::thread::sleep(Duration::from_millis(5));
        }
        hosts
    }

    /// Observes from the other host.
    pub(crate) fn observer(&self) -> Observer {
        self.other.run(|| Observer::new(Mac(OBSERVER_MAC)))
    }

    /// What `ip` shows of an address of the host; nothing if it is not there.
    pub(crate) fn shown(&self, address: &str) -> String {
        self.host.ip(&format!("-details address show to {address}"))
    }

    pub(crate) fn has(&self, address: &str) -> bool {
        !self.shown(address).is_empty()
    }
}

impl Namespace {
    /// A path that `ip` takes for its name.
    fn path(&self) -> String {
        format!("/proc/{}/fd/{}", std::process::id(), self.0.as_raw_fd())
    }
}

/// Runs a test on the first of two new hosts.
pub(crate) fn on_hosts<F: Future<Output = ()>>(test: impl FnOnce(Hosts) -> F + Send) {
    let result = std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            let hosts = Hosts::new();
            hosts.host.enter();
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            runtime.block_on(async {
                tokio::time::timeout(PATIENCE, test(hosts))
                    .await
                    .expect("a test that ends");
            });
        });
        thread.join()
    });
    if let Err(panic) = result {
        std::panic::resume_unwind(panic);
    }
}

pub(crate) fn vip(text: &str) -> Vip {
    text.parse().unwrap()
}

pub(crate) fn name(text: &str) -> VipName {
    vip(text).name
}

/// A keeper's hold on this host.
pub(crate) async fn open(vips: &[&str], gate: GateMode) -> (Kernel, KernelEvents) {
    let vips: Vec<_> = vips.iter().map(|text| vip(text)).collect();
    let options = KernelOptions {
        gate,
        ..KernelOptions::default()
    };
    Kernel::open(&vips, options).await.unwrap()
}

pub(crate) fn in_ms(milliseconds: u64) -> BootInstant {
    BootInstant::now().saturating_add(Duration::from_millis(milliseconds))
}

/// Waits until something is so.
pub(crate) async fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let end = BootInstant::now().saturating_add(PATIENCE / 2);
    while !is_so() {
        assert!(!end.is_over(), "waited too long until {what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}
