//! What is known of Consul's services, put together from many answers. Synchronous: one place that answers are
//! applied to, one that the reconcile loop reads from.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use consul::ServiceEntry;
use serde::Serialize;
use tokio::time::Instant;
use tracing::warn;

use crate::instance::{Rejection, ServiceInstance, parse_instances};
use crate::last_good::{Authority, Held, LastGood};

/// What the reconcile loop needs to know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct View {
    /// Every known service with its instances.
    pub services: BTreeMap<String, Vec<ServiceInstance>>,
    /// When something that is held or remembered ends next.
    pub next_end: Option<Instant>,
}

/// What `/status` shows of Consul.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct ConsulStatus {
    /// Whether the last answer of every watch was good.
    pub available: bool,
    /// What is wrong, by what was asked for.
    pub errors: BTreeMap<String, String>,
    /// The highest index seen.
    pub index: u64,
    /// Services that have not been answered yet for the first time.
    pub waiting_for: BTreeSet<String>,
    /// Instances that are held although Consul does not confirm them.
    pub held: BTreeSet<Held>,
    /// Instances that cannot be used.
    pub rejected: BTreeSet<Rejection>,
}

/// Name under which errors of the catalog itself are kept; no service name is empty.
const CATALOG: &str = "";

#[derive(Debug)]
struct State {
    last_good: LastGood,
    rejected: BTreeMap<String, Vec<Rejection>>,
    errors: BTreeMap<String, String>,
    /// Services that are listed and still owe their first answer; `None` until there is a listing.
    owed: Option<BTreeSet<String>>,
    synced: bool,
    index: u64,
}

/// The services of the cluster, shared between the watches and the reconcile loop.
#[derive(Debug, Clone)]
pub struct Directory(Arc<Mutex<State>>);

impl Directory {
    /// A directory that knows only what `last_good` remembers.
    pub fn new(last_good: LastGood) -> Self {
        Self(Arc::new(Mutex::new(State {
            last_good,
            rejected: BTreeMap::new(),
            errors: BTreeMap::new(),
            owed: None,
            synced: false,
            index: 0,
        })))
    }

    /// Takes in the list of all services. Gives whether anything may have changed for routing.
    pub fn apply_catalog(
        &self,
        names: &BTreeSet<String>,
        index: u64,
        authority: Authority,
        now: Instant,
    ) -> bool {
        let mut state = self.lock();
        state.errors.remove(CATALOG);
        state.index = state.index.max(index);
        let absent: Vec<String> = state
            .last_good
            .names()
            .filter(|name| !names.contains(*name))
            .map(str::to_owned)
            .collect();
        let mut changed = false;
        for name in &absent {
            // Most are remembered as empty, and stay so.
            changed |= state.last_good.observe(name, vec![], authority, now);
        }
        state.rejected.retain(|name, _| names.contains(name));
        state
            .errors
            .retain(|name, _| name == CATALOG || names.contains(name));
        match &mut state.owed {
            Some(owed) => owed.retain(|name| names.contains(name)),
            None => state.owed = Some(names.clone()),
        }
        state.note_progress();
        changed
    }

    /// Takes in the instances of one service.
    pub fn apply_service(
        &self,
        name: &str,
        entries: Vec<ServiceEntry>,
        index: u64,
        authority: Authority,
        now: Instant,
    ) {
        let (instances, rejected) = parse_instances(name, entries);
        let mut state = self.lock();
        for rejection in &rejected {
            if state
                .rejected
                .get(name)
                .is_none_or(|before| !before.contains(rejection))
            {
                warn!(service = name, instance = %rejection.instance, "{}", rejection.reason);
            }
        }
        state.errors.remove(name);
        state.index = state.index.max(index);
        state.last_good.observe(name, instances, authority, now);
        if rejected.is_empty() {
            state.rejected.remove(name);
        } else {
            state.rejected.insert(name.to_owned(), rejected);
        }
        state.paid(name);
    }

    /// Notes that Consul did not answer about `name`, or about the list of services when `None`; what is known stays.
    /// Gives whether this is the beginning of an outage.
    ///
    /// A service that has never been answered is waited for as long as the error is a `transient` one: were it taken for
    /// empty, an outage would read as "nothing is there". An error that will not mend itself, as a denied one, holds
    /// up nobody; nor does one about a service that is known from before.
    pub fn unavailable(&self, name: Option<&str>, error: String, transient: bool) -> bool {
        let mut state = self.lock();
        let news = state.errors.is_empty();
        state.errors.insert(name.unwrap_or(CATALOG).to_owned(), error);
        if let Some(name) = name
            && (!transient || state.last_good.names().any(|known| known == name))
        {
            state.paid(name);
        }
        news
    }

    /// What to route, `None` until Consul has answered once about everything: before that, what is missing cannot
    /// be told from what was not asked yet.
    pub fn view(&self, now: Instant) -> Option<View> {
        let mut state = self.lock();
        if !state.synced {
            return None;
        }
        let next_end = state.last_good.settle(now);
        Some(View {
            services: state.last_good.services(),
            next_end,
        })
    }

    /// For `/status`.
    pub fn status(&self) -> ConsulStatus {
        let state = self.lock();
        let shown = |name: &String| {
            if name == CATALOG {
                "the list of services".to_owned()
            } else {
                name.clone()
            }
        };
        ConsulStatus {
            available: state.errors.is_empty() && state.owed.is_some(),
            errors: state
                .errors
                .iter()
                .map(|(name, error)| (shown(name), error.clone()))
                .collect(),
            index: state.index,
            waiting_for: state.owed.clone().unwrap_or_default(),
            held: state.last_good.held(),
            rejected: state.rejected.values().flatten().cloned().collect(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Every critical section leaves the state whole, so a poisoned lock is still good.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn paid(&mut self, name: &str) {
        if let Some(owed) = &mut self.owed {
            owed.remove(name);
        }
        self.note_progress();
    }

    fn note_progress(&mut self) {
        self.synced |= self.owed.as_ref().is_some_and(BTreeSet::is_empty);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::last_good::Retention;

    fn directory(now: Instant) -> Directory {
        let retention = Retention {
            hold: Duration::from_secs(30),
            remember: Duration::from_secs(3600),
        };
        Directory::new(LastGood::new(retention, BTreeMap::new(), now))
    }

    fn names(names: &[&str]) -> BTreeSet<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    fn entries(ids: &[&str]) -> Vec<ServiceEntry> {
        let entry = |id: &&str| {
            serde_json::json!({
                "Node": {"Node": "n1", "Address": "192.0.2.1"},
                "Service": {"ID": id, "Service": "web", "Port": 80, "Meta": {"colossus-owner": "registrator"}},
                "Checks": []
            })
        };
        serde_json::from_value(ids.iter().map(entry).collect()).unwrap()
    }

    #[test]
    fn nothing_is_routed_before_everything_was_answered_once() {
        let now = Instant::now();
        let directory = directory(now);
        directory.apply_service("early", entries(&["x"]), 1, Authority::Doubtful, now);
        assert_eq!(directory.view(now), None);
        directory.apply_catalog(&names(&["web", "api"]), 5, Authority::Doubtful, now);
        directory.apply_service("web", entries(&["a"]), 4, Authority::Doubtful, now);
        assert_eq!(directory.view(now), None);
        assert_eq!(directory.status().waiting_for, names(&["api"]));
        // An outage is waited for, an error that stays is not.
        directory.unavailable(Some("api"), "no leader".to_owned(), true);
        assert_eq!(directory.view(now), None);
        directory.unavailable(Some("api"), "denied".to_owned(), false);
        assert_eq!(directory.view(now).unwrap().services["web"].len(), 1);
    }

    #[test]
    fn an_outage_changes_nothing_and_is_told() {
        let now = Instant::now();
        let directory = directory(now);
        directory.apply_catalog(&names(&["web"]), 5, Authority::Doubtful, now);
        directory.apply_service("web", entries(&["a"]), 5, Authority::Doubtful, now);
        let before = directory.view(now);
        assert!(directory.unavailable(None, "no leader".to_owned(), true));
        assert!(!directory.unavailable(Some("web"), "no leader".to_owned(), true));
        assert_eq!(directory.view(now), before);
        let status = directory.status();
        assert!(!status.available);
        assert_eq!(
            status.errors.keys().collect::<Vec<_>>(),
            ["the list of services", "web"]
        );

        directory.apply_catalog(&names(&["web"]), 5, Authority::Doubtful, now);
        directory.apply_service("web", entries(&["a"]), 5, Authority::Doubtful, now);
        assert!(directory.status().available);
    }

    #[test]
    fn a_service_missing_from_a_doubtful_list_is_held_and_from_a_certain_one_is_empty() {
        let now = Instant::now();
        let directory = directory(now);
        directory.apply_catalog(&names(&["web"]), 50, Authority::Doubtful, now);
        directory.apply_service("web", entries(&["a"]), 50, Authority::Doubtful, now);
        assert!(directory.apply_catalog(&names(&[]), 3, Authority::Doubtful, now));
        assert!(
            !directory.apply_catalog(&names(&[]), 4, Authority::Continued, now),
            "it is held already"
        );
        assert_eq!(directory.view(now).unwrap().services["web"].len(), 1);
        assert_eq!(directory.status().held.len(), 1);

        directory.apply_service("web", entries(&["a"]), 6, Authority::Continued, now);
        directory.apply_catalog(&names(&[]), 7, Authority::Continued, now);
        assert_eq!(directory.view(now).unwrap().services["web"].len(), 0);
    }
}
