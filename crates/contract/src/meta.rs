//! The ownership mark and the metadata keys that services write into Consul for each other.
//!
//! Keys keep to Consul's own rule for service metadata: ASCII letters, digits, `-` and `_`, at most 128
//! characters (Consul's agent documentation, "meta").

use std::collections::BTreeMap;

/// Metadata key that names who created a service. What lacks it, or names somebody else, is left alone.
pub const META_OWNER: &str = "colossus-owner";

/// Metadata key with the full ID of the container behind an instance.
pub const META_CONTAINER: &str = "colossus-container";

/// The value of [`META_OWNER`] on services that `registrator` created.
pub const OWNER_REGISTRATOR: &str = "registrator";

/// Tag that registrator gives to instances reached by UDP; they are never routed as HTTP.
pub const TAG_UDP: &str = "udp";

/// Whether `meta` carries the mark of `owner`.
pub fn is_owned_by(meta: &BTreeMap<String, String>, owner: &str) -> bool {
    meta.get(META_OWNER).is_some_and(|found| found == owner)
}

/// Whether `meta` carries the mark of any Colossus service.
pub fn is_owned(meta: &BTreeMap<String, String>) -> bool {
    meta.contains_key(META_OWNER)
}
