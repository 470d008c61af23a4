//! [`Watch`]: the blocking query as an endless stream of values and outages.
//!
//! The rules are those of the page "Blocking Queries" of Consul's HTTP API documentation (reset the index when it goes
//! backwards, treat 0 as 1, rate-limit), with one more that the page does not say and that other programs paid for: an
//! error is never an empty value. See [`Watch`].

use std::collections::BTreeMap;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use futures_util::Stream;
use tokio::time::Instant;

use crate::catalog::NodeServices;
use crate::error::Error;
use crate::health::{Node, ServiceEntry};
use crate::kv::KvPair;
use crate::query::{Consistency, QueryMeta, QueryOptions, Response, clamp_wait};
use crate::transport::Client;

/// The pause after the first failed attempt. It doubles with each further one.
const BACKOFF_FIRST: Duration = Duration::from_millis(50);

/// How a watch asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WatchOptions {
    /// How long the server may hold each query back, 1 ms to 10 min. Default 5 min. A frozen server (stopped, not gone)
    /// is found only when wait, a sixteenth of it and [`Config::timeout`](crate::Config::timeout) are over, so a
    /// shorter wait finds it sooner at the cost of more idle queries. A peer that is gone is found by TCP in 30 s.
    pub wait: Duration,
    /// Which servers may answer. With [`Consistency::Default`] the queries that do not block are consistent ones; see
    /// [`Watch`].
    pub consistency: Consistency,
    /// The least time from one answer to the next query. Default 10 ms: it bounds a watch of something that changes all
    /// the time to 100 answers a second. It delays no first change, since the query is already waiting
    /// when that comes; later changes of a burst are seen together, 10 ms later at most.
    pub min_gap: Duration,
    /// The longest pause between two attempts while Consul fails. Default 5 s: a pause begins at 50 ms and doubles; the
    /// time really waited is between half of it and all, at random, so that not all watches of a cluster come
    /// back at once.
    pub backoff_max: Duration,
    /// The datacenter to watch instead of the client's.
    pub datacenter: Option<String>,
    /// A filter expression, evaluated by the server. Consul wakes the query for changes it filters out, too.
    pub filter: Option<String>,
}

impl Default for WatchOptions {
    fn default() -> WatchOptions {
        WatchOptions {
            wait: Duration::from_secs(300),
            consistency: Consistency::Default,
            min_gap: Duration::from_millis(10),
            backoff_max: Duration::from_secs(5),
            datacenter: None,
            filter: None,
        }
    }
}

/// What a watch has to say.
#[derive(Debug)]
pub enum WatchEvent<T> {
    /// The whole current value.
    Value(Snapshot<T>),
    /// An attempt failed; the last value is as good as it gets. Comes once per failed attempt.
    Unavailable {
        /// Why.
        error: Error,
        /// How many attempts have failed in a row, this one included.
        attempts: u32,
    },
}

/// A value and how it relates to the one before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot<T> {
    /// The value.
    pub value: T,
    /// Its index, at least 1.
    pub index: u64,
    /// How it relates to the last value.
    pub continuity: Continuity,
    /// How long ago the server that answered last heard from the leader.
    pub last_contact: Option<Duration>,
    /// Whether the token's rights hid something; see [`QueryMeta::filtered_by_acls`].
    pub filtered_by_acls: bool,
}

/// How a value relates to the one before.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Continuity {
    /// The first of this watch.
    First,
    /// Newer than the last, without an outage between.
    Continued,
    /// The first after an outage. Comes even when nothing has changed, to say that the outage is over.
    Resumed,
    /// The index went backwards, with or without an outage: the servers' data may have been replaced (restored from a
    /// snapshot, or a new cluster), or, with [`Consistency::Stale`], a server that has just started answers from a log
    /// it is still replaying. So what comes with `Reset`, and with `Continued` soon after it, may be old, incomplete
    /// or empty: keep what was known until it has stood for a while.
    Reset,
}

type Query<T> = Pin<Box<dyn Future<Output = Result<Response<T>, Error>> + Send>>;

/// A blocking query repeated for ever.
///
/// - The first query, and the first after an outage or a reset, does not block: it answers at once. Unless stale answers
///   are wanted it is a consistent one, because a restarted server may lead before it has replayed its log. Measured
///   on a single Consul 1.8.7 with default consistency: index 1561 before, after the outage 58 with one of four
///   instances, 13 ms later 1060 with three, and another 12 ms later all of them.
/// - An answer with the index of the last value is not yielded: nothing has changed. When such answers come before the
///   wait is over, time after time, they are slowed down like failures.
/// - Whatever is not an answer with an index from a server that knows a leader is [`WatchEvent::Unavailable`]:
///   refused, reset or frozen connections, statuses other than 2xx (`500 No cluster leader`, 429, 403), truncated or
///   foreign JSON, `X-Consul-KnownLeader: false`, no `X-Consul-Index`.
/// - The same change may come as two values, and changes in quick succession as one: a value is a state, not a
///   change.
pub struct Watch<T> {
    options: WatchOptions,
    ask: Box<dyn Fn(QueryOptions) -> Query<T> + Send + Sync>,
    /// The query under way. It outlives a cancelled `next`.
    in_flight: Option<InFlight<T>>,
    state: State,
}

struct InFlight<T> {
    query: Query<T>,
    blocking: bool,
    since: Instant,
}

/// What has been seen so far. Changes only in [`State::succeeded`] and [`State::failed`], which do not await.
#[derive(Debug)]
struct State {
    /// The index of the last value yielded.
    last: Option<u64>,
    /// The index to block on; `None` asks without blocking.
    index: Option<u64>,
    /// Failed attempts in a row.
    failures: u32,
    /// Answers in a row that came too early without anything new, or with an index that went backwards.
    hurried: u32,
    /// When the next query may be sent.
    not_before: Instant,
}

/// What an answer means.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    Yield(Continuity),
    Unchanged,
}

impl State {
    fn new(now: Instant) -> State {
        State {
            last: None,
            index: None,
            failures: 0,
            hurried: 0,
            not_before: now,
        }
    }

    /// Takes note of an answer with this index. `early`: it was to block and came before half of its wait was over.
    fn succeeded(&mut self, index: u64, early: bool, now: Instant, options: &WatchOptions) -> Verdict {
        let verdict = match self.last {
            None => Verdict::Yield(Continuity::First),
            Some(last) if index < last => Verdict::Yield(Continuity::Reset),
            Some(_) if self.failures > 0 => Verdict::Yield(Continuity::Resumed),
            Some(last) if index == last => Verdict::Unchanged,
            Some(_) => Verdict::Yield(Continuity::Continued),
        };
        let reset = verdict == Verdict::Yield(Continuity::Reset);
        if reset || (verdict == Verdict::Unchanged && early) {
            self.hurried = self.hurried.saturating_add(1);
        } else if verdict != Verdict::Unchanged || self.index.is_some() {
            // The unblocked query after a reset proves nothing about the server's pace, so it does not count.
            self.hurried = 0;
        }
        // The first one is for free: an agent that shuts down in good order answers its waiting queries early.
        let pause = match self.hurried {
            0 | 1 => options.min_gap,
            more => backoff(more - 1, options.backoff_max).max(options.min_gap),
        };
        self.not_before = now + pause;
        self.index = if reset { None } else { Some(index) };
        self.last = Some(index);
        self.failures = 0;
        verdict
    }

    /// Takes note of a failed attempt and says how many there were in a row.
    fn failed(&mut self, now: Instant, options: &WatchOptions) -> u32 {
        self.failures = self.failures.saturating_add(1);
        self.index = None;
        self.not_before = now + backoff(self.failures, options.backoff_max).max(options.min_gap);
        self.failures
    }
}

/// The pause after this many failures (1 and up): 50 ms, doubled each time, at most `max`; of that half to all, at
/// random.
fn backoff(failures: u32, max: Duration) -> Duration {
    let doublings = failures.saturating_sub(1).min(20);
    let pause = BACKOFF_FIRST.saturating_mul(1 << doublings).min(max);
    pause.mul_f64(0.5 + 0.5 * fastrand::f64())
}

impl<T: Send + 'static> Watch<T> {
    /// Watches whatever `query` asks for. It is called with the client and the options of one query, which it must pass
    /// on: index, wait and consistency are the watch's. Every call must end by itself, as those of [`Client`] do: the
    /// watch sets no deadline of its own.
    pub fn new<F, Fut>(client: Client, options: WatchOptions, query: F) -> Watch<T>
    where
        F: Fn(Client, QueryOptions) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<Response<T>, Error>> + Send + 'static,
    {
        Watch {
            options,
            ask: Box::new(move |options| Box::pin(query(client.clone(), options))),
            in_flight: None,
            state: State::new(Instant::now()),
        }
    }

    /// The next value or outage. Never ends, and waits as long as nothing happens.
    ///
    /// Cancel safe: nothing is noted before an answer is complete, what is noted is returned without another await, and
    /// a query under way is kept in the watch. Dropping the future and calling again goes on with the same query, so
    /// it may stand in a `select!` beside a ticker. A query is only driven while `next` is polled, though: its deadline
    /// is not noticed meanwhile.
    pub async fn next(&mut self) -> WatchEvent<T> {
        loop {
            if self.in_flight.is_none() {
                tokio::time::sleep_until(self.state.not_before).await;
            }
            let flight = self.in_flight.get_or_insert_with(|| {
                let options = QueryOptions {
                    index: self.state.index,
                    wait: Some(self.options.wait),
                    // A server that has just started, and leads, answers from the log it is still replaying;
                    // a consistent query waits until it has. One that blocks on what was seen needs no such care.
                    consistency: match (self.state.index, self.options.consistency) {
                        (None, Consistency::Default) => Consistency::Consistent,
                        (_, consistency) => consistency,
                    },
                    filter: self.options.filter.clone(),
                    near: None,
                    datacenter: self.options.datacenter.clone(),
                };
                InFlight {
                    query: (self.ask)(options),
                    blocking: self.state.index.is_some(),
                    since: Instant::now(),
                }
            });
            // The last await: from here on the event is returned or the loop begins anew with consistent state.
            let result = flight.query.as_mut().await;
            let early = flight.blocking && flight.since.elapsed() < clamp_wait(self.options.wait) / 2;
            self.in_flight = None;
            match result.and_then(trusted) {
                Ok(Response { value, meta }) => {
                    match self
                        .state
                        .succeeded(meta.index, early, Instant::now(), &self.options)
                    {
                        Verdict::Unchanged => {}
                        Verdict::Yield(continuity) => {
                            return WatchEvent::Value(Snapshot {
                                value,
                                index: meta.index,
                                continuity,
                                last_contact: meta.last_contact,
                                filtered_by_acls: meta.filtered_by_acls,
                            });
                        }
                    }
                }
                Err(error) => {
                    let attempts = self.state.failed(Instant::now(), &self.options);
                    return WatchEvent::Unavailable { error, attempts };
                }
            }
        }
    }

    /// The same as an endless stream.
    pub fn into_stream(self) -> impl Stream<Item = WatchEvent<T>> + Send {
        futures_util::stream::unfold(self, |mut watch| async move { Some((watch.next().await, watch)) })
    }
}

/// Refuses answers that say themselves that they are not to be relied on.
fn trusted<T>(response: Response<T>) -> Result<Response<T>, Error> {
    match response.meta {
        QueryMeta {
            known_leader: Some(false),
            ..
        } => Err(Error::NoLeader),
        QueryMeta { index: 0, .. } => Err(Error::MissingHeader {
            operation: "watch".to_owned(),
            header: "X-Consul-Index",
        }),
        _ => Ok(response),
    }
}

impl<T> fmt::Debug for Watch<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watch")
            .field("options", &self.options)
            .field("state", &self.state)
            .finish_non_exhaustive()
    }
}

impl Client {
    /// Watches the names and tags of all services; see [`Client::catalog_services`] for what wakes it.
    #[must_use]
    pub fn watch_catalog_services(&self, options: WatchOptions) -> Watch<BTreeMap<String, Vec<String>>> {
        Watch::new(self.clone(), options, |client, query| async move {
            client.catalog_services(&query).await
        })
    }

    /// Watches the instances of a service and their health.
    #[must_use]
    pub fn watch_health_service(&self, name: &str, options: WatchOptions) -> Watch<Vec<ServiceEntry>> {
        let name = name.to_owned();
        Watch::new(self.clone(), options, move |client, query| {
            let name = name.clone();
            async move { client.health_service(&name, &query).await }
        })
    }

    /// Watches the nodes of the datacenter.
    #[must_use]
    pub fn watch_catalog_nodes(&self, options: WatchOptions) -> Watch<Vec<Node>> {
        Watch::new(self.clone(), options, |client, query| async move {
            client.catalog_nodes(&query).await
        })
    }

    /// Watches a node and its services; `None` while the catalog has no such node.
    ///
    /// Consul 1.8.7 does not wake the query when the node itself is removed, and answers with index 1 from then on
    /// (measured): the removal is seen when the wait is over, as [`Continuity::Reset`]. Watch the nodes
    /// ([`Client::watch_catalog_nodes`]) to learn of it at once.
    #[must_use]
    pub fn watch_node_services(&self, node: &str, options: WatchOptions) -> Watch<Option<NodeServices>> {
        let node = node.to_owned();
        Watch::new(self.clone(), options, move |client, query| {
            let node = node.clone();
            async move { client.catalog_node_services(&node, &query).await }
        })
    }

    /// Watches all keys that begin with `prefix`.
    #[must_use]
    pub fn watch_kv_prefix(&self, prefix: &str, options: WatchOptions) -> Watch<Vec<KvPair>> {
        let prefix = prefix.to_owned();
        Watch::new(self.clone(), options, move |client, query| {
            let prefix = prefix.clone();
            async move { client.kv_list(&prefix, &query).await }
        })
    }
}

#[cfg(test)]
mod tests;
