//! Clients of the local Consul. Their token may come into being only while this process runs.

use std::path::PathBuf;
use std::time::Duration;

use consul::{Client, Config, Error, TokenSource};

/// Leaving takes a server several seconds (Consul: `leave_drain_time`, and the time to tell everybody).
const LEAVE_TIMEOUT: Duration = Duration::from_secs(30);

/// The same Consul with two deadlines.
#[derive(Debug)]
pub struct Clients {
    /// With the deadline of the command line.
    pub quick: Client,
    /// With one that is long enough to leave.
    pub slow: Client,
    /// What the clients will be built from when the token's file is there.
    awaits: Option<(Config, PathBuf)>,
}

impl Clients {
    /// Clients by `config`. With `token` they use the token in this file, as soon as there is one.
    ///
    /// # Errors
    /// When the address or one of the files cannot be used.
    pub fn new(config: Config, token: Option<PathBuf>) -> Result<Self, Error> {
        let (config, awaits) = match token {
            Some(file) if file.exists() => (with_token(config, file), None),
            Some(file) => (config.clone(), Some((config, file))),
            None => (config, None),
        };
        let (quick, slow) = build(config)?;
        Ok(Self { quick, slow, awaits })
    }

    /// Looks whether the token that was missing is there now.
    ///
    /// # Errors
    /// When it cannot be used.
    pub fn take_token(&mut self) -> Result<(), Error> {
        if let Some((config, file)) = self.awaits.take_if(|(_, file)| file.exists()) {
            (self.quick, self.slow) = build(with_token(config, file))?;
        }
        Ok(())
    }
}

fn with_token(config: Config, file: PathBuf) -> Config {
    Config {
        token: TokenSource::File(file),
        ..config
    }
}

fn build(config: Config) -> Result<(Client, Client), Error> {
    let slow = Config {
        timeout: LEAVE_TIMEOUT,
        ..config.clone()
    };
    Ok((Client::new(config)?, Client::new(slow)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_that_is_not_there_yet_is_taken_later() {
        let directory = tempfile::tempdir().expect("a directory");
        let file = directory.path().join("token");
        let config = Config::new("http://127.0.0.1:1".parse().expect("an address"));
        let mut clients = Clients::new(config, Some(file.clone())).expect("clients");
        clients.take_token().expect("nothing to take");
        assert!(clients.awaits.is_some());
        std::fs::write(&file, "one").expect("written");
        clients.take_token().expect("a token");
        assert!(clients.awaits.is_none());
    }
}
