//! What a host is called and where it is reached: asked of the system, unless the operator has said it.

use std::env;
use std::ffi::OsString;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};

/// Where the kernel keeps the host's name. A container on the host's network has the host's.
const HOST_NAME_FILE: &str = "/proc/sys/kernel/hostname";

/// What the kernel says before it was given a name.
const NO_NAME: &str = "(none)";

/// The variables that may give this host's address, the first one first: Colossus's own, and the one that CoreOS writes
/// to `/etc/environment`.
pub const ADDRESS_VARIABLES: [&str; 2] = ["COLOSSUS_IP", "COREOS_PRIVATE_IPV4"];

/// The address whose route is asked for. RFC 5737 keeps it for documentation: any will do that is in no network of this
/// host.
const ELSEWHERE: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(198, 51, 100, 1)), 9);

/// Why the host could not tell about itself.
#[derive(Debug, thiserror::Error)]
pub enum HostError {
    /// The name could not be read.
    #[error("cannot read this host's name from {HOST_NAME_FILE}")]
    Name(#[source] io::Error),
    /// The host has none.
    #[error("this host has no name")]
    NoName,
    /// A variable holds something else than an address. Stays so until somebody changes it.
    #[error("{variable} is {value:?}: {problem}")]
    Variable {
        /// The variable.
        variable: &'static str,
        /// What it holds.
        value: String,
        /// What is wrong with that.
        problem: String,
    },
    /// The kernel knows no way out. At boot it may learn one later.
    #[error("there is no route to {ELSEWHERE}, which would tell this host's own address")]
    NoRoute(#[source] io::Error),
}

/// The host's name up to its first dot: `n1` for `n1.example.org`.
///
/// # Errors
/// [`HostError::Name`], [`HostError::NoName`].
pub fn host_name() -> Result<String, HostError> {
    let name = std::fs::read_to_string(HOST_NAME_FILE).map_err(HostError::Name)?;
    first_label(&name).ok_or(HostError::NoName)
}

fn first_label(name: &str) -> Option<String> {
    let label = name.trim().split('.').next().unwrap_or_default();
    (!label.is_empty() && label != NO_NAME).then(|| label.to_owned())
}

/// The address at which others reach this host: the one given, else the one routed.
///
/// # Errors
/// [`HostError::Variable`], [`HostError::NoRoute`].
pub fn host_address() -> Result<IpAddr, HostError> {
    match given_address()? {
        Some(address) => Ok(address),
        None => routed_address(),
    }
}

/// The address that the first of [`ADDRESS_VARIABLES`] gives which is set and not empty.
///
/// # Errors
/// [`HostError::Variable`]: a configuration error, worth finding before anything is begun.
pub fn given_address() -> Result<Option<IpAddr>, HostError> {
    given(|variable| env::var_os(variable))
}

fn given(lookup: impl Fn(&str) -> Option<OsString>) -> Result<Option<IpAddr>, HostError> {
    for variable in ADDRESS_VARIABLES {
        let value = lookup(variable).unwrap_or_default();
        let value = value.to_string_lossy();
        let value = value.trim();
        if !value.is_empty() {
            return unicast_address(value)
                .map(Some)
                .map_err(|problem| HostError::Variable {
                    variable,
                    value: value.to_owned(),
                    problem,
                });
        }
    }
    Ok(None)
}

/// The source address the kernel would use towards the rest of the world: that of the interface with the default route.
///
/// "Connecting" a UDP socket only looks up the route; no packet is sent.
///
/// # Errors
/// [`HostError::NoRoute`].
pub fn routed_address() -> Result<IpAddr, HostError> {
    let lookup = || {
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
        socket.connect(ELSEWHERE)?;
        socket.local_addr()
    };
    lookup().map(|address| address.ip()).map_err(HostError::NoRoute)
}

/// Parses an address that others can send to, for clap's `value_parser`.
///
/// # Errors
/// With a text that says what is wrong.
pub fn unicast_address(text: &str) -> Result<IpAddr, String> {
    let address: IpAddr = text.parse().map_err(|_| "it is no IP address".to_owned())?;
    let broadcast = address == IpAddr::V4(Ipv4Addr::BROADCAST);
    if address.is_unspecified() || address.is_multicast() || broadcast {
        return Err("nobody can send to it: give an address of this host".to_owned());
    }
    Ok(address)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(variables: &[(&str, &str)]) -> Result<Option<IpAddr>, HostError> {
        given(|name| {
            let found = variables.iter().find(|(variable, _)| *variable == name);
            found.map(|(_, value)| value.into())
        })
    }

    #[test]
    fn the_first_label_is_the_name() {
        for (text, name) in [
            ("n1\n", Some("n1")),
            ("n1.example.org\n", Some("n1")),
            ("\n", None),
            ("(none)\n", None),
            (".example.org", None),
        ] {
            assert_eq!(first_label(text).as_deref(), name, "{text:?}");
        }
        assert!(!host_name().unwrap().contains(['.', '\n']));
    }

    #[test]
    fn our_own_variable_counts_before_the_systems_and_an_empty_one_not_at_all() {
        let (own, core) = (("COLOSSUS_IP", "192.0.2.1"), ("COREOS_PRIVATE_IPV4", "192.0.2.2"));
        for (variables, address) in [
            (&[own, core][..], Some("192.0.2.1")),
            (&[("COLOSSUS_IP", ""), core], Some("192.0.2.2")),
            (&[("COLOSSUS_IP", " fd00::1 ")], Some("fd00::1")),
            (&[("COLOSSUS_IP", "")], None),
            (&[], None),
        ] {
            let given = with(variables).unwrap().map(|address| address.to_string());
            assert_eq!(given.as_deref(), address, "{variables:?}");
        }
    }

    #[test]
    fn what_is_no_address_of_a_host_is_an_error_that_names_the_variable() {
        for (variable, value) in [
            ("COLOSSUS_IP", "n1"),
            ("COLOSSUS_IP", "192.0.2.1/24"),
            ("COLOSSUS_IP", "0.0.0.0"),
            ("COREOS_PRIVATE_IPV4", "224.0.0.1"),
            ("COREOS_PRIVATE_IPV4", "255.255.255.255"),
        ] {
            let error = with(&[(variable, value)]).unwrap_err().to_string();
            assert!(error.contains(variable) && error.contains(value), "{error}");
        }
    }

    #[test]
    fn the_routed_address_is_one_of_this_host() {
        match routed_address() {
            // Only an address of this host can be bound to.
            Ok(address) => drop(UdpSocket::bind((address, 0)).unwrap()),
            Err(error) => assert!(matches!(error, HostError::NoRoute(_)), "{error}"),
        }
    }
}
