//! Docker as a source of containers: an inventory that is read afresh, and the events that say when.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bollard::Docker;
use bollard::errors::Error as DockerError;
use bollard::models::EventMessage;
use bollard::query_parameters::{EventsOptionsBuilder, ListContainersOptionsBuilder};
use daemon::{Backoff, Waker};
use futures_util::stream::{self, StreamExt};
use serde::Serialize;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use crate::error::Error;
use crate::rejection::Rejection;
use crate::snapshot::{ContainerId, ContainerSnapshot};

/// The endpoint when `DOCKER_HOST` is not set.
const DEFAULT_ENDPOINT: &str = "unix:///var/run/docker.sock";

/// Deadline of one request. An engine under load takes a second or two to list; ten is broken.
const DEADLINE: Duration = Duration::from_secs(10);

/// Containers inspected at the same time: enough to hide the round trip, few enough for a busy engine.
const CONCURRENCY: usize = 8;

/// Above this many marked containers a full listing is cheaper, and memory stays bounded.
const MARKED_MAX: usize = 256;

/// Container events after which registration may differ. Others, above all `exec_*` of every HEALTHCHECK, are
/// not even sent to us.
const CONTAINER_EVENTS: [&str; 6] = ["start", "die", "destroy", "pause", "unpause", "rename"];

/// Network events that move a running container's own address. Every start has one too, just before it: they
/// are asked for only where those addresses are registered, or each start would be looked at twice.
const NETWORK_EVENTS: [&str; 2] = ["connect", "disconnect"];

/// What is known to have happened to a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Happened {
    /// Something: it has to be inspected.
    Changed,
    /// It has ended. Docker takes 150 ms and more to inspect a container that is just ending, and there is nothing to be
    /// learnt; should it be started again, an event follows.
    Ended,
}

/// What has to be looked at again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Stale {
    /// These containers; possibly none.
    Containers(BTreeMap<ContainerId, Happened>),
    /// Everything: a listing is due.
    All,
}

/// The mark that event handling leaves for the next reconciliation. Bounded.
#[derive(Debug, Clone)]
pub struct StaleMark(Arc<Mutex<Stale>>);

impl StaleMark {
    /// Everything is stale at first.
    pub fn new() -> Self {
        Self(Arc::new(Mutex::new(Stale::All)))
    }

    /// Marks one container. What happened last counts.
    pub fn mark(&self, id: ContainerId, happened: Happened) {
        let mut stale = self.lock();
        if let Stale::Containers(ids) = &mut *stale {
            ids.insert(id, happened);
            if ids.len() > MARKED_MAX {
                *stale = Stale::All;
            }
        }
    }

    /// Marks one container that could not be read, unless something newer is known of it.
    fn mark_if_unmarked(&self, id: ContainerId) {
        if let Stale::Containers(ids) = &mut *self.lock() {
            ids.entry(id).or_insert(Happened::Changed);
        }
    }

    /// Marks everything.
    pub fn mark_all(&self) {
        *self.lock() = Stale::All;
    }

    fn take(&self) -> Stale {
        std::mem::replace(&mut *self.lock(), Stale::Containers(BTreeMap::new()))
    }

    fn lock(&self) -> MutexGuard<'_, Stale> {
        // Every critical section above leaves the value whole, so a poisoned lock is still good.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Default for StaleMark {
    fn default() -> Self {
        Self::new()
    }
}

/// The engine of this host: connects when first asked, and anew after [`Engine::disconnect`].
///
/// The engine may be started, replaced by another version or away for a while: nothing is assumed to last.
#[derive(Debug, Clone)]
pub struct Engine {
    endpoint: String,
    connected: Arc<tokio::sync::Mutex<Option<Docker>>>,
}

impl Engine {
    /// The engine at `endpoint` (as in `DOCKER_HOST`), at the usual socket when `None`. Does not connect yet.
    ///
    /// # Errors
    /// [`Error::DockerEndpoint`] when the endpoint is not understood.
    pub fn new(endpoint: Option<&str>) -> Result<Self, Error> {
        let endpoint = endpoint.unwrap_or(DEFAULT_ENDPOINT).to_owned();
        if endpoint.split_once("://").is_none_or(|(_, rest)| rest.is_empty()) {
            let source = DockerError::UnsupportedURISchemeError {
                uri: endpoint.clone(),
            };
            return Err(Error::DockerEndpoint { endpoint, source });
        }
        // A socket that is not there yet is no mistake: Docker may be started after us.
        match Docker::connect_with_host(&endpoint) {
            Ok(_) | Err(DockerError::SocketNotFoundError(_)) => Ok(Self {
                endpoint,
                connected: Arc::default(),
            }),
            Err(source) => Err(Error::DockerEndpoint { endpoint, source }),
        }
    }

    /// A client that speaks the newest API version both sides know.
    async fn client(&self) -> Result<Docker, Error> {
        let mut connected = self.connected.lock().await;
        if let Some(docker) = &*connected {
            return Ok(docker.clone());
        }
        let connect = async {
            Docker::connect_with_host(&self.endpoint)?
                .with_timeout(DEADLINE)
                .negotiate_version()
                .await
        };
        let docker = within("the version", connect, Error::DockerConnect).await?;
        Ok(connected.insert(docker).clone())
    }

    /// Forgets the connection, so that the next call finds out afresh what it talks to.
    pub async fn disconnect(&self) {
        *self.connected.lock().await = None;
    }

    /// The name of the host, as the engine knows it: right also from inside a container.
    ///
    /// # Errors
    /// When Docker does not answer.
    pub async fn host_name(&self) -> Result<String, Error> {
        let docker = self.client().await?;
        let info = within("the host's name", docker.info(), Error::DockerConnect).await?;
        info.name.filter(|name| !name.is_empty()).ok_or(Error::HostName)
    }
}

async fn within<T>(
    operation: &'static str,
    call: impl Future<Output = Result<T, DockerError>>,
    wrap: impl FnOnce(DockerError) -> Error,
) -> Result<T, Error> {
    match tokio::time::timeout(DEADLINE, call).await {
        Ok(answer) => answer.map_err(wrap),
        Err(_) => Err(Error::DockerDeadline {
            operation,
            seconds: DEADLINE.as_secs(),
        }),
    }
}

/// The containers of this host that run, as last read.
#[derive(Debug)]
pub struct Inventory {
    engine: Engine,
    stale: StaleMark,
    containers: BTreeMap<ContainerId, (ContainerSnapshot, Vec<Rejection>)>,
}

impl Inventory {
    /// An empty inventory; the first [`Inventory::refresh`] fills it.
    pub fn new(engine: Engine, stale: StaleMark) -> Self {
        Self {
            engine,
            stale,
            containers: BTreeMap::new(),
        }
    }

    /// The containers and what of them could not be used.
    pub fn containers(&self) -> impl Iterator<Item = (&ContainerSnapshot, &[Rejection])> {
        self.containers
            .values()
            .map(|(snapshot, rejections)| (snapshot, rejections.as_slice()))
    }

    /// Makes the next [`Inventory::refresh`] read everything, whatever has been heard of.
    pub fn mark_all(&self) {
        self.stale.mark_all();
    }

    /// Reads again what is marked stale. A container that is gone, or dies between its event and this, is taken
    /// out; one that cannot be read keeps its last known state and stays marked.
    ///
    /// # Errors
    /// When Docker does not list its containers, or cannot be reached: what is known stays, and stays marked. [`Error::Inspect`] when some
    /// could not be read: the others are up to date.
    pub async fn refresh(&mut self) -> Result<(), Error> {
        let stale = self.stale.take();
        let ids: BTreeSet<ContainerId> = match stale {
            Stale::Containers(marked) => {
                let (ended, changed): (Vec<_>, Vec<_>) = marked
                    .into_iter()
                    .partition(|(_, happened)| *happened == Happened::Ended);
                for (id, _) in ended {
                    self.containers.remove(&id);
                }
                changed.into_iter().map(|(id, _)| id).collect()
            }
            Stale::All => match self.list().await {
                Ok(ids) => {
                    self.containers.retain(|id, _| ids.contains(id));
                    ids
                }
                Err(error) => {
                    self.stale.mark_all();
                    return Err(error);
                }
            },
        };
        if ids.is_empty() {
            return Ok(());
        }
        let docker = match self.engine.client().await {
            Ok(docker) => docker,
            Err(error) => {
                ids.into_iter().for_each(|id| self.stale.mark_if_unmarked(id));
                return Err(error);
            }
        };
        let inspections: Vec<_> = stream::iter(ids)
            .map(|id| {
                let docker = docker.clone();
                async move {
                    let answer = within("an inspection", docker.inspect_container(&id.0, None), |source| {
                        Error::InspectContainer {
                            container: id.short().to_owned(),
                            source,
                        }
                    });
                    (answer.await, id)
                }
            })
            .buffer_unordered(CONCURRENCY)
            .collect()
            .await;

        let mut failures = Vec::new();
        for (answer, id) in inspections {
            match answer {
                Ok(document) => match ContainerSnapshot::from_inspect(document) {
                    Some((snapshot, rejections)) if snapshot.answers => {
                        self.containers.insert(id, (snapshot, rejections));
                    }
                    _ => {
                        self.containers.remove(&id);
                    }
                },
                Err(Error::InspectContainer { source, .. }) if is_not_found(&source) => {
                    debug!(container = %id, "gone before it could be inspected");
                    self.containers.remove(&id);
                }
                Err(error) => {
                    self.stale.mark_if_unmarked(id);
                    failures.push(error);
                }
            }
        }
        let failed = failures.len();
        match failures.into_iter().next() {
            None => Ok(()),
            Some(source) => Err(Error::Inspect {
                failed,
                source: Box::new(source),
            }),
        }
    }

    async fn list(&self) -> Result<BTreeSet<ContainerId>, Error> {
        let docker = self.engine.client().await?;
        let options = ListContainersOptionsBuilder::default().build();
        let containers = within(
            "a listing",
            docker.list_containers(Some(options)),
            Error::ListContainers,
        )
        .await?;
        Ok(containers
            .into_iter()
            .filter_map(|container| container.id.map(ContainerId))
            .collect())
    }
}

fn is_not_found(error: &DockerError) -> bool {
    matches!(
        error,
        DockerError::DockerResponseServerError { status_code: 404, .. }
    )
}

/// What the event stream is doing, for `/status`.
#[derive(Debug, Clone, Default, Serialize)]
pub struct EventStreamStatus {
    /// Whether events are coming in.
    pub connected: bool,
    /// Connections made so far.
    pub connections: u64,
    /// Container events received so far.
    pub events: u64,
    /// Why the last connection ended.
    pub last_error: Option<String>,
}

/// A handle on [`EventStreamStatus`] that can be shared.
#[derive(Debug, Clone, Default)]
pub struct EventStreamHandle(Arc<Mutex<EventStreamStatus>>);

impl EventStreamHandle {
    /// The present state.
    pub fn snapshot(&self) -> EventStreamStatus {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn update(&self, change: impl FnOnce(&mut EventStreamStatus)) {
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

/// Follows Docker's events for ever: marks what each one is about and wakes the reconcile loop.
///
/// Every new connection marks everything, since what happened in between is unknown; it asks for events
/// from a moment *before* that, so that nothing falls between the listing and the stream.
pub async fn follow_events(
    engine: Engine,
    stale: StaleMark,
    waker: Waker,
    status: EventStreamHandle,
    with_networks: bool,
    shutdown: CancellationToken,
) {
    let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(5));
    let mut reported = false;
    loop {
        let connections = status.snapshot().connections;
        // Cancelled between or during connections: there is nothing to finish, marks are level-triggered.
        let outcome = tokio::select! {
            () = shutdown.cancelled() => return,
            outcome = one_connection(&engine, &stale, &waker, &status, with_networks, &mut backoff) => outcome,
        };
        let reason = outcome.map_or_else(
            |error| daemon::error_chain(&error),
            |()| "the stream ended".to_owned(),
        );
        status.update(|status| {
            status.connected = false;
            status.last_error = Some(reason.clone());
        });
        // Once for each loss, not for each attempt to get it back.
        reported &= status.snapshot().connections == connections;
        if !std::mem::replace(&mut reported, true) {
            warn!(
                error = reason,
                "lost Docker's events; registrations stay as they are until it is back"
            );
        }
        engine.disconnect().await;
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = tokio::time::sleep(backoff.next_delay()) => {}
        }
    }
}

async fn one_connection(
    engine: &Engine,
    stale: &StaleMark,
    waker: &Waker,
    status: &EventStreamHandle,
    with_networks: bool,
    backoff: &mut Backoff,
) -> Result<(), Error> {
    let docker = engine.client().await?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let connected_at = i64::try_from(now.as_nanos()).unwrap_or(i64::MAX);
    let since = now.as_secs().saturating_sub(1);
    let mut types = vec!["container"];
    let mut actions = CONTAINER_EVENTS.to_vec();
    if with_networks {
        types.push("network");
        actions.extend(NETWORK_EVENTS);
    }
    let filters = HashMap::from([("type", types), ("event", actions)]);
    let options = EventsOptionsBuilder::default()
        .since(&since.to_string())
        .filters(&filters)
        .build();
    let mut events = docker.events(Some(options));
    info!(endpoint = engine.endpoint, api = %docker.client_version(), "following Docker's events");
    status.update(|status| {
        status.connected = true;
        status.connections += 1;
    });
    stale.mark_all();
    waker.wake("connected to Docker");
    while let Some(event) = events.next().await {
        let event = event.map_err(Error::DockerEvents)?;
        backoff.reset();
        status.update(|status| status.events += 1);
        if let Some((id, happened, reason)) = subject(event, connected_at) {
            stale.mark(id, happened);
            waker.wake(reason);
        }
    }
    Ok(())
}

/// The container an event is about, what it says of it, and the event in words.
///
/// An event from before `connected_at` (nanoseconds since 1970) is a repetition: it says that something happened, but
/// not how things are now.
fn subject(event: EventMessage, connected_at: i64) -> Option<(ContainerId, Happened, String)> {
    let actor = event.actor?;
    let attributes = actor.attributes.unwrap_or_default();
    let action = event.action.unwrap_or_default();
    // A network event names the network as its actor and the container in an attribute.
    let id = match attributes.get("container") {
        Some(container) => container.clone(),
        None => actor.id?,
    };
    let id = ContainerId(id);
    let name = attributes
        .get("name")
        .filter(|_| !attributes.contains_key("container"));
    let reason = format!(
        "container {} {action}",
        name.map_or_else(|| id.short(), String::as_str)
    );
    let is_news = event.time_nano.is_some_and(|time| time >= connected_at);
    let ended = is_news && matches!(action.as_str(), "die" | "destroy");
    let happened = if ended { Happened::Ended } else { Happened::Changed };
    Some((id, happened, reason))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_are_bounded_by_falling_back_to_everything() {
        let mark = StaleMark::new();
        assert_eq!(mark.take(), Stale::All);
        let web = ContainerId("web".to_owned());
        mark.mark(web.clone(), Happened::Ended);
        mark.mark(web.clone(), Happened::Changed);
        mark.mark_if_unmarked(web.clone());
        assert_eq!(
            mark.take(),
            Stale::Containers(BTreeMap::from([(web.clone(), Happened::Changed)]))
        );
        assert_eq!(mark.take(), Stale::Containers(BTreeMap::new()));

        // What could not be read is marked again, but an end that was heard of meanwhile is not forgotten.
        mark.mark(web.clone(), Happened::Ended);
        mark.mark_if_unmarked(web.clone());
        assert_eq!(
            mark.take(),
            Stale::Containers(BTreeMap::from([(web, Happened::Ended)]))
        );
        for n in 0..=MARKED_MAX {
            mark.mark(ContainerId(n.to_string()), Happened::Changed);
        }
        assert_eq!(mark.take(), Stale::All);
    }

    #[test]
    fn an_event_names_its_container() {
        let event = |json| {
            let (id, happened, reason) = subject(serde_json::from_value(json).unwrap(), 100)?;
            Some((id.0, happened, reason))
        };
        let of_container = |action: &str, time: i64| {
            event(
                serde_json::json!({"Type": "container", "Action": action, "timeNano": time,
                "Actor": {"ID": "f00dfeedf00dfeed", "Attributes": {"name": "web", "image": "nginx"}}}),
            )
        };
        let expected =
            |happened, reason: &str| Some(("f00dfeedf00dfeed".to_owned(), happened, reason.to_owned()));
        assert_eq!(
            of_container("start", 100),
            expected(Happened::Changed, "container web start")
        );
        assert_eq!(
            of_container("die", 100),
            expected(Happened::Ended, "container web die")
        );
        // Told again from before the connection: it may have been started since.
        assert_eq!(
            of_container("die", 99),
            expected(Happened::Changed, "container web die")
        );
        assert_eq!(
            event(serde_json::json!({"Type": "network", "Action": "connect",
                "Actor": {"ID": "net", "Attributes": {"name": "bridge", "container": "f00dfeedf00dfeed"}}})),
            expected(Happened::Changed, "container f00dfeedf00d connect")
        );
        assert_eq!(
            event(serde_json::json!({"Type": "container", "Action": "start"})),
            None
        );
    }

    #[test]
    fn an_endpoint_that_is_not_understood_is_refused_with_the_mend() {
        let error = Engine::new(Some("ftp://nowhere")).unwrap_err().to_string();
        assert!(
            error.contains("ftp://nowhere") && error.contains("unix:///var/run/docker.sock"),
            "{error}"
        );
        for bad in ["", "tcp://", "unix://", "/var/run/docker.sock"] {
            assert!(Engine::new(Some(bad)).is_err(), "{bad}");
        }
        assert!(Engine::new(Some("unix:///not/there/yet.sock")).is_ok());
    }
}
