//! The observer itself, as it runs in a container on a cluster's network: watches who has the addresses, is their client,
//! and tells each thing on stdout until its stdin ends.

use std::io::{self, BufWriter, Write};
use std::net::Ipv4Addr;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;
use std::time::Duration;

use tokio::sync::{oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::sleep;

use super::event::Event;
use super::{client, watcher};

/// How many events may wait to be written: minutes of them.
const QUEUE: usize = 65_536;

/// The longest it runs, whatever happens to the test that should stop it.
const BOUND: Duration = Duration::from_secs(1_800);

/// Observes these addresses, asking for `host`, until stdin ends; then waits for what is under way.
///
/// # Errors
/// When ARP cannot be sent and heard, or nobody reads what is told.
pub async fn observe(vips: Vec<Ipv4Addr>, host: &str) -> Result<(), String> {
    let (events, seen) = sync_channel(QUEUE);
    let written = on_thread(move || write(&seen));
    let watching = {
        let (vips, events) = (vips.clone(), events.clone());
        on_thread(move || watcher::watch(&vips, &events))
    };
    let (stop, stopped) = watch::channel(false);
    let mut clients = JoinSet::new();
    for vip in vips {
        clients.spawn(client::run(vip, host.to_owned(), events.clone(), stopped.clone()));
    }
    tokio::select! {
        // All may be dropped half-way: the process ends.
        _ = on_thread(read_stdin) => {}
        () = sleep(BOUND) => {}
        watched = watching => return Err(complaint("ARP", watched)),
    }
    stop.send_replace(true);
    clients.join_all().await;
    finish(&events)?;
    written
        .await
        .map_err(|error| error.to_string())?
        .map_err(|error| error.to_string())
}

/// What ends by itself here, or tells why it could not.
fn on_thread<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> oneshot::Receiver<io::Result<T>> {
    let (done, result) = oneshot::channel();
    thread::spawn(move || {
        // Nobody may wait for it any more.
        let _ = done.send(work());
    });
    result
}

fn complaint<T>(what: &str, ended: Result<io::Result<T>, oneshot::error::RecvError>) -> String {
    match ended {
        Ok(Err(error)) => format!("{what}: {error}"),
        Ok(Ok(_)) | Err(_) => format!("{what}: it has ended"),
    }
}

fn finish(events: &SyncSender<Event>) -> Result<(), String> {
    events
        .send(Event::Ended)
        .map_err(|_| "nobody reads what is told".to_owned())
}

/// Writes each event as a line, as soon as there is no other one to be written with it.
fn write(events: &Receiver<Event>) -> io::Result<()> {
    let mut out = BufWriter::new(io::stdout().lock());
    let mut next = events.recv().ok();
    while let Some(event) = next {
        serde_json::to_writer(&mut out, &event)?;
        out.write_all(b"\n")?;
        if event == Event::Ended {
            break;
        }
        next = match events.try_recv() {
            Ok(event) => Some(event),
            Err(_) => {
                out.flush()?;
                events.recv().ok()
            }
        };
    }
    out.flush()
}

/// Reads stdin to its end.
fn read_stdin() -> io::Result<u64> {
    io::copy(&mut io::stdin().lock(), &mut io::sink())
}
