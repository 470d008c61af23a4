//! Asks all the time who has an address, and hears who says so.
//!
//! The kernel of the client that the observer is must not learn from these answers: it would know at once who has an
//! address, without any announcement. So the answers go to an address that nobody has, the request's [mark]. The network
//! sends what is for nobody to everybody; our socket sees it and the kernel passes it over. And each request has
//! another mark, which tells the answers to it.

use std::io::{self, Read, Write};
use std::net::Ipv4Addr;
use std::os::fd::AsRawFd;
use std::sync::mpsc::SyncSender;
use std::time::Duration;

use nix::ifaddrs::getifaddrs;
use nix::net::if_::InterfaceFlags;
use nix::sys::socket::{LinkAddr, bind};
use socket2::{Domain, Protocol, Socket, Type};

use super::EVERY;
use super::event::{Announced, Answer, Event};
use super::frames::{ETHERTYPE, Heard, Mac, parse, request};
use super::moment::Moment;

/// How many requests are remembered: answers come within milliseconds.
const REMEMBERED: u32 = 1_024;

/// A socket that sends and hears ARP on the one network that this container is in.
struct Link {
    socket: Socket,
    mac: Mac,
}

impl Link {
    fn open() -> io::Result<Self> {
        let address = link_address()?;
        let mac = Mac(address.addr().unwrap_or_default());
        let arp = Protocol::from(i32::from(ETHERTYPE.to_be()));
        let socket = Socket::new(Domain::PACKET, Type::RAW, Some(arp))?;
        // Its protocol is none, which leaves the socket's as it is (packet(7)).
        bind(socket.as_raw_fd(), &address)?;
        Ok(Self { socket, mac })
    }
}

/// The address of the first network card that is up.
fn link_address() -> io::Result<LinkAddr> {
    getifaddrs()?
        .filter(|interface| {
            interface.flags.contains(InterfaceFlags::IFF_UP)
                && !interface.flags.contains(InterfaceFlags::IFF_LOOPBACK)
        })
        .find_map(|interface| interface.address?.as_link_addr().copied())
        .ok_or_else(|| io::Error::other("there is no network card that is up"))
}

/// Opens the socket, and tells that it has begun; then watches `vips` until nobody listens to `events`.
///
/// # Errors
/// When the socket cannot be had (`CAP_NET_RAW`), or fails.
pub(crate) fn watch(vips: &[Ipv4Addr], events: &SyncSender<Event>) -> io::Result<()> {
    let link = Link::open()?;
    let mut marks = Marks::new();
    let mut next = Moment::now();
    if events.send(Event::Began { mac: link.mac }).is_err() {
        return Ok(());
    }
    loop {
        let now = Moment::now();
        if now >= next {
            for vip in vips {
                ask(&link, *vip, &mut marks)?;
            }
            // What was missed because we were not on a core is not made up for.
            next = (next + EVERY).max(now);
            continue;
        }
        if let Some(event) = hear(&link, next.since(now), &marks)?
            && concerns(&event, vips)
            && events.send(event).is_err()
        {
            return Ok(());
        }
    }
}

fn ask(link: &Link, vip: Ipv4Addr, marks: &mut Marks) -> io::Result<()> {
    let mark = marks.next(Moment::now());
    match (&link.socket).write(&request(link.mac, mark, vip)) {
        // A full queue is a question not asked.
        Err(error) if error.raw_os_error() == Some(nix::libc::ENOBUFS) => Ok(()),
        other => other.map(drop),
    }
}

/// Waits this long for a frame that tells something.
fn hear(link: &Link, within: Duration, marks: &Marks) -> io::Result<Option<Event>> {
    // Nothing would mean for ever.
    link.socket
        .set_read_timeout(Some(within.max(Duration::from_micros(100))))?;
    let mut frame = [0; 128];
    let length = match (&link.socket).read(&mut frame) {
        Ok(length) => length,
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted
            ) =>
        {
            return Ok(None);
        }
        Err(error) => return Err(error),
    };
    let at = Moment::now();
    Ok(match frame.get(..length).and_then(parse) {
        Some(Heard::Answer { address, mac, to }) => marks.asked(to).map(|asked| {
            Event::Answer(Answer {
                vip: address,
                mac,
                asked,
                at,
            })
        }),
        Some(Heard::Announced { address, mac }) => Some(Event::Announced(Announced {
            vip: address,
            mac,
            at,
        })),
        None => None,
    })
}

fn concerns(event: &Event, vips: &[Ipv4Addr]) -> bool {
    match event {
        Event::Answer(Answer { vip, .. }) | Event::Announced(Announced { vip, .. }) => vips.contains(vip),
        _ => true,
    }
}

/// Which request was sent when, and the card's address that stands for it.
struct Marks {
    /// Tells our requests from another observer's.
    own: u8,
    sent: Vec<Moment>,
    count: u32,
}

impl Marks {
    fn new() -> Self {
        Self {
            own: fastrand::u8(..),
            sent: Vec::new(),
            count: 0,
        }
    }

    /// The next mark: an address that was given out locally (the second bit of the first byte), and that no card of this
    /// test bed has.
    fn next(&mut self, now: Moment) -> Mac {
        let (place, count) = (self.place(self.count), self.count);
        match self.sent.get_mut(place) {
            Some(sent) => *sent = now,
            None => self.sent.push(now),
        }
        self.count = count.wrapping_add(1);
        let [a, b, c, d] = count.to_be_bytes();
        Mac([0x06, self.own, a, b, c, d])
    }

    /// When the request with this mark was sent, if it is one of ours and not too old.
    fn asked(&self, mark: Mac) -> Option<Moment> {
        let Mac([0x06, own, a, b, c, d]) = mark else {
            return None;
        };
        let count = u32::from_be_bytes([a, b, c, d]);
        let age = self.count.wrapping_sub(count);
        let known = own == self.own && (1..=REMEMBERED).contains(&age);
        known.then(|| self.sent.get(self.place(count)).copied()).flatten()
    }

    fn place(&self, count: u32) -> usize {
        usize::try_from(count % REMEMBERED).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_to_the_request_with_its_mark() {
        let mut marks = Marks::new();
        let sent: Vec<(Mac, Moment)> = (0..3_000)
            .map(|n| {
                let at = Moment::from_nanos(n);
                (marks.next(at), at)
            })
            .collect();
        for (mark, at) in &sent[3_000 - 1_024..] {
            assert_eq!(marks.asked(*mark), Some(*at));
        }
        assert_eq!(marks.asked(sent[1_000].0), None, "too old");
        assert_eq!(marks.asked("02:42:0a:d6:03:0b".parse().unwrap()), None);
        let Mac([first, own, rest @ ..]) = sent[2_999].0;
        let [a, b, c, d] = rest;
        let others = Mac([first, own.wrapping_add(1), a, b, c, d]);
        assert_eq!(marks.asked(others), None, "another observer's");
    }
}
