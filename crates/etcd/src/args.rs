//! The command line's part about etcd, the same in every service.

use std::path::PathBuf;
use std::time::Duration;

use crate::config::{Config, ConfigError, Credentials, Endpoint, Password, TlsConfig};

/// How to reach etcd. To be flattened into a service's arguments.
// etcd itself knows variables of the same names, of which some (`ETCD_CERT_FILE`) mean its server's files: it must not be
// given this program's environment.
#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "etcd")]
pub struct EtcdArgs {
    /// Client URLs of etcd's members, separated by commas; a call that one does not answer goes to another.
    #[arg(
        long = "etcd",
        env = "ETCD_ENDPOINTS",
        value_name = "URLS",
        default_value = "http://127.0.0.1:2379"
    )]
    pub endpoints: String,

    /// CA certificates (PEM) that may sign the members' certificates [default: the system's].
    #[arg(long = "etcd-ca-file", env = "ETCD_CA_FILE", value_name = "FILE")]
    pub ca_file: Option<PathBuf>,

    /// This client's certificate (PEM), for members that ask for one; needs --etcd-key-file.
    #[arg(long = "etcd-cert-file", env = "ETCD_CERT_FILE", value_name = "FILE")]
    pub cert_file: Option<PathBuf>,

    /// The private key (PEM) of --etcd-cert-file.
    #[arg(long = "etcd-key-file", env = "ETCD_KEY_FILE", value_name = "FILE")]
    pub key_file: Option<PathBuf>,

    /// User to log in as; needs --etcd-password-file.
    #[arg(long = "etcd-user", env = "ETCD_USER", value_name = "NAME")]
    pub user: Option<String>,

    /// File with the user's password; read again at every log-in.
    #[arg(long = "etcd-password-file", env = "ETCD_PASSWORD_FILE", value_name = "FILE")]
    pub password_file: Option<PathBuf>,

    /// Deadline of one call to etcd, all attempts at all members together.
    #[arg(long = "etcd-timeout", env = "ETCD_TIMEOUT", value_name = "DURATION", default_value = "2s", value_parser = duration)]
    pub timeout: Duration,
}

impl EtcdArgs {
    /// What the arguments say.
    ///
    /// # Errors
    /// When an argument cannot be used.
    pub fn config(&self) -> Result<Config, ConfigError> {
        let credentials = match (&self.user, &self.password_file) {
            (None, None) => None,
            (Some(user), Some(file)) => Some(Credentials {
                user: user.clone(),
                password: Password::File(file.clone()),
            }),
            (Some(user), None) => {
                return Err(ConfigError::new(
                    "--etcd-user",
                    user,
                    "it has no password: give --etcd-password-file, too",
                ));
            }
            (None, Some(file)) => {
                return Err(ConfigError::new(
                    "--etcd-password-file",
                    &file.display().to_string(),
                    "it is nobody's password: give --etcd-user, too",
                ));
            }
        };
        let config = Config {
            endpoints: Endpoint::parse_list(&self.endpoints)?,
            tls: TlsConfig {
                ca_file: self.ca_file.clone(),
                client_cert_file: self.cert_file.clone(),
                client_key_file: self.key_file.clone(),
            },
            credentials,
            timeout: self.timeout,
            attempt_timeout: None,
        };
        config.validate()?;
        Ok(config)
    }
}

fn duration(text: &str) -> Result<Duration, String> {
    humantime::parse_duration(text)
        .map_err(|error| format!("{error}: give a number with its unit, such as 500ms or 2s"))
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Service {
        #[command(flatten)]
        etcd: EtcdArgs,
    }

    fn config(arguments: &[&str]) -> Result<Config, String> {
        let service =
            Service::try_parse_from([&["service"], arguments].concat()).map_err(|error| error.to_string())?;
        service.etcd.config().map_err(|error| error.to_string())
    }

    #[test]
    fn the_defaults_are_a_local_member_and_two_seconds() {
        let config = config(&[]).expect("config");
        assert_eq!(
            config.endpoints,
            Endpoint::parse_list("http://127.0.0.1:2379").expect("endpoints")
        );
        assert_eq!(config.timeout, Duration::from_secs(2));
        assert!(config.credentials.is_none());
    }

    #[test]
    fn wrong_arguments_are_named_with_their_mend() {
        let dir = tempfile::tempdir().expect("dir");
        let empty = dir.path().join("empty").display().to_string();
        std::fs::write(&empty, "\n").expect("write");
        let missing = dir.path().join("missing").display().to_string();
        for (arguments, parts) in [
            (
                &["--etcd", "http://a,,http://b"][..],
                ["--etcd \"\"", "an endpoint is empty"],
            ),
            (
                &["--etcd", "ftp://a"],
                ["--etcd \"ftp://a\"", "use http:// or https://"],
            ),
            (&["--etcd-timeout", "2"], ["--etcd-timeout", "such as 500ms"]),
            (
                &["--etcd-timeout", "0s"],
                ["--etcd-timeout \"0s\"", "10ms at least"],
            ),
            (
                &["--etcd-timeout", "9000000years"],
                ["--etcd-timeout", "a shorter time"],
            ),
            (
                &["--etcd-user", "u"],
                ["--etcd-user \"u\"", "give --etcd-password-file"],
            ),
            (
                &["--etcd-password-file", "/p"],
                ["--etcd-password-file \"/p\"", "give --etcd-user"],
            ),
            (
                &["--etcd-user", "u", "--etcd-password-file", &missing],
                ["missing", "cannot be read"],
            ),
            (
                &["--etcd-user", "u", "--etcd-password-file", &empty],
                ["empty", "write the password"],
            ),
            (
                &["--etcd-ca-file", "/ca"],
                ["--etcd-ca-file \"/ca\"", "write it as https://"],
            ),
        ] {
            let error = config(arguments).expect_err("wrong");
            for part in parts {
                assert!(error.contains(part), "{arguments:?}: {error}");
            }
        }
    }
}
