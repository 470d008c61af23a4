//! Where fleet's API is.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use url::Url;

use crate::error::Error;

/// Where fleet's API listens: `unix:///run/fleet.sock` (what fleetd makes by default) or `http://HOST:PORT`.
///
/// fleet asks nobody who they are, so a TCP address belongs on the loopback interface or behind a tunnel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Endpoint {
    /// A Unix socket at this absolute path.
    Unix(PathBuf),
    /// Over TCP: an `http` URL without credentials, query or fragment.
    Http(Url),
}

impl Default for Endpoint {
    fn default() -> Self {
        Self::Unix(PathBuf::from("/run/fleet.sock"))
    }
}

impl FromStr for Endpoint {
    type Err = Error;

    fn from_str(value: &str) -> Result<Self, Error> {
        let text = value.trim();
        let refuse = |problem: &str| {
            Err(Error::Endpoint {
                // It ends up in logs.
                value: value
                    .rsplit_once('@')
                    .map_or_else(|| value.to_owned(), |(_, rest)| format!("***@{rest}")),
                problem: format!("{problem}: write it as unix:///run/fleet.sock or http://127.0.0.1:49153"),
            })
        };
        if let Some(path) = text.strip_prefix("unix://") {
            let path = PathBuf::from(path);
            return if path.is_absolute() {
                Ok(Self::Unix(path))
            } else {
                refuse("the path of the socket is not absolute")
            };
        }
        let Ok(url) = Url::parse(text) else {
            return refuse("it is no URL");
        };
        match url.scheme() {
            "http" => {}
            "https" => return refuse("fleet speaks no TLS"),
            _ => return refuse("the scheme is unknown"),
        }
        if url.host_str().is_none_or(str::is_empty) || url.port() == Some(0) {
            return refuse("the host or its port is missing");
        }
        if !url.username().is_empty() || url.password().is_some() {
            return refuse("fleet knows no users");
        }
        if url.query().is_some() || url.fragment().is_some() {
            return refuse("a query or fragment does not belong there");
        }
        Ok(Self::Http(url))
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix://{}", path.display()),
            Self::Http(url) => f.write_str(url.as_str().trim_end_matches('/')),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn endpoints_are_read_and_shown() {
        for (text, shown) in [
            ("unix:///run/fleet.sock", "unix:///run/fleet.sock"),
            (" http://127.0.0.1:49153/\n", "http://127.0.0.1:49153"),
            ("http://h:1/fleet/", "http://h:1/fleet"),
        ] {
            let endpoint: Endpoint = text.parse().unwrap_or_else(|error| panic!("{text}: {error}"));
            assert_eq!(endpoint.to_string(), shown);
        }
        assert_eq!(Endpoint::default().to_string(), "unix:///run/fleet.sock");
    }

    #[test]
    fn what_is_none_says_why_and_how_to_write_it() {
        for (text, part) in [
            ("", "no URL"),
            ("127.0.0.1:49153", "no URL"),
            ("unix://run/fleet.sock", "not absolute"),
            ("https://h:1", "no TLS"),
            ("ftp://h:1", "scheme is unknown"),
            ("http://h:0", "port is missing"),
            ("http://h:1?x=y", "query"),
            ("http://u:hunter2@h:1", "no users"),
        ] {
            let error = text.parse::<Endpoint>().expect_err(text).to_string();
            assert!(
                error.contains(part) && error.contains("unix:///run/fleet.sock"),
                "{text}: {error}"
            );
            assert!(!error.contains("hunter2"), "{error}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_an_endpoint_or_refused(text in prop_oneof!["\\PC{0,40}", "(unix|http)://[a-z/:0-9@?]{0,20}"]) {
            if let Ok(endpoint) = text.parse::<Endpoint>() {
                prop_assert_eq!(endpoint.to_string().parse::<Endpoint>().expect("shown"), endpoint);
            }
        }
    }
}
