//! What has to be done for HAProxy to route as the table says. Pure.

use std::collections::BTreeSet;
use std::fmt;
use std::net::SocketAddr;

use contract::HostName;
use serde::Serialize;

use crate::haproxy::config::{Generation, Rendered};
use crate::table::{RoutingTable, ServerName};

/// Reasons that are listed; of the others only the number is given.
const REASONS_MAX: usize = 20;

/// What HAProxy does now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Running {
    /// Its worker runs this generation; `None` for a configuration that is not ours.
    Generation(Option<Generation>),
    /// It does not answer.
    Away,
}

/// One difference between what runs and what should.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "reason", rename_all = "snake_case")]
pub enum Reason {
    /// A host name is new.
    RouteAdded {
        /// The host name.
        host: HostName,
        /// With how many instances.
        servers: usize,
    },
    /// A host name is no longer routed.
    RouteRemoved {
        /// The host name.
        host: HostName,
    },
    /// An instance gets requests from now on.
    ServerAdded {
        /// The host name.
        host: HostName,
        /// The instance.
        server: ServerName,
        /// Where it listens.
        endpoint: SocketAddr,
    },
    /// An instance gets no more requests.
    ServerRemoved {
        /// The host name.
        host: HostName,
        /// The instance.
        server: ServerName,
    },
    /// An instance listens elsewhere.
    ServerMoved {
        /// The host name.
        host: HostName,
        /// The instance.
        server: ServerName,
        /// Where it listens now.
        endpoint: SocketAddr,
    },
    /// HAProxy runs something else than was last applied: it was started anew, or reloaded by somebody.
    OtherGeneration {
        /// What it runs.
        running: Option<Generation>,
    },
    /// What HAProxy would read at its next start is not what it should be.
    FileDiffers,
    /// Further reasons.
    More {
        /// How many.
        count: usize,
    },
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::RouteAdded { host, servers } => write!(f, "{host} is new, with {servers} instances"),
            Self::RouteRemoved { host } => write!(f, "{host} is gone"),
            Self::ServerAdded {
                host,
                server,
                endpoint,
            } => write!(f, "{host}: {server} at {endpoint} is new"),
            Self::ServerRemoved { host, server } => write!(f, "{host}: {server} is gone"),
            Self::ServerMoved {
                host,
                server,
                endpoint,
            } => write!(f, "{host}: {server} is now at {endpoint}"),
            Self::OtherGeneration {
                running: Some(running),
            } => write!(f, "HAProxy runs generation {running}"),
            Self::OtherGeneration { running: None } => {
                f.write_str("HAProxy runs a configuration that is not ours")
            }
            Self::FileDiffers => f.write_str("the configuration file is missing or was changed"),
            Self::More { count } => write!(f, "and {count} more"),
        }
    }
}

/// What to do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "plan", rename_all = "snake_case")]
pub enum Plan {
    /// Nothing.
    Unchanged,
    /// Write the file, no reload: HAProxy is away and reads it when it starts.
    Write {
        /// Why.
        reasons: Vec<Reason>,
    },
    /// Write the file and reload.
    Reload {
        /// Why.
        reasons: Vec<Reason>,
    },
}

impl Plan {
    /// Why something is to be done; empty when nothing is.
    pub fn reasons(&self) -> &[Reason] {
        match self {
            Self::Unchanged => &[],
            Self::Write { reasons } | Self::Reload { reasons } => reasons,
        }
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Unchanged => "nothing to do",
            Self::Write { .. } => "write the configuration:",
            Self::Reload { .. } => "write the configuration and reload HAProxy:",
        })?;
        self.reasons()
            .iter()
            .try_for_each(|reason| write!(f, "\n  - {reason}"))
    }
}

/// Compares what should run (`wanted`, rendered from `table`) with what HAProxy runs and the file it would read.
///
/// `applied` is the table that was applied last by this process, if any: it only makes the reasons telling.
pub fn plan(
    table: &RoutingTable,
    wanted: &Rendered,
    running: &Running,
    file: Option<&str>,
    applied: Option<&RoutingTable>,
) -> Plan {
    let file_is_right = file == Some(wanted.config.as_str());
    let reasons = || {
        let mut reasons: Vec<Reason> = applied
            .map(|applied| differences(applied, table))
            .unwrap_or_default();
        if reasons.is_empty() {
            reasons.push(match running {
                Running::Generation(running) if running.as_ref() != Some(&wanted.generation) => {
                    Reason::OtherGeneration {
                        running: running.clone(),
                    }
                }
                _ => Reason::FileDiffers,
            });
        }
        bounded(reasons)
    };
    match running {
        Running::Generation(Some(generation)) if *generation == wanted.generation && file_is_right => {
            Plan::Unchanged
        }
        Running::Generation(_) => Plan::Reload { reasons: reasons() },
        Running::Away if file_is_right => Plan::Unchanged,
        Running::Away => Plan::Write { reasons: reasons() },
    }
}

/// What differs between two tables, in order of host names.
///
/// Routes to single nodes are not listed: they differ only when the route that they are part of does, and each reason
/// would be there twice.
pub fn differences(before: &RoutingTable, after: &RoutingTable) -> Vec<Reason> {
    let mut reasons = Vec::new();
    let hosts: BTreeSet<&HostName> = before.routes.keys().chain(after.routes.keys()).collect();
    for host in hosts {
        match (before.routes.get(host), after.routes.get(host)) {
            (None, Some(route)) => {
                reasons.push(Reason::RouteAdded {
                    host: host.clone(),
                    servers: route.servers.len(),
                });
            }
            (Some(_), None) => reasons.push(Reason::RouteRemoved { host: host.clone() }),
            (Some(before), Some(after)) => {
                let servers: BTreeSet<&ServerName> =
                    before.servers.keys().chain(after.servers.keys()).collect();
                for server in servers {
                    let (host, name) = (host.clone(), server.clone());
                    match (before.servers.get(server), after.servers.get(server)) {
                        (None, Some(endpoint)) => {
                            reasons.push(Reason::ServerAdded {
                                host,
                                server: name,
                                endpoint: *endpoint,
                            });
                        }
                        (Some(_), None) => reasons.push(Reason::ServerRemoved { host, server: name }),
                        (Some(old), Some(new)) if old != new => {
                            reasons.push(Reason::ServerMoved {
                                host,
                                server: name,
                                endpoint: *new,
                            });
                        }
                        _ => {}
                    }
                }
            }
            (None, None) => {}
        }
    }
    reasons
}

fn bounded(mut reasons: Vec<Reason>) -> Vec<Reason> {
    if reasons.len() > REASONS_MAX {
        let count = reasons.len() - REASONS_MAX;
        reasons.truncate(REASONS_MAX);
        reasons.push(Reason::More { count });
    }
    reasons
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;
    use crate::haproxy::config::{render, tests::settings};
    use crate::instance::{Health, InstanceKey, ServiceInstance};
    use crate::table::{Naming, routing_table};

    /// A table from `("web", &[("a", 8080)])`.
    fn table(services: &[(&str, &[(&str, u16)])]) -> RoutingTable {
        let instance = |(id, port): &(&str, u16)| ServiceInstance {
            key: InstanceKey {
                node: "n1".to_owned(),
                id: (*id).to_owned(),
            },
            address: "192.0.2.1".parse().unwrap(),
            port: *port,
            health: Health::Healthy,
        };
        let services: BTreeMap<String, Vec<ServiceInstance>> = services
            .iter()
            .map(|(name, instances)| ((*name).to_owned(), instances.iter().map(instance).collect()))
            .collect();
        let naming = Naming {
            domain: "x.test".parse().unwrap(),
            node_routes: true,
        };
        routing_table(&services, &naming)
    }

    fn shown(plan: &Plan) -> Vec<String> {
        plan.reasons().iter().map(ToString::to_string).collect()
    }

    #[test]
    fn each_difference_is_a_reason_to_reload() {
        let before = table(&[("gone", &[]), ("web", &[("a", 1), ("b", 2)])]);
        let after = table(&[("new", &[("x", 3)]), ("web", &[("b", 9), ("c", 3)])]);
        let wanted = render(&after, &settings());
        let running = Running::Generation(Some(render(&before, &settings()).generation));
        let plan = plan(&after, &wanted, &running, None, Some(&before));
        assert!(matches!(plan, Plan::Reload { .. }));
        let kinds: Vec<_> = plan
            .reasons()
            .iter()
            .map(|reason| match reason {
                Reason::RouteAdded { host, servers } => format!("+{host} {servers}"),
                Reason::RouteRemoved { host } => format!("-{host}"),
                Reason::ServerAdded { endpoint, .. } => format!("+{endpoint}"),
                Reason::ServerMoved { endpoint, .. } => format!(">{endpoint}"),
                Reason::ServerRemoved { server, .. } => format!("-{}", &server.as_str()[..1]),
                other => other.to_string(),
            })
            .collect();
        assert_eq!(
            kinds,
            [
                "-gone.x.test",
                "+new.x.test 1",
                "-a",
                ">192.0.2.1:9",
                "+192.0.2.1:3"
            ]
        );
    }

    #[test]
    fn what_runs_and_what_is_on_disk_decide() {
        let table = table(&[("web", &[("a", 1)])]);
        let wanted = render(&table, &settings());
        let right = Running::Generation(Some(wanted.generation.clone()));
        let wrong = Running::Generation(Some(Generation::from_running("0123")));
        let file = Some(wanted.config.as_str());
        let decide =
            |running: &Running, file: Option<&str>| plan(&table, &wanted, running, file, Some(&table));

        assert_eq!(decide(&right, file), Plan::Unchanged);
        assert_eq!(decide(&Running::Away, file), Plan::Unchanged);
        // Somebody may have had HAProxy read the edited file, which names the generation it was made from.
        assert_eq!(
            decide(&right, Some("edited")),
            Plan::Reload {
                reasons: vec![Reason::FileDiffers]
            }
        );
        assert_eq!(
            decide(&Running::Away, None),
            Plan::Write {
                reasons: vec![Reason::FileDiffers]
            }
        );
        assert_eq!(shown(&decide(&wrong, file)), ["HAProxy runs generation 0123"]);
        assert_eq!(
            shown(&decide(&Running::Generation(None), file)),
            ["HAProxy runs a configuration that is not ours"]
        );
    }

    #[test]
    fn reasons_are_bounded() {
        let names: Vec<String> = (0..30).map(|n| format!("s{n:02}")).collect();
        let services: Vec<(&str, &[(&str, u16)])> =
            names.iter().map(|name| (name.as_str(), &[][..])).collect();
        let after = table(&services);
        let wanted = render(&after, &settings());
        let plan = plan(
            &after,
            &wanted,
            &Running::Generation(None),
            None,
            Some(&RoutingTable::default()),
        );
        assert_eq!(plan.reasons().len(), REASONS_MAX + 1);
        assert_eq!(plan.reasons().last(), Some(&Reason::More { count: 10 }));
    }

    fn tables() -> impl Strategy<Value = RoutingTable> {
        let instances = prop::collection::btree_map("[a-c]", 1u16..4, 0..3);
        prop::collection::btree_map("[a-d]", instances, 0..4).prop_map(|services| {
            let owned: Vec<(String, Vec<(String, u16)>)> = services
                .into_iter()
                .map(|(name, i)| (name, i.into_iter().collect()))
                .collect();
            let borrowed: Vec<(&str, Vec<(&str, u16)>)> = owned
                .iter()
                .map(|(name, i)| {
                    (
                        name.as_str(),
                        i.iter().map(|(id, port)| (id.as_str(), *port)).collect(),
                    )
                })
                .collect();
            let slices: Vec<(&str, &[(&str, u16)])> =
                borrowed.iter().map(|(n, i)| (*n, i.as_slice())).collect();
            table(&slices)
        })
    }

    /// The table that differs from `before` by `reasons`; routes are compared by hosts and servers only.
    fn apply(
        before: &RoutingTable,
        reasons: &[Reason],
        after: &RoutingTable,
    ) -> BTreeMap<HostName, BTreeMap<ServerName, SocketAddr>> {
        let mut routes: BTreeMap<_, _> = before
            .routes
            .iter()
            .map(|(host, route)| (host.clone(), route.servers.clone()))
            .collect();
        for reason in reasons.iter().cloned() {
            match reason {
                Reason::RouteAdded { host, .. } => {
                    let servers = after.routes[&host].servers.clone();
                    routes.insert(host, servers);
                }
                Reason::RouteRemoved { host } => {
                    routes.remove(&host);
                }
                Reason::ServerAdded {
                    host,
                    server,
                    endpoint,
                }
                | Reason::ServerMoved {
                    host,
                    server,
                    endpoint,
                } => {
                    routes.get_mut(&host).unwrap().insert(server, endpoint);
                }
                Reason::ServerRemoved { host, server } => {
                    routes.get_mut(&host).unwrap().remove(&server);
                }
                other => panic!("{other} is no difference between tables"),
            }
        }
        routes
    }

    proptest! {
        #[test]
        fn the_differences_lead_from_one_table_to_the_other(before in tables(), after in tables()) {
            let expected: BTreeMap<_, _> =
                after.routes.iter().map(|(host, route)| (host.clone(), route.servers.clone())).collect();
            prop_assert_eq!(apply(&before, &differences(&before, &after), &after), expected);
            prop_assert_eq!(differences(&after, &after), vec![]);
        }

        #[test]
        fn once_applied_nothing_is_left_to_do(before in tables(), after in tables()) {
            let wanted = render(&after, &settings());
            let running = Running::Generation(Some(render(&before, &settings()).generation));
            let first = plan(&after, &wanted, &running, None, Some(&before));
            prop_assert_ne!(first, Plan::Unchanged);
            let running = Running::Generation(Some(wanted.generation.clone()));
            prop_assert_eq!(plan(&after, &wanted, &running, Some(&wanted.config), Some(&after)), Plan::Unchanged);
        }
    }
}
