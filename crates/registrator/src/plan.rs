//! The difference between what this host runs and what its Consul agent holds.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use contract::{META_CONTAINER, OWNER_REGISTRATOR, ServiceId, is_owned_by};
use serde::Serialize;

use crate::definitions::{Definitions, ServiceRecord};
use crate::rejection::Rejection;
use crate::snapshot::ContainerId;

/// Everything this host should have registered.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Desired {
    /// By service ID.
    pub services: BTreeMap<ServiceId, ServiceRecord>,
    /// What could not be used, of all containers.
    pub rejections: BTreeSet<Rejection>,
}

impl Desired {
    /// Puts the services of all containers together.
    ///
    /// Where several containers claim one ID, the one that is registered under it keeps it: nobody can take it away. Else
    /// the one with the lowest container ID gets it: any rule would do that always gives the same answer.
    pub fn merge<'a>(
        containers: impl IntoIterator<Item = (&'a ContainerId, &'a str, Definitions)>,
        observed: &BTreeMap<String, ServiceRecord>,
    ) -> Self {
        let mut desired = Self::default();
        let mut claims: BTreeMap<ServiceId, Vec<(&ContainerId, &str, ServiceRecord)>> = BTreeMap::new();
        for (container, name, definitions) in containers {
            desired.rejections.extend(definitions.rejections);
            for (id, record) in definitions.services {
                claims.entry(id).or_default().push((container, name, record));
            }
        }
        for (id, mut claimants) in claims {
            let holder = observed
                .get(id.as_str())
                .and_then(|record| record.meta.get(META_CONTAINER));
            claimants.sort_by_key(|(container, ..)| (holder != Some(&container.0), *container));
            let mut claimants = claimants.into_iter();
            let Some((_, winner, record)) = claimants.next() else {
                continue;
            };
            for (_, loser, _) in claimants {
                desired.rejections.insert(Rejection::new(
                    loser,
                    format!("service ID {id}"),
                    format!("container {winner} has it already: give each container its own SERVICE_ID"),
                ));
            }
            desired.services.insert(id, record);
        }
        desired
    }
}

/// What has to be done for the agent to hold exactly what this host runs, and nothing of others touched.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Plan {
    /// To be registered or rewritten.
    pub register: BTreeMap<ServiceId, ServiceRecord>,
    /// Ours, and no longer wanted.
    pub deregister: BTreeSet<ServiceId>,
    /// Wanted, but the ID belongs to somebody else: left alone.
    pub foreign: BTreeSet<ServiceId>,
    /// How many are as they should be.
    pub unchanged: usize,
}

impl Plan {
    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.register.is_empty() && self.deregister.is_empty()
    }

    /// Number of writes.
    pub fn len(&self) -> usize {
        self.register.len() + self.deregister.len()
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (id, record) in &self.register {
            writeln!(
                f,
                "+ register   {id} as {} at {}:{}",
                record.name, record.address, record.port
            )?;
        }
        for id in &self.deregister {
            writeln!(f, "- deregister {id}")?;
        }
        for id in &self.foreign {
            writeln!(f, "! leave      {id}: registered by somebody else")?;
        }
        write!(f, "  {} unchanged", self.unchanged)
    }
}

/// Compares `desired` with the services `observed` on the agent, foreign ones included.
pub fn plan(
    desired: &BTreeMap<ServiceId, ServiceRecord>,
    observed: &BTreeMap<String, ServiceRecord>,
) -> Plan {
    let mut plan = Plan::default();
    for (id, record) in desired {
        match observed.get(id.as_str()) {
            Some(found) if !is_owned_by(&found.meta, OWNER_REGISTRATOR) => {
                plan.foreign.insert(id.clone());
            }
            Some(found) if found == record => plan.unchanged += 1,
            _ => {
                plan.register.insert(id.clone(), record.clone());
            }
        }
    }
    for (id, record) in observed {
        // An ID of ours always parses; one that does not was not written by us, whatever its mark says.
        if let Ok(id) = id.parse::<ServiceId>()
            && is_owned_by(&record.meta, OWNER_REGISTRATOR)
            && !desired.contains_key(&id)
        {
            plan.deregister.insert(id);
        }
    }
    plan
}

#[cfg(test)]
mod tests {
    use contract::META_OWNER;
    use proptest::prelude::*;

    use super::*;

    fn record(port: u16, owner: Option<&str>) -> ServiceRecord {
        let meta = owner
            .map(|owner| (META_OWNER.to_owned(), owner.to_owned()))
            .into_iter()
            .collect();
        ServiceRecord {
            name: "web".to_owned(),
            tags: vec![],
            address: "192.0.2.1".to_owned(),
            port,
            meta,
        }
    }

    fn ours(port: u16) -> ServiceRecord {
        record(port, Some(OWNER_REGISTRATOR))
    }

    fn id(text: &str) -> ServiceId {
        text.parse().unwrap()
    }

    #[test]
    fn only_differences_are_written() {
        let desired = BTreeMap::from([
            (id("same"), ours(1)),
            (id("moved"), ours(2)),
            (id("new"), ours(3)),
        ]);
        let observed = BTreeMap::from([
            ("same".to_owned(), ours(1)),
            ("moved".to_owned(), ours(9)),
            ("gone".to_owned(), ours(4)),
        ]);
        assert_eq!(
            plan(&desired, &observed),
            Plan {
                register: BTreeMap::from([(id("moved"), ours(2)), (id("new"), ours(3))]),
                deregister: BTreeSet::from([id("gone")]),
                foreign: BTreeSet::new(),
                unchanged: 1,
            }
        );
    }

    #[test]
    fn what_bears_no_mark_or_anothers_is_left_alone() {
        let desired = BTreeMap::from([(id("taken"), ours(1))]);
        let observed = BTreeMap::from([
            ("taken".to_owned(), record(1, None)),
            ("hand-made".to_owned(), record(2, None)),
            ("others".to_owned(), record(3, Some("somebody"))),
        ]);
        let plan = plan(&desired, &observed);
        assert_eq!(plan.foreign, BTreeSet::from([id("taken")]));
        assert!(plan.is_empty(), "{plan}");
    }

    #[test]
    fn of_two_containers_with_one_id_the_registered_one_keeps_it() {
        let (first, second) = (ContainerId("a".to_owned()), ContainerId("b".to_owned()));
        let offers = |port| Definitions {
            services: BTreeMap::from([(id("same"), ours(port))]),
            rejections: vec![],
        };
        let mut held = ours(2);
        held.meta.insert(META_CONTAINER.to_owned(), second.0.clone());
        let nothing = BTreeMap::new();
        let second_holds_it = BTreeMap::from([("same".to_owned(), held)]);
        for (observed, port, rejected) in [
            (
                &nothing,
                1,
                "container two: service ID same: container one has it already: ",
            ),
            (
                &second_holds_it,
                2,
                "container one: service ID same: container two has it already: ",
            ),
        ] {
            for containers in [
                [(&first, "one", offers(1)), (&second, "two", offers(2))],
                [(&second, "two", offers(2)), (&first, "one", offers(1))],
            ] {
                let desired = Desired::merge(containers, observed);
                assert_eq!(desired.services[&id("same")].port, port);
                let shown: Vec<_> = desired.rejections.iter().map(ToString::to_string).collect();
                assert_eq!(
                    shown,
                    [format!("{rejected}give each container its own SERVICE_ID")]
                );
            }
        }
    }

    /// What the agent holds after the plan was carried out.
    fn apply(plan: &Plan, observed: &BTreeMap<String, ServiceRecord>) -> BTreeMap<String, ServiceRecord> {
        let mut after = observed.clone();
        after.retain(|id, _| !plan.deregister.iter().any(|gone| gone.as_str() == id));
        after.extend(
            plan.register
                .iter()
                .map(|(id, record)| (id.to_string(), record.clone())),
        );
        after
    }

    fn services(
        owners: &'static [Option<&'static str>],
    ) -> impl Strategy<Value = BTreeMap<String, ServiceRecord>> {
        let record = (1u16..4, prop::sample::select(owners)).prop_map(|(port, owner)| record(port, owner));
        prop::collection::btree_map("[a-e]", record, 0..6)
    }

    proptest! {
        #[test]
        fn applying_a_plan_gives_what_was_desired_and_leaves_foreign_alone(
            wanted in services(&[Some(OWNER_REGISTRATOR)]),
            observed in services(&[Some(OWNER_REGISTRATOR), None, Some("somebody")]),
        ) {
            let desired: BTreeMap<ServiceId, ServiceRecord> =
                wanted.iter().map(|(name, record)| (id(name), record.clone())).collect();
            let foreign = |records: &BTreeMap<String, ServiceRecord>| -> BTreeMap<String, ServiceRecord> {
                records
                    .iter()
                    .filter(|(_, record)| !is_owned_by(&record.meta, OWNER_REGISTRATOR))
                    .map(|(name, record)| (name.clone(), record.clone()))
                    .collect()
            };
            let after = apply(&plan(&desired, &observed), &observed);
            prop_assert_eq!(foreign(&after), foreign(&observed));
            let mut expected = wanted;
            expected.extend(foreign(&observed));
            prop_assert_eq!(&after, &expected);
            prop_assert!(plan(&desired, &after).is_empty());
        }
    }
}
