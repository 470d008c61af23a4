//! fleet-units: checks unit files, and a small stand-in for fleetctl, which is hard to come by since fleet has ended.

mod args;
mod commands;
mod files;
mod show;

use std::process::ExitCode;

use clap::Parser;

use crate::args::Args;

/// The exit code for bad usage, from BSD's `sysexits.h`, as the services of the platform have it.
const EX_USAGE: u8 = 64;

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let args = match Args::try_parse() {
        Ok(args) => args,
        Err(error) => {
            // Help and version are "errors" too, and go to stdout. If that is closed, there is nobody to tell.
            let _ = error.print();
            return if error.use_stderr() {
                EX_USAGE.into()
            } else {
                ExitCode::SUCCESS
            };
        }
    };
    match commands::run(args).await {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            show::problem(&show::chain(&error));
            ExitCode::FAILURE
        }
    }
}
