//! What a test that failed leaves to read.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use serde_json::Value;

use super::ring::Ring;
use super::site::Net;
use super::watch::{Place, Watch};

/// Lines of each log.
const LINES: usize = 60;
const DEADLINE: Duration = Duration::from_secs(2);

/// Prints etcd's keys, all that the hosts and their Consuls say, and the end of every log.
pub(super) fn print(net: &Net, ring: &Ring, watch: &Watch) {
    eprintln!("{}", ring.dump());
    for (cluster, records) in watch.all_records() {
        let records: Vec<_> = records.iter().map(Value::to_string).collect();
        eprintln!("--- records of {cluster}, in order:\n{}", records.join("\n"));
    }
    let places = watch.places();
    for place in places.on() {
        print_host(&place);
    }
    let mut containers = net.containers();
    containers.extend(places.logged());
    containers.sort();
    containers.dedup();
    for container in containers {
        if container.ends_with("-machine") || container.ends_with("-disk") {
            continue;
        }
        let logs = places.logs(&container);
        let lines: Vec<&str> = logs.lines().collect();
        let tail = lines[lines.len().saturating_sub(LINES)..].join("\n");
        eprintln!("--- the last lines of {container}:\n{tail}");
    }
    let violations = watch.violations();
    if !violations.is_empty() {
        eprintln!("--- what must never be:\n{violations:#?}");
    }
}

fn print_host(place: &Place) {
    let Place {
        name, consul, admin, ..
    } = place;
    for (address, path) in [
        (admin, "/status"),
        (consul, "/v1/operator/raft/configuration?stale"),
        (consul, "/v1/status/leader"),
        (consul, "/v1/agent/members"),
    ] {
        let answer = blocking_get(*address, path).unwrap_or_else(|error| format!("no answer: {error}"));
        eprintln!("--- {name} {path}: {answer}");
    }
}

/// Without a runtime: where this is called one may be about to end.
fn blocking_get(address: SocketAddr, path: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&address, DEADLINE)?;
    stream.set_read_timeout(Some(DEADLINE))?;
    write!(stream, "GET {path} HTTP/1.0\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer.split("\r\n\r\n").nth(1).unwrap_or_default().to_owned())
}
