//! The words the Colossus services share: names, the ownership mark, metadata keys and route specs.
//!
//! Pure on purpose: no client, no I/O, no clock. The services never talk to each other, they meet in
//! Consul; whatever one writes there for another to read is spelled here, once.

mod dns;
mod etcd;
mod meta;
mod route;
mod service;

pub use dns::{DnsLabel, DnsNameError, DomainName, HostName};
pub use etcd::{ClusterName, consul_prefix, vip_prefix};
pub use meta::{META_CONTAINER, META_OWNER, OWNER_REGISTRATOR, TAG_UDP, is_owned, is_owned_by};
pub use route::{NodeNameError, RouteSpec, RouteSpecError, node_label};
pub use service::{CONSUL_SERVICE, ServiceId, ServiceName, ServiceNameError};
