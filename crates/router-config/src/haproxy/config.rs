//! HAProxy's configuration, rendered from the routing table: the same table always gives the same text.
//!
//! Everything that reaches the text is typed: DNS labels, server names of ours, socket addresses. Nothing that a
//! container's owner can write appears in it, so nothing has to be escaped. The figures behind the choices are in
//! `docs/architecture.md`.

use std::fmt::{self, Write};
use std::net::IpAddr;
use std::str::FromStr;
use std::time::Duration;

use contract::HostName;
use sha2::{Digest, Sha256};

use crate::table::{Naming, RoutingTable};

/// Environment variable in HAProxy's configuration that says which generation it is. It can be read back from a
/// running worker, which proves that this very text is what runs.
pub const GENERATION_VARIABLE: &str = "COLOSSUS_GENERATION";

/// Where a frontend listens: `:80` or `*:80` on every IPv4 address, `192.0.2.1:80`, `[::]:80`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BindAddress {
    ip: Option<IpAddr>,
    port: u16,
}

impl FromStr for BindAddress {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const MEND: &str = "write :80, 192.0.2.1:80 or [::]:80";
        let (ip, port) = text
            .rsplit_once(':')
            .ok_or_else(|| format!("{text:?} has no port: {MEND}"))?;
        let port = port.parse().ok().filter(|port| *port != 0);
        let port = port.ok_or_else(|| format!("{text:?} has no port from 1 to 65535: {MEND}"))?;
        let ip = match ip {
            "" | "*" => None,
            ip => {
                let bare = ip
                    .strip_prefix('[')
                    .and_then(|ip| ip.strip_suffix(']'))
                    .unwrap_or(ip);
                Some(
                    bare.parse()
                        .map_err(|_| format!("{ip:?} is no IP address: {MEND}"))?,
                )
            }
        };
        Ok(Self { ip, port })
    }
}

impl fmt::Display for BindAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.ip {
            None => write!(f, "*:{}", self.port),
            Some(IpAddr::V4(ip)) => write!(f, "{ip}:{}", self.port),
            Some(IpAddr::V6(ip)) => write!(f, "[{ip}]:{}", self.port),
        }
    }
}

/// The user and group that HAProxy's workers become; none (an empty text) when HAProxy is not started as root.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WorkerUser(Option<String>);

impl FromStr for WorkerUser {
    type Err = String;

    /// Takes the names that `useradd` takes: small letters, digits, `_` and `-`, beginning with a letter or `_`.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_' || c == '-';
        let begins_well = text.starts_with(|c: char| c.is_ascii_lowercase() || c == '_');
        match text {
            "" => Ok(Self(None)),
            name if begins_well && name.len() <= 32 && name.chars().all(allowed) => {
                Ok(Self(Some(name.to_owned())))
            }
            _ => Err(
                "it is no user name: use small letters, digits, '_' and '-', or nothing at all".to_owned(),
            ),
        }
    }
}

/// What of the configuration does not come from Consul.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// How host names are made.
    pub naming: Naming,
    /// Where requests come in.
    pub http: Vec<BindAddress>,
    /// Where HAProxy's own metrics, statistics and `/health` are served.
    pub stats: BindAddress,
    /// Who HAProxy's workers become.
    pub user: WorkerUser,
    /// Connections at the same time; bounds HAProxy's memory.
    pub max_connections: u32,
    /// How long a server may take to accept a connection.
    pub connect_timeout: Duration,
    /// How long a server may take to answer.
    pub server_timeout: Duration,
    /// How long a client may keep silent within a request.
    pub client_timeout: Duration,
    /// How long an idle client connection is kept.
    pub keep_alive: Duration,
    /// How long a worker that was replaced may serve its last connections, websockets above all.
    pub hard_stop_after: Duration,
}

/// Identifies a rendered configuration: the same text has the same generation.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Generation(String);

impl Generation {
    /// As text: 16 hexadecimal digits.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Takes over what HAProxy answered.
    pub fn from_running(text: &str) -> Self {
        Self(text.to_owned())
    }
}

impl fmt::Display for Generation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A configuration ready to be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rendered {
    /// Identifies it.
    pub generation: Generation,
    /// Text of the configuration file.
    pub config: String,
}

/// What holds for all backends of single nodes.
const NODE_DEFAULTS: &str = "
# The servers of a service once more, by node. Whether they are up is found out once: they follow those of the service.
defaults nodes from services
    # Else each change of a server's state would be logged twice, and each reload would log a line for every backend.
    no log
    default-server no-check
";

/// The configuration for `table`.
pub fn render(table: &RoutingTable, settings: &Settings) -> Rendered {
    let mut backends = String::new();
    for (host, route) in &table.routes {
        let service = backend_name(host);
        line(&mut backends, format_args!("\nbackend {service} from services"));
        for (server, endpoint) in &route.servers {
            line(&mut backends, format_args!("    server {server} {endpoint}"));
        }
        for (node_host, servers) in &route.nodes {
            let node = backend_name(node_host);
            line(&mut backends, format_args!("\nbackend {node} from nodes"));
            for server in servers {
                if let Some(endpoint) = route.servers.get(server) {
                    line(
                        &mut backends,
                        format_args!("    server {server} {endpoint} track {service}/{server}"),
                    );
                }
            }
        }
    }
    // The generation names the text, so it is taken over everything but itself.
    let digest = Sha256::new()
        .chain_update(head(settings, &Generation(String::new())))
        .chain_update(&backends)
        .finalize();
    let generation = Generation(digest.iter().take(8).map(|byte| format!("{byte:02x}")).collect());
    let mut config = head(settings, &generation);
    config.push_str(&backends);
    Rendered { generation, config }
}

/// The backend of a host name. Its prefix keeps it apart from names of ours, and what a client asks for from them.
pub fn backend_name(host: &HostName) -> String {
    format!("route:{host}")
}

fn line(text: &mut String, arguments: fmt::Arguments<'_>) {
    // Writing to a String cannot fail.
    let _ = writeln!(text, "{arguments}");
}

fn page(title: &str, text: &str) -> String {
    format!(
        "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><title>{title}</title><body><h1>{title}</h1>\
         <p>{text}</p></body></html>"
    )
}

/// The rule that answers for a service that has no backend on the node that is asked for.
fn no_such_node(naming: &Naming) -> String {
    if !naming.node_routes {
        return String::new();
    }
    let domain = &naming.domain;
    let escaped = domain.as_str().replace('.', "\\.");
    let text =
        unavailable("%[var(txn.host)] has no instance that is healthy right now. Try again in a moment.");
    format!(
        "    # A service that is known, on a node where it has no healthy instance: it may have one in a moment.
    http-request set-var(txn.host) req.hdr(host),host_only,rtrim(.),lower
    http-request set-var(txn.service) var(txn.host),field(1,.)
    acl is_of_node var(txn.host) -m reg ^[a-z0-9-]+\\.[a-z0-9-]+\\.{escaped}$
    acl is_known str(route:),concat(,txn.service,.{domain}),nbsrv -m found
    http-request return status 503 {text} if is_of_node is_known
"
    )
}

/// The content of an answer with 503, as `http-request return` and `http-error` take it.
fn unavailable(text: &str) -> String {
    format!(
        "content-type 'text/html; charset=utf-8' hdr Cache-Control no-store hdr Retry-After 1 lf-string '{}'",
        page("503 Service Unavailable", text)
    )
}

/// All but the backends of services.
fn head(settings: &Settings, generation: &Generation) -> String {
    let ms = |duration: Duration| format!("{}ms", duration.as_millis());
    let user = settings
        .user
        .0
        .as_ref()
        .map(|user| format!("    user {user}\n    group {user}\n"))
        .unwrap_or_default();
    let binds: String = settings
        .http
        .iter()
        .map(|address| format!("    bind {address}\n"))
        .collect();
    let not_found = page(
        "404 Not Found",
        "No service answers to this host name. Start one with: docker run -d -p 80 -e SERVICE_NAME=example IMAGE",
    );
    format!(
        "# Written by router-config and replaced at every change: edits are lost.
global
    setenv {GENERATION_VARIABLE} {generation}
    log stdout format raw local0 notice
{user}    maxconn {maxconn}
    # Fewer file descriptors than two for each connection and one for each checked server are a reason to warn, not to
    # refuse to start: that would be found out by the next power cut.
    no strict-limits
    hard-stop-after {hard_stop_after}

defaults base
    mode http
    log global
    option forwardfor
    # A keep-alive connection of a worker that was replaced is closed with its next answer, never between two
    # requests: closing an idle one would race with a request that is on its way.
    option idle-close-on-response
    # A request that one server did not answer goes to another one. Only safe methods may be repeated after they
    # were sent, see the frontend; and no answer is ever repeated, be it an error: it is the application's.
    option redispatch 1
    retries 3
    retry-on conn-failure empty-response junk-response
    balance leastconn
    timeout connect {connect}
    timeout server {server}
    timeout client {client}
    timeout http-request {client}
    timeout http-keep-alive {keep_alive}
    timeout queue {connect}
    timeout check {connect}
    timeout tunnel 1h
    timeout client-fin 10s
    # tcp-ut gives up on a host that has vanished without closing its connections.
    default-server check inter 2s fastinter 500ms downinter 1s fall 2 rise 1 tcp-ut 1s

frontend http from base
{binds}    http-request set-header X-Forwarded-Proto http
    http-request set-header X-Forwarded-Host %[req.hdr(host)]
    http-request set-header X-Forwarded-Port %[dst_port]
    http-request set-header X-Real-IP %[src]
    http-request disable-l7-retry unless {{ method GET HEAD OPTIONS TRACE }}
    # The backend with the host's name; HAProxy goes on to the default where there is none.
    use_backend route:%[req.hdr(host),host_only,rtrim(.),lower]
    default_backend no_route

backend no_route from base
{no_such_node}    http-request return status 404 content-type 'text/html; charset=utf-8' hdr Cache-Control no-store string '{not_found}'

frontend stats from base
    bind {stats}
    http-request return status 200 content-type text/plain string ok if {{ path /health }}
    http-request use-service prometheus-exporter if {{ path /metrics }}
    stats enable
    stats uri /

defaults services from base
    # The name of the backend is `route:` and the host's name.
    http-error status 503 {unavailable}
{nodes}",
        nodes = if settings.naming.node_routes {
            NODE_DEFAULTS
        } else {
            ""
        },
        no_such_node = no_such_node(&settings.naming),
        unavailable = unavailable(
            "%[be_name,field(2,:)] exists, but none of its instances is healthy right now. Try again in a moment."
        ),
        maxconn = settings.max_connections,
        hard_stop_after = ms(settings.hard_stop_after),
        connect = ms(settings.connect_timeout),
        server = ms(settings.server_timeout),
        client = ms(settings.client_timeout),
        keep_alive = ms(settings.keep_alive),
        stats = settings.stats,
    )
}

#[cfg(test)]
pub(crate) mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;
    use crate::instance::{Health, InstanceKey, ServiceInstance};
    use crate::table::routing_table;

    pub(crate) fn settings() -> Settings {
        Settings {
            naming: Naming {
                domain: "cluster.local".parse().unwrap(),
                node_routes: true,
            },
            http: vec![":80".parse().unwrap(), "[::1]:8080".parse().unwrap()],
            stats: "127.0.0.1:8404".parse().unwrap(),
            user: "haproxy".parse().unwrap(),
            max_connections: 10_000,
            connect_timeout: Duration::from_secs(1),
            server_timeout: Duration::from_secs(60),
            client_timeout: Duration::from_secs(30),
            keep_alive: Duration::from_secs(15),
            hard_stop_after: Duration::from_secs(60),
        }
    }

    fn instance(node: &str, id: &str, address: &str) -> ServiceInstance {
        ServiceInstance {
            key: InstanceKey {
                node: node.to_owned(),
                id: id.to_owned(),
            },
            address: address.parse().unwrap(),
            port: 8080,
            health: Health::Healthy,
        }
    }

    fn table(services: &[(&str, Vec<ServiceInstance>)]) -> RoutingTable {
        let services: BTreeMap<_, _> = services
            .iter()
            .map(|(name, i)| ((*name).to_owned(), i.clone()))
            .collect();
        routing_table(&services, &settings().naming)
    }

    #[test]
    fn the_rendered_configuration() {
        let rendered = render(
            &table(&[
                (
                    "example",
                    vec![
                        instance("n1", "n1:web:80", "192.0.2.1"),
                        instance("n2", "n2:web:80", "2001:db8::1"),
                    ],
                ),
                ("empty", vec![]),
            ]),
            &settings(),
        );
        insta::assert_snapshot!("config", rendered.config);
    }

    #[test]
    fn the_same_table_gives_the_same_generation_and_another_one_another() {
        let one = table(&[("example", vec![instance("n1", "a", "192.0.2.1")])]);
        let two = table(&[("example", vec![instance("n1", "a", "192.0.2.2")])]);
        assert_eq!(render(&one, &settings()), render(&one, &settings()));
        assert_ne!(
            render(&one, &settings()).generation,
            render(&two, &settings()).generation
        );
        let other = Settings {
            max_connections: 1,
            ..settings()
        };
        assert_ne!(
            render(&one, &settings()).generation,
            render(&one, &other).generation
        );
    }

    #[test]
    fn a_worker_user_is_a_name_or_none() {
        for good in ["", "haproxy", "_haproxy", "www-data"] {
            assert!(good.parse::<WorkerUser>().is_ok(), "{good}");
        }
        for bad in ["a b", "-x", "9lives", "user\n    group root", "Ä"] {
            assert!(bad.parse::<WorkerUser>().is_err(), "{bad}");
        }
    }

    #[test]
    fn bind_addresses_are_parsed_and_mistakes_named() {
        for (text, shown) in [
            (":80", "*:80"),
            ("*:80", "*:80"),
            ("192.0.2.1:1", "192.0.2.1:1"),
            ("[::]:9", "[::]:9"),
        ] {
            assert_eq!(text.parse::<BindAddress>().unwrap().to_string(), shown);
        }
        for bad in [
            "", "80", ":0", ":99999", "host:80", "[::1:80", "a b:80", ":80 ssl",
        ] {
            let error = bad.parse::<BindAddress>().unwrap_err();
            assert!(error.contains(":80"), "{error}");
        }
    }

    proptest! {
        /// Whatever names and IDs people choose, each service adds the lines of its backend and nothing else.
        #[test]
        fn hostile_names_never_add_a_line(names in prop::collection::btree_set(".{1,20}", 0..6), node in ".{0,20}", id in ".{0,60}") {
            let services: Vec<_> =
                names.iter().map(|name| (name.as_str(), vec![instance(&node, &id, "192.0.2.1")])).collect();
            let table = table(&services);
            let rendered = render(&table, &settings());
            let bare = render(&RoutingTable::default(), &settings());
            let expected = bare.config.lines().count() + 3 * (table.routes.len() + table.node_routes());
            prop_assert_eq!(rendered.config.lines().count(), expected);
            prop_assert!(rendered.config.is_ascii());
        }
    }
}
