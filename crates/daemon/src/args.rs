//! The arguments every service takes.

use std::{fmt, net::SocketAddr, str::FromStr, time::Duration};

use tracing_subscriber::{EnvFilter, filter::LevelFilter};

/// Where a service has no port of its own, the admin server listens here.
const FALLBACK_ADMIN_ADDR: &str = "0.0.0.0:9500";

/// Arguments that contain [`CommonArgs`].
pub trait HasCommon {
    /// The default of `--admin-addr`, as `address:port`: each service has its own port, as all of them share a host's network.
    const DEFAULT_ADMIN_ADDR: &'static str = FALLBACK_ADMIN_ADDR;

    /// The common part of the arguments.
    fn common(&self) -> &CommonArgs;
}

/// What every service can be told. Flatten it at the top of the service's own arguments.
///
/// The flags are global, so that `service status --admin-addr …` works as `service --admin-addr … status` does.
#[derive(clap::Args, Clone, Debug)]
pub struct CommonArgs {
    /// Where to serve /live, /ready, /metrics and /status; port 0 picks a free one
    #[arg(
        long,
        env = "COLOSSUS_ADMIN_ADDR",
        value_name = "ADDRESS:PORT",
        default_value = FALLBACK_ADMIN_ADDR,
        global = true,
        help_heading = "Process"
    )]
    pub admin_addr: SocketAddr,

    /// How to write the log on stderr
    #[arg(
        long,
        env = "LOG_FORMAT",
        value_enum,
        value_name = "FORMAT",
        default_value_t = LogFormat::Human,
        global = true,
        help_heading = "Process"
    )]
    pub log_format: LogFormat,

    /// What to log: a level, or target=level pairs, separated by commas
    #[arg(
        long,
        env = "LOG",
        value_name = "FILTER",
        default_value = "info",
        global = true,
        help_heading = "Process"
    )]
    pub log: LogFilter,

    /// How long a shutdown may take, drain included, before it is cut short
    #[arg(
        long,
        env = "COLOSSUS_SHUTDOWN_DEADLINE",
        value_name = "DURATION",
        default_value = "10s",
        value_parser = parse_duration,
        global = true,
        help_heading = "Process"
    )]
    pub shutdown_deadline: Duration,
}

/// How log lines are written.
#[derive(clap::ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// For people: one line each, coloured on a terminal.
    Human,
    /// For machines: one JSON object each.
    Json,
}

/// A valid log filter in the syntax of `tracing_subscriber::EnvFilter`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogFilter(String);

impl LogFilter {
    /// The filter to install.
    ///
    /// # Errors
    /// Never for a value that was parsed: it is the same parser.
    pub(crate) fn env_filter(&self) -> Result<EnvFilter, tracing_subscriber::filter::ParseError> {
        EnvFilter::builder().parse(&self.0)
    }
}

impl fmt::Display for LogFilter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for LogFilter {
    type Err = String;

    /// Stricter than `EnvFilter`, which takes a lone word that is no level (`inof`) for a target and then logs nothing.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const MEND: &str = "give off, error, warn, info, debug or trace, or pairs such as info,hyper=warn";
        for part in text.split(',').map(str::trim) {
            let is_pair = part.contains(['=', '[', ']']);
            if !is_pair && (part.is_empty() || LevelFilter::from_str(part).is_err()) {
                return Err(format!("`{part}` is not a level: {MEND}"));
            }
        }
        // `EnvFilter` takes no spaces around the commas; people write them.
        let filter = Self(text.split(',').map(str::trim).collect::<Vec<_>>().join(","));
        filter.env_filter().map_err(|error| format!("{error}: {MEND}"))?;
        Ok(filter)
    }
}

/// The longest duration that may be given: added to any point in time it is still one.
const DURATION_MAX: Duration = Duration::from_secs(10 * 366 * 24 * 3600);

/// Parses a duration such as `500ms`, `10s` or `1m 30s`, for clap's `value_parser`.
///
/// # Errors
/// With a text that says what is wrong and how to write it.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let duration = humantime::parse_duration(text)
        .map_err(|error| format!("{error}: give a number with its unit, such as 500ms, 10s or 1m30s"))?;
    if duration > DURATION_MAX {
        return Err("it is over ten years: give a shorter time".to_owned());
    }
    Ok(duration)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_units() {
        assert_eq!(parse_duration("1m30s"), Ok(Duration::from_secs(90)));
        let error = parse_duration("10").unwrap_err();
        assert!(error.contains("such as 500ms"), "{error}");
        assert!(parse_duration("500000000000years").is_err());
        assert!(parse_duration("11years").is_err());
    }

    #[test]
    fn a_filter_is_a_level_or_pairs() {
        for good in [
            "info",
            "WARN",
            "off",
            "info,hyper=warn",
            "consul=trace, daemon=debug",
            "a[span{x=1}]=info",
        ] {
            assert!(good.parse::<LogFilter>().is_ok(), "{good}");
        }
        for bad in ["", "info,", "inof", "info,hyper", "hyper=loud"] {
            assert!(
                bad.parse::<LogFilter>().unwrap_err().contains("give off"),
                "{bad}"
            );
        }
    }
}
