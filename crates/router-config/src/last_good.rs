//! What is known of every service, and what is kept of it when Consul's word is in doubt.
//!
//! After an outage, a restart or an index that went backwards, an instance that is missing from Consul's answer
//! may well be running: its agent has not registered it *again* yet. Such an answer adds and changes instances at
//! once, but what is missing from it is held for a while; HAProxy's own checks take a held instance that is really
//! dead out of use. An answer that continues the one before it is believed entirely.
//!
//! Synchronous and without a clock: time comes in as a value.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::Duration;

use serde::Serialize;
use tokio::time::Instant;

use crate::instance::{InstanceKey, ServiceInstance};

/// How far an answer can be believed about what is missing from it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Authority {
    /// It continues the answer before it: what is missing was deregistered.
    Continued,
    /// It is the first one, or the first after an outage or a reset: what is missing may come back.
    Doubtful,
}

/// How long things are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retention {
    /// How long an instance is held that is missing from a doubtful answer.
    pub hold: Duration,
    /// How long a service without any instance is known, and answered with 503 rather than 404.
    pub remember: Duration,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Remembered {
    instance: ServiceInstance,
    /// `None` while Consul confirms it.
    held_until: Option<Instant>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct ServiceMemory {
    instances: BTreeMap<InstanceKey, Remembered>,
    empty_since: Option<Instant>,
}

/// The services as they were last known to be good.
#[derive(Debug, Clone)]
pub struct LastGood {
    retention: Retention,
    services: BTreeMap<String, ServiceMemory>,
}

/// An instance that is held although Consul does not confirm it, for `/status`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Held {
    /// Name of its service.
    pub service: String,
    /// Which one.
    pub instance: InstanceKey,
}

impl LastGood {
    /// Starts with what an earlier process knew. It counts as confirmed until the first answer, which is doubtful and so
    /// holds what it lacks.
    pub fn new(retention: Retention, known: BTreeMap<String, Vec<ServiceInstance>>, now: Instant) -> Self {
        let mut last_good = Self {
            retention,
            services: BTreeMap::new(),
        };
        for (service, instances) in known {
            // Also one without instances: it is remembered, and is answered with 503.
            last_good.services.entry(service.clone()).or_default();
            last_good.observe(&service, instances, Authority::Continued, now);
        }
        last_good
    }

    /// Names of the known services.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.services.keys().map(String::as_str)
    }

    /// Takes in the instances of `service` as Consul answered them at `now`. Gives whether that changed anything.
    pub fn observe(
        &mut self,
        service: &str,
        instances: Vec<ServiceInstance>,
        authority: Authority,
        now: Instant,
    ) -> bool {
        if instances.is_empty() && !self.services.contains_key(service) {
            return false;
        }
        let memory = self.services.entry(service.to_owned()).or_default();
        let before = memory.instances.clone();

        let mut confirmed: BTreeMap<InstanceKey, Remembered> = instances
            .into_iter()
            .map(|instance| {
                (
                    instance.key.clone(),
                    Remembered {
                        instance,
                        held_until: None,
                    },
                )
            })
            .collect();
        for (key, mut remembered) in std::mem::take(&mut memory.instances) {
            let held_until = match (remembered.held_until, authority) {
                // Held before: an answer without it says nothing new, its time goes on.
                (Some(until), _) => until,
                (None, Authority::Doubtful) => now + self.retention.hold,
                (None, Authority::Continued) => continue,
            };
            remembered.held_until = Some(held_until);
            confirmed.entry(key).or_insert(remembered);
        }
        memory.instances = confirmed;
        memory.empty_since = memory
            .instances
            .is_empty()
            .then(|| memory.empty_since.unwrap_or(now));
        memory.instances != before
    }

    /// Lets go of what has been kept long enough at `now`, and of held instances whose address and port another
    /// instance has taken. Gives the next time at which something ends.
    pub fn settle(&mut self, now: Instant) -> Option<Instant> {
        let taken: BTreeSet<SocketAddr> = self
            .services
            .values()
            .flat_map(|memory| memory.instances.values())
            .filter(|remembered| remembered.held_until.is_none())
            .map(|remembered| remembered.instance.endpoint())
            .collect();
        let mut next: Option<Instant> = None;
        let mut upcoming = |time: Instant| next = Some(next.map_or(time, |next| next.min(time)));
        let remember = self.retention.remember;
        self.services.retain(|_, memory| {
            memory
                .instances
                .retain(|_, remembered| match remembered.held_until {
                    None => true,
                    // Sending requests there would reach another service.
                    Some(_) if taken.contains(&remembered.instance.endpoint()) => false,
                    Some(until) if until <= now => false,
                    Some(until) => {
                        upcoming(until);
                        true
                    }
                });
            if !memory.instances.is_empty() {
                memory.empty_since = None;
                return true;
            }
            let forgotten_at = *memory.empty_since.get_or_insert(now) + remember;
            if forgotten_at > now {
                upcoming(forgotten_at);
            }
            forgotten_at > now
        });
        next
    }

    /// Every known service with its instances, confirmed and held.
    pub fn services(&self) -> BTreeMap<String, Vec<ServiceInstance>> {
        let instances =
            |memory: &ServiceMemory| memory.instances.values().map(|r| r.instance.clone()).collect();
        self.services
            .iter()
            .map(|(name, memory)| (name.clone(), instances(memory)))
            .collect()
    }

    /// The instances that are held.
    pub fn held(&self) -> BTreeSet<Held> {
        self.services
            .iter()
            .flat_map(|(service, memory)| {
                memory
                    .instances
                    .iter()
                    .filter(|(_, remembered)| remembered.held_until.is_some())
                    .map(|(key, _)| Held {
                        service: service.clone(),
                        instance: key.clone(),
                    })
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::instance::Health;

    const RETENTION: Retention = Retention {
        hold: Duration::from_secs(30),
        remember: Duration::from_secs(3600),
    };

    fn instance(id: &str, port: u16) -> ServiceInstance {
        ServiceInstance {
            key: InstanceKey {
                node: "n1".to_owned(),
                id: id.to_owned(),
            },
            address: "192.0.2.1".parse().unwrap(),
            port,
            health: Health::Healthy,
        }
    }

    fn empty(now: Instant) -> LastGood {
        LastGood::new(RETENTION, BTreeMap::new(), now)
    }

    fn ids(last_good: &LastGood, service: &str) -> Vec<String> {
        let services = last_good.services();
        services
            .get(service)
            .into_iter()
            .flatten()
            .map(|instance| instance.key.id.clone())
            .collect()
    }

    #[test]
    fn an_answer_that_continues_is_believed() {
        let now = Instant::now();
        let mut last_good = empty(now);
        last_good.observe(
            "web",
            vec![instance("a", 1), instance("b", 2)],
            Authority::Doubtful,
            now,
        );
        last_good.observe("web", vec![instance("b", 2)], Authority::Continued, now);
        assert_eq!(ids(&last_good, "web"), ["b"]);
        assert_eq!(last_good.settle(now), None);
    }

    #[test]
    fn an_empty_answer_after_a_restart_takes_nothing_away_until_the_hold_ends() {
        let now = Instant::now();
        let mut last_good = empty(now);
        last_good.observe(
            "web",
            vec![instance("a", 1), instance("b", 2)],
            Authority::Doubtful,
            now,
        );
        last_good.observe("web", vec![], Authority::Doubtful, now);
        assert_eq!(ids(&last_good, "web"), ["a", "b"]);

        // One registers again, elsewhere: it is believed at once, the other is still held.
        last_good.observe(
            "web",
            vec![instance("a", 9)],
            Authority::Continued,
            now + Duration::from_secs(1),
        );
        assert_eq!(last_good.services()["web"][0].port, 9);
        assert_eq!(
            last_good
                .held()
                .into_iter()
                .map(|held| held.instance.id)
                .collect::<Vec<_>>(),
            ["b"]
        );

        let end = now + RETENTION.hold;
        assert_eq!(last_good.settle(end - Duration::from_millis(1)), Some(end));
        assert_eq!(ids(&last_good, "web"), ["a", "b"]);
        assert_eq!(last_good.settle(end), None);
        assert_eq!(ids(&last_good, "web"), ["a"]);
    }

    #[test]
    fn a_held_instance_yields_its_address_to_whoever_has_it_now() {
        let now = Instant::now();
        let mut last_good = empty(now);
        last_good.observe("web", vec![instance("a", 1)], Authority::Doubtful, now);
        last_good.observe("web", vec![], Authority::Doubtful, now);
        last_good.observe("other", vec![instance("x", 1)], Authority::Doubtful, now);
        last_good.settle(now);
        assert_eq!(ids(&last_good, "web"), Vec::<String>::new());
        assert_eq!(ids(&last_good, "other"), ["x"]);
    }

    #[test]
    fn a_service_without_instances_is_remembered_for_a_while() {
        let now = Instant::now();
        let mut last_good = empty(now);
        last_good.observe("never", vec![], Authority::Continued, now);
        last_good.observe("web", vec![instance("a", 1)], Authority::Doubtful, now);
        last_good.observe("web", vec![], Authority::Continued, now);
        let end = now + RETENTION.remember;
        assert_eq!(last_good.settle(now), Some(end));
        assert_eq!(last_good.names().collect::<Vec<_>>(), ["web"]);
        // Seen empty again: the time does not start anew.
        last_good.observe("web", vec![], Authority::Continued, now + Duration::from_secs(60));
        assert_eq!(last_good.settle(end), None);
        assert_eq!(last_good.names().count(), 0);
    }

    #[test]
    fn what_an_earlier_process_knew_is_known_services_without_instances_too() {
        let now = Instant::now();
        let known = BTreeMap::from([
            ("web".to_owned(), vec![instance("a", 1)]),
            ("empty".to_owned(), vec![]),
        ]);
        let mut last_good = LastGood::new(RETENTION, known.clone(), now);
        assert_eq!(last_good.services(), known);
        // The first answers of this process are in doubt: they take nothing away.
        last_good.observe("web", vec![], Authority::Doubtful, now);
        last_good.settle(now);
        assert_eq!(last_good.services(), known);
    }

    proptest! {
        /// Whatever the order of answers, what the newest one confirms is there exactly as it says; and an answer
        /// in doubt never takes an instance away, unless another has its address.
        #[test]
        fn confirmed_instances_are_always_there_and_doubt_takes_nothing(
            answers in prop::collection::vec(
                (prop::collection::btree_map("[a-d]", 1u16..5, 0..4), any::<bool>()), 1..12)
        ) {
            let now = Instant::now();
            let mut last_good = empty(now);
            for (answer, continued) in answers {
                let before = ids(&last_good, "web");
                let authority = if continued { Authority::Continued } else { Authority::Doubtful };
                let instances: Vec<_> = answer.iter().map(|(id, port)| instance(id, *port)).collect();
                last_good.observe("web", instances.clone(), authority, now);
                let services = last_good.services();
                let known = services.get("web").cloned().unwrap_or_default();
                for instance in &instances {
                    prop_assert!(known.contains(instance));
                }
                if !continued {
                    let after = ids(&last_good, "web");
                    prop_assert!(before.iter().all(|id| after.contains(id)));
                }
                last_good.settle(now);
                let services = last_good.services();
                let known = services.get("web").cloned().unwrap_or_default();
                for instance in &instances {
                    prop_assert!(known.contains(instance));
                }
            }
        }
    }
}
