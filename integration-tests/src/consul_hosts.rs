//! Hosts that run only Consul and consul-bootstrapper, and the etcd they share: many of them fit on one machine.
//!
//! A [`Host`] is a few containers. Its *machine* holds the network namespace with the host's address, and what a reboot
//! empties; its *disk* holds what lasts. Consul and consul-bootstrapper run in the machine's network from the images and with
//! the rights that their units give them. A [`Site`] is a network of such hosts. What is known of them is
//! known from outside: Consul's API, etcd's keys, `/status`, logs. All the while a [`Watch`] looks for a second cluster.

mod evidence;
mod host;
mod ring;
mod site;
mod watch;

pub use host::{Host, Outcome, Raft, Service, Standing};
pub use ring::Ring;
pub use site::{FORMING, Site, boot, power_cut, until_says, until_settled, until_state, until_voters};
pub use watch::Watch;
