//! A client of a virtual IP: a new connection every [`EVERY`], each on its own, whatever became of the ones before.
//!
//! A SYN that is lost is sent again by the kernel after a second, which would hide how soon the address was back. So an
//! attempt is given up after [`CONNECT`], and made once more; that is all a client needs to survive a hand-over.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::mpsc::SyncSender;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};

use super::EVERY;
use super::event::{Event, Outcome, Request};
use super::frames::Mac;
use super::moment::Moment;

/// How long an attempt to connect may take.
pub const CONNECT: Duration = Duration::from_millis(150);

/// How long a client that was refused waits before it tries again. One that got no answer has waited enough.
pub const PAUSE: Duration = Duration::from_millis(100);

/// How long an answer may take: longer than HAProxy needs to give up an instance on a dead host and take another one.
pub const ANSWER: Duration = Duration::from_secs(2);

/// The most that may be under way: what [`EVERY`] and the times above make of it, twice.
const MOST: usize = 600;

/// The longest answer that is read.
const LONGEST: u64 = 64 * 1024;

/// Sends requests to `host` at `vip` until it shall stop, and lets those under way end.
pub(crate) async fn run(
    vip: Ipv4Addr,
    host: String,
    events: SyncSender<Event>,
    mut stop: watch::Receiver<bool>,
) {
    let mut under_way = JoinSet::new();
    let mut tick = interval(EVERY);
    // What was missed because we were not on a core is not made up for.
    tick.set_missed_tick_behavior(MissedTickBehavior::Skip);
    loop {
        tokio::select! {
            biased;
            // All three may be dropped half-way: nothing of them is lost.
            _ = stop.wait_for(|stop| *stop) => break,
            Some(done) = under_way.join_next() => tell(done, &events),
            _ = tick.tick(), if under_way.len() < MOST => {
                under_way.spawn(request(vip, host.clone()));
            }
        }
    }
    while let Some(done) = under_way.join_next().await {
        tell(done, &events);
    }
}

fn tell(done: Result<Request, tokio::task::JoinError>, events: &SyncSender<Event>) {
    if let Ok(request) = done {
        // Nobody listens any more when all is over.
        let _ = events.send(Event::Request(request));
    }
}

async fn request(vip: Ipv4Addr, host: String) -> Request {
    let started = Moment::now();
    let address = SocketAddr::from((vip, 80));
    let mut connection = connect(address).await;
    let retried = connection.is_err();
    if let Err(error) = &connection {
        if error.kind() != io::ErrorKind::TimedOut {
            sleep(PAUSE).await;
        }
        connection = connect(address).await;
    }
    let outcome = match connection {
        Err(_) => Outcome::Unconnected,
        Ok(connection) => match timeout(ANSWER, ask(connection, &host)).await {
            Ok(Ok(status)) => Outcome::Answered(status),
            Ok(Err(_)) | Err(_) => Outcome::Unanswered,
        },
    };
    Request {
        vip,
        started,
        ended: Moment::now(),
        retried,
        outcome,
        mac: neighbour(vip),
    }
}

async fn connect(address: SocketAddr) -> io::Result<TcpStream> {
    timeout(CONNECT, TcpStream::connect(address))
        .await
        .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

/// One GET; the status of a complete answer.
async fn ask(mut connection: TcpStream, host: &str) -> io::Result<u16> {
    let request = format!("GET / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
    connection.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    connection.take(LONGEST).read_to_end(&mut answer).await?;
    status(&String::from_utf8_lossy(&answer)).ok_or_else(|| io::ErrorKind::InvalidData.into())
}

/// The status of an answer that is complete: with the whole of its body, where it says how long that is.
fn status(answer: &str) -> Option<u16> {
    let (head, body) = answer.split_once("\r\n\r\n")?;
    let mut lines = head.split("\r\n");
    let status = lines.next()?.split(' ').nth(1)?.parse().ok()?;
    let length = lines.find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-length")
            .then(|| value.trim().parse::<usize>())
    });
    match length {
        None => Some(status),
        Some(Ok(length)) => (body.len() >= length).then_some(status),
        Some(Err(_)) => None,
    }
}

/// Where the kernel has an address now.
fn neighbour(address: Ipv4Addr) -> Option<Mac> {
    parse_neighbours(&std::fs::read_to_string("/proc/net/arp").ok()?, address)
}

/// Lines `address type flags mac mask device`, proc_net_arp(5); an entry that is not complete has only zeros.
fn parse_neighbours(text: &str, address: Ipv4Addr) -> Option<Mac> {
    let address = address.to_string();
    let mac = text.lines().find_map(|line| {
        let mut words = line.split_whitespace();
        (words.next()? == address).then(|| words.nth(2)?.parse().ok())?
    });
    mac.filter(|Mac(bytes)| *bytes != [0; 6])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_an_answer_is_none() {
        let answer = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nx: y\r\n\r\nhello";
        assert_eq!(status(answer), Some(200));
        for length in 0..answer.len() {
            assert_eq!(status(&answer[..length]), None, "{length}");
        }
        assert_eq!(status("HTTP/1.1 503 No\r\n\r\nto the end"), Some(503));
        assert_eq!(status("HTTP/1.1 200 OK\r\ncontent-length: x\r\n\r\n"), None);
    }

    #[test]
    fn the_neighbour_cache_is_read() {
        let text = "IP address       HW type     Flags       HW address            Mask     Device\n\
                    10.214.3.1       0x1         0x2         02:42:5d:00:00:01     *        eth0\n\
                    10.214.3.100     0x1         0x2         02:42:0a:d6:03:0b     *        eth0\n\
                    10.214.3.101     0x1         0x0         00:00:00:00:00:00     *        eth0\n";
        let of = |last| parse_neighbours(text, Ipv4Addr::new(10, 214, 3, last));
        assert_eq!(of(100), Some(Mac([0x02, 0x42, 0x0a, 0xd6, 0x03, 0x0b])));
        assert_eq!((of(101), of(10)), (None, None));
    }
}
