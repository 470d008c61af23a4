//! Which services a container offers: a pure function of its snapshot and the policy of this host.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use contract::{
    CONSUL_SERVICE, META_CONTAINER, META_OWNER, OWNER_REGISTRATOR, ServiceId, ServiceName, TAG_UDP,
};
use serde::Serialize;

use crate::rejection::Rejection;
use crate::snapshot::{ContainerPort, ContainerSnapshot, HostBinding, NetworkMode, Protocol};
use crate::variables::split_list;

/// Consul's limits for service metadata ("Register Service", parameter `Meta`): 64 pairs, keys of 128 and values
/// of 512 characters. Two pairs are ours.
const META_PAIRS_MAX: usize = 62;
const META_KEY_MAX: usize = 128;
const META_VALUE_MAX: usize = 512;
const TAG_MAX: usize = 1024;

/// Keys that steer the registration itself and never become metadata.
const CONSUMED: [&str; 4] = ["id", "name", "tags", "ignore"];

/// Metadata keys nobody may set: ours carry the ownership mark, Consul refuses its own prefix.
const RESERVED: [&str; 2] = ["colossus-", "consul-"];

/// How this host registers its containers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    /// First part of every service ID.
    pub hostname: String,
    /// Address of services whose port is bound to all addresses of the host.
    pub address: IpAddr,
    /// Register the container's own address and port instead of the host's.
    pub internal: bool,
    /// Register only containers that name themselves with `SERVICE_NAME` or `SERVICE_<port>_NAME`.
    pub explicit: bool,
    /// Tags added to every service.
    pub tags: Vec<String>,
}

/// What Consul holds about a service, comparable: what we want and what is there have this same shape.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ServiceRecord {
    /// Name of the service.
    pub name: String,
    /// Tags, in order.
    pub tags: Vec<String>,
    /// Address of the instance.
    pub address: String,
    /// Port of the instance.
    pub port: u16,
    /// Metadata, our mark included.
    pub meta: BTreeMap<String, String>,
}

/// The services of one container, and what could not be used.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Definitions {
    /// By service ID.
    pub services: BTreeMap<ServiceId, ServiceRecord>,
    /// What was left out.
    pub rejections: Vec<Rejection>,
}

/// The services that `container` offers under `policy`; none when it is not able to answer.
pub fn service_definitions(container: &ContainerSnapshot, policy: &Policy) -> Definitions {
    let mut definitions = Definitions::default();
    if !container.answers {
        return definitions;
    }
    let endpoints: Vec<Endpoint> = container
        .ports
        .iter()
        .filter_map(|(port, bindings)| endpoint(container, policy, *port, bindings))
        .collect();
    if endpoints.is_empty() && container.variables.names_a_service() {
        let reason = if container.ports.values().all(BTreeSet::is_empty) {
            "no port is published, so there is nothing to register: publish one with `docker run -p 80`, say"
                .to_owned()
        } else {
            format!(
                "its ports are published for another address family than that of {}: publish with `-p 0.0.0.0::80` for \
                 IPv4, or give registrator an IPv6 --ip",
                policy.address
            )
        };
        definitions
            .rejections
            .push(Rejection::new(&container.name, "SERVICE_NAME", reason));
        return definitions;
    }
    for port in container
        .variables
        .ports()
        .filter(|port| endpoints.iter().all(|e| e.exposed.number != *port))
    {
        definitions.rejections.push(Rejection::new(
            &container.name,
            format!("SERVICE_{port}_*"),
            format!(
                "port {port} is not published: publish it with `docker run -p {port}`, or remove the variable"
            ),
        ));
    }
    // "Group" is decided before any port is ignored, so that names do not change when one is.
    let group = endpoints.len() > 1;
    for endpoint in &endpoints {
        let port = endpoint.exposed.number;
        if container.variables.get(port, "ignore").is_some() {
            continue;
        }
        if policy.explicit && container.variables.get(port, "name").is_none() {
            continue;
        }
        match definition(container, policy, endpoint, group, &mut definitions.rejections) {
            Ok((id, record)) => match definitions.services.entry(id) {
                Entry::Vacant(vacant) => {
                    vacant.insert(record);
                }
                Entry::Occupied(taken) => definitions.rejections.push(Rejection::new(
                    &container.name,
                    format!("service ID {}", taken.key()),
                    "two ports of the container claim it: give each port its own with SERVICE_<port>_ID",
                )),
            },
            Err(rejection) => definitions.rejections.push(rejection),
        }
    }
    definitions
}

/// Where one port of the container is reached.
struct Endpoint {
    exposed: ContainerPort,
    address: IpAddr,
    port: u16,
}

fn endpoint(
    container: &ContainerSnapshot,
    policy: &Policy,
    exposed: ContainerPort,
    bindings: &BTreeSet<HostBinding>,
) -> Option<Endpoint> {
    if container.network == NetworkMode::Host {
        return Some(Endpoint {
            exposed,
            address: policy.address,
            port: exposed.number,
        });
    }
    if policy.internal {
        let address = *container.addresses.values().next()?;
        return Some(Endpoint {
            exposed,
            address,
            port: exposed.number,
        });
    }
    // Bindings are in order: all IPv4 addresses, one of them, all IPv6 addresses, one of them. The first that can be
    // used reaches furthest. One to all addresses of a family is reached at our own only if that is of this family.
    let usable = |binding: &&HostBinding| {
        !binding.ip.is_unspecified() || binding.ip.is_ipv4() == policy.address.is_ipv4()
    };
    let binding = bindings.iter().find(usable)?;
    let address = if binding.ip.is_unspecified() {
        policy.address
    } else {
        binding.ip
    };
    Some(Endpoint {
        exposed,
        address,
        port: binding.port,
    })
}

fn definition(
    container: &ContainerSnapshot,
    policy: &Policy,
    endpoint: &Endpoint,
    group: bool,
    rejections: &mut Vec<Rejection>,
) -> Result<(ServiceId, ServiceRecord), Rejection> {
    let variables = &container.variables;
    let port = endpoint.exposed.number;
    let udp = endpoint.exposed.protocol == Protocol::Udp;

    let name = match variables.own(port, "name") {
        Some(name) => name.to_owned(),
        None => {
            let base = variables
                .get(port, "name")
                .unwrap_or_else(|| image_base_name(&container.image));
            if group {
                format!("{base}-{port}")
            } else {
                base.to_owned()
            }
        }
    };
    let name: ServiceName = name.parse().map_err(|reason| {
        Rejection::new(
            &container.name,
            format!("service name {name:?} of port {port}"),
            reason,
        )
    })?;

    if name.as_str() == CONSUL_SERVICE {
        let subject = format!("service name {name} of port {port}");
        let reason = "it is that of Consul's own service: choose another";
        return Err(Rejection::new(&container.name, subject, reason));
    }

    let id = variables.get(port, "id").map_or_else(
        || {
            format!(
                "{}:{}:{port}{}",
                policy.hostname,
                container.name,
                if udp { ":udp" } else { "" }
            )
        },
        str::to_owned,
    );
    let id: ServiceId = id.parse().map_err(|reason| {
        Rejection::new(
            &container.name,
            format!("service ID {id:?} of port {port}"),
            reason,
        )
    })?;

    let mut tags = split_list(variables.get(port, "tags").unwrap_or_default());
    tags.retain(|tag| match tag_problem(tag) {
        None => true,
        Some(reason) => {
            rejections.push(Rejection::new(
                &container.name,
                format!("tag {tag:?} of port {port}"),
                reason,
            ));
            false
        }
    });
    tags.extend(policy.tags.iter().cloned());
    if udp {
        tags.push(TAG_UDP.to_owned());
    }

    let mut meta = BTreeMap::new();
    for (key, value) in variables.for_port(port) {
        if CONSUMED.contains(&key) || key.starts_with("check_") {
            continue;
        }
        let problem = meta_problem(key, value).or_else(|| {
            (meta.len() >= META_PAIRS_MAX)
                .then(|| format!("over {META_PAIRS_MAX} keys: Consul takes no more"))
        });
        match problem {
            None => {
                meta.insert(key.to_owned(), value.to_owned());
            }
            Some(reason) => rejections.push(Rejection::new(
                &container.name,
                format!("metadata {key:?} of port {port}"),
                reason,
            )),
        }
    }
    meta.insert(META_OWNER.to_owned(), OWNER_REGISTRATOR.to_owned());
    meta.insert(META_CONTAINER.to_owned(), container.id.0.clone());

    let address = endpoint.address.to_string();
    Ok((
        id,
        ServiceRecord {
            name: name.into(),
            tags,
            address,
            port: endpoint.port,
            meta,
        },
    ))
}

/// `reg:5000/progrium/nginx:1.9` and `nginx@sha256:…` both give `nginx`.
fn image_base_name(image: &str) -> &str {
    let image = image.split('@').next().unwrap_or_default();
    let base = image.rsplit('/').next().unwrap_or_default();
    base.split(':').next().unwrap_or_default()
}

/// Why a text cannot be a tag, and what to change.
pub(crate) fn tag_problem(tag: &str) -> Option<String> {
    if tag.len() > TAG_MAX {
        return Some(format!(
            "it has {} bytes, {TAG_MAX} is the most: shorten it",
            tag.len()
        ));
    }
    tag.chars()
        .find(|c| c.is_control())
        .map(|c| format!("it contains the control character {c:?}: remove it"))
}

fn meta_problem(key: &str, value: &str) -> Option<String> {
    if key.len() > META_KEY_MAX {
        return Some(format!(
            "the key has {} characters, {META_KEY_MAX} is the most: shorten it",
            key.len()
        ));
    }
    if let Some(c) = key
        .chars()
        .find(|c| !(c.is_ascii_alphanumeric() || *c == '_' || *c == '-'))
    {
        return Some(format!(
            "{c:?} is not allowed in a key: use letters, digits, '-' and '_'"
        ));
    }
    if let Some(prefix) = RESERVED.iter().find(|prefix| key.starts_with(**prefix)) {
        return Some(format!(
            "keys that begin with {prefix:?} are reserved: choose another"
        ));
    }
    if value.len() > META_VALUE_MAX {
        return Some(format!(
            "the value has {} bytes, {META_VALUE_MAX} is the most: shorten it",
            value.len()
        ));
    }
    value
        .chars()
        .find(|c| c.is_control())
        .map(|c| format!("the value contains the control character {c:?}: remove it"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::snapshot::ContainerId;
    use crate::variables::ServiceVariables;

    fn policy() -> Policy {
        Policy {
            hostname: "n1".to_owned(),
            address: "192.0.2.10".parse().unwrap(),
            internal: false,
            explicit: false,
            tags: vec![],
        }
    }

    /// A running container; ports as `80/tcp=49153` (published) or `80/tcp` (only exposed).
    fn container(image: &str, ports: &[&str], environment: &[&str]) -> ContainerSnapshot {
        let (variables, rejections) = ServiceVariables::parse("web", environment.iter().copied(), []);
        assert_eq!(rejections, []);
        let ports = ports.iter().map(|text| {
            let (port, host) = text.split_once('=').unwrap_or((text, ""));
            let binding = |host: &str| match host.rsplit_once(':') {
                Some((ip, port)) => HostBinding {
                    ip: ip.trim_matches(['[', ']']).parse().unwrap(),
                    port: port.parse().unwrap(),
                },
                None => HostBinding {
                    ip: "0.0.0.0".parse().unwrap(),
                    port: host.parse().unwrap(),
                },
            };
            (
                port.parse().unwrap(),
                host.split(' ').filter(|h| !h.is_empty()).map(binding).collect(),
            )
        });
        ContainerSnapshot {
            id: ContainerId("c0ffee".to_owned()),
            name: "web".to_owned(),
            image: image.to_owned(),
            answers: true,
            network: NetworkMode::Own,
            addresses: BTreeMap::from([("bridge".to_owned(), "172.17.0.2".parse().unwrap())]),
            ports: ports.collect(),
            variables,
        }
    }

    /// `id name address:port [tags] {metadata without our marks}` of each service, and the rejected subjects.
    fn listed(container: &ContainerSnapshot, policy: &Policy) -> (Vec<String>, Vec<String>) {
        let definitions = service_definitions(container, policy);
        let services = definitions.services.iter().map(|(id, record)| {
            let mut meta = record.meta.clone();
            assert_eq!(meta.remove(META_OWNER).as_deref(), Some(OWNER_REGISTRATOR));
            assert_eq!(meta.remove(META_CONTAINER).as_deref(), Some("c0ffee"));
            let mut line = format!("{id} {} {}:{}", record.name, record.address, record.port);
            if !record.tags.is_empty() {
                line += &format!(" [{}]", record.tags.join("|"));
            }
            if !meta.is_empty() {
                line += &format!(" {meta:?}");
            }
            line
        });
        (
            services.collect(),
            definitions.rejections.iter().map(|r| r.subject.clone()).collect(),
        )
    }

    #[test]
    fn each_rule_of_the_contract_gives_its_exact_registration() {
        // Image, ports, environment; the services they give.
        type Case = (
            &'static str,
            &'static [&'static str],
            &'static [&'static str],
            &'static [&'static str],
        );
        let cases: &[Case] = &[
            // Names.
            (
                "nginx",
                &["80/tcp=49153"],
                &[],
                &["n1:web:80 nginx 192.0.2.10:49153"],
            ),
            (
                "reg:5000/progrium/nginx:1.9",
                &["80/tcp=1"],
                &[],
                &["n1:web:80 nginx 192.0.2.10:1"],
            ),
            (
                "nginx@sha256:0123",
                &["80/tcp=1"],
                &[],
                &["n1:web:80 nginx 192.0.2.10:1"],
            ),
            (
                "nginx",
                &["80/tcp=1"],
                &["SERVICE_NAME=example"],
                &["n1:web:80 example 192.0.2.10:1"],
            ),
            // Groups: the port is appended unless the name was given for the port.
            (
                "nginx",
                &["80/tcp=1", "443/tcp=2"],
                &["SERVICE_443_NAME=secure"],
                &[
                    "n1:web:443 secure 192.0.2.10:2",
                    "n1:web:80 nginx-80 192.0.2.10:1",
                ],
            ),
            // A group stays a group when a port is ignored.
            (
                "nginx",
                &["80/tcp=1", "443/tcp=2"],
                &["SERVICE_443_IGNORE=1"],
                &["n1:web:80 nginx-80 192.0.2.10:1"],
            ),
            ("nginx", &["80/tcp=1"], &["SERVICE_IGNORE=no"], &[]),
            // IDs.
            (
                "nginx",
                &["80/tcp=1"],
                &["SERVICE_ID=mine"],
                &["mine nginx 192.0.2.10:1"],
            ),
            (
                "dns",
                &["53/udp=53"],
                &[],
                &["n1:web:53:udp dns 192.0.2.10:53 [udp]"],
            ),
            (
                "dns",
                &["53/udp=53"],
                &["SERVICE_53_ID=d"],
                &["d dns 192.0.2.10:53 [udp]"],
            ),
            // Only published ports, at the address they are bound to.
            ("nginx", &["80/tcp"], &[], &[]),
            (
                "nginx",
                &["80/tcp=127.0.0.1:8080"],
                &[],
                &["n1:web:80 nginx 127.0.0.1:8080"],
            ),
            // Docker numbers the two families apart.
            (
                "nginx",
                &["80/tcp=[::]:32922 0.0.0.0:32929"],
                &[],
                &["n1:web:80 nginx 192.0.2.10:32929"],
            ),
            (
                "nginx",
                &["80/tcp=[::]:32922 192.0.2.7:1"],
                &[],
                &["n1:web:80 nginx 192.0.2.7:1"],
            ),
            (
                "nginx",
                &["80/tcp=[2001:db8::7]:1"],
                &[],
                &["n1:web:80 nginx 2001:db8::7:1"],
            ),
            ("nginx", &["80/tcp=[::]:32922"], &[], &[]),
            // Metadata and tags.
            (
                "nginx",
                &["80/tcp=1"],
                &[
                    r"SERVICE_TAGS=http,a\,b,",
                    "SERVICE_80_TAGS=own",
                    "SERVICE_Team=Blue",
                    "SERVICE_CHECK_HTTP=/",
                ],
                &[r#"n1:web:80 nginx 192.0.2.10:1 [own] {"team": "Blue"}"#],
            ),
            (
                "nginx",
                &["80/tcp=1"],
                &[r"SERVICE_TAGS=http,a\,b,"],
                &["n1:web:80 nginx 192.0.2.10:1 [http|a,b]"],
            ),
        ];
        for (image, ports, environment, expected) in cases {
            let (services, rejections) = listed(&container(image, ports, environment), &policy());
            assert_eq!(services, *expected, "{image} {ports:?} {environment:?}");
            assert_eq!(
                rejections,
                Vec::<String>::new(),
                "{image} {ports:?} {environment:?}"
            );
        }
    }

    #[test]
    fn policies_change_the_outcome() {
        let plain = container("nginx", &["80/tcp"], &[]);
        let internal = Policy {
            internal: true,
            ..policy()
        };
        assert_eq!(listed(&plain, &internal).0, ["n1:web:80 nginx 172.17.0.2:80"]);

        let published = container("nginx", &["80/tcp=1"], &[]);
        let explicit = Policy {
            explicit: true,
            ..policy()
        };
        assert_eq!(listed(&published, &explicit).0, Vec::<String>::new());
        let named = container("nginx", &["80/tcp=1"], &["SERVICE_80_NAME=x"]);
        assert_eq!(listed(&named, &explicit).0, ["n1:web:80 x 192.0.2.10:1"]);

        let both = container("nginx", &["80/tcp=[::]:32922 0.0.0.0:32929"], &[]);
        let v6 = Policy {
            address: "2001:db8::1".parse().unwrap(),
            ..policy()
        };
        assert_eq!(listed(&both, &v6).0, ["n1:web:80 nginx 2001:db8::1:32922"]);

        let tagged = Policy {
            tags: vec!["blue".to_owned()],
            ..policy()
        };
        assert_eq!(
            listed(&published, &tagged).0,
            ["n1:web:80 nginx 192.0.2.10:1 [blue]"]
        );

        let host = ContainerSnapshot {
            network: NetworkMode::Host,
            ..plain
        };
        assert_eq!(listed(&host, &policy()).0, ["n1:web:80 nginx 192.0.2.10:80"]);
    }

    #[test]
    fn a_container_that_names_itself_and_publishes_nothing_is_named() {
        let silent = container("nginx", &["80/tcp"], &[]);
        assert_eq!(service_definitions(&silent, &policy()), Definitions::default());
        for variable in ["SERVICE_NAME=x", "SERVICE_80_NAME=x"] {
            let (services, rejections) = listed(&container("nginx", &["80/tcp"], &[variable]), &policy());
            assert_eq!((services.len(), rejections), (0, vec!["SERVICE_NAME".to_owned()]));
        }
    }

    #[test]
    fn a_container_that_cannot_answer_offers_nothing() {
        let stopped = ContainerSnapshot {
            answers: false,
            ..container("nginx", &["80/tcp=1"], &[])
        };
        assert_eq!(service_definitions(&stopped, &policy()), Definitions::default());
    }

    #[test]
    fn bad_items_are_named_and_the_good_ones_beside_them_go_through() {
        let long = format!("SERVICE_LONG={}", "x".repeat(513));
        let environment = [
            "SERVICE_TAGS=good,ba\u{7}d",
            "SERVICE_COLOSSUS-OWNER=me",
            "SERVICE_CONSUL-X=1",
            "SERVICE_A B=1",
            "SERVICE_8080_NAME=nobody",
            "SERVICE_OK=yes",
            &long,
        ];
        let (services, rejections) = listed(&container("nginx", &["80/tcp=1"], &environment), &policy());
        assert_eq!(services, [r#"n1:web:80 nginx 192.0.2.10:1 [good] {"ok": "yes"}"#]);
        assert_eq!(
            rejections,
            [
                "SERVICE_8080_*",
                "tag \"ba\\u{7}d\" of port 80",
                "metadata \"a b\" of port 80",
                "metadata \"colossus-owner\" of port 80",
                "metadata \"consul-x\" of port 80",
                "metadata \"long\" of port 80",
            ]
        );
    }

    #[test]
    fn a_name_or_id_that_cannot_be_used_rejects_only_its_port() {
        let environment = ["SERVICE_80_NAME=bad name", "SERVICE_81_ID=bad\tid"];
        let ports = ["80/tcp=1", "81/tcp=2", "82/tcp=3"];
        let (services, rejections) = listed(&container("nginx", &ports, &environment), &policy());
        assert_eq!(services, ["n1:web:82 nginx-82 192.0.2.10:3"]);
        assert_eq!(
            rejections,
            [
                "service name \"bad name\" of port 80",
                "service ID \"bad\\tid\" of port 81"
            ]
        );

        let consul = container("nginx", &ports[..1], &["SERVICE_NAME=consul"]);
        assert_eq!(
            listed(&consul, &policy()),
            (vec![], vec!["service name consul of port 80".to_owned()])
        );

        let twice = container("nginx", &ports[..2], &["SERVICE_ID=same"]);
        let (services, rejections) = listed(&twice, &policy());
        assert_eq!(services, ["same nginx-80 192.0.2.10:1"]);
        assert_eq!(rejections, ["service ID same"]);
    }

    #[test]
    fn more_metadata_than_consul_takes_is_cut() {
        let environment: Vec<String> = (0..70).map(|n| format!("SERVICE_KEY{n:02}=x")).collect();
        let environment: Vec<&str> = environment.iter().map(String::as_str).collect();
        let definitions = service_definitions(&container("nginx", &["80/tcp=1"], &environment), &policy());
        assert_eq!(definitions.services.values().next().unwrap().meta.len(), 64);
        assert_eq!(definitions.rejections.len(), 8);
    }
}
