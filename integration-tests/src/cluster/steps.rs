//! Telling what is done and how long it took, as the scripts of deploy/ do.

use std::future::Future;
use std::io::Write;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Where steps are told.
#[derive(Debug)]
pub struct Steps {
    /// When the first script of this run began, as time since 1970; nothing is told without it.
    began: Option<Duration>,
}

impl Steps {
    /// Told on stdout, with the time since the script that called us began (`COLOSSUS_BEGAN`, in ms since 1970).
    pub fn told() -> Self {
        let given = std::env::var("COLOSSUS_BEGAN")
            .ok()
            .and_then(|began| began.parse().ok());
        Self {
            began: Some(given.map_or_else(now, Duration::from_millis)),
        }
    }

    /// Not told: a test says what fails.
    pub fn silent() -> Self {
        Self { began: None }
    }

    /// Says something.
    pub fn say(&self, what: &str) {
        if let Some(began) = self.began {
            let seconds = format!("{:.1}", now().saturating_sub(began).as_secs_f64());
            // Nobody may be listening any more; that does not stop the work.
            let _ = writeln!(std::io::stdout(), "[{seconds:>6}s] {what}");
        }
    }

    /// Does something, and says what before and how long it took afterwards.
    ///
    /// # Errors
    /// Those of what is done.
    pub async fn step<T, E>(&self, what: &str, work: impl Future<Output = Result<T, E>>) -> Result<T, E> {
        self.say(&format!("{what} ..."));
        let began = Instant::now();
        let result = work.await;
        let took = began.elapsed().as_secs_f64();
        match &result {
            Ok(_) => self.say(&format!("  done in {took:.1}s: {what}")),
            Err(_) => self.say(&format!("FAILED after {took:.1}s: {what}")),
        }
        result
    }
}

fn now() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}
