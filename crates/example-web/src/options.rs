//! The command line and the environment.

use std::{net::IpAddr, num::ParseFloatError, time::Duration};

use clap::Parser;

/// A tiny web application for tests and guides: answers any path with its host name.
#[derive(Clone, Debug, Parser)]
#[command(version)]
pub(crate) struct Options {
    /// Port to listen on; may be repeated, and the variable may hold several with commas. 0 takes any free port.
    #[arg(long = "port", env = "PORT", value_delimiter = ',', default_value = "80")]
    pub(crate) ports: Vec<u16>,

    /// Address to listen on.
    #[arg(long, env = "EXAMPLE_BIND", default_value = "0.0.0.0")]
    pub(crate) bind: IpAddr,

    /// What to say in every answer, for example the version of the release.
    #[arg(long, env = "EXAMPLE_GREETING", default_value = concat!("example-web ", env!("CARGO_PKG_VERSION")))]
    pub(crate) greeting: String,

    /// Slow to start: listen only after this long.
    #[arg(long, env = "EXAMPLE_START_DELAY_MS", value_parser = millis, default_value = "0")]
    pub(crate) start_delay_ms: Duration,

    /// Slow to answer: wait this long before each answer (except /health).
    #[arg(long, env = "EXAMPLE_DELAY_MS", value_parser = millis, default_value = "0")]
    pub(crate) delay_ms: Duration,

    /// Share of the requests answered with 500, from 0 to 1 (except /health).
    #[arg(long, env = "EXAMPLE_FAIL_RATE", value_parser = share, default_value = "0")]
    pub(crate) fail_rate: f64,

    /// Start unhealthy: /health answers 503 until POST /health/up.
    #[arg(long, env = "EXAMPLE_UNHEALTHY")]
    pub(crate) unhealthy: bool,

    /// Crash (exit with code 1) this long after the start.
    #[arg(long, env = "EXAMPLE_CRASH_AFTER_MS", value_parser = millis)]
    pub(crate) crash_after_ms: Option<Duration>,

    /// After SIGTERM, keep serving this long before ending.
    #[arg(long = "graceful", env = "EXAMPLE_GRACEFUL_MS", value_parser = millis, default_value = "0")]
    pub(crate) graceful_ms: Duration,

    /// Take no notice of SIGTERM.
    #[arg(long, env = "EXAMPLE_IGNORE_SIGTERM")]
    pub(crate) ignore_sigterm: bool,
}

fn millis(value: &str) -> Result<Duration, std::num::ParseIntError> {
    value.parse().map(Duration::from_millis)
}

fn share(value: &str) -> Result<f64, String> {
    let share: f64 = value
        .parse()
        .map_err(|error: ParseFloatError| error.to_string())?;
    if (0.0..=1.0).contains(&share) {
        Ok(share)
    } else {
        Err("not between 0 and 1".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(arguments: &[&str]) -> Result<Options, clap::Error> {
        Options::try_parse_from([&["example-web"], arguments].concat())
    }

    #[test]
    fn ports_may_be_repeated_or_listed() {
        assert_eq!(parse(&["--port", "1", "--port", "2"]).unwrap().ports, [1, 2]);
        assert_eq!(parse(&["--port", "1,2"]).unwrap().ports, [1, 2]);
    }

    #[test]
    fn times_are_milliseconds() {
        assert_eq!(
            parse(&["--delay-ms", "250"]).unwrap().delay_ms,
            Duration::from_millis(250)
        );
        assert!(parse(&["--delay-ms", "fast"]).is_err());
    }

    #[test]
    fn fail_rate_is_a_share() {
        assert!((parse(&["--fail-rate", "0.25"]).unwrap().fail_rate - 0.25).abs() < f64::EPSILON);
        assert!(parse(&["--fail-rate", "1.5"]).is_err());
        assert!(parse(&["--fail-rate", "NaN"]).is_err());
    }
}
