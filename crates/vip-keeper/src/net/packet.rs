//! What goes over the link itself: announcements of our addresses, and those of others.

pub(crate) mod advertisement;
pub(crate) mod arp;
pub(crate) mod filter;
