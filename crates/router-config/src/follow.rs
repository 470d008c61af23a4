//! Follows Consul's services for ever: one watch on the list, one on each service, answers into the [`Directory`].
//!
//! An agent serves at most 200 connections to one client (`http_max_conns_per_client`), so only so many services
//! have a watch. The rest is *swept*, asked for without blocking, whenever the list wakes (any change of any
//! instance wakes it) and now and then for changes of health. All of it is one task: nothing is detached, and
//! dropping it ends every query.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use consul::{Client, Continuity, QueryOptions, Response, ServiceEntry, Watch, WatchEvent, WatchOptions};
use contract::{CONSUL_SERVICE, ServiceName};
use daemon::{Waker, error_chain};
use futures_util::future::{AbortHandle, BoxFuture, abortable};
use futures_util::stream::{FuturesUnordered, StreamExt};
use futures_util::{FutureExt, stream};
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::directory::Directory;
use crate::last_good::Authority;

/// Services with a watch of their own: leaves room for others on the agent's 200 connections.
pub const WATCHES_MAX: usize = 120;

/// How often services without a watch are asked for even if the list did not wake.
const SWEEP_EVERY: Duration = Duration::from_secs(5);

/// Services that a sweep asks for at the same time.
const SWEEP_CONCURRENCY: usize = 8;

/// How long a query may hang: a frozen agent is noticed and reported after about this long.
const WAIT: Duration = Duration::from_secs(60);

type Answer = Result<Response<Vec<ServiceEntry>>, consul::Error>;
type Services = BTreeMap<String, Vec<String>>;

/// What one of the queries under way came back with.
enum Event {
    Listed(Box<Watch<Services>>, WatchEvent<Services>),
    Service(
        String,
        Box<Watch<Vec<ServiceEntry>>>,
        WatchEvent<Vec<ServiceEntry>>,
    ),
    Swept(Vec<(String, Answer)>),
    SweepDue,
    /// Something that is no longer wanted: the watch of a service that is gone, a sweep that came sooner.
    Dropped,
}

/// Follows until `shutdown`.
pub async fn follow_services(
    client: Client,
    directory: Directory,
    waker: Waker,
    shutdown: CancellationToken,
) {
    let mut follower = Follower::new(client, directory, waker);
    // Dropping the follower drops its queries; they only read.
    tokio::select! {
        () = shutdown.cancelled() => {}
        () = follower.run() => {}
    }
}

/// Asks once about every service, without watching: for a question that is answered and forgotten. What is missing is
/// held, as a process that starts holds it.
///
/// # Errors
/// When Consul does not answer one of the questions.
pub async fn read_once(client: &Client, directory: &Directory) -> Result<(), consul::Error> {
    let list = client.catalog_services(&QueryOptions::default()).await?;
    let names = routable(list.value);
    directory.apply_catalog(&names, list.meta.index, Authority::Doubtful, Instant::now());
    let mut answers = stream::iter(names)
        .map(|name| async move { (client.health_service(&name, &QueryOptions::default()).await, name) })
        .buffer_unordered(SWEEP_CONCURRENCY);
    while let Some((answer, name)) = answers.next().await {
        let Response { value, meta } = answer?;
        directory.apply_service(&name, value, meta.index, Authority::Doubtful, Instant::now());
    }
    Ok(())
}

/// The services to ask about. Consul's own is not for us, and is always there; and a name that nobody of ours can have may be
/// one that Consul cannot be asked about.
fn routable(services: Services) -> BTreeSet<String> {
    services
        .into_keys()
        .filter(|name| name != CONSUL_SERVICE && name.parse::<ServiceName>().is_ok())
        .collect()
}

struct Follower {
    client: Client,
    directory: Directory,
    waker: Waker,
    under_way: FuturesUnordered<BoxFuture<'static, Event>>,
    names: BTreeSet<String>,
    watched: BTreeMap<String, AbortHandle>,
    /// The index of each swept service's last answer; removed by an outage, after which the next answer is doubtful.
    swept: BTreeMap<String, u64>,
    sweep: Sweep,
}

/// The sweep over services without a watch.
enum Sweep {
    /// None is under way.
    Idle,
    /// The next one waits for its time, and can be replaced by one at once.
    Waiting(AbortHandle),
    /// One asks; `again` when the list woke meanwhile, since what was read may be old.
    Asking { again: bool },
}

impl Follower {
    fn new(client: Client, directory: Directory, waker: Waker) -> Self {
        let list = client.watch_catalog_services(options());
        let follower = Self {
            client,
            directory,
            waker,
            under_way: FuturesUnordered::new(),
            names: BTreeSet::new(),
            watched: BTreeMap::new(),
            swept: BTreeMap::new(),
            sweep: Sweep::Idle,
        };
        follower.await_list(Box::new(list));
        follower
    }

    async fn run(&mut self) {
        // The watch on the list is always under way, so the stream of events never ends.
        while let Some(event) = self.under_way.next().await {
            match event {
                Event::Listed(watch, event) => {
                    self.listed(event);
                    self.await_list(watch);
                }
                Event::Service(name, watch, event) => {
                    self.service(&name, event);
                    self.await_service(name, watch);
                }
                Event::Swept(answers) => self.swept(answers),
                Event::SweepDue => {
                    self.sweep = Sweep::Idle;
                    self.sweep();
                }
                Event::Dropped => {}
            }
        }
    }

    fn await_list(&self, mut watch: Box<Watch<Services>>) {
        self.under_way.push(
            async move {
                let event = watch.next().await;
                Event::Listed(watch, event)
            }
            .boxed(),
        );
    }

    fn await_service(&mut self, name: String, mut watch: Box<Watch<Vec<ServiceEntry>>>) {
        // The answer of a service that left the list in the meantime ends its watch.
        if !self.names.contains(&name) {
            self.watched.remove(&name);
            return;
        }
        let (next, handle) = abortable(async move {
            let event = watch.next().await;
            (watch, event)
        });
        self.watched.insert(name.clone(), handle);
        self.under_way.push(
            next.map(|outcome| match outcome {
                Ok((watch, event)) => Event::Service(name, watch, event),
                Err(_aborted) => Event::Dropped,
            })
            .boxed(),
        );
    }

    fn listed(&mut self, event: WatchEvent<Services>) {
        match event {
            WatchEvent::Unavailable { error, .. } => self.unavailable(None, &error),
            WatchEvent::Value(snapshot) => {
                self.names = routable(snapshot.value);
                if snapshot.continuity == Continuity::Resumed || snapshot.continuity == Continuity::Reset {
                    info!(index = snapshot.index, "Consul answers again");
                }
                let authority = authority(snapshot.continuity);
                if self
                    .directory
                    .apply_catalog(&self.names, snapshot.index, authority, Instant::now())
                {
                    self.waker.wake("a service left the catalog");
                } else if snapshot.continuity != Continuity::Continued {
                    self.waker.wake("Consul answered");
                }
                self.assign();
                self.sweep();
            }
        }
    }

    /// Gives a watch to services as long as there is room, and takes it from those that are gone.
    fn assign(&mut self) {
        self.watched.retain(|name, handle| {
            let wanted = self.names.contains(name);
            if !wanted {
                handle.abort();
            }
            wanted
        });
        let room = WATCHES_MAX.saturating_sub(self.watched.len());
        for name in self.unwatched().into_iter().take(room) {
            let watch = self.client.watch_health_service(&name, options());
            self.await_service(name, Box::new(watch));
        }
        self.swept
            .retain(|name, _| self.names.contains(name) && !self.watched.contains_key(name));
    }

    fn service(&mut self, name: &str, event: WatchEvent<Vec<ServiceEntry>>) {
        match event {
            WatchEvent::Unavailable { error, .. } => self.unavailable(Some(name), &error),
            WatchEvent::Value(snapshot) => {
                let authority = authority(snapshot.continuity);
                self.directory
                    .apply_service(name, snapshot.value, snapshot.index, authority, Instant::now());
                self.waker
                    .wake(format!("service {name} changed at index {}", snapshot.index));
            }
        }
    }

    fn unwatched(&self) -> Vec<String> {
        self.names
            .iter()
            .filter(|name| !self.watched.contains_key(*name))
            .cloned()
            .collect()
    }

    /// Sweeps now, or once more after the sweep that is asking already.
    fn sweep(&mut self) {
        match &mut self.sweep {
            Sweep::Asking { again } => {
                *again = true;
                return;
            }
            Sweep::Waiting(handle) => handle.abort(),
            Sweep::Idle => {}
        }
        self.sweep = Sweep::Idle;
        let names = self.unwatched();
        if names.is_empty() {
            return;
        }
        let client = self.client.clone();
        let ask = move |name: String| {
            let client = client.clone();
            async move {
                let answer = client.health_service(&name, &QueryOptions::default()).await;
                (name, answer)
            }
        };
        let answers = stream::iter(names)
            .map(ask)
            .buffer_unordered(SWEEP_CONCURRENCY)
            .collect();
        self.under_way.push(answers.map(Event::Swept).boxed());
        self.sweep = Sweep::Asking { again: false };
    }

    fn sweep_later(&mut self) {
        let (wait, handle) = abortable(sleep(SWEEP_EVERY));
        self.under_way.push(
            wait.map(|outcome| outcome.map_or(Event::Dropped, |()| Event::SweepDue))
                .boxed(),
        );
        self.sweep = Sweep::Waiting(handle);
    }

    fn swept(&mut self, answers: Vec<(String, Answer)>) {
        let mut changed = 0;
        for (name, answer) in answers {
            // It left the list, or got a watch, while this was asked: what is known since is newer.
            if !self.names.contains(&name) || self.watched.contains_key(&name) {
                continue;
            }
            match answer {
                Err(error) => {
                    self.swept.remove(&name);
                    self.unavailable(Some(&name), &error);
                }
                Ok(Response { value, meta }) => {
                    let before = self.swept.insert(name.clone(), meta.index);
                    if before == Some(meta.index) {
                        continue;
                    }
                    let continued = before.is_some_and(|before| before < meta.index);
                    let authority = if continued {
                        Authority::Continued
                    } else {
                        Authority::Doubtful
                    };
                    self.directory
                        .apply_service(&name, value, meta.index, authority, Instant::now());
                    changed += 1;
                }
            }
        }
        if changed > 0 {
            self.waker
                .wake(format!("{changed} services without a watch changed"));
        }
        let again = matches!(self.sweep, Sweep::Asking { again: true });
        self.sweep = Sweep::Idle;
        if again {
            self.sweep();
        } else if !self.unwatched().is_empty() {
            self.sweep_later();
        }
    }

    fn unavailable(&self, name: Option<&str>, error: &consul::Error) {
        let text = error_chain(error);
        // Once for each outage: each of the watches fails, and each again at every attempt.
        if self
            .directory
            .unavailable(name, text.clone(), error.is_transient())
        {
            warn!(
                error = text,
                "Consul does not answer; the last known instances stay in use"
            );
            // The first answers may be errors: what is known from before is routed then.
            self.waker.wake("Consul does not answer");
        }
    }
}

fn options() -> WatchOptions {
    WatchOptions {
        wait: WAIT,
        ..WatchOptions::default()
    }
}

fn authority(continuity: Continuity) -> Authority {
    match continuity {
        Continuity::Continued => Authority::Continued,
        Continuity::First | Continuity::Resumed | Continuity::Reset => Authority::Doubtful,
    }
}
