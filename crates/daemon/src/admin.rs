//! The admin server: `/live`, `/ready`, `/metrics` and `/status`.

use std::{
    future::Future,
    io,
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use axum::{
    Json, Router,
    extract::{Request, State},
    http::{StatusCode, header},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::get,
    serve::Listener,
};
use prometheus::{Registry, TextEncoder};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Sleep, sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use crate::{Readiness, StatusBoard};

/// How long one request may take.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);
/// How many connections are served at once, and so how many requests; others wait in the listener's queue.
const MAX_CONNECTIONS: usize = 32;
/// How long a connection may live, whatever it does. One request fits well, as connections are closed after it.
const CONNECTION_LIFE: Duration = Duration::from_secs(15);
/// How long requests under way may take once the server is told to stop.
const STOP_GRACE: Duration = Duration::from_millis(500);

const INDEX: &str = "\
/live     whether the process runs
/ready    whether it is ready, and if not, what is missing
/metrics  for Prometheus
/status   what it sees, what it wants, what it did last and why
";

/// Why the admin server could not be served.
#[derive(Debug, thiserror::Error)]
pub enum AdminError {
    /// The address cannot be listened on.
    #[error("cannot listen on --admin-addr {addr} ({})", mend(source.kind()))]
    Bind {
        /// The value of `--admin-addr`.
        addr: SocketAddr,
        /// What the system says.
        source: io::Error,
    },
    /// The address that was bound cannot be read.
    #[error("cannot read the admin server's address")]
    LocalAddr {
        /// What the system says.
        source: io::Error,
    },
    /// The server ended.
    #[error("the admin server failed")]
    Serve {
        /// What the system says.
        source: io::Error,
    },
}

/// What an operator can do about it.
fn mend(kind: io::ErrorKind) -> &'static str {
    match kind {
        io::ErrorKind::AddrInUse => "another process holds it: stop that one, or give another port",
        io::ErrorKind::AddrNotAvailable => "this host has no such address: give one of its own, or 0.0.0.0",
        io::ErrorKind::PermissionDenied => "the port is privileged: give one above 1023",
        _ => "give another address or port",
    }
}

/// Listens on `addr`.
///
/// # Errors
/// [`AdminError::Bind`].
pub(crate) async fn bind(addr: SocketAddr) -> Result<TcpListener, AdminError> {
    TcpListener::bind(addr)
        .await
        .map_err(|source| AdminError::Bind { addr, source })
}

/// Serves until `stop` is cancelled and the requests under way are answered, or their grace is over.
pub(crate) async fn serve(
    listener: TcpListener,
    router: Router,
    stop: CancellationToken,
) -> Result<(), AdminError> {
    let listener = Guarded {
        listener,
        slots: Arc::new(Semaphore::new(MAX_CONNECTIONS)),
    };
    let grace_over = {
        let stop = stop.clone();
        async move {
            stop.cancelled().await;
            sleep(STOP_GRACE).await;
        }
    };
    let server = axum::serve(listener, router)
        .with_graceful_shutdown(stop.cancelled_owned())
        .into_future();
    // The server is cancelled only when its grace is over; the grace has no state to lose.
    tokio::select! {
        result = server => result.map_err(|source| AdminError::Serve { source }),
        () = grace_over => Ok(()),
    }
}

/// The paths, the same in every service.
pub(crate) fn router(readiness: Readiness, status: StatusBoard, registry: Registry) -> Router {
    Router::new()
        .route("/", get(async || INDEX))
        .route("/live", get(async || "live\n"))
        .route("/ready", get(ready).with_state(readiness))
        .route("/metrics", get(metrics).with_state(registry))
        .route("/status", get(show_status).with_state(status))
        .fallback(async || {
            (
                StatusCode::NOT_FOUND,
                format!("no such path; there are:\n{INDEX}"),
            )
        })
        .layer(middleware::from_fn(limits))
}

async fn ready(State(readiness): State<Readiness>) -> Response {
    let report = readiness.report();
    let code = if report.ready {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    (code, Json(report)).into_response()
}

async fn metrics(State(registry): State<Registry>) -> Response {
    match TextEncoder::new().encode_to_string(&registry.gather()) {
        Ok(text) => ([(header::CONTENT_TYPE, prometheus::TEXT_FORMAT)], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")).into_response(),
    }
}

async fn show_status(State(status): State<StatusBoard>) -> Response {
    // The alternate form of a JSON value is the indented one, and cannot fail.
    (
        [(header::CONTENT_TYPE, "application/json")],
        format!("{:#}\n", status.snapshot()),
    )
        .into_response()
}

/// One request in its time, and one request a connection: pollers come seldom, and idle connections would hold their slot.
async fn limits(request: Request, next: Next) -> Response {
    let answer = timeout(REQUEST_TIMEOUT, next.run(request)).await;
    let mut response =
        answer.unwrap_or_else(|_| (StatusCode::SERVICE_UNAVAILABLE, "timed out\n").into_response());
    response
        .headers_mut()
        .insert(header::CONNECTION, header::HeaderValue::from_static("close"));
    response
}

/// A listener whose connections are bounded in number and in life: a client that sends nothing cannot shut out the others.
struct Guarded {
    listener: TcpListener,
    slots: Arc<Semaphore>,
}

impl Listener for Guarded {
    type Io = GuardedStream;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        // The semaphore is never closed; if it were, the stream would just go uncounted.
        let slot = Arc::clone(&self.slots).acquire_owned().await.ok();
        let (stream, addr) = Listener::accept(&mut self.listener).await;
        (
            GuardedStream {
                stream,
                end: Box::pin(sleep(CONNECTION_LIFE)),
                _slot: slot,
            },
            addr,
        )
    }

    fn local_addr(&self) -> io::Result<Self::Addr> {
        self.listener.local_addr()
    }
}

/// A connection that holds its slot and ends when its time is over.
struct GuardedStream {
    stream: TcpStream,
    end: Pin<Box<Sleep>>,
    _slot: Option<OwnedSemaphorePermit>,
}

impl GuardedStream {
    fn check_end(&mut self, context: &mut Context<'_>) -> io::Result<()> {
        match self.end.as_mut().poll(context) {
            Poll::Ready(()) => Err(io::ErrorKind::TimedOut.into()),
            Poll::Pending => Ok(()),
        }
    }
}

impl AsyncRead for GuardedStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.check_end(context)?;
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for GuardedStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.check_end(context)?;
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.check_end(context)?;
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.check_end(context)?;
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
