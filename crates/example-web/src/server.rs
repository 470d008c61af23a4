//! The life of the process: start, listen, serve, end.

use std::{
    fmt,
    io::{self, Write as _},
    net::SocketAddr,
};

use tokio::{
    net::TcpListener,
    signal::unix::{Signal, SignalKind, signal},
    task::JoinSet,
    time::sleep,
};

use crate::{options::Options, web};

/// Why the process could not go on.
#[derive(Debug)]
pub(crate) enum Error {
    /// A signal handler could not be set.
    Signal(io::Error),
    /// An address could not be listened on.
    Listen(SocketAddr, io::Error),
    /// A listener ended by itself.
    Serve(io::Error),
}

impl fmt::Display for Error {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Signal(error) => write!(out, "cannot handle signals: {error}"),
            Self::Listen(address, error) => write!(out, "cannot listen on {address}: {error}"),
            Self::Serve(error) => write!(out, "stopped serving: {error}"),
        }
    }
}

impl std::error::Error for Error {}

/// Runs until SIGTERM or SIGINT, or until told to crash.
pub(crate) async fn run(options: Options) -> Result<(), Error> {
    // First of all: a SIGTERM during a slow start must count, too.
    let mut terminate = signal(SignalKind::terminate()).map_err(Error::Signal)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(Error::Signal)?;

    // Each arm may be cancelled: serving is what ends here anyway, and a signal's stream keeps nothing.
    tokio::select! {
        result = serve(options.clone()) => result,
        () = crash(&options) => std::process::exit(1),
        () = end(&options, &mut terminate, &mut interrupt) => Ok(()),
    }
}

/// Waits for the end that `options` ask for. Requests are served meanwhile, and cut when it returns.
async fn end(options: &Options, terminate: &mut Signal, interrupt: &mut Signal) {
    loop {
        // Cancel-safe: a `Signal` loses nothing when its `recv` is dropped.
        let name = tokio::select! {
            _ = terminate.recv() => "SIGTERM",
            _ = interrupt.recv() => "SIGINT",
        };
        if name == "SIGTERM" && options.ignore_sigterm {
            say("SIGTERM ignored");
            continue;
        }
        if !options.graceful_ms.is_zero() {
            say(&format!(
                "{name}: serving for another {} ms",
                options.graceful_ms.as_millis()
            ));
            sleep(options.graceful_ms).await;
        }
        say(&format!("{name}: ending"));
        return;
    }
}

/// Returns when it is time to crash, or never.
async fn crash(options: &Options) {
    match options.crash_after_ms {
        Some(after) => sleep(after).await,
        None => std::future::pending().await,
    }
    say("crashing as told");
}

async fn serve(options: Options) -> Result<(), Error> {
    sleep(options.start_delay_ms).await;

    let mut listeners = Vec::new();
    for port in &options.ports {
        let address = SocketAddr::new(options.bind, *port);
        let listener = TcpListener::bind(address)
            .await
            .map_err(|error| Error::Listen(address, error))?;
        let actual = listener
            .local_addr()
            .map_err(|error| Error::Listen(address, error))?;
        listeners.push((listener, actual));
    }

    let app = web::app(options);
    let mut serving = JoinSet::new();
    for (listener, address) in listeners {
        let app = app.clone();
        serving.spawn(async move { axum::serve(listener, app).await });
        say(&format!("listening on {address}"));
    }
    // Listeners never end by themselves; when one does, so does the process.
    match serving.join_next().await {
        Some(Ok(result)) => result.map_err(Error::Serve),
        Some(Err(error)) => Err(Error::Serve(io::Error::other(error))),
        None => Ok(()),
    }
}

/// One line on stdout. Where nobody reads it any more, it is lost: that must not end a web server.
pub(crate) fn say(line: &str) {
    let mut out = io::stdout().lock();
    drop(writeln!(out, "{line}").and_then(|()| out.flush()));
}
