//! Waiting for sockets that tokio has no type for.

use std::io;
use std::os::fd::AsRawFd;

use tokio::io::unix::AsyncFd;

/// Has tokio say when `socket`, which does not block, is ready.
pub(crate) fn watched<T: AsRawFd>(socket: T) -> io::Result<AsyncFd<T>> {
    #[allow(
        deprecated,
        reason = "its successor is unsafe: the type must own its descriptor and keep it for life, as every socket does here"
    )]
    AsyncFd::new(socket)
}
