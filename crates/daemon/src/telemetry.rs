//! Logging: to stderr, for people or for machines.

use std::{
    fmt,
    io::{self, IsTerminal},
};

use tracing_subscriber::{
    fmt::{format::Writer, time::FormatTime},
    util::{SubscriberInitExt, TryInitError},
};

use crate::{
    BoxError,
    args::{CommonArgs, LogFormat},
};

/// Why logging could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// `--log` is not a filter; the parser of the arguments refuses it before this.
    #[error("cannot use --log {filter}")]
    Filter {
        /// What was given.
        filter: String,
        /// What is wrong with it.
        source: BoxError,
    },
    /// Something else in this process has set up logging.
    #[error("cannot set up logging")]
    Install(#[source] TryInitError),
}

/// Installs the log subscriber for the whole process.
///
/// # Errors
/// When there is one already.
pub fn init(args: &CommonArgs) -> Result<(), TelemetryError> {
    let filter = args.log.env_filter().map_err(|source| TelemetryError::Filter {
        filter: args.log.to_string(),
        source: source.into(),
    })?;
    let subscriber = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .with_timer(Rfc3339Millis);
    match args.log_format {
        LogFormat::Human => subscriber
            .with_target(false)
            .with_ansi(colours())
            .finish()
            .try_init(),
        LogFormat::Json => subscriber
            .json()
            .flatten_event(true)
            .with_span_list(false)
            .finish()
            .try_init(),
    }
    .map_err(TelemetryError::Install)
}

/// Colours only on a terminal, and never against <https://no-color.org>.
fn colours() -> bool {
    io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

/// Times as in `2026-01-31T12:00:00.000Z`.
struct Rfc3339Millis;

impl FormatTime for Rfc3339Millis {
    fn format_time(&self, writer: &mut Writer<'_>) -> fmt::Result {
        write!(
            writer,
            "{}",
            humantime::format_rfc3339_millis(std::time::SystemTime::now())
        )
    }
}
