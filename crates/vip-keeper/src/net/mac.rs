//! Ethernet addresses.

use std::fmt;

/// A MAC address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Mac(pub [u8; 6]);

impl Mac {
    /// Everybody on the link.
    pub(crate) const BROADCAST: Self = Self([0xff; 6]);

    /// The address in `bytes`, if they are one that a host can have.
    pub(crate) fn host(bytes: &[u8]) -> Option<Self> {
        let mac: [u8; 6] = bytes.try_into().ok()?;
        (mac != [0; 6] && mac != Self::BROADCAST.0).then_some(Self(mac))
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_a_host_can_have_is_one() {
        assert_eq!(
            Mac::host(&[2, 0, 0, 0, 0, 0x0a])
                .map(|mac| mac.to_string())
                .as_deref(),
            Some("02:00:00:00:00:0a")
        );
        for no in [&[0; 6][..], &[0xff; 6], &[], &[1, 2, 3, 4, 5], &[2; 8]] {
            assert_eq!(Mac::host(no), None);
        }
    }
}
