//! Where etcd is and how to speak to it: [`Config`] and its parts.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use secrecy::SecretString;
use url::{Host, Url};

use crate::error::CallError;

/// The port of etcd's client API (etcd documentation, "Configuration options": `--listen-client-urls`).
const DEFAULT_PORT: u16 = 2379;

/// The least deadline of a call: under it nothing would ever succeed.
const TIMEOUT_MIN: Duration = Duration::from_millis(10);

/// The longest deadline of a call: added to any point in time it is still one.
const TIMEOUT_MAX: Duration = Duration::from_secs(24 * 3600);

/// What a [`Client`](crate::Client) is built from.
#[derive(Clone, Debug)]
pub struct Config {
    /// The members' client URLs, at least one. A call goes to the one that answered last; the others stand by.
    pub endpoints: Vec<Endpoint>,
    /// Certificates, for `https` endpoints.
    pub tls: TlsConfig,
    /// Who to log in as; `None` for an etcd without authentication.
    pub credentials: Option<Credentials>,
    /// The deadline of one call, all its attempts together. Default 2 s.
    pub timeout: Duration,
    /// The deadline of one attempt at one endpoint; `None` is a third of [`Config::timeout`]. It is what a call costs
    /// more when the member that answered so far is frozen or cut off.
    pub attempt_timeout: Option<Duration>,
}

impl Config {
    /// The defaults for `endpoints`: no certificates, no login, 2 s.
    #[must_use]
    pub fn new(endpoints: Vec<Endpoint>) -> Config {
        Config {
            endpoints,
            tls: TlsConfig::default(),
            credentials: None,
            timeout: Duration::from_secs(2),
            attempt_timeout: None,
        }
    }

    /// Checks what can be checked without a connection.
    pub(crate) fn validate(&self) -> Result<(), ConfigError> {
        if self.endpoints.is_empty() {
            return Err(ConfigError::new(
                "--etcd",
                "",
                "no endpoint: give one at least, as http://127.0.0.1:2379",
            ));
        }
        let problem = if self.timeout < TIMEOUT_MIN {
            Some("no call could be over by then: give 10ms at least, such as 2s")
        } else if self.timeout > TIMEOUT_MAX {
            Some("it is over a day: give a shorter time, such as 2s")
        } else {
            None
        };
        if let Some(problem) = problem {
            let value = humantime::format_duration(self.timeout).to_string();
            return Err(ConfigError::new("--etcd-timeout", &value, problem));
        }
        if let Some(plain) = self.endpoints.iter().find(|endpoint| !endpoint.is_https())
            && let Some((setting, file)) = self.tls.first()
        {
            return Err(ConfigError::new(
                setting,
                &file.display().to_string(),
                &format!(
                    "{plain} is not encrypted and has no use for certificates: write it as https://, or leave them out"
                ),
            ));
        }
        match &self.credentials {
            Some(credentials) => credentials.validate(),
            None => Ok(()),
        }
    }

    /// How long one attempt may take.
    pub(crate) fn time_of_attempt(&self) -> Duration {
        self.attempt_timeout
            .unwrap_or(self.timeout / 3)
            .clamp(Duration::from_millis(1), self.timeout)
    }
}

/// The client URL of one member: `http://host:2379` or `https://host:2379`. The port defaults to 2379, the scheme to
/// `http`, and nothing may stand behind them.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Endpoint {
    https: bool,
    host: Host,
    port: u16,
}

impl Endpoint {
    /// Whether the connection is encrypted.
    #[must_use]
    pub fn is_https(&self) -> bool {
        self.https
    }

    /// Parses a list with commas between, as in `--etcd`. An endpoint named twice counts once.
    ///
    /// # Errors
    /// When one of them is none, or there is none.
    pub fn parse_list(list: &str) -> Result<Vec<Endpoint>, ConfigError> {
        let mut endpoints = Vec::new();
        for part in list.split(',') {
            let endpoint: Endpoint = part.parse()?;
            if !endpoints.contains(&endpoint) {
                endpoints.push(endpoint);
            }
        }
        Ok(endpoints)
    }
}

impl FromStr for Endpoint {
    type Err = ConfigError;

    fn from_str(value: &str) -> Result<Endpoint, ConfigError> {
        let text = value.trim();
        // Anything that may be a password is taken out: this ends up in logs.
        let shown = match text.rsplit_once('@') {
            Some((_, rest)) => format!("***@{rest}"),
            None => text.to_owned(),
        };
        let wrong = |problem: &str| ConfigError::new("--etcd", &shown, problem);
        if text.is_empty() {
            return Err(wrong("an endpoint is empty: write it as http://127.0.0.1:2379"));
        }
        let (scheme, rest) = text.split_once("://").unwrap_or(("http", text));
        let https = match scheme.to_ascii_lowercase().as_str() {
            "http" => false,
            "https" => true,
            _ => return Err(wrong("the scheme is unknown: use http:// or https://")),
        };
        // As http always, so that a port that is not named can be told from https' own.
        let url = Url::parse(&format!("http://{rest}"))
            .map_err(|error| wrong(&format!("{error}: write it as http://127.0.0.1:2379")))?;
        if !url.username().is_empty() || url.password().is_some() {
            return Err(wrong(
                "credentials do not belong in the address: use --etcd-user and --etcd-password-file",
            ));
        }
        if url.path() != "/" || url.query().is_some() || url.fragment().is_some() {
            return Err(wrong(
                "nothing may stand behind host and port: write it as http://127.0.0.1:2379",
            ));
        }
        let port = match url.port() {
            Some(0) => {
                return Err(wrong(
                    "port 0 is not a port to connect to: etcd's is 2379 by default",
                ));
            }
            Some(port) => port,
            None if names_port_80(rest) => 80,
            None => DEFAULT_PORT,
        };
        let host = url
            .host()
            .ok_or_else(|| wrong("the host is missing: write it as http://127.0.0.1:2379"))?
            .to_owned();
        Ok(Endpoint { https, host, port })
    }
}

/// Whether `host:port` names port 80, which the URL parser drops as http's default.
fn names_port_80(rest: &str) -> bool {
    rest.trim_end_matches('/')
        .rsplit_once(':')
        .is_some_and(|(_, port)| port.parse() == Ok(80_u16))
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.https { "https" } else { "http" };
        write!(f, "{scheme}://{}:{}", self.host, self.port)
    }
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Who to log in as.
#[derive(Clone, Debug)]
pub struct Credentials {
    /// The user's name.
    pub user: String,
    /// Its password.
    pub password: Password,
}

impl Credentials {
    fn validate(&self) -> Result<(), ConfigError> {
        if self.user.is_empty() {
            return Err(ConfigError::new(
                "--etcd-user",
                "",
                "it is empty: give the user's name, or leave it out",
            ));
        }
        let Password::File(path) = &self.password else {
            return Ok(());
        };
        let shown = path.display().to_string();
        let text = std::fs::read_to_string(path).map_err(|source| {
            ConfigError::new(
                "--etcd-password-file",
                &shown,
                "it cannot be read: check that it is there, that this user may read it, and that it is text",
            )
            .because(source)
        })?;
        if password(&text).is_empty() {
            return Err(ConfigError::new(
                "--etcd-password-file",
                &shown,
                "it is empty: write the password into it, on one line",
            ));
        }
        Ok(())
    }

    /// The password as it is now.
    pub(crate) async fn password(&self) -> Result<SecretString, CallError> {
        match &self.password {
            Password::Value(secret) => Ok(secret.clone()),
            Password::File(path) => match tokio::fs::read_to_string(path).await {
                Ok(text) => Ok(password(&text).into()),
                Err(source) => Err(CallError::Password {
                    path: path.clone(),
                    source,
                }),
            },
        }
    }
}

/// The password in a file's text. Spaces may belong to it, line breaks come from editors.
fn password(text: &str) -> &str {
    text.trim_end_matches(['\r', '\n'])
}

/// Where a password comes from. It is shown nowhere.
#[derive(Clone)]
pub enum Password {
    /// This one.
    Value(SecretString),
    /// The content of this file, line breaks at its end removed. Read at every log-in, so that it is changed without a
    /// restart.
    File(PathBuf),
}

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Password::Value(_) => f.write_str("Value([REDACTED])"),
            Password::File(path) => f.debug_tuple("File").field(path).finish(),
        }
    }
}

/// PEM files for TLS. Read once, when the client is built.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TlsConfig {
    /// The certificate authorities that may sign the members' certificates, and no others. `None`: the system's.
    pub ca_file: Option<PathBuf>,
    /// This client's certificate chain, for members that ask for one. Needs `client_key_file`.
    pub client_cert_file: Option<PathBuf>,
    /// The private key of `client_cert_file`.
    pub client_key_file: Option<PathBuf>,
}

impl TlsConfig {
    /// The first file that is given, with its flag.
    fn first(&self) -> Option<(&'static str, &PathBuf)> {
        [
            ("--etcd-ca-file", &self.ca_file),
            ("--etcd-cert-file", &self.client_cert_file),
            ("--etcd-key-file", &self.client_key_file),
        ]
        .into_iter()
        .find_map(|(setting, file)| Some((setting, file.as_ref()?)))
    }
}

/// A setting that cannot be used. Its message names the setting, the value and the mend.
#[derive(Debug, thiserror::Error)]
#[error("{setting} {value:?}: {problem}")]
pub struct ConfigError {
    /// The flag, such as `--etcd`.
    pub setting: &'static str,
    /// What was given; never a secret.
    pub value: String,
    /// What is wrong with it and how to mend it.
    pub problem: String,
    /// The cause, when there is one below.
    pub source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

impl ConfigError {
    pub(crate) fn new(setting: &'static str, value: &str, problem: &str) -> ConfigError {
        ConfigError {
            setting,
            value: value.to_owned(),
            problem: problem.to_owned(),
            source: None,
        }
    }

    pub(crate) fn because(self, source: impl std::error::Error + Send + Sync + 'static) -> ConfigError {
        ConfigError {
            source: Some(Box::new(source)),
            ..self
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn endpoints_are_read_in_every_documented_form() {
        for (text, shown) in [
            ("http://h:2379", "http://h:2379"),
            ("HTTPS://h:4001/", "https://h:4001"),
            ("h", "http://h:2379"),
            ("http://h", "http://h:2379"),
            ("https://h", "https://h:2379"),
            ("https://h:443", "https://h:443"),
            ("http://h:80", "http://h:80"),
            (" 10.0.0.1:80/ ", "http://10.0.0.1:80"),
            ("[::1]:2379", "http://[::1]:2379"),
            ("https://[fd00::80]", "https://[fd00::80]:2379"),
        ] {
            let endpoint: Endpoint = text.parse().unwrap_or_else(|error| panic!("{text}: {error}"));
            assert_eq!(endpoint.to_string(), shown, "{text}");
        }
    }

    #[test]
    fn a_bad_endpoint_is_named_with_its_mend() {
        for (text, part) in [
            ("", "empty"),
            ("etcd://h", "scheme is unknown"),
            ("http://", "host"),
            ("http://h:99999", "invalid port"),
            ("h:0", "port 0"),
            ("http://h:2379/v3", "nothing may stand behind"),
            ("h:2379?x", "nothing may stand behind"),
        ] {
            let error = text.parse::<Endpoint>().expect_err(text).to_string();
            assert!(
                error.contains(part) && error.contains(text) && error.contains("--etcd"),
                "{text}: {error}"
            );
        }
    }

    #[test]
    fn secrets_are_not_shown() {
        let error = "http://user:hunter2@h:2379"
            .parse::<Endpoint>()
            .expect_err("credentials");
        assert!(!format!("{error} {error:?}").contains("hunter2"));
        let mut config = Config::new(Endpoint::parse_list("h").expect("endpoint"));
        config.credentials = Some(Credentials {
            user: "u".to_owned(),
            password: Password::Value("hunter2".into()),
        });
        assert!(!format!("{config:?}").contains("hunter2"));
    }

    #[test]
    fn an_endpoint_named_twice_counts_once() {
        assert_eq!(
            Endpoint::parse_list("h,http://h:2379,g")
                .expect("endpoints")
                .len(),
            2
        );
    }

    #[tokio::test]
    async fn a_password_file_is_read_anew_and_loses_only_line_breaks() {
        let dir = tempfile::tempdir().expect("dir");
        let path = dir.path().join("password");
        let credentials = Credentials {
            user: "u".to_owned(),
            password: Password::File(path.clone()),
        };
        for (text, password) in [("one \r\n", "one "), ("two", "two")] {
            std::fs::write(&path, text).expect("write");
            let read = credentials.password().await.expect("password");
            assert_eq!(secrecy::ExposeSecret::expose_secret(&read), password);
        }
        std::fs::remove_file(&path).expect("remove");
        let error = credentials.password().await.expect_err("no file").to_string();
        assert!(error.contains("password"), "{error}");
    }

    proptest! {
        #[test]
        fn any_text_parses_or_is_refused_and_what_is_shown_parses_to_the_same(text in "\\PC{0,60}") {
            if let Ok(endpoint) = text.parse::<Endpoint>() {
                prop_assert_eq!(endpoint.to_string().parse::<Endpoint>().expect("shown"), endpoint);
            }
        }
    }
}
