//! [`Watch`]: all keys under a prefix and their changes, without end.
//!
//! A watch of etcd's own ends with its connection, says nothing when its member is frozen, goes on telling old news when
//! its member is cut off from the others, and waits in silence for a revision that a wiped store will not
//! reach for long. [`Watch`] knows all that.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use etcd_client::{Error as ClientError, GetOptions, WatchOptions, WatchResponse, WatchStream};
use tokio::time::{Instant, sleep_until};

use crate::backoff::backoff;
use crate::client::{Client, RequestError};
use crate::endpoint::{Connection, Member};
use crate::error::{AttemptError, CallError, Error};
use crate::failure::{Failure, classify, classify_cancel};
use crate::kv::{KeyValue, Listing, Store, entry, prefix_range};

/// How long a member may be silent before it is asked for a sign of life.
const SILENCE: Duration = Duration::from_secs(2);

/// How long that sign may take at least.
const SIGN_MIN: Duration = Duration::from_millis(500);

/// A connection that was good for this long is replaced at once and without a word; a shorter one counts as a failure.
const STEADY: Duration = Duration::from_secs(1);

/// The pause after the first failed attempt. It doubles with each further one.
const PAUSE_FIRST: Duration = Duration::from_millis(50);

/// The longest pause.
const PAUSE_MAX: Duration = Duration::from_secs(2);

/// What a watch has to say.
#[derive(Debug)]
pub enum WatchEvent {
    /// Everything as it is: first of all, and again when what happened since the last event cannot be told (compacted
    /// history, an etcd that was wiped or restored).
    Snapshot(Listing),
    /// What has happened since the last event, in order, each change once. The changes of one transaction are not torn
    /// apart.
    Changes(Vec<Change>),
    /// An attempt failed; what is known is as good as it gets. Comes once per failed attempt.
    Unavailable {
        /// Why.
        error: Error,
        /// How many attempts have failed in a row, this one included.
        attempts: u32,
    },
    /// The outage that [`WatchEvent::Unavailable`] told of is over, and nothing was missed: the next event goes on
    /// where the last ended. When something may have been missed a [`WatchEvent::Snapshot`] comes instead.
    Resumed,
}

/// One change of one key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// It was written.
    Put(KeyValue),
    /// It was deleted, or its lease ended.
    Deleted {
        /// The key.
        key: String,
        /// The revision that deleted it.
        revision: i64,
    },
}

impl Change {
    /// The key that was changed.
    #[must_use]
    pub fn key(&self) -> &str {
        match self {
            Change::Put(entry) => &entry.key,
            Change::Deleted { key, .. } => key,
        }
    }

    /// The store's revision that the change made.
    #[must_use]
    pub fn revision(&self) -> i64 {
        match self {
            Change::Put(entry) => entry.mod_revision,
            Change::Deleted { revision, .. } => *revision,
        }
    }
}

/// Watches all keys that begin with a prefix, for ever.
///
/// - Lists, then watches from the next revision on: nothing is missed between the two.
/// - A member that ends the connection, has lost its leader or does not give a sign of life (after 2 s of silence, and the
///   attempt's deadline on top) is left for another, and the watch goes on there after the last change. Of that
///   nothing is seen unless it fails.
/// - Before it goes on it makes sure that it is still the same store: the cluster's ID, a revision no older than the one
///   seen last, and the last seen key as it was.
/// - The pause between failed attempts begins at 50 ms and doubles up to 2 s; of that half to all, at random.
/// - Changes of keys that are not UTF-8 are left out.
///
/// Nothing happens unless [`Watch::next`] is polled; who polls late gets late, but all of it, unless etcd compacts its
/// history meanwhile.
pub struct Watch {
    client: Client,
    prefix: String,
    phase: Phase,
    /// What was seen last; `None` begins anew with a snapshot.
    seen: Option<Seen>,
    /// Failed attempts in a row.
    failures: u32,
    /// Whether an outage was told of whose end was not.
    outage: bool,
}

/// How far a watch has come.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Seen {
    cluster_id: u64,
    /// Everything up to this revision has been told.
    revision: i64,
    /// The revision of the last sign of life. It is as good as `revision` when the next one comes: some versions of etcd
    /// (before 3.5.8 and 3.4.25) tell it a moment before the changes that it includes.
    progress: i64,
    /// A key and the revision at which it was last written, to know the store by: the last one seen. `None` for the
    /// revision: deleted.
    anchor: (String, Option<i64>),
}

enum Phase {
    /// Waits until then before the next attempt.
    Pausing(Instant),
    /// The attempt under way. It outlives a cancelled `next`.
    Opening(Pin<Box<dyn Future<Output = Result<Opened, CallError>> + Send>>),
    Open(Box<Open>),
}

/// What an attempt has brought.
struct Opened {
    /// The listing that the stream goes on from, and its cluster, if the watch begins anew.
    snapshot: Option<(Listing, Store)>,
    /// `None`: the history is gone or the store is another; to be begun anew.
    open: Option<Open>,
}

/// A stream of changes.
struct Open {
    stream: WatchStream,
    member: Arc<Member>,
    connection: Arc<Connection>,
    since: Instant,
    /// When it last said something.
    heard: Instant,
    /// When a sign of life was asked for, and how often since it was last heard.
    asked: Option<(Instant, u32)>,
}

/// What a message means.
#[derive(Debug)]
enum Heard {
    Nothing,
    Changes(Vec<Change>),
    /// The stream has ended for this reason.
    Ended(Failure),
    /// What comes next does not follow from what was seen.
    Gap,
}

impl Client {
    /// Watches all keys that begin with `prefix`.
    #[must_use]
    pub fn watch(&self, prefix: &str) -> Watch {
        Watch {
            client: self.clone(),
            prefix: prefix.to_owned(),
            phase: Phase::Pausing(Instant::now()),
            seen: None,
            failures: 0,
            outage: false,
        }
    }
}

impl Watch {
    /// The next event. Never ends, and waits as long as nothing happens.
    ///
    /// Cancel safe: an attempt under way is kept in the watch, and what is noted is returned without another await. So it may
    /// stand in a `select!` beside a ticker.
    pub async fn next(&mut self) -> WatchEvent {
        loop {
            let event = match &mut self.phase {
                Phase::Pausing(until) => {
                    sleep_until(*until).await;
                    self.phase = Phase::Opening(Box::pin(attempt(
                        self.client.clone(),
                        self.prefix.clone(),
                        self.seen.clone(),
                    )));
                    None
                }
                Phase::Opening(attempt) => {
                    let result = attempt.await;
                    self.opened(result)
                }
                Phase::Open(open) => {
                    let heard = open.hear(self.client.attempt_timeout(), self.seen.as_mut()).await;
                    self.heard(heard)
                }
            };
            if let Some(event) = event {
                return event;
            }
        }
    }

    /// The store's revision up to which everything was told; `None` before the first snapshot, or when another is to come.
    #[must_use]
    pub fn revision(&self) -> Option<i64> {
        self.seen.as_ref().map(|seen| seen.revision)
    }

    fn opened(&mut self, result: Result<Opened, CallError>) -> Option<WatchEvent> {
        let Opened { snapshot, open } = match result {
            Ok(opened) => opened,
            Err(error) => return Some(self.failed(error)),
        };
        match open {
            Some(open) => self.phase = Phase::Open(Box::new(open)),
            None if snapshot.is_some() => {
                let problem =
                    "the history after the listing was compacted at once, or the store is another".to_owned();
                return Some(self.failed(CallError::Refused {
                    endpoint: self.client.current_endpoint(),
                    code: "OutOfRange".to_owned(),
                    message: problem,
                }));
            }
            None => {
                self.seen = None;
                self.phase = Phase::Pausing(Instant::now());
                return None;
            }
        }
        let outage = std::mem::take(&mut self.outage);
        match snapshot {
            Some((listing, store)) => {
                self.seen = Some(Seen::of(&self.prefix, &listing, store));
                Some(WatchEvent::Snapshot(listing))
            }
            None => outage.then_some(WatchEvent::Resumed),
        }
    }

    fn heard(&mut self, heard: Heard) -> Option<WatchEvent> {
        let Phase::Open(open) = &self.phase else {
            return None;
        };
        let steady = open.since.elapsed() >= STEADY;
        match heard {
            Heard::Nothing => {
                if steady {
                    self.failures = 0;
                }
                None
            }
            Heard::Changes(changes) => {
                self.failures = 0;
                Some(WatchEvent::Changes(changes))
            }
            Heard::Gap => {
                self.begin_anew(steady);
                None
            }
            Heard::Ended(failure) => {
                let url = open.member.url().to_owned();
                open.member.failed(Some(&open.connection));
                match failure {
                    // What a new connection mends: another member, or a new log-in.
                    Failure::Retry { .. } | Failure::Login(_) if steady => {
                        self.failures = 0;
                        self.phase = Phase::Pausing(Instant::now());
                        None
                    }
                    Failure::Retry { problem, .. } | Failure::Login(problem) => {
                        let after = open.since.elapsed();
                        let attempts = vec![AttemptError {
                            endpoint: url,
                            problem,
                        }];
                        Some(self.failed(CallError::Unavailable {
                            after,
                            attempts,
                            ambiguous: false,
                        }))
                    }
                    // An answer that is too large to be read: the listing comes in pages.
                    Failure::Final(CallError::TooLarge { .. }) => {
                        self.begin_anew(steady);
                        None
                    }
                    Failure::Final(error) => Some(self.failed(error)),
                }
            }
        }
    }

    /// The next attempt begins with a snapshot.
    fn begin_anew(&mut self, steady: bool) {
        let pause = if steady {
            Duration::ZERO
        } else {
            backoff(4, PAUSE_FIRST, PAUSE_MAX)
        };
        self.seen = None;
        self.phase = Phase::Pausing(Instant::now() + pause);
    }

    fn failed(&mut self, error: CallError) -> WatchEvent {
        self.failures = self.failures.saturating_add(1);
        self.outage = true;
        self.phase = Phase::Pausing(Instant::now() + backoff(self.failures, PAUSE_FIRST, PAUSE_MAX));
        WatchEvent::Unavailable {
            error: Error::Watch {
                prefix: self.prefix.clone(),
                source: error,
            },
            attempts: self.failures,
        }
    }
}

impl fmt::Debug for Watch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watch")
            .field("prefix", &self.prefix)
            .field("seen", &self.seen)
            .field("failures", &self.failures)
            .finish_non_exhaustive()
    }
}

impl Seen {
    fn of(prefix: &str, listing: &Listing, store: Store) -> Seen {
        let newest = listing.entries.iter().max_by_key(|entry| entry.mod_revision);
        let anchor = match newest {
            Some(entry) => (entry.key.clone(), Some(entry.mod_revision)),
            // Not listed, so it does not exist. A key cannot be empty.
            None => (if prefix.is_empty() { "\0" } else { prefix }.to_owned(), None),
        };
        Seen {
            cluster_id: store.cluster_id,
            revision: listing.revision,
            progress: listing.revision,
            anchor,
        }
    }

    /// Whether an answer is from the store that was seen.
    fn is_of(&self, store: Store) -> bool {
        self.cluster_id == store.cluster_id && self.revision <= store.revision
    }

    /// Takes note of a message of the stream.
    fn hear(&mut self, message: &WatchResponse) -> Heard {
        let store = Store::of(message.header());
        if store.cluster_id != self.cluster_id {
            return Heard::Gap;
        }
        let mut changes = Vec::new();
        let mut revision = self.revision;
        for kv in message.events().iter().filter_map(|event| event.kv()) {
            // Told before: a stream begins with whole revisions.
            if kv.mod_revision() <= self.revision {
                continue;
            }
            revision = revision.max(kv.mod_revision());
            let Ok(entry) = entry(kv.clone()) else {
                continue;
            };
            // A deletion leaves a version of 0 (etcd's `mvccpb.KeyValue`).
            if kv.version() == 0 {
                self.anchor = (entry.key.clone(), None);
                changes.push(Change::Deleted {
                    key: entry.key,
                    revision: entry.mod_revision,
                });
            } else {
                self.anchor = (entry.key.clone(), Some(entry.mod_revision));
                changes.push(Change::Put(entry));
            }
        }
        self.revision = revision;
        if message.events().is_empty() && !message.created() {
            self.revision = self.revision.max(self.progress.min(store.revision));
            self.progress = store.revision;
        }
        if changes.is_empty() {
            Heard::Nothing
        } else {
            Heard::Changes(changes)
        }
    }
}

impl Open {
    fn new(stream: WatchStream, member: Arc<Member>, connection: Arc<Connection>) -> Open {
        let now = Instant::now();
        Open {
            stream,
            member,
            connection,
            since: now,
            heard: now,
            asked: None,
        }
    }

    /// Waits for a message, or for a sign of life that does not come. Cancel safe: `message` is, and so is all else.
    async fn hear(&mut self, patience: Duration, seen: Option<&mut Seen>) -> Heard {
        let Some(seen) = seen else {
            return Heard::Gap;
        };
        let patience = patience.max(SIGN_MIN);
        let wake = match self.asked {
            None => self.heard + SILENCE,
            Some((asked, times)) => asked + patience * times / 2,
        };
        let message = tokio::select! {
            // A message that is there counts, however late it is looked at.
            biased;
            message = self.stream.message() => message,
            () = sleep_until(wake) => return self.ask().await,
        };
        self.heard = Instant::now();
        self.asked = None;
        match message {
            Ok(Some(message)) if message.compact_revision() > 0 => Heard::Gap,
            Ok(Some(message)) if message.canceled() => {
                Heard::Ended(classify_cancel(self.member.url(), message.cancel_reason()))
            }
            Ok(Some(message)) => seen.hear(&message),
            Ok(None) => Heard::Ended(lost("the stream has ended")),
            Err(error) => Heard::Ended(classify(self.member.url(), &error)),
        }
    }

    /// Asks for a sign of life: twice, since a member that is catching up does not answer at once; then gives up.
    async fn ask(&mut self) -> Heard {
        let (asked, times) = self.asked.unwrap_or((Instant::now(), 0));
        if times == 2 {
            return Heard::Ended(lost(&format!("no sign of life in {:?}", self.heard.elapsed())));
        }
        self.asked = Some((asked, times + 1));
        // Waits for nothing: there is room for more requests than are ever sent.
        match self.stream.request_progress().await {
            Ok(()) => Heard::Nothing,
            Err(error) => Heard::Ended(classify(self.member.url(), &error)),
        }
    }
}

fn lost(problem: &str) -> Failure {
    Failure::Retry {
        problem: problem.to_owned(),
        ambiguous: false,
        disconnect: true,
    }
}

/// Lists, or makes sure that it can go on, and opens a stream.
async fn attempt(client: Client, prefix: String, seen: Option<Seen>) -> Result<Opened, CallError> {
    let (snapshot, cluster_id, from) = match &seen {
        Some(seen) => (None, seen.cluster_id, seen.revision + 1),
        None => {
            let (listing, store) = client.list_store(&prefix).await?;
            let from = listing.revision + 1;
            (Some((listing, store)), store.cluster_id, from)
        }
    };
    let (prefix, seen) = (&prefix, &seen);
    let answer = client
        .begin()
        .run_with(|member, connection| async move {
            if let Some(seen) = seen
                && !is_same_store(&connection, seen).await?
            {
                return Ok(None);
            }
            let (first, end) = prefix_range(prefix);
            let options = WatchOptions::new().with_range(end).with_start_revision(from);
            let mut stream = connection.watch().watch(first, Some(options)).await?;
            let Some(created) = stream.message().await? else {
                return Err(RequestError::Failure(lost("the stream has ended")));
            };
            if created.compact_revision() > 0 || Store::of(created.header()).cluster_id != cluster_id {
                return Ok(None);
            }
            if created.canceled() {
                return Err(RequestError::Failure(classify_cancel(
                    member.url(),
                    created.cancel_reason(),
                )));
            }
            Ok(Some(stream))
        })
        .await?;
    Ok(Opened {
        open: answer
            .value
            .map(|stream| Open::new(stream, answer.member, answer.connection)),
        snapshot,
    })
}

/// Whether the store is the one that was seen, with its history: reads the last seen key as it was then.
///
/// A store that was wiped has a lower revision, but may have overtaken the one that was seen; its cluster's ID is the
/// same if it was started with the same arguments.
async fn is_same_store(connection: &Connection, seen: &Seen) -> Result<bool, ClientError> {
    let (key, written) = &seen.anchor;
    let options = GetOptions::new().with_revision(seen.revision);
    match connection.kv().get(key.as_str(), Some(options)).await {
        Ok(answer) => {
            let found = answer.kvs().first().map(etcd_client::KeyValue::mod_revision);
            Ok(seen.is_of(Store::of(answer.header())) && found == *written)
        }
        Err(ClientError::GRpcStatus(status))
            if status.message() == "etcdserver: mvcc: required revision has been compacted"
                || status.message() == "etcdserver: mvcc: required revision is a future revision" =>
        {
            Ok(false)
        }
        Err(error) => Err(error),
    }
}
