//! Where a cluster's addresses are: one network of 256, that nothing else on this machine uses.

use std::fmt::{self, Display, Formatter};
use std::net::Ipv4Addr;
use std::str::FromStr;

use super::Error;
use super::command::{SHORT, docker};

/// A private network `a.b.c.0/24`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Subnet([u8; 3]);

impl Subnet {
    /// The address of the host with this number: .11 and on.
    pub fn node(self, number: usize) -> Ipv4Addr {
        let last = u8::try_from(10 + number).expect("few nodes");
        self.address(last)
    }

    /// The most virtual IPs that there is room for.
    pub const MOST_VIPS: usize = 10;

    /// The address that belongs to no host, for the virtual IP: .100.
    pub fn vip(self) -> Ipv4Addr {
        self.address(100)
    }

    /// The addresses of this many virtual IPs: .100 and on.
    pub fn vips(self, count: usize) -> Vec<Ipv4Addr> {
        (100..110).take(count).map(|last| self.address(last)).collect()
    }

    /// The address that belongs to no host either, for a virtual IP that somebody else keeps: .110.
    pub fn other_vip(self) -> Ipv4Addr {
        self.address(110)
    }

    /// Where Docker may put other containers, away from the addresses above: the last quarter.
    pub(crate) fn dynamic(self) -> String {
        format!("{}/26", self.address(192))
    }

    fn address(self, last: u8) -> Ipv4Addr {
        let Self([a, b, c]) = self;
        Ipv4Addr::new(a, b, c, last)
    }

    fn overlaps(self, network: Ipv4Addr, prefix: u32) -> bool {
        let mask = |prefix: u32| u32::MAX.checked_shl(32 - prefix).unwrap_or(0);
        let common = mask(prefix.min(24));
        u32::from(self.address(0)) & common == u32::from(network) & common
    }
}

impl Display for Subnet {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "{}/24", self.address(0))
    }
}

impl FromStr for Subnet {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let complaint = || format!("'{text}' is not a private network A.B.C.0/24, as 10.213.0.0/24");
        let address: Ipv4Addr = text
            .strip_suffix("/24")
            .and_then(|address| address.parse().ok())
            .ok_or_else(complaint)?;
        match address.octets() {
            [a, b, c, 0] if address.is_private() => Ok(Self([a, b, c])),
            _ => Err(complaint()),
        }
    }
}

/// A network that is in use, and by what.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Used {
    network: Ipv4Addr,
    prefix: u32,
    by: String,
}

/// All networks that Docker's networks and this machine's routes use.
async fn used() -> Result<Vec<Used>, String> {
    let ids = docker(&["network", "ls", "-q"], SHORT).await?;
    let ids: Vec<&str> = ids.split_whitespace().collect();
    let format = "{{.Name}}{{range .IPAM.Config}} {{.Subnet}}{{end}}";
    let networks = docker(
        &[&["network", "inspect", "-f", format], ids.as_slice()].concat(),
        SHORT,
    )
    .await?;
    let routes = std::fs::read_to_string("/proc/net/route").unwrap_or_default();
    Ok(parse_networks(&networks).chain(parse_routes(&routes)).collect())
}

/// Lines `name subnet …`.
fn parse_networks(text: &str) -> impl Iterator<Item = Used> + '_ {
    text.lines().flat_map(|line| {
        let mut words = line.split_whitespace();
        let name = words.next().unwrap_or_default();
        words.filter_map(move |subnet| {
            let (network, prefix) = subnet.split_once('/')?;
            Some(Used {
                network: network.parse().ok()?,
                prefix: prefix.parse().ok().filter(|prefix| *prefix <= 32)?,
                by: format!("the Docker network {name}"),
            })
        })
    })
}

/// `/proc/net/route`: addresses as numbers in the machine's byte order. The default route is everybody's.
fn parse_routes(text: &str) -> impl Iterator<Item = Used> + '_ {
    text.lines().skip(1).filter_map(|line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let number = |word: Option<&&str>| u32::from_str_radix(word?, 16).ok();
        let (network, mask) = (number(words.get(1))?, number(words.get(7))?);
        let prefix = mask.count_ones();
        (prefix > 0).then(|| Used {
            network: Ipv4Addr::from(network.to_ne_bytes()),
            prefix,
            by: format!("a route of this machine (interface {})", words[0]),
        })
    })
}

/// Makes sure that nothing uses the network.
///
/// # Errors
/// With who does.
pub(crate) async fn check_free(subnet: Subnet) -> Result<(), Error> {
    let used = used().await?;
    match used
        .iter()
        .find(|used| subnet.overlaps(used.network, used.prefix))
    {
        None => Ok(()),
        Some(Used { network, prefix, by }) => Err(Error::usage(
            format!("CLUSTER_SUBNET={subnet} overlaps with {network}/{prefix}, {by}"),
            match first_free(&used, 0) {
                Some(free) => format!("use another one: make cluster CLUSTER_SUBNET={free}"),
                None => "use another one: make cluster CLUSTER_SUBNET=A.B.C.0/24".to_owned(),
            },
        )),
    }
}

/// Finds one that is free; another at each call, as others may look at the same time.
pub(crate) async fn find_free() -> Result<Subnet, Error> {
    let used = used().await?;
    first_free(&used, fastrand::u8(..))
        .ok_or_else(|| Error::with_mend("no network of 10.214.0.0/16 is free", "remove Docker networks"))
}

fn first_free(used: &[Used], from: u8) -> Option<Subnet> {
    (0..=u8::MAX)
        .map(|n| Subnet([10, 214, from.wrapping_add(n)]))
        .find(|subnet| !used.iter().any(|used| subnet.overlaps(used.network, used.prefix)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn subnet(text: &str) -> Subnet {
        text.parse().unwrap()
    }

    #[test]
    fn only_private_networks_of_256_addresses_are_taken() {
        assert_eq!(subnet("10.213.0.0/24").to_string(), "10.213.0.0/24");
        assert_eq!(subnet("192.168.7.0/24").node(2).to_string(), "192.168.7.12");
        assert_eq!(subnet("172.16.7.0/24").vip().to_string(), "172.16.7.100");
        let vips = subnet("172.16.7.0/24").vips(Subnet::MOST_VIPS);
        assert_eq!((vips.len(), vips[0].to_string()), (10, "172.16.7.100".to_owned()));
        assert!(!vips.contains(&subnet("172.16.7.0/24").other_vip()));
        for bad in [
            "",
            "10.213.0.0",
            "10.213.0.0/16",
            "10.213.0.1/24",
            "8.8.8.0/24",
            "10.0.0/24",
            "x/24",
        ] {
            assert!(bad.parse::<Subnet>().is_err(), "{bad}");
        }
    }

    #[test]
    fn larger_smaller_and_equal_networks_overlap() {
        let ours = subnet("10.213.4.0/24");
        for (network, prefix, expected) in [
            ("10.213.4.0", 24, true),
            ("10.213.0.0", 16, true),
            ("10.0.0.0", 8, true),
            ("10.213.4.128", 25, true),
            ("10.213.4.7", 32, true),
            ("0.0.0.0", 0, true),
            ("10.213.5.0", 24, false),
            ("10.212.0.0", 16, false),
        ] {
            assert_eq!(
                ours.overlaps(network.parse().unwrap(), prefix),
                expected,
                "{network}/{prefix}"
            );
        }
    }

    #[test]
    fn what_docker_and_the_kernel_say_is_read() {
        let networks = "bridge 172.17.0.0/16\nhost\nboth 10.1.0.0/24 fd00::/64\n";
        let found: Vec<_> = parse_networks(networks)
            .map(|used| (used.network.to_string(), used.prefix))
            .collect();
        assert_eq!(
            found,
            [("172.17.0.0".to_owned(), 16), ("10.1.0.0".to_owned(), 24)]
        );

        let number = |address: &str| {
            format!(
                "{:08X}",
                u32::from_ne_bytes(address.parse::<Ipv4Addr>().unwrap().octets())
            )
        };
        let routes = format!(
            "Iface Destination Gateway Flags RefCnt Use Metric Mask MTU Window IRTT\n\
             eth0 {} {} 0003 0 0 0 {} 0 0 0\neth0 {} {} 0001 0 0 0 {} 0 0 0\n",
            number("0.0.0.0"),
            number("10.9.0.1"),
            number("0.0.0.0"),
            number("10.9.0.0"),
            number("0.0.0.0"),
            number("255.255.0.0"),
        );
        let found: Vec<_> = parse_routes(&routes)
            .map(|used| (used.network.to_string(), used.prefix))
            .collect();
        assert_eq!(found, [("10.9.0.0".to_owned(), 16)]);
    }

    #[test]
    fn a_free_one_is_found_beside_used_ones() {
        let used: Vec<Used> = parse_networks("a 10.214.0.0/23\nb 10.214.2.0/24").collect();
        assert_eq!(first_free(&used, 0), Some(subnet("10.214.3.0/24")));
        assert_eq!(first_free(&used, 255), Some(subnet("10.214.255.0/24")));
        let all: Vec<Used> = parse_networks("a 10.0.0.0/8").collect();
        assert_eq!(first_free(&all, 0), None);
    }
}
