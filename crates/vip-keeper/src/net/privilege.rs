//! The capabilities that are needed, and whether they are there.
//!
//! A keeper needs `NET_ADMIN` (addresses, nftables) and `NET_RAW` (ARP, neighbour advertisements), and nothing else. It
//! does not drop others: it is started without them, by `--cap-drop ALL --cap-add NET_ADMIN --cap-add NET_RAW` of its
//! container or `CapabilityBoundingSet=` of its unit. That holds from the first instruction on and for every thread, and
//! what does not have them cannot get them back.

use std::path::Path;

/// What is needed: the name, and the number (`linux/capability.h`).
const NEEDED: [(&str, u32); 2] = [("NET_ADMIN", 12), ("NET_RAW", 13)];

/// The capabilities that are needed and that this process does not have. None if the kernel does not tell: then an
/// operation that is refused says so.
#[must_use]
pub fn missing() -> Vec<&'static str> {
    read(Path::new("/proc/self/status")).map_or_else(Vec::new, missing_in)
}

fn read(path: &Path) -> Option<u64> {
    effective(&std::fs::read_to_string(path).ok()?)
}

/// The effective capabilities in a text such as `/proc/self/status`.
fn effective(status: &str) -> Option<u64> {
    let digits = status.lines().find_map(|line| line.strip_prefix("CapEff:"))?;
    u64::from_str_radix(digits.trim(), 16).ok()
}

fn missing_in(effective: u64) -> Vec<&'static str> {
    let lacks = |(_, number): &(&str, u32)| effective >> number & 1 == 0;
    NEEDED.into_iter().filter(lacks).map(|(name, _)| name).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_is_missing_is_named() {
        for (line, missing) in [
            ("CapEff:\t000001fffeffffff", vec![]),
            ("CapEff:\t0000000000003000", vec![]),
            ("CapEff:\t0000000000001000", vec!["NET_RAW"]),
            ("CapEff:\t00000000a80425fb", vec!["NET_ADMIN"]),
            ("CapEff:\t0000000000000000", vec!["NET_ADMIN", "NET_RAW"]),
        ] {
            let status = format!("Name:\tvip-keeper\nCapPrm:\t0000000000000000\n{line}\nCapBnd:\t0\n");
            assert_eq!(effective(&status).map(missing_in), Some(missing), "{line}");
        }
    }

    #[test]
    fn a_kernel_that_does_not_tell_is_no_kernel_that_refuses() {
        assert_eq!(effective(""), None);
        assert_eq!(effective("CapEff:\tmany\n"), None);
        assert_eq!(read(Path::new("/proc/self/no-such-file")), None);
    }

    proptest! {
        #[test]
        fn no_text_panics(text in "\\PC{0,60}") {
            let _ = effective(&format!("CapEff:{text}"));
        }
    }
}
