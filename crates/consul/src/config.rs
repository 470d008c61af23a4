//! Where Consul is and how to speak to it: [`Config`] and its parts.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use secrecy::SecretString;
use url::Url;

use crate::error::Error;

/// The port of Consul's HTTP API, taken when an address names none and is no URL (Consul documentation,
/// "Required Ports").
const DEFAULT_PORT: u16 = 8500;

/// What a [`Client`](crate::Client) is built from.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where the agent's HTTP API listens.
    pub address: Address,
    /// The ACL token sent with every call.
    pub token: TokenSource,
    /// Certificates, for `https` addresses.
    pub tls: TlsConfig,
    /// The datacenter asked when a query names none; `None` is the agent's own. Agent endpoints ignore it.
    pub datacenter: Option<String>,
    /// The deadline of one non-blocking call, from connecting to the last byte of the answer. Default 5 s. A
    /// blocking query may take its wait, a sixteenth of it (the server's jitter) and this on top.
    ///
    /// A server without a leader holds calls for its `rpc_hold_timeout`, 7 s by default, before it answers "No cluster
    /// leader": with less than that a lost leader is mostly seen as [`Error::Deadline`].
    pub timeout: Duration,
}

impl Config {
    /// The defaults for `address`: no token, no extra certificates, the agent's datacenter, 5 s.
    #[must_use]
    pub fn new(address: Address) -> Config {
        Config {
            address,
            token: TokenSource::None,
            tls: TlsConfig::default(),
            datacenter: None,
            timeout: Duration::from_secs(5),
        }
    }
}

/// Where Consul's HTTP API listens.
///
/// Parsed from `http://host:8500`, `https://host:8501`, `unix:///path/to/socket`, `consul://host:8500` (the
/// form registrators use) or a bare `host:8500`. The port of a bare or `consul://` address defaults to 8500, that of
/// `http://` and `https://` to the scheme's own, as in any URL. A path in the URL is kept as a prefix, for agents
/// behind a proxy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// Over TCP: an `http` or `https` URL without credentials, query or fragment.
    Http(Url),
    /// Over a Unix socket at this absolute path.
    Unix(PathBuf),
}

impl Address {
    /// Whether the address needs TLS.
    #[must_use]
    pub fn is_https(&self) -> bool {
        matches!(self, Address::Http(url) if url.scheme() == "https")
    }

    /// Checks what [`FromStr`] guarantees, for an address that was built by hand.
    pub(crate) fn validate(&self) -> Result<(), Error> {
        match self {
            Address::Http(url) => validate_url(url, url.as_str()),
            Address::Unix(path) if path.is_absolute() => Ok(()),
            Address::Unix(path) => Err(address_error(
                &format!("unix://{}", path.display()),
                "the path of the socket is not absolute: write it as unix:///run/consul.sock",
            )),
        }
    }
}

/// `value` with anything that may be a password taken out: it ends up in logs.
fn address_error(value: &str, problem: &str) -> Error {
    let shown = match value.rsplit_once('@') {
        Some((_, rest)) => format!("***@{rest}"),
        None => value.to_owned(),
    };
    Error::Address {
        value: shown,
        problem: problem.to_owned(),
    }
}

fn validate_url(url: &Url, value: &str) -> Result<(), Error> {
    let problem = if !matches!(url.scheme(), "http" | "https") {
        "the scheme is unknown: use http://, https://, consul:// or unix://"
    } else if url.host_str().is_none_or(str::is_empty) {
        "the host is missing: write it as http://127.0.0.1:8500"
    } else if !url.username().is_empty() || url.password().is_some() {
        "credentials do not belong in the address: give the ACL token by file or environment"
    } else if url.query().is_some() || url.fragment().is_some() {
        "a query or fragment does not belong in the address: remove what follows `?` or `#`"
    } else if url.port() == Some(0) {
        "port 0 is not a port to connect to: Consul's HTTP API listens on 8500 by default"
    } else {
        return Ok(());
    };
    Err(address_error(value, problem))
}

impl FromStr for Address {
    type Err = Error;

    fn from_str(value: &str) -> Result<Address, Error> {
        let text = value.trim();
        if text.is_empty() {
            return Err(address_error(
                value,
                "it is empty: write it as http://127.0.0.1:8500",
            ));
        }
        let (scheme, rest) = text.split_once("://").unwrap_or(("", text));
        let scheme = scheme.to_ascii_lowercase();
        if scheme == "unix" {
            let address = Address::Unix(PathBuf::from(rest));
            address.validate()?;
            return Ok(address);
        }
        // `host`, `host:8500` and `consul://host` are not URLs a parser knows how to split (it would take `host:`
        // for a scheme), so they become http ones first, where a missing port can still be told from port 80.
        let parse = |text: &str| {
            Url::parse(text).map_err(|error| {
                address_error(
                    value,
                    &format!("{error}: write it as http://127.0.0.1:8500 or 127.0.0.1:8500"),
                )
            })
        };
        let url = match scheme.as_str() {
            "" | "consul" => {
                let mut url = parse(&format!("http://{rest}"))?;
                if url.port().is_none() && !names_port_80(rest) {
                    // Fails only for URLs without a host, which `validate_url` reports.
                    let _ = url.set_port(Some(DEFAULT_PORT));
                }
                url
            }
            _ => parse(text)?,
        };
        validate_url(&url, value)?;
        Ok(Address::Http(url))
    }
}

/// Whether `host:port/...` names port 80, which the URL parser drops as http's default.
fn names_port_80(rest: &str) -> bool {
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    authority
        .rsplit_once(':')
        .is_some_and(|(_, port)| port.parse() == Ok(80_u16))
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Address::Http(url) => f.write_str(url.as_str().trim_end_matches('/')),
            Address::Unix(path) => write!(f, "unix://{}", path.display()),
        }
    }
}

/// Where the ACL token comes from. It is sent as `X-Consul-Token` and shown nowhere.
#[derive(Clone, Default)]
pub enum TokenSource {
    /// No token: the anonymous token's rights.
    #[default]
    None,
    /// This token.
    Value(SecretString),
    /// The content of this file, white space at its end removed. The file is looked at before every call and read
    /// again when it has changed, so a token is rotated without a restart.
    File(PathBuf),
}

impl fmt::Debug for TokenSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            TokenSource::None => f.write_str("None"),
            TokenSource::Value(_) => f.write_str("Value([REDACTED])"),
            TokenSource::File(path) => f.debug_tuple("File").field(path).finish(),
        }
    }
}

/// PEM files for TLS. Read once, when the client is built.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TlsConfig {
    /// The certificate authorities that may sign Consul's certificate, and no others. `None`: the system's.
    pub ca_file: Option<PathBuf>,
    /// This client's certificate chain, for agents that verify incoming connections. Needs `client_key_file`.
    pub client_cert_file: Option<PathBuf>,
    /// The private key of `client_cert_file`.
    pub client_key_file: Option<PathBuf>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn addresses_are_read_in_every_documented_form() {
        for (text, shown) in [
            ("http://h:8500", "http://h:8500"),
            ("https://h:8501", "https://h:8501"),
            ("HTTP://h:8500/", "http://h:8500"),
            ("h:8500", "http://h:8500"),
            ("h", "http://h:8500"),
            ("h:80", "http://h"),
            ("10.0.0.1", "http://10.0.0.1:8500"),
            ("localhost:8500", "http://localhost:8500"),
            ("[::1]:8500", "http://[::1]:8500"),
            ("[fd00::80]", "http://[fd00::80]:8500"),
            ("consul://h:8500", "http://h:8500"),
            ("consul://h", "http://h:8500"),
            ("http://h", "http://h"),
            ("https://proxy/consul/", "https://proxy/consul"),
            ("unix:///run/consul.sock", "unix:///run/consul.sock"),
            (" h:8500\n", "http://h:8500"),
        ] {
            let address: Address = text.parse().unwrap_or_else(|error| panic!("{text}: {error}"));
            assert_eq!(address.to_string(), shown, "{text}");
        }
    }

    #[test]
    fn a_bad_address_is_named_with_its_mend() {
        for (text, part) in [
            ("", "empty"),
            ("unix://run/consul.sock", "not absolute"),
            ("ftp://h:8500", "scheme is unknown"),
            ("http://", "empty host"),
            ("http://h:99999", "invalid port"),
            ("h:0", "port 0"),
            ("h:8500?dc=x", "query or fragment"),
            ("etcd://h", "scheme is unknown"),
        ] {
            let error = text.parse::<Address>().expect_err(text).to_string();
            assert!(error.contains(part) && error.contains(text), "{text}: {error}");
        }
    }

    #[test]
    fn a_password_in_an_address_is_refused_and_not_shown() {
        let error = "http://user:hunter2@h:8500"
            .parse::<Address>()
            .expect_err("credentials");
        let shown = format!("{error} {error:?}");
        assert!(!shown.contains("hunter2"), "{shown}");
    }

    #[test]
    fn a_token_is_not_in_debug_output() {
        let mut config = Config::new("h".parse().expect("address"));
        config.token = TokenSource::Value("s3cret".into());
        assert!(!format!("{config:?}").contains("s3cret"));
    }

    proptest! {
        #[test]
        fn any_text_parses_or_is_refused_and_never_panics(text in "\\PC{0,60}") {
            let _ = text.parse::<Address>();
        }

        #[test]
        fn what_is_shown_parses_to_the_same_address(
            scheme in "(|http://|https://|consul://)", host in "[a-z][a-z0-9-]{0,20}", port in 1_u16..,
        ) {
            let address: Address = format!("{scheme}{host}:{port}").parse().expect("address");
            prop_assert_eq!(address.to_string().parse::<Address>().expect("shown"), address);
        }
    }
}
