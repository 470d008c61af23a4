//! What a virtual IP is: its name, its address, and where it goes.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// The longest name of a network interface (`IFNAMSIZ`, less its end).
const INTERFACE_MAX: usize = 15;

/// The name of a virtual IP: what its keys in etcd, its metrics and its hooks call it. The address itself, in its
/// canonical form, with `-` for what a key should not hold, unless the operator gives another.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct VipName(String);

/// Why a text names no virtual IP.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum VipError {
    /// It is no name.
    #[error(
        "\"{0}\" is no name for a virtual IP: use 1 to 63 small letters, digits, '-', '.' and '_', beginning with a letter or digit"
    )]
    Name(String),
    /// It is no address.
    #[error(
        "\"{0}\" is no IP address: write the address alone, without a prefix length, for example 10.0.0.100 or fd00::100"
    )]
    Address(String),
    /// An address that no host can hold.
    #[error("{0} cannot be a virtual IP: it is {1}")]
    Unusable(IpAddr, &'static str),
    /// It is no interface.
    #[error("\"{0}\" is no name of an interface: 1 to 15 characters, none of them a blank, '/' or ':'")]
    Interface(String),
}

impl FromStr for VipName {
    type Err = VipError;

    fn from_str(text: &str) -> Result<Self, VipError> {
        let fits = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '-' | '.' | '_');
        let first = text.starts_with(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit());
        if first && text.len() <= 63 && text.chars().all(fits) {
            Ok(Self(text.to_owned()))
        } else {
            Err(VipError::Name(text.chars().take(80).collect()))
        }
    }
}

impl TryFrom<String> for VipName {
    type Error = VipError;

    fn try_from(text: String) -> Result<Self, VipError> {
        text.parse()
    }
}

impl From<VipName> for String {
    fn from(name: VipName) -> Self {
        name.0
    }
}

impl VipName {
    /// The name of an address that has no other.
    fn of(address: IpAddr) -> Self {
        Self(address.to_string().replace(':', "-").trim_matches('-').to_owned())
    }

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for VipName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// One virtual IP: `[NAME=]ADDRESS[@INTERFACE]`.
///
/// Without an interface it goes to the one whose network holds the address, found anew each time it is needed, since
/// interfaces change their names and indexes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Vip {
    /// What it is called.
    pub name: VipName,
    /// The address; added as /32 or /128.
    pub address: IpAddr,
    /// Where it must go, if the operator says so.
    pub interface: Option<String>,
}

impl FromStr for Vip {
    type Err = VipError;

    fn from_str(text: &str) -> Result<Self, VipError> {
        let (name, rest) = match text.split_once('=') {
            Some((name, rest)) => (Some(name.parse()?), rest),
            None => (None, text),
        };
        let (address, interface) = match rest.split_once('@') {
            Some((address, interface)) => (address, Some(parse_interface(interface)?)),
            None => (rest, None),
        };
        let address: IpAddr = address
            .parse()
            .map_err(|_| VipError::Address(address.chars().take(80).collect()))?;
        if let Some(what) = unusable(address) {
            return Err(VipError::Unusable(address, what));
        }
        Ok(Self {
            name: name.unwrap_or_else(|| VipName::of(address)),
            address,
            interface,
        })
    }
}

impl fmt::Display for Vip {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}={}", self.name, self.address)?;
        match &self.interface {
            Some(interface) => write!(f, "@{interface}"),
            None => Ok(()),
        }
    }
}

fn parse_interface(text: &str) -> Result<String, VipError> {
    let fits = |c: char| !c.is_whitespace() && !c.is_control() && c != '/' && c != ':';
    if text.is_empty() || text.len() > INTERFACE_MAX || !text.chars().all(fits) || matches!(text, "." | "..")
    {
        return Err(VipError::Interface(text.chars().take(80).collect()));
    }
    Ok(text.to_owned())
}

fn unusable(address: IpAddr) -> Option<&'static str> {
    if address.is_unspecified() {
        Some("the unspecified address")
    } else if address.is_loopback() {
        Some("a loopback address, which no other host can reach")
    } else if address.is_multicast() {
        Some("a multicast address")
    } else {
        match address {
            IpAddr::V4(v4) if v4.is_broadcast() => Some("the broadcast address"),
            IpAddr::V6(v6) if v6.is_unicast_link_local() => {
                Some("a link-local address, which needs a zone to be reached")
            }
            IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some() => {
                Some("an IPv4 address written as IPv6; write it as IPv4")
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn an_address_names_itself_unless_it_is_given_a_name() {
        for (text, name, shown) in [
            ("10.0.0.100", "10.0.0.100", "10.0.0.100=10.0.0.100"),
            ("web=10.0.0.100@eth1", "web", "web=10.0.0.100@eth1"),
            ("fd00::100", "fd00--100", "fd00--100=fd00::100"),
        ] {
            let vip: Vip = text.parse().expect(text);
            assert_eq!((vip.name.as_str(), vip.to_string().as_str()), (name, shown));
        }
    }

    #[test]
    fn what_cannot_be_one_is_refused_with_what_and_how() {
        for (text, part) in [
            ("", "without a prefix length"),
            ("10.0.0.100/24", "without a prefix length"),
            ("10.0.0.300", "is no IP address"),
            ("Web=10.0.0.1", "is no name"),
            ("=10.0.0.1", "is no name"),
            ("ä=10.0.0.1", "is no name"),
            ("10.0.0.1@", "is no name of an interface"),
            ("10.0.0.1@eth 0", "is no name of an interface"),
            ("10.0.0.1@abcdefghijklmnop", "is no name of an interface"),
            ("0.0.0.0", "unspecified"),
            ("127.0.0.1", "loopback"),
            ("224.0.0.18", "multicast"),
            ("255.255.255.255", "broadcast"),
            ("fe80::1", "link-local"),
            ("::ffff:10.0.0.1", "write it as IPv4"),
        ] {
            let error = text.parse::<Vip>().expect_err(text).to_string();
            assert!(error.contains(part), "{text}: {error}");
        }
    }

    proptest! {
        #[test]
        fn what_is_shown_is_read_back(address: IpAddr, named: bool, interface in proptest::option::of("[a-z0-9.]{1,15}")) {
            let mut text = address.to_string();
            if named {
                text = format!("a-name={text}");
            }
            if let Some(interface) = &interface {
                text = format!("{text}@{interface}");
            }
            if let Ok(vip) = text.parse::<Vip>() {
                prop_assert_eq!(vip.to_string().parse::<Vip>(), Ok(vip));
            }
        }

        #[test]
        fn no_text_panics(text in "\\PC{0,120}") {
            let _ = text.parse::<Vip>();
        }
    }
}
