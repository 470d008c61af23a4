//! What another host on the link sees. It speaks ARP and echo by itself, so that nothing is cached.

use std::io::{IoSliceMut, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use nix::cmsg_space;
use nix::errno::Errno;
use nix::ifaddrs::getifaddrs;
use nix::sys::socket::sockopt::ReceiveTimestampns;
use nix::sys::socket::{ControlMessageOwned, LinkAddr, MsgFlags, recvmsg, sendto, setsockopt};
use nix::sys::time::TimeSpec;
use nix::time::{ClockId, clock_gettime};
use socket2::{Domain, Protocol, Socket, Type};
use vip_keeper::net::{BootInstant, Mac};

use crate::hosts::{HOST_MAC, Hosts, OBSERVER4, OBSERVER6};

/// How long an answer may take before there is none. It takes well under a millisecond.
const ANSWER: Duration = Duration::from_millis(300);
const ARP: u16 = 0x0806;

/// A packet that was heard: when, and its bytes from the Ethernet header on.
pub(crate) type Heard = (BootInstant, Vec<u8>);

/// The other host's view.
pub(crate) struct Observer {
    arp: Socket,
    ipv6: Socket,
    eth0: LinkAddr,
    mac: Mac,
}

impl Observer {
    pub(crate) fn new(mac: Mac) -> Self {
        let packets = |ethertype: u16| {
            let protocol = Protocol::from(i32::from(ethertype.to_be()));
            let socket = Socket::new(Domain::PACKET, Type::RAW, Some(protocol)).unwrap();
            socket.set_read_timeout(Some(ANSWER)).unwrap();
            setsockopt(&socket, ReceiveTimestampns, &true).unwrap();
            socket
        };
        let is_eth0 = |address: &LinkAddr| address.addr() == Some(mac.0);
        let mut interfaces = getifaddrs()
            .unwrap()
            .filter_map(|interface| interface.address?.as_link_addr().copied());
        Self {
            arp: packets(ARP),
            ipv6: packets(0x86dd),
            eth0: interfaces.find(is_eth0).unwrap(),
            mac,
        }
    }

    pub(crate) fn mac(&self) -> Mac {
        self.mac
    }

    /// Whether somebody answers ARP, or a neighbour solicitation, for the address. Asks more than once: an IPv6 address is
    /// made ready by a thread of the kernel, some time after it was added.
    pub(crate) fn resolves(&self, address: &str) -> bool {
        self.forget();
        (0..5).any(|_| self.answer(address, ANSWER / 5).is_some())
    }

    /// Asks who has an address, without a pause, until nobody has answered for a while. Gives the times of the answers.
    pub(crate) fn flood(&self, address: &str) -> Vec<BootInstant> {
        let mut answers = vec![];
        let mut last = BootInstant::now();
        while !last.saturating_add(ANSWER).is_over() {
            if let Some(at) = self.answer(address, Duration::from_millis(1)) {
                answers.push(at);
                last = BootInstant::now();
            }
        }
        answers
    }

    /// Asks once who has an address, and gives the time of the answer.
    pub(crate) fn answer(&self, address: &str, patience: Duration) -> Option<BootInstant> {
        for socket in [&self.arp, &self.ipv6] {
            socket.set_read_timeout(Some(patience)).unwrap();
        }
        self.ask(address);
        let mut heard = std::iter::from_fn(|| self.heard(address));
        let answer = heard.find(|(_, packet)| packet[..6] == self.mac.0);
        for socket in [&self.arp, &self.ipv6] {
            socket.set_read_timeout(Some(ANSWER)).unwrap();
        }
        answer.map(|(at, _)| at)
    }

    /// Forgets what was heard until now.
    pub(crate) fn forget(&self) {
        let mut buffer = [0; 512];
        for mut socket in [&self.arp, &self.ipv6] {
            socket.set_nonblocking(true).unwrap();
            while socket.read(&mut buffer).is_ok() {}
            socket.set_nonblocking(false).unwrap();
        }
    }

    /// Asks who has an address.
    pub(crate) fn ask(&self, address: &str) {
        match address.parse().unwrap() {
            IpAddr::V4(v4) => self.send_arp(1, OBSERVER4.parse().unwrap(), v4),
            IpAddr::V6(v6) => self.send_solicitation(v6),
        }
    }

    /// Announces an address as this host's own.
    pub(crate) fn claim(&self, address: &str, hop_limit: u8) {
        match address.parse().unwrap() {
            IpAddr::V4(v4) => self.send_arp(2, v4, v4),
            IpAddr::V6(v6) => {
                let body = [
                    &[136, 0, 0, 0, 0x20, 0, 0, 0],
                    &v6.octets()[..],
                    &[2, 1],
                    &self.mac.0,
                ]
                .concat();
                let all = "ff02::1".parse().unwrap();
                self.send_icmpv6([0x33, 0x33, 0, 0, 0, 1], all, hop_limit, &body);
            }
        }
    }

    fn send(&self, frame: &[u8]) {
        let socket = self.arp.as_raw_fd();
        assert_eq!(
            sendto(socket, frame, &self.eth0, MsgFlags::empty()),
            Ok(frame.len())
        );
    }

    fn send_arp(&self, operation: u8, sender: Ipv4Addr, target: Ipv4Addr) {
        let head = [0, 1, 8, 0, 6, 4, 0, operation];
        let body = [&self.mac.0[..], &sender.octets(), &[0; 6], &target.octets()].concat();
        self.send(&[&[0xff; 6][..], &self.mac.0, &ARP.to_be_bytes(), &head, &body].concat());
    }

    fn send_solicitation(&self, target: Ipv6Addr) {
        let [.., a, b, c] = target.octets();
        let group = Ipv6Addr::from([0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff, a, b, c]);
        let body = [
            &[135, 0, 0, 0, 0, 0, 0, 0],
            &target.octets()[..],
            &[1, 1],
            &self.mac.0,
        ]
        .concat();
        self.send_icmpv6([0x33, 0x33, 0xff, a, b, c], group, 255, &body);
    }

    fn send_icmpv6(&self, to: [u8; 6], destination: Ipv6Addr, hop_limit: u8, body: &[u8]) {
        let source: Ipv6Addr = OBSERVER6.parse().unwrap();
        let length = u16::try_from(body.len()).unwrap();
        let addresses = [source.octets(), destination.octets()].concat();
        let pseudo = [
            &addresses[..],
            &[0, 0],
            &length.to_be_bytes(),
            &[0, 0, 0, 58],
            body,
        ]
        .concat();
        let checksum = checksum(&pseudo);
        let header = [&[0x60, 0, 0, 0][..], &length.to_be_bytes(), &[58, hop_limit]].concat();
        let message = [&body[..2], &checksum, &body[4..]].concat();
        self.send(&[&to[..], &self.mac.0, &[0x86, 0xdd], &header, &addresses, &message].concat());
    }

    /// The next packet in which another host speaks for the address; none if there is none for a while.
    pub(crate) fn heard(&self, address: &str) -> Option<Heard> {
        let address: IpAddr = address.parse().unwrap();
        let socket = if address.is_ipv4() { &self.arp } else { &self.ipv6 };
        let mut buffer = [0; 512];
        loop {
            let (at, length) = receive(socket, &mut buffer)?;
            let packet = &buffer[..length];
            let speaks = match address {
                IpAddr::V4(v4) => packet.get(28..32) == Some(&v4.octets()[..]),
                IpAddr::V6(v6) => {
                    packet.get(54) == Some(&136) && packet.get(62..78) == Some(&v6.octets()[..])
                }
            };
            if speaks && packet[6..12] != self.mac.0 {
                return Some((at, packet.to_vec()));
            }
        }
    }
}

/// The next packet of a socket: when the kernel received it, and its length. None if there is none for a while.
fn receive(socket: &Socket, buffer: &mut [u8]) -> Option<(BootInstant, usize)> {
    let mut control = cmsg_space!(TimeSpec);
    let mut parts = [IoSliceMut::new(buffer)];
    let message = match recvmsg::<()>(
        socket.as_raw_fd(),
        &mut parts,
        Some(&mut control),
        MsgFlags::empty(),
    ) {
        Err(Errno::EAGAIN | Errno::EINTR) => return None,
        message => message.unwrap(),
    };
    let mut controls = message.cmsgs().unwrap();
    let at = controls.find_map(|control| match control {
        ControlMessageOwned::ScmTimestampns(at) => Some(Duration::from(at)),
        _ => None,
    });
    Some((of_wall(at.unwrap()), message.bytes))
}

/// A time of the wall's clock, on the one that deadlines are on.
fn of_wall(at: Duration) -> BootInstant {
    let between = || {
        let [wall, boot] =
            [ClockId::CLOCK_REALTIME, ClockId::CLOCK_BOOTTIME].map(|clock| clock_gettime(clock).unwrap());
        Duration::from(wall) - Duration::from(boot)
    };
    // The first clock is the earlier one, so the greatest difference is the nearest to the truth.
    let between = (0..10).map(|_| between()).max().unwrap();
    BootInstant::from_boot(at - between)
}

/// The checksum of the internet protocols (RFC 1071).
fn checksum(bytes: &[u8]) -> [u8; 2] {
    let words = bytes
        .chunks(2)
        .map(|pair| u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0)));
    let mut sum: u32 = words.sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    (!u16::try_from(sum).unwrap()).to_be_bytes()
}

/// Sends echo requests to one address, whose hardware address it knows: only the host's answer is asked for.
pub(crate) struct Echo {
    socket: Socket,
    v4: bool,
}

impl Echo {
    pub(crate) fn new(hosts: &Hosts, address: &str) -> Self {
        let ip: IpAddr = address.parse().unwrap();
        let mac = Mac(HOST_MAC);
        hosts.other.ip(&format!(
            "neighbour replace {address} lladdr {mac} dev eth0 nud permanent"
        ));
        let (domain, protocol) = match ip {
            IpAddr::V4(_) => (Domain::IPV4, Protocol::ICMPV4),
            IpAddr::V6(_) => (Domain::IPV6, Protocol::ICMPV6),
        };
        let socket = hosts
            .other
            .run(|| Socket::new(domain, Type::RAW, Some(protocol)).unwrap());
        // Only packets from there are received from then on.
        hosts
            .other
            .run(|| socket.connect(&SocketAddr::new(ip, 0).into()).unwrap());
        socket.set_read_timeout(Some(ANSWER)).unwrap();
        Self {
            socket,
            v4: ip.is_ipv4(),
        }
    }

    /// The same, waiting longer for each answer.
    pub(crate) fn patient(self, patience: Duration) -> Self {
        self.socket.set_read_timeout(Some(patience)).unwrap();
        self
    }

    /// Whether the host answers.
    pub(crate) fn answers(&self) -> bool {
        static NEXT: AtomicU16 = AtomicU16::new(1);
        let number = NEXT.fetch_add(1, Ordering::Relaxed).to_be_bytes();
        let (request, reply) = if self.v4 { (8, 0) } else { (128, 129) };
        let mut message = [&[request, 0, 0, 0, 0x56, 0x49], &number[..]].concat();
        if self.v4 {
            let sum = checksum(&message);
            message[2..4].copy_from_slice(&sum);
        }
        (&self.socket).write_all(&message).unwrap();
        let mut buffer = [0; 256];
        let skipped = if self.v4 { 20 } else { 0 };
        while let Ok(length) = (&self.socket).read(&mut buffer) {
            let packet = &buffer[skipped..length];
            if packet[0] == reply && packet[6..8] == number {
                return true;
            }
        }
        false
    }
}
