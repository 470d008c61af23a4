//! SIGTERM and SIGINT: the first requests a shutdown, the second aborts.

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tracing::{error, info};

use crate::Shutdown;

/// The signals, caught from the moment this is made.
pub(crate) struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

/// A signal's name and number.
#[derive(Clone, Copy)]
struct Received {
    name: &'static str,
    number: u8,
}

impl Signals {
    /// Catches the signals from now on. They are caught explicitly because process 1 of a container has no default action.
    ///
    /// # Errors
    /// When the system refuses the handler.
    pub(crate) fn install() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    /// Requests the shutdown at the first signal and ends the process at the second, with 128 and the signal's number.
    ///
    /// It runs as a task of its own and exits right there, so that it works even when everything else is stuck.
    pub(crate) async fn watch(mut self, shutdown: Shutdown) {
        let first = self.next().await;
        info!(signal = first.name, "shutting down; a second signal aborts");
        shutdown.request(first.name);
        let second = self.next().await;
        error!(signal = second.name, "aborted by a second signal");
        std::process::exit(i32::from(128 + second.number));
    }

    async fn next(&mut self) -> Received {
        // Either arm may be cancelled: a signal that arrives then stays pending in its stream.
        tokio::select! {
            _ = self.terminate.recv() => Received { name: "SIGTERM", number: 15 },
            _ = self.interrupt.recv() => Received { name: "SIGINT", number: 2 },
        }
    }
}
