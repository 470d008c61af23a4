//! A web application that knows nothing of Colossus: what the tests and the guides deploy.
//!
//! It answers every path with its host name, and can be told to be slow to start, slow to answer, to fail, to
//! crash, or to end badly. It runs as PID 1 of an image made `FROM scratch`, where a signal without a handler is
//! ignored: so it handles SIGTERM itself, and ends at once like most applications do.

mod options;
mod server;
mod web;

use std::process::ExitCode;

use clap::Parser;

use crate::options::Options;

#[tokio::main]
async fn main() -> ExitCode {
    match server::run(Options::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            server::say(&format!("example-web: {error}"));
            ExitCode::FAILURE
        }
    }
}
