//! Docker's events, with the moment at which each happened and the one at which it got here.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use bollard::Docker;
use bollard::query_parameters::EventsOptionsBuilder;
use futures_util::StreamExt;
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::Result;
use crate::clock::Moment;

/// How long an event may take. Two hundred starts at once take a minute on two cores.
const DEADLINE: Duration = Duration::from_secs(240);

/// An event of a container.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Seen {
    /// When Docker says that it happened (`timeNano`).
    pub(crate) at: Moment,
    /// When it got here.
    pub(crate) received: Moment,
}

#[derive(Debug, Default)]
struct Log {
    /// By container and action.
    seen: BTreeMap<(String, String), Seen>,
    /// Starts and ends of containers that are not ours: they wake our services too.
    foreign: u64,
    /// Why nothing more comes.
    ended: Option<String>,
}

/// Follows the starts and ends of containers until dropped.
#[derive(Debug)]
pub(crate) struct Events {
    log: watch::Receiver<Log>,
    _follower: JoinSet<()>,
}

impl Events {
    /// Follows them from now on. A container whose labels `is_ours` takes is ours.
    pub(crate) fn follow(
        docker: Docker,
        is_ours: impl Fn(&HashMap<String, String>) -> bool + Send + 'static,
    ) -> Self {
        let (log, view) = watch::channel(Log::default());
        let mut follower = JoinSet::new();
        follower.spawn(async move {
            let filters = HashMap::from([("type", vec!["container"]), ("event", vec!["start", "die"])]);
            let mut events = docker.events(Some(EventsOptionsBuilder::default().filters(&filters).build()));
            while let Some(event) = events.next().await {
                let received = Moment::now();
                let event = match event {
                    Ok(event) => event,
                    Err(error) => {
                        log.send_modify(|log| log.ended = Some(error.to_string()));
                        return;
                    }
                };
                let actor = event.actor.unwrap_or_default();
                let (Some(id), Some(action), Some(nanos)) = (actor.id, event.action, event.time_nano) else {
                    continue;
                };
                let ours = is_ours(&actor.attributes.unwrap_or_default());
                let at = Moment::from_nanos(nanos);
                log.send_modify(|log| {
                    if ours {
                        log.seen.insert((id, action), Seen { at, received });
                    } else {
                        log.foreign += 1;
                    }
                });
            }
            log.send_modify(|log| log.ended = Some("the stream ended".to_owned()));
        });
        Self {
            log: view,
            _follower: follower,
        }
    }

    /// Waits for `action` (`start`, `die`) of a container, which may have come already.
    pub(crate) async fn of(&self, container: &str, action: &str) -> Result<Seen> {
        let key = (container.to_owned(), action.to_owned());
        let mut log = self.log.clone();
        let wait = log.wait_for(|log| log.seen.contains_key(&key) || log.ended.is_some());
        let log = tokio::time::timeout(DEADLINE, wait)
            .await
            .map_err(|_| format!("no event {action} of container {container} within {DEADLINE:?}"))??;
        let missing = || {
            let why = log.ended.as_deref().unwrap_or_default();
            format!("lost Docker's events: {why}").into()
        };
        log.seen.get(&key).copied().ok_or_else(missing)
    }

    /// Whether a container's start has been told.
    pub(crate) fn has_started(&self, container: &str) -> bool {
        let key = (container.to_owned(), "start".to_owned());
        self.log.borrow().seen.contains_key(&key)
    }

    /// How many starts and ends of others' containers there were.
    pub(crate) fn foreign(&self) -> u64 {
        self.log.borrow().foreign
    }
}
