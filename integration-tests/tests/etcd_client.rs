//! `crates/etcd` against real etcd: what it says, and what is seen of it when members, or the ways to them, fail.
//!
//! The tests that only write keys of their own share one etcd; those that kill, freeze, wipe, fill or configure theirs have
//! it to themselves.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

use std::collections::BTreeMap;
use std::error::Error as _;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use etcd::{
    CallError, Cas, Change, Client, Config, Credentials, Error, KeyValue, LeaseKeeper, LeaseState, MAX_BATCH,
    MAX_REQUEST, Password, Record, Replaced, Replacement, TlsConfig, Update, Versioned, Watch, WatchEvent,
};
use futures_util::future::join_all;
use integration_tests::docker::unique;
use integration_tests::etcd::{
    Etcd, EtcdCluster, Mode, Proxy, client_beginning_with_first, client_of, until_answering,
};
use integration_tests::wait::{throughout, until};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::task::JoinSet;

/// Long enough for anything that is to happen, on a machine that does much else.
const SOON: Duration = Duration::from_secs(20);

/// An attempt's deadline that is over soon, for tests that wait for it to be over.
const SHORT: Duration = Duration::from_millis(400);

/// For clients whose calls are to fail soon, but not because the machine is busy.
fn hasty(config: &mut Config) {
    config.timeout = Duration::from_millis(500);
    config.attempt_timeout = Some(config.timeout);
}

/// Keys that mean something to a shell, a path, a range or a reader of JSON.
const HOSTILE: &[&str] = &[
    "with space",
    "//double//slash/",
    "..",
    "\0",
    "\u{10ffff}",
    "naïve-漢字-🦀",
    "quote\"'\\`$HOME`",
    "line\nbreak",
];

/// An etcd that all tests share which run at the same time. It is removed with the last of them.
struct Shared {
    etcd: Arc<Etcd>,
    /// Of this test alone: connections do not outlive the runtime they were made on.
    client: Client,
    /// What this test's keys begin with.
    prefix: String,
}

impl Shared {
    async fn etcd(name: &str) -> Shared {
        static ETCD: Mutex<Weak<Etcd>> = Mutex::new(Weak::new());
        static STARTING: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());
        let _one = STARTING.lock().await;
        let running = ETCD.lock().unwrap_or_else(PoisonError::into_inner).upgrade();
        let etcd = match running {
            Some(etcd) => etcd,
            None => {
                let etcd = Arc::new(Etcd::start().await);
                *ETCD.lock().unwrap_or_else(PoisonError::into_inner) = Arc::downgrade(&etcd);
                etcd
            }
        };
        Shared {
            client: etcd.client(),
            etcd,
            prefix: format!("/{}/", unique(name)),
        }
    }

    /// One that no other test uses.
    async fn alone(name: &str) -> Shared {
        let etcd = Arc::new(Etcd::start().await);
        Shared {
            client: etcd.client(),
            etcd,
            prefix: format!("/{name}/"),
        }
    }

    fn key(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }

    /// Forgets the history up to now.
    async fn compact(&self) {
        let mut revision = 0;
        for _ in 0..3 {
            revision = self.client.put("/compact", "", None).await.unwrap();
        }
        self.etcd.ctl(&["compact", &revision.to_string()]);
    }
}

/// An error and all that is below it, as a log line would have it.
fn chain(error: &Error) -> String {
    let mut text = error.to_string();
    let mut below = error.source();
    while let Some(cause) = below {
        text = format!("{text}: {cause}");
        below = cause.source();
    }
    text
}

fn done(cas: Cas) -> i64 {
    match cas {
        Cas::Done { revision } => revision,
        Cas::Conflict(now) => panic!("a conflict: {now:?}"),
    }
}

fn conflict(cas: Cas) -> Option<KeyValue> {
    match cas {
        Cas::Conflict(now) => now,
        Cas::Done { revision } => panic!("done at {revision}"),
    }
}

fn updated<T>(update: Update<T>) -> Versioned<T> {
    match update {
        Update::Done(now) => now,
        Update::Conflict(_) => panic!("a conflict"),
    }
}

async fn value(client: &Client, key: &str) -> Option<String> {
    let entry = client.get(key).await.unwrap()?;
    Some(String::from_utf8(entry.value).unwrap())
}

/// The next event, which must come soon.
async fn event(watch: &mut Watch) -> WatchEvent {
    tokio::time::timeout(SOON, watch.next()).await.expect("an event")
}

/// The keys and values of the snapshot that must come next.
async fn snapshot(watch: &mut Watch) -> BTreeMap<String, String> {
    match event(watch).await {
        WatchEvent::Snapshot(listing) => listing
            .entries
            .into_iter()
            .map(|entry| (entry.key, String::from_utf8(entry.value).unwrap()))
            .collect(),
        other => panic!("no snapshot: {other:?}"),
    }
}

/// The changes that must come next: key and value, no value for a deleted key.
async fn changes(watch: &mut Watch) -> Vec<(String, Option<String>)> {
    match event(watch).await {
        WatchEvent::Changes(changes) => changes.into_iter().map(plain).collect(),
        other => panic!("no changes: {other:?}"),
    }
}

fn plain(change: Change) -> (String, Option<String>) {
    match change {
        Change::Put(entry) => (entry.key, Some(String::from_utf8(entry.value).unwrap())),
        Change::Deleted { key, .. } => (key, None),
    }
}

fn put(key: &str, value: &str) -> (String, Option<String>) {
    (key.to_owned(), Some(value.to_owned()))
}

// --- Keys ---------------------------------------------------------------------------------------------------------------

#[tokio::test]
async fn keys_are_written_read_and_deleted_as_they_are() {
    let shared = Shared::etcd("keys").await;
    let client = &shared.client;
    for name in HOSTILE {
        let key = shared.key(name);
        assert_eq!(client.get(&key).await.unwrap(), None);
        let first = client.put(&key, "", None).await.unwrap();
        let second = client.put(&key, vec![0, 255, 10], None).await.unwrap();
        assert!(second > first, "{name:?}");
        let entry = client.get(&key).await.unwrap().expect("it was written");
        let expected = KeyValue {
            key: key.clone(),
            value: vec![0, 255, 10],
            create_revision: first,
            mod_revision: second,
            lease: None,
        };
        assert_eq!(entry, expected);
        client.delete(&key).await.unwrap();
        client.delete(&key).await.expect("what is gone can be deleted");
        assert_eq!(client.get(&key).await.unwrap(), None);
    }
}

#[tokio::test]
async fn a_listing_has_the_prefix_and_nothing_else_and_names_what_is_no_text() {
    let shared = Shared::etcd("list").await;
    let client = &shared.client;
    let empty = client.list(&shared.prefix).await.unwrap();
    assert!(empty.entries.is_empty() && empty.revision > 0);
    // What stands right before and right behind the prefix.
    let behind = format!("{}0", shared.prefix.trim_end_matches('/'));
    let before = format!("{}.", shared.prefix.trim_end_matches('/'));
    for key in [
        &behind,
        &before,
        &shared.key("b"),
        &shared.key("a"),
        &shared.prefix,
    ] {
        client.put(key, key.as_str(), None).await.unwrap();
    }
    // The least bytes that are no text.
    let put = format!("printf '{}\\377' | xargs -I@ etcdctl put @ v", shared.prefix);
    shared.etcd.sh(&put);
    let listing = client.list(&shared.prefix).await.unwrap();
    let keys: Vec<&str> = listing.entries.iter().map(|entry| entry.key.as_str()).collect();
    assert_eq!(keys, [&shared.prefix, &shared.key("a"), &shared.key("b")]);
    assert!(
        listing
            .entries
            .iter()
            .all(|entry| entry.value == entry.key.as_bytes())
    );
    assert_eq!(listing.rejected, [shared.key("\u{fffd}")]);
    let everything = client.list("").await.unwrap();
    assert!(everything.entries.iter().any(|entry| entry.key == behind));
}

#[tokio::test]
async fn a_long_listing_is_of_one_revision() {
    let shared = Shared::etcd("long").await;
    let client = &shared.client;
    let (first, last) = (shared.key("0"), shared.key("z"));
    client.put(&first, "0", None).await.unwrap();
    client.put(&last, "0", None).await.unwrap();
    let mut writing = JoinSet::new();
    for part in 0..4 {
        let (client, prefix) = (client.clone(), shared.prefix.clone());
        writing.spawn(async move {
            for number in 0..625 {
                client
                    .put(&format!("{prefix}k{part}-{number:04}"), "x", None)
                    .await
                    .unwrap();
            }
        });
    }
    writing.join_all().await;
    let pages = async {
        for _ in 0..5 {
            let listing = client.list(&shared.prefix).await.unwrap();
            assert_eq!(listing.entries.len(), 2502, "more than one page");
            let number = |entry: Option<&KeyValue>| -> i64 {
                String::from_utf8(entry.unwrap().value.clone())
                    .unwrap()
                    .parse()
                    .unwrap()
            };
            let (first, last) = (number(listing.entries.first()), number(listing.entries.last()));
            assert!((0..=1).contains(&(first - last)), "torn: {first} and {last}");
        }
    };
    let changing = async {
        for number in 1.. {
            client.put(&first, number.to_string(), None).await.unwrap();
            client.put(&last, number.to_string(), None).await.unwrap();
        }
    };
    tokio::select! {
        () = pages => {}
        () = changing => {}
    }
}

#[tokio::test]
async fn what_is_too_large_is_named_and_large_values_are_listed() {
    let shared = Shared::etcd("large").await;
    let client = client_of(&[shared.etcd.url()], |config| {
        config.timeout = Duration::from_secs(10);
    });
    let key = shared.key("k");
    let most = MAX_REQUEST - key.len();
    client
        .put(&key, vec![b'x'; most], None)
        .await
        .expect("as much as etcd takes");
    let error = client.put(&key, vec![b'x'; most + 1], None).await.unwrap_err();
    assert!(
        matches!(error.call(), Some(CallError::TooLarge { .. })),
        "{error:?}"
    );
    assert!(
        !error.is_unavailable() && chain(&error).contains(&key),
        "{}",
        chain(&error)
    );
    let error = client.get("").await.unwrap_err();
    assert!(chain(&error).contains("it is empty"), "{}", chain(&error));

    // More than one answer may have, so that pages become shorter.
    for number in 0..12 {
        client
            .put(
                &shared.key(&format!("large/{number:02}")),
                vec![b'y'; 1 << 20],
                None,
            )
            .await
            .unwrap();
    }
    let listing = client.list(&shared.key("large/")).await.unwrap();
    assert_eq!(listing.entries.len(), 12);
    assert!(listing.entries.iter().all(|entry| entry.value.len() == 1 << 20));

    // More changes than a watch that has to catch up is told at once.
    let proxy = Proxy::start(shared.etcd.address()).await;
    let late = client_of(&[proxy.url()], |config| config.timeout = Duration::from_secs(2));
    let mut watch = late.watch(&shared.key("large/"));
    assert_eq!(snapshot(&mut watch).await.len(), 12);
    proxy.set(Mode::Closed);
    outages(&mut watch, |_| true).await;
    for _ in 0..17 {
        client
            .put(&shared.key("large/00"), vec![b'z'; 1 << 20], None)
            .await
            .unwrap();
    }
    proxy.set(Mode::Pass);
    let mut begun_anew = after_outages(&mut watch).await;
    if matches!(begun_anew, WatchEvent::Resumed) {
        // It finds out as soon as it reads on.
        begun_anew = after_outages(&mut watch).await;
    }
    assert!(
        matches!(&begun_anew, WatchEvent::Snapshot(listing) if listing.entries.len() == 12),
        "{begun_anew:?}"
    );
    for entry in listing.entries {
        client.delete(&entry.key).await.unwrap();
    }
}

#[tokio::test]
async fn a_full_database_is_named_and_shown() {
    let etcd = Etcd::start_with(&["--quota-backend-bytes=4194304"]).await;
    let client = etcd.client();
    let error = until("the database is full", SOON, || async {
        match client.put("/k", vec![b'x'; 1 << 20], None).await {
            Ok(_) => Err("it took it".to_owned()),
            Err(error) => Ok(error),
        }
    })
    .await;
    assert!(
        matches!(error.call(), Some(CallError::NoSpace { .. })),
        "{error:?}"
    );
    client.get("/k").await.expect("reading goes on");
    let [status] = client.status().await.try_into().unwrap();
    let status = status.unwrap();
    assert!(
        status.errors.iter().any(|error| error.contains("NOSPACE")),
        "{status:?}"
    );
}

// --- Guarded writes -----------------------------------------------------------------------------------------------------

#[tokio::test]
async fn guarded_writes_are_made_only_on_what_was_seen() {
    let shared = Shared::etcd("cas").await;
    let client = &shared.client;
    let key = shared.key("k");
    assert_eq!(conflict(client.replace(&key, "x", 1, None).await.unwrap()), None);
    let first = done(client.create(&key, "a", None).await.unwrap());
    let now = conflict(client.create(&key, "b", None).await.unwrap()).expect("it exists");
    assert_eq!(
        (now.value.as_slice(), now.mod_revision, now.create_revision),
        (&b"a"[..], first, first)
    );

    let second = done(client.replace(&key, "b", first, None).await.unwrap());
    let stale = conflict(client.replace(&key, "c", first, None).await.unwrap()).expect("it exists");
    assert_eq!((stale.value.as_slice(), stale.mod_revision), (&b"b"[..], second));

    assert_eq!(
        conflict(client.delete_if(&key, first).await.unwrap()).map(|now| now.mod_revision),
        Some(second)
    );
    let deleted = done(client.delete_if(&key, second).await.unwrap());
    assert!(deleted > second);
    assert_eq!(conflict(client.delete_if(&key, second).await.unwrap()), None);
    assert_eq!(
        conflict(client.replace(&key, "d", second, None).await.unwrap()),
        None
    );
    done(
        client
            .replace(&key, "e", 0, None)
            .await
            .expect("0 is what does not exist"),
    );
}

#[tokio::test]
async fn a_record_is_never_taken_for_a_missing_one() {
    let shared = Shared::etcd("record").await;
    let record = Record::<BTreeMap<String, u32>>::new(&shared.client, shared.key("r"));
    let lease = shared.client.lease_grant(Duration::from_secs(600)).await.unwrap();
    assert_eq!(record.read().await.unwrap(), None);
    let value = BTreeMap::from([("a".to_owned(), 1)]);
    let first = updated(record.create(value.clone(), Some(lease.id)).await.unwrap());
    assert_eq!(record.read().await.unwrap(), Some(first.clone()));
    let second = updated(record.update(&first, BTreeMap::new()).await.unwrap());
    assert_eq!(second.lease, Some(lease.id), "the lease stays");
    assert_eq!(record.read().await.unwrap(), Some(second.clone()));
    let Update::Conflict(Some(now)) = record.update(&first, value.clone()).await.unwrap() else {
        panic!("a stale update was made");
    };
    assert_eq!(now, second);
    let third = updated(
        record
            .update_with_lease(&second, value.clone(), None)
            .await
            .unwrap(),
    );
    shared.client.lease_revoke(lease.id).await.unwrap();
    assert_eq!(
        record.read().await.unwrap(),
        Some(third.clone()),
        "without the lease it stays"
    );
    assert!(!record.delete(&second).await.unwrap());
    assert!(record.delete(&third).await.unwrap());

    shared.client.put(record.key(), "{\"a\":", None).await.unwrap();
    for error in [
        record.read().await.unwrap_err(),
        record.create(value, None).await.unwrap_err(),
    ] {
        assert!(
            matches!(&error, Error::Decode { key, .. } if key == record.key()),
            "{error:?}"
        );
    }
}

/// A way to the same etcd through two proxies: what is lost on the first is repeated on the second.
struct TwoWays {
    shared: Shared,
    first: Proxy,
    second: Proxy,
    /// Begins with the first way.
    client: Client,
    key: String,
}

impl TwoWays {
    async fn to(shared: Shared) -> TwoWays {
        let first = Proxy::start(shared.etcd.address()).await;
        let second = Proxy::start(shared.etcd.address()).await;
        let client = client_beginning_with_first(&[first.url(), second.url()], |config| {
            config.timeout = SOON;
            config.attempt_timeout = Some(SHORT);
        });
        // A connection that is in use, as in life.
        client.get(&shared.key("k")).await.unwrap();
        TwoWays {
            key: shared.key("k"),
            shared,
            first,
            second,
            client,
        }
    }

    /// Waits until the key's value, seen from beside, is this one.
    async fn until_value(&self, expected: Option<&str>) {
        until("the value", SOON, || async {
            match value(&self.shared.client, &self.key).await {
                now if now.as_deref() == expected => Ok(()),
                now => Err(format!("{now:?}")),
            }
        })
        .await;
    }
}

#[tokio::test]
async fn a_write_whose_answer_is_lost_is_made_once_and_known_to_be_made() {
    let ways = TwoWays::to(Shared::alone("lost").await).await;
    let (client, key) = (&ways.client, &ways.key);
    let mut watch = ways.shared.client.watch(key);
    assert!(snapshot(&mut watch).await.is_empty());

    ways.first.set(Mode::HoldAnswers);
    let created = done(client.create(key, "a", None).await.unwrap());
    assert_eq!(changes(&mut watch).await, [put(key, "a")]);
    assert_eq!(
        client.get(key).await.unwrap().map(|entry| entry.mod_revision),
        Some(created)
    );

    // The endpoint that answered is the first now, so that is the one to lose answers.
    ways.second.set(Mode::HoldAnswers);
    ways.first.set(Mode::Pass);
    let replaced = done(client.replace(key, "b", created, None).await.unwrap());
    assert_eq!(changes(&mut watch).await, [put(key, "b")]);

    ways.first.set(Mode::HoldAnswers);
    ways.second.set(Mode::Pass);
    let deleted = done(client.delete_if(key, replaced).await.unwrap());
    assert!(deleted > replaced);
    assert_eq!(changes(&mut watch).await, [(key.clone(), None)]);

    ways.second.set(Mode::HoldAnswers);
    ways.first.set(Mode::Pass);
    let lease = client.lease_grant(Duration::from_secs(60)).await.unwrap();
    let leases = ways.shared.etcd.ctl(&["lease", "list"]);
    assert_eq!(
        leases.lines().skip(1).collect::<Vec<_>>(),
        [lease.id.to_string()],
        "one lease, not two"
    );

    // Held requests may still come: nothing may come of them.
    ways.second.set(Mode::Pass);
    client.put(key, "end", None).await.unwrap();
    assert_eq!(changes(&mut watch).await, [put(key, "end")]);
}

/// One of several writes, guarded by a revision alone.
fn replacement(key: &str, mod_revision: i64, value: &str) -> Replacement {
    Replacement {
        key: key.to_owned(),
        mod_revision,
        was: None,
        value: value.into(),
        lease: None,
    }
}

#[tokio::test]
async fn each_of_several_writes_is_made_by_its_own_guard_and_all_in_one_revision() {
    let shared = Shared::etcd("batch").await;
    let client = &shared.client;
    let [new, held, stale, gone] = ["new", "held", "stale", "gone"].map(|name| shared.key(name));
    let first = done(client.create(&held, "a", None).await.unwrap());
    let other = done(client.create(&stale, "b", None).await.unwrap());
    let writes = [
        replacement(&new, 0, "1"),
        replacement(&held, first, "2"),
        replacement(&stale, first, "3"),
        replacement(&gone, first, "4"),
    ];
    let outcomes = client.replace_each(&writes).await.unwrap();
    let [
        Replaced::Done { revision: one },
        Replaced::Done { revision: two },
        Replaced::Differs(Some(now)),
        Replaced::Differs(None),
    ] = outcomes.as_slice()
    else {
        panic!("{outcomes:?}");
    };
    assert_eq!(one, two);
    assert_eq!((now.value.as_slice(), now.mod_revision), (&b"b"[..], other));
    assert_eq!(value(client, &new).await.as_deref(), Some("1"));
    assert_eq!(value(client, &held).await.as_deref(), Some("2"));
    assert_eq!(value(client, &gone).await, None);
}

#[tokio::test]
async fn a_write_that_is_guarded_by_the_value_is_not_made_over_another_one_of_the_same_revision() {
    let shared = Shared::etcd("value").await;
    let (client, key) = (&shared.client, shared.key("k"));
    let revision = done(client.create(&key, "a", None).await.unwrap());
    for (was, made) in [("b", false), ("a", true)] {
        let write = Replacement {
            was: Some(was.into()),
            ..replacement(&key, revision, "c")
        };
        let outcomes = client.replace_each(&[write]).await.unwrap();
        let [outcome] = outcomes.as_slice() else {
            panic!("{outcomes:?}")
        };
        assert_eq!(matches!(outcome, Replaced::Done { .. }), made, "{outcome:?}");
    }
    assert_eq!(value(client, &key).await.as_deref(), Some("c"));
}

#[tokio::test]
async fn no_writes_too_many_or_one_key_twice_are_refused() {
    let shared = Shared::etcd("refused").await;
    let (client, key) = (&shared.client, shared.key("k"));
    let error = client.replace_each(&[]).await.expect_err("none");
    assert!(
        matches!(error.call(), Some(CallError::TooLarge { .. })),
        "{error}"
    );
    let many: Vec<_> = (0..=MAX_BATCH)
        .map(|n| replacement(&format!("{key}{n}"), 0, "x"))
        .collect();
    let error = client.replace_each(&many).await.expect_err("too many");
    assert!(
        matches!(error.call(), Some(CallError::TooLarge { .. })),
        "{error}"
    );
    let outcomes = client
        .replace_each(&many[1..])
        .await
        .expect("as many as are taken");
    assert!(
        outcomes
            .iter()
            .all(|outcome| matches!(outcome, Replaced::Done { .. }))
    );
    let error = client
        .replace_each(&[replacement(&key, 0, "x"), replacement(&key, 0, "y")])
        .await
        .expect_err("one key twice");
    assert!(error.to_string().contains(&key), "{error}");
    assert_eq!(value(client, &key).await, None);
}

#[tokio::test]
async fn of_a_batch_whose_answer_is_lost_the_values_tell_what_was_made() {
    let ways = TwoWays::to(Shared::alone("lost-batch").await).await;
    let (client, key) = (&ways.client, &ways.key);
    ways.first.set(Mode::HoldAnswers);
    let outcomes = client.replace_each(&[replacement(key, 0, "ours")]).await.unwrap();
    let [Replaced::Differs(Some(now))] = outcomes.as_slice() else {
        panic!("the first attempt was made, so the second finds another revision: {outcomes:?}");
    };
    assert_eq!(now.value, b"ours");
    ways.first.set(Mode::Pass);
}

/// Our write is made and its answer lost; somebody writes over it before we can ask again.
async fn overtaken(
    ways: &TwoWays,
    write: impl Future<Output = Result<Cas, Error>>,
    meanwhile: impl AsyncFnOnce(),
) -> Result<Cas, Error> {
    ways.first.set(Mode::HoldAnswers);
    ways.second.set(Mode::Frozen);
    let interfere = async {
        ways.until_value(Some("ours")).await;
        let ours = ways.shared.client.get(&ways.key).await.unwrap().unwrap();
        done(
            ways.shared
                .client
                .replace(&ways.key, "theirs", ours.mod_revision, None)
                .await
                .unwrap(),
        );
        meanwhile().await;
        ways.second.set(Mode::Pass);
        ours.mod_revision
    };
    let (cas, ours) = tokio::join!(write, interfere);
    if let Ok(Cas::Done { revision }) = &cas {
        assert_eq!(*revision, ours);
    }
    assert_eq!(
        value(&ways.shared.client, &ways.key).await.as_deref(),
        Some("theirs")
    );
    cas
}

#[tokio::test]
async fn the_history_tells_that_a_write_was_made_and_overwritten() {
    let tests = [true, false].map(|create| async move {
        let ways = TwoWays::to(Shared::etcd("overtaken").await).await;
        let before = if create {
            0
        } else {
            ways.shared.client.put(&ways.key, "before", None).await.unwrap()
        };
        let write = async {
            match create {
                true => ways.client.create(&ways.key, "ours", None).await,
                false => ways.client.replace(&ways.key, "ours", before, None).await,
            }
        };
        done(overtaken(&ways, write, async || {}).await.unwrap());
    });
    join_all(tests).await;
}

#[tokio::test]
async fn a_compacted_history_tells_as_long_as_the_key_was_untouched() {
    let ways = TwoWays::to(Shared::alone("compacted").await).await;
    let before = ways.shared.client.put(&ways.key, "before", None).await.unwrap();
    ways.shared.compact().await;
    let write = ways.client.replace(&ways.key, "ours", before, None);
    done(overtaken(&ways, write, async || {}).await.unwrap());
}

#[tokio::test]
async fn what_no_history_tells_is_ambiguous_and_not_a_conflict() {
    let ways = TwoWays::to(Shared::alone("ambiguous").await).await;
    let before = ways.shared.client.put(&ways.key, "before", None).await.unwrap();
    let write = ways.client.replace(&ways.key, "ours", before, None);
    let error = overtaken(&ways, write, || ways.shared.compact())
        .await
        .unwrap_err();
    assert!(
        matches!(error.call(), Some(CallError::Ambiguous { .. })),
        "{error:?}"
    );
    assert!(error.is_ambiguous() && !error.is_unavailable());
}

#[tokio::test]
async fn a_write_that_never_arrived_is_a_conflict_when_another_came_first() {
    let ways = TwoWays::to(Shared::etcd("late").await).await;
    let client = &ways.shared.client;
    let before = client.put(&ways.key, "before", None).await.unwrap();
    ways.first.set(Mode::Frozen);
    ways.second.set(Mode::Frozen);
    let write = ways.client.replace(&ways.key, "ours", before, None);
    let interfere = async {
        until("the first way is given up", SOON, || async {
            match ways.second.taken() {
                0 => Err("it is not".to_owned()),
                _ => Ok(()),
            }
        })
        .await;
        let theirs = done(client.replace(&ways.key, "theirs", before, None).await.unwrap());
        ways.second.set(Mode::Pass);
        theirs
    };
    let (cas, theirs) = tokio::join!(write, interfere);
    // What was sent first arrives last, and must not be made.
    ways.first.set(Mode::Pass);
    let now = conflict(cas.unwrap()).expect("it exists");
    assert_eq!((now.value.as_slice(), now.mod_revision), (&b"theirs"[..], theirs));
    ways.client
        .put(&ways.shared.key("other"), "", None)
        .await
        .unwrap();
    assert_eq!(value(client, &ways.key).await.as_deref(), Some("theirs"));
}

#[tokio::test]
async fn a_write_that_nobody_answers_says_that_it_may_have_been_made() {
    let shared = Shared::etcd("unanswered").await;
    let proxy = Proxy::start(shared.etcd.address()).await;
    let client = client_of(&[proxy.url()], |config| {
        config.timeout = Duration::from_millis(900);
    });
    client.get(&shared.key("k")).await.unwrap();
    proxy.set(Mode::HoldAnswers);
    let began = Instant::now();
    let error = client.create(&shared.key("k"), "v", None).await.unwrap_err();
    assert!(error.is_unavailable() && error.is_ambiguous(), "{error:?}");
    assert!(
        began.elapsed() < Duration::from_millis(900) + SHORT,
        "{:?}",
        began.elapsed()
    );
    assert!(
        chain(&error).contains(&proxy.url()) && chain(&error).contains("no answer in 300ms"),
        "{}",
        chain(&error)
    );
    assert_eq!(
        value(&shared.client, &shared.key("k")).await.as_deref(),
        Some("v")
    );

    proxy.set(Mode::Closed);
    let error = client.get(&shared.key("k")).await.unwrap_err();
    assert!(error.is_unavailable() && !error.is_denied(), "{error:?}");
}

#[tokio::test]
async fn a_connection_that_died_without_a_word_is_replaced_within_the_call() {
    let shared = Shared::etcd("dead").await;
    let proxy = Proxy::start(shared.etcd.address()).await;
    let client = client_of(&[proxy.url()], |_| {});
    let mut watch = client.watch(&shared.key("k"));
    assert!(snapshot(&mut watch).await.is_empty());
    let connections = proxy.taken();
    proxy.forget_connections();
    client.put(&shared.key("k"), "v", None).await.unwrap();
    assert_eq!(proxy.taken(), connections + 1);
    assert_eq!(changes(&mut watch).await, [put(&shared.key("k"), "v")]);
    assert_eq!(proxy.taken(), connections + 1, "the watch takes the new one, too");
}

// --- Leases -------------------------------------------------------------------------------------------------------------

#[tokio::test]
async fn keys_end_with_their_lease() {
    let shared = Shared::etcd("lease").await;
    let client = &shared.client;
    let lease = client.lease_grant(Duration::from_secs(30)).await.unwrap();
    assert_eq!(lease.ttl, Duration::from_secs(30));
    client.put(&shared.key("put"), "", Some(lease.id)).await.unwrap();
    done(
        client
            .create(&shared.key("created"), "", Some(lease.id))
            .await
            .unwrap(),
    );
    let listing = client.list(&shared.prefix).await.unwrap();
    assert!(listing.entries.len() == 2 && listing.entries.iter().all(|entry| entry.lease == Some(lease.id)));
    assert_eq!(
        client.lease_keep_alive_once(lease.id).await.unwrap(),
        Some(lease.ttl)
    );
    client.lease_revoke(lease.id).await.unwrap();
    assert!(client.list(&shared.prefix).await.unwrap().entries.is_empty());

    assert_eq!(client.lease_keep_alive_once(lease.id).await.unwrap(), None);
    client
        .lease_revoke(lease.id)
        .await
        .expect("what is gone can be revoked");
    let error = client
        .put(&shared.key("put"), "", Some(lease.id))
        .await
        .unwrap_err();
    assert!(
        matches!(error.call(), Some(CallError::LeaseNotFound)),
        "{error:?}"
    );
    assert!(!error.is_unavailable());
}

#[tokio::test]
async fn a_lease_lives_as_long_as_it_is_kept_and_ends_when_it_is_not() {
    let shared = Shared::etcd("keeper").await;
    let key = shared.key("k");
    let mut keeper = LeaseKeeper::grant(&shared.client, Duration::from_secs(3))
        .await
        .unwrap();
    let state = keeper.state();
    shared.client.put(&key, "here", Some(keeper.id())).await.unwrap();
    let held = throughout("the key stays", keeper.ttl() * 2, || async {
        let alive = state.borrow().alive();
        match (value(&shared.client, &key).await, alive) {
            (Some(_), Some(_)) => Ok(()),
            other => Err(format!("{other:?}")),
        }
    });
    tokio::select! {
        () = held => {}
        () = keeper.run() => panic!("lost"),
    }
    until("the key goes with its lease", SOON, || async {
        value(&shared.client, &key)
            .await
            .map_or(Ok(()), |_| Err("it is there".to_owned()))
    })
    .await;
    assert_eq!(
        state.borrow().alive(),
        None,
        "the clock says so, without a request"
    );
    tokio::time::timeout(SOON, keeper.run())
        .await
        .expect("it is lost");
    assert_eq!(*state.borrow(), LeaseState::Lost);
}

#[tokio::test]
async fn a_keeper_that_is_cut_off_gives_up_before_etcd_does() {
    let shared = Shared::etcd("cut-off").await;
    let proxy = Proxy::start(shared.etcd.address()).await;
    let client = client_of(&[proxy.url()], |_| {});
    let mut keeper = LeaseKeeper::grant(&client, Duration::from_secs(3)).await.unwrap();
    let key = shared.key("k");
    shared.client.put(&key, "here", Some(keeper.id())).await.unwrap();
    let mut watch = shared.client.watch(&key);
    assert_eq!(snapshot(&mut watch).await.len(), 1);
    let mut state = keeper.state();
    let first = *state.borrow_and_update();
    let deleted = async {
        state.changed().await.unwrap();
        let LeaseState::Alive { until: renewed, .. } = *state.borrow_and_update() else {
            panic!("lost");
        };
        assert!(
            matches!(first, LeaseState::Alive { until, .. } if until < renewed),
            "it was renewed"
        );
        proxy.set(Mode::Frozen);
        assert_eq!(changes(&mut watch).await, [(key.clone(), None)]);
        (renewed.into_std(), Instant::now())
    };
    let ((until, deleted), ()) = tokio::join!(deleted, keeper.run());
    assert!(until < deleted, "relied on for {:?} too long", until - deleted);
    assert_eq!(keeper.state().borrow().alive(), None);
}

#[tokio::test]
async fn a_keeper_learns_of_a_revoked_lease_and_revokes_its_own() {
    let shared = Shared::etcd("revoked").await;
    let key = shared.key("k");
    let mut keeper = LeaseKeeper::grant(&shared.client, Duration::from_secs(3))
        .await
        .unwrap();
    shared.client.lease_revoke(keeper.id()).await.unwrap();
    let began = Instant::now();
    tokio::time::timeout(SOON, keeper.run())
        .await
        .expect("it is lost");
    assert!(
        began.elapsed() < keeper.ttl(),
        "etcd said so, before the time was over"
    );
    assert_eq!(*keeper.state().borrow(), LeaseState::Lost);

    let keeper = LeaseKeeper::grant(&shared.client, Duration::from_secs(600))
        .await
        .unwrap();
    let state = keeper.state();
    shared.client.put(&key, "here", Some(keeper.id())).await.unwrap();
    keeper.shutdown().await.unwrap();
    assert_eq!(value(&shared.client, &key).await, None);
    assert_eq!(*state.borrow(), LeaseState::Lost);
}

// --- Watches ------------------------------------------------------------------------------------------------------------

#[tokio::test]
async fn a_watch_tells_what_is_and_then_each_change_once() {
    let shared = Shared::etcd("watch").await;
    let (client, key) = (&shared.client, shared.key("k"));
    client.put(&key, "a", None).await.unwrap();
    let mut watch = client.watch(&shared.prefix);
    assert_eq!(
        snapshot(&mut watch).await,
        BTreeMap::from([(key.clone(), "a".to_owned())])
    );
    client.put(&key, "b", None).await.unwrap();
    assert_eq!(changes(&mut watch).await, [put(&key, "b")]);
    client.delete(&key).await.unwrap();
    assert_eq!(changes(&mut watch).await, [(key.clone(), None)]);
    let lease = client.lease_grant(Duration::from_secs(60)).await.unwrap();
    client.put(&key, "c", Some(lease.id)).await.unwrap();
    assert_eq!(changes(&mut watch).await, [put(&key, "c")]);
    client.lease_revoke(lease.id).await.unwrap();
    assert_eq!(changes(&mut watch).await, [(key, None)]);

    let (x, y) = (shared.key("x"), shared.key("y"));
    let txn = format!("printf '\\nput {x} 1\\nput {y} 2\\n\\n\\n' | etcdctl txn");
    shared.etcd.sh(&txn);
    let together = changes(&mut watch).await;
    assert_eq!(
        together,
        [put(&x, "1"), put(&y, "2")],
        "one transaction, one event"
    );
}

#[tokio::test]
async fn a_watch_loses_nothing_when_its_next_is_dropped() {
    let shared = Shared::etcd("cancel").await;
    let mut watch = shared.client.watch(&shared.prefix);
    let writing = async {
        for number in 0..300 {
            let key = shared.key(&format!("{number:03}"));
            done(shared.client.create(&key, "", None).await.unwrap());
        }
    };
    let watching = async {
        let (mut seen, mut dropped) = (0, 0);
        while seen < 300 {
            // Dropped after a turn of everything else that is ready.
            let event = tokio::select! {
                biased;
                event = watch.next() => event,
                () = tokio::task::yield_now() => {
                    dropped += 1;
                    continue;
                }
            };
            match event {
                WatchEvent::Snapshot(listing) => {
                    assert_eq!(seen, 0, "a snapshot once");
                    seen = listing.entries.len();
                }
                WatchEvent::Changes(changes) => {
                    for change in changes {
                        assert_eq!(change.key(), shared.key(&format!("{seen:03}")));
                        seen += 1;
                    }
                }
                other => panic!("{other:?}"),
            }
        }
        assert!(dropped > 10, "{dropped} is not often");
    };
    tokio::time::timeout(SOON, async { tokio::join!(writing, watching) })
        .await
        .expect("all changes");
}

#[tokio::test]
async fn a_watch_leaves_an_endpoint_that_has_fallen_silent() {
    let ways = TwoWays::to(Shared::etcd("silent").await).await;
    let mut watch = ways.client.watch(&ways.key);
    assert!(snapshot(&mut watch).await.is_empty());
    ways.first.set(Mode::Frozen);
    let began = Instant::now();
    ways.shared.client.put(&ways.key, "a", None).await.unwrap();
    assert_eq!(
        changes(&mut watch).await,
        [put(&ways.key, "a")],
        "nothing but the change is seen"
    );
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    // What the frozen one still has to say is not heard twice.
    ways.first.set(Mode::Pass);
    ways.shared.client.put(&ways.key, "b", None).await.unwrap();
    assert_eq!(changes(&mut watch).await, [put(&ways.key, "b")]);
}

/// The outages that must come next, until `is_over` says so.
async fn outages(watch: &mut Watch, mut is_over: impl FnMut(u32) -> bool) {
    for expected in 1.. {
        match event(watch).await {
            WatchEvent::Unavailable { error, attempts } => {
                assert_eq!(attempts, expected);
                assert!(error.is_unavailable(), "{error:?}");
                if is_over(attempts) {
                    return;
                }
            }
            other => panic!("no outage: {other:?}"),
        }
    }
}

/// The event that comes after the outages.
async fn after_outages(watch: &mut Watch) -> WatchEvent {
    let began = Instant::now();
    loop {
        match event(watch).await {
            WatchEvent::Unavailable { error, .. } => assert!(began.elapsed() < SOON, "{}", chain(&error)),
            other => return other,
        }
    }
}

#[tokio::test]
async fn a_watch_goes_on_after_an_outage_where_it_was() {
    let shared = Shared::etcd("outage").await;
    let key = shared.key("k");
    let proxy = Proxy::start(shared.etcd.address()).await;
    let client = client_of(&[proxy.url()], hasty);
    let mut watch = client.watch(&shared.prefix);
    assert!(snapshot(&mut watch).await.is_empty());
    shared.client.put(&key, "0", None).await.unwrap();
    assert_eq!(changes(&mut watch).await, [put(&key, "0")]);
    proxy.set(Mode::Closed);
    outages(&mut watch, |attempts| attempts == 3).await;
    for value in ["a", "b", "c"] {
        shared.client.put(&key, value, None).await.unwrap();
    }
    proxy.set(Mode::Pass);
    let resumed = after_outages(&mut watch).await;
    assert!(matches!(resumed, WatchEvent::Resumed), "{resumed:?}");
    let mut missed = Vec::new();
    while missed.len() < 3 {
        missed.extend(changes(&mut watch).await);
    }
    assert_eq!(missed, [put(&key, "a"), put(&key, "b"), put(&key, "c")]);
}

#[tokio::test]
async fn a_watch_outlives_a_stop_of_etcd_and_all_else_goes_on() {
    let shared = Shared::alone("stopped").await;
    let key = shared.key("k");
    shared.client.put(&key, "a", None).await.unwrap();
    let mut watch = shared.client.watch(&shared.prefix);
    assert_eq!(snapshot(&mut watch).await.len(), 1);
    shared.etcd.container().command(&["kill"]);
    outages(&mut watch, |attempts| attempts == 2).await;
    let error = shared.client.get(&key).await.unwrap_err();
    assert!(
        error.is_unavailable() && chain(&error).contains("refused"),
        "{}",
        chain(&error)
    );
    shared.etcd.container().command(&["start"]);
    let resumed = after_outages(&mut watch).await;
    assert!(matches!(resumed, WatchEvent::Resumed), "{resumed:?}");
    until_answering(&shared.client).await;
    assert_eq!(value(&shared.client, &key).await.as_deref(), Some("a"));
    shared.client.put(&key, "b", None).await.unwrap();
    assert_eq!(changes(&mut watch).await, [put(&key, "b")]);
}

#[tokio::test]
async fn a_watch_begins_anew_when_the_history_is_gone() {
    let shared = Shared::alone("compaction").await;
    let key = shared.key("k");
    let proxy = Proxy::start(shared.etcd.address()).await;
    let client = client_of(&[proxy.url()], hasty);
    let mut watch = client.watch(&shared.prefix);
    assert!(snapshot(&mut watch).await.is_empty());
    proxy.set(Mode::Closed);
    outages(&mut watch, |_| true).await;
    for value in ["a", "b"] {
        shared.client.put(&key, value, None).await.unwrap();
    }
    shared.compact().await;
    proxy.set(Mode::Pass);
    match after_outages(&mut watch).await {
        WatchEvent::Snapshot(listing) => assert_eq!(listing.entries[0].value, b"b"),
        other => panic!("no snapshot: {other:?}"),
    }
    shared.client.put(&key, "c", None).await.unwrap();
    assert_eq!(changes(&mut watch).await, [put(&key, "c")]);
}

#[tokio::test]
async fn a_watch_that_is_polled_too_late_begins_anew() {
    let shared = Shared::alone("late").await;
    let client = client_of(&[shared.etcd.url()], |config| {
        config.timeout = Duration::from_secs(10);
    });
    let mut watch = client.watch(&shared.prefix);
    assert!(snapshot(&mut watch).await.is_empty());
    // Large ones fill the connection's windows, then as many as etcd keeps for a watch and more.
    for number in 0..8 {
        let large = vec![b'x'; 1 << 20];
        shared
            .client
            .put(&shared.key(&format!("large-{number}")), large, None)
            .await
            .unwrap();
    }
    let mut writing = JoinSet::new();
    for part in 0..8 {
        let (client, key) = (client.clone(), shared.key(&format!("small-{part}")));
        writing.spawn(async move {
            for number in 0..160 {
                client.put(&key, number.to_string(), None).await.unwrap();
            }
        });
    }
    writing.join_all().await;
    shared.compact().await;
    let mut told = 0;
    let listing = loop {
        match event(&mut watch).await {
            WatchEvent::Changes(changes) => told += changes.len(),
            WatchEvent::Snapshot(listing) => break listing,
            other => panic!("{other:?}"),
        }
    };
    assert!(told >= 8, "{told}");
    assert_eq!(listing.entries.len(), 16);
    let late = listing
        .entries
        .iter()
        .filter(|entry| entry.value == b"159")
        .count();
    assert_eq!(late, 8, "{listing:?}");
}

#[tokio::test]
async fn an_idle_watch_needs_no_old_history() {
    let shared = Shared::alone("idle").await;
    let proxy = Proxy::start(shared.etcd.address()).await;
    let client = client_of(&[proxy.url()], hasty);
    let mut watch = client.watch(&shared.prefix);
    assert!(snapshot(&mut watch).await.is_empty());
    let written = shared.client.put("/other", "", None).await.unwrap();
    let began = Instant::now();
    while watch.revision() < Some(written) {
        let next = tokio::time::timeout(Duration::from_millis(100), watch.next()).await;
        assert!(next.is_err(), "nothing happens to its keys: {next:?}");
        assert!(began.elapsed() < SOON, "{watch:?}");
    }
    proxy.set(Mode::Closed);
    outages(&mut watch, |_| true).await;
    shared.etcd.ctl(&["compact", &written.to_string()]);
    proxy.set(Mode::Pass);
    let resumed = after_outages(&mut watch).await;
    assert!(matches!(resumed, WatchEvent::Resumed), "{resumed:?}");
}

/// What a store may be replaced by, unnoticed if one looks at one thing only.
#[derive(Clone, Copy, Debug)]
enum OtherStore {
    /// An empty one: its revision is lower.
    Empty,
    /// One that has come further than the one before.
    Further,
    /// One with the same keys at the same revisions, but another cluster's.
    Twin,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watch_begins_anew_when_the_store_is_another() {
    let mut tests = JoinSet::new();
    for replacement in [OtherStore::Empty, OtherStore::Further, OtherStore::Twin] {
        tests.spawn(begins_anew_on(replacement));
    }
    tests.join_all().await;
}

async fn begins_anew_on(replacement: OtherStore) {
    let mut etcd = Etcd::start().await;
    let proxy = Proxy::start(etcd.address()).await;
    let client = client_of(&[proxy.url()], hasty);
    let fill = async |client: Client, key: &str, times: usize| {
        for _ in 0..times {
            client.put(key, "v", None).await.unwrap();
        }
    };
    fill(etcd.client(), "/w/k", 5).await;
    let mut watch = client.watch("/w/");
    assert_eq!(snapshot(&mut watch).await.len(), 1);
    proxy.set(Mode::Closed);
    match replacement {
        OtherStore::Empty => etcd.wipe(&[]).await,
        OtherStore::Further => {
            etcd.wipe(&[]).await;
            fill(etcd.client(), "/w/other", 20).await;
        }
        OtherStore::Twin => {
            etcd.wipe(&["--initial-cluster-token=another"]).await;
            fill(etcd.client(), "/w/k", 5).await;
        }
    }
    outages(&mut watch, |_| true).await;
    proxy.set(Mode::Pass);
    let event = after_outages(&mut watch).await;
    let WatchEvent::Snapshot(listing) = event else {
        panic!("{replacement:?}: {event:?}");
    };
    let keys: Vec<_> = listing.entries.iter().map(|entry| entry.key.as_str()).collect();
    let expected: &[&str] = match replacement {
        OtherStore::Empty => &[],
        OtherStore::Further => &["/w/other"],
        OtherStore::Twin => &["/w/k"],
    };
    assert_eq!(keys, expected);
    etcd.client().put("/w/new", "v", None).await.unwrap();
    assert_eq!(changes(&mut watch).await, [put("/w/new", "v")], "{replacement:?}");
}

// --- Log-in -------------------------------------------------------------------------------------------------------------

/// An etcd with a user `app` that may do anything below `/app/`.
struct Guarded {
    etcd: Etcd,
    directory: tempfile::TempDir,
}

impl Guarded {
    async fn start() -> Guarded {
        let etcd = Etcd::start_with(&["--bcrypt-cost=4"]).await;
        for arguments in [
            &["user", "add", "root:root-pass"][..],
            &["role", "add", "root"],
            &["user", "grant-role", "root", "root"],
            &["user", "add", "app:app-pass"],
            &["role", "add", "app"],
            &[
                "role",
                "grant-permission",
                "app",
                "--prefix=true",
                "readwrite",
                "/app/",
            ],
            &["user", "grant-role", "app", "app"],
        ] {
            etcd.ctl(arguments);
        }
        let guarded = Guarded {
            etcd,
            directory: tempfile::tempdir().unwrap(),
        };
        guarded.write_password("app-pass");
        guarded
    }

    fn write_password(&self, password: &str) {
        fs::write(self.directory.path().join("password"), format!("{password}\n")).unwrap();
    }

    fn ctl(&self, arguments: &[&str]) {
        self.etcd.ctl(&[&["--user=root:root-pass"], arguments].concat());
    }

    fn client(&self, credentials: Option<Credentials>) -> Client {
        client_of(&[self.etcd.url()], |config| {
            config.credentials = credentials;
            config.timeout = Duration::from_secs(15);
        })
    }

    fn app(&self) -> Client {
        self.client(Some(Credentials {
            user: "app".to_owned(),
            password: Password::File(self.directory.path().join("password")),
        }))
    }
}

#[tokio::test]
async fn a_log_in_gives_the_users_rights_and_no_more() {
    let guarded = Guarded::start().await;
    let client = guarded.app();
    client
        .put("/other", "v", None)
        .await
        .expect("nobody is asked to log in yet");
    guarded.etcd.ctl(&["auth", "enable"]);

    client.put("/app/k", "v", None).await.expect("logs in when asked");
    assert_eq!(client.list("/app/").await.unwrap().entries.len(), 1);
    done(client.create("/app/new", "v", None).await.unwrap());
    let mut watch = client.watch("/app/");
    assert_eq!(snapshot(&mut watch).await.len(), 2);
    client.put("/app/k", "w", None).await.unwrap();
    assert_eq!(changes(&mut watch).await, [put("/app/k", "w")]);
    assert_eq!(client.members().await.unwrap().len(), 1);
    assert!(client.status().await[0].is_ok());

    for error in [
        client.get("/other").await.unwrap_err(),
        client.put("/other", "x", None).await.unwrap_err(),
        client.create("/other", "x", None).await.unwrap_err(),
        client.delete("/other").await.unwrap_err(),
        client.list("/o").await.unwrap_err(),
    ] {
        assert!(
            error.is_denied() && !error.is_unavailable() && !error.is_ambiguous(),
            "{error:?}"
        );
        assert!(
            chain(&error).contains("/o") && chain(&error).contains("permission denied"),
            "{}",
            chain(&error)
        );
    }
    let mut watch = client.watch("/o");
    for expected in 1..=2 {
        match event(&mut watch).await {
            WatchEvent::Unavailable { error, attempts } => {
                assert!(error.is_denied() && attempts == expected, "{error:?}");
            }
            other => panic!("{other:?}"),
        }
    }

    let wrong = guarded.client(Some(Credentials {
        user: "app".to_owned(),
        password: Password::Value("wrong-pass".into()),
    }));
    let nobody = guarded.client(None);
    for (client, part) in [(wrong, "log-in of \"app\""), (nobody, "user name is empty")] {
        let began = Instant::now();
        let error = client.get("/app/k").await.unwrap_err();
        assert!(error.is_denied() && !error.is_unavailable(), "{error:?}");
        assert!(
            chain(&error).contains(part) && chain(&error).contains(&guarded.etcd.url()),
            "{}",
            chain(&error)
        );
        assert!(
            began.elapsed() < Duration::from_secs(5),
            "tried no longer than needed: {:?}",
            began.elapsed()
        );
        assert!(!format!("{client:?} {error:?} {}", chain(&error)).contains("-pass"));
    }
}

#[tokio::test]
async fn a_log_in_is_renewed_whatever_ended_it() {
    let guarded = Guarded::start().await;
    guarded.etcd.ctl(&["auth", "enable"]);
    let client = guarded.app();
    let mut watch = client.watch("/app/");
    assert!(snapshot(&mut watch).await.is_empty());
    let mut keeper = LeaseKeeper::grant(&client, Duration::from_secs(20))
        .await
        .unwrap();
    let state = keeper.state();
    let mut written = 0;
    let mut write_and_see = async |what: &str| {
        written += 1;
        let value = format!("{written} {what}");
        client
            .put("/app/k", value.as_str(), None)
            .await
            .unwrap_or_else(|error| panic!("{what}: {}", chain(&error)));
        loop {
            match event(&mut watch).await {
                WatchEvent::Changes(changes) => {
                    let changes: Vec<_> = changes.into_iter().map(plain).collect();
                    assert_eq!(changes, [put("/app/k", &value)], "{what}");
                    return;
                }
                WatchEvent::Unavailable { .. } | WatchEvent::Resumed => {}
                WatchEvent::Snapshot(listing) => panic!("{what}: {listing:?}"),
            }
        }
    };
    let turns = async {
        write_and_see("at first").await;

        // A simple token does not outlive its member.
        guarded.etcd.container().command(&["kill"]);
        guarded.etcd.container().command(&["start"]);
        until("etcd is back", SOON, || async {
            let status = client_of(&[guarded.etcd.url()], |_| {}).status().await.remove(0);
            match status {
                Ok(status) if status.leader.is_some() => Ok(()),
                other => Err(format!("{other:?}")),
            }
        })
        .await;
        write_and_see("after a restart").await;

        guarded.ctl(&["role", "add", "more"]);
        write_and_see("after a change of the roles").await;

        let change = "echo other-pass | etcdctl --user=root:root-pass user passwd app --interactive=false";
        guarded.etcd.sh(change);
        let error = client.get("/app/k").await.unwrap_err();
        assert!(
            error.is_denied() && chain(&error).contains("log-in of"),
            "{}",
            chain(&error)
        );
        guarded.write_password("other-pass");
        write_and_see("after a change of the password").await;
    };
    tokio::select! {
        () = turns => {}
        () = keeper.run() => panic!("the lease was lost"),
    }
    assert!(state.borrow().alive().is_some());
}

// --- TLS ----------------------------------------------------------------------------------------------------------------

/// A certificate authority of a test's own.
struct Authority {
    issuer: rcgen::CertifiedIssuer<'static, rcgen::KeyPair>,
}

impl Authority {
    fn new(name: &str) -> Authority {
        let mut params = rcgen::CertificateParams::default();
        params.distinguished_name.push(rcgen::DnType::CommonName, name);
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        params.key_usages = vec![
            rcgen::KeyUsagePurpose::KeyCertSign,
            rcgen::KeyUsagePurpose::CrlSign,
        ];
        let key = rcgen::KeyPair::generate().unwrap();
        Authority {
            issuer: rcgen::CertifiedIssuer::self_signed(params, key).unwrap(),
        }
    }

    /// Writes its certificate.
    fn write(&self, directory: &Path, name: &str) -> PathBuf {
        written(directory, name, &self.issuer.pem())
    }

    /// Writes a certificate for these names, and its key.
    fn issue(&self, directory: &Path, name: &str, names: &[&str]) -> (PathBuf, PathBuf) {
        let names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
        let mut params = rcgen::CertificateParams::new(names).unwrap();
        params.distinguished_name.push(rcgen::DnType::CommonName, name);
        params.use_authority_key_identifier_extension = true;
        params.extended_key_usages = vec![
            rcgen::ExtendedKeyUsagePurpose::ServerAuth,
            rcgen::ExtendedKeyUsagePurpose::ClientAuth,
        ];
        let key = rcgen::KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        (
            written(directory, &format!("{name}.pem"), &certificate.pem()),
            written(directory, &format!("{name}.key"), &key.serialize_pem()),
        )
    }
}

fn written(directory: &Path, name: &str, text: &str) -> PathBuf {
    let path = directory.join(name);
    fs::write(&path, text).unwrap();
    // etcd runs as another user.
    fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
    path
}

#[tokio::test]
async fn tls_works_with_the_right_files_and_says_what_is_wrong_with_others() {
    let directory = tempfile::tempdir().unwrap();
    fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let path = directory.path();
    let (ours, foreign) = (Authority::new("ours"), Authority::new("foreign"));
    let (ca, foreign_ca) = (ours.write(path, "ca.pem"), foreign.write(path, "foreign-ca.pem"));
    let (cert, key) = ours.issue(path, "server", &["127.0.0.1"]);
    let (client_cert, client_key) = ours.issue(path, "client", &["client"]);
    let (foreign_cert, foreign_key) = foreign.issue(path, "foreign", &["client"]);
    let etcd = Etcd::start_tls(
        path,
        &[
            &format!("--trusted-ca-file={}", ca.display()),
            &format!("--cert-file={}", cert.display()),
            &format!("--key-file={}", key.display()),
            "--client-cert-auth",
        ],
    );
    let port = etcd.address().port();
    let (by_address, by_name) = (
        format!("https://127.0.0.1:{port}"),
        format!("https://localhost:{port}"),
    );
    let short = Duration::from_secs(4);
    let client = |url: &str, ca: &Path, identity: Option<(&Path, &Path)>| {
        client_of(&[url], |config| {
            config.timeout = short;
            config.tls = TlsConfig {
                ca_file: Some(ca.to_owned()),
                client_cert_file: identity.map(|(cert, _)| cert.to_owned()),
                client_key_file: identity.map(|(_, key)| key.to_owned()),
            };
        })
    };
    let good = client(&by_address, &ca, Some((&client_cert, &client_key)));
    until_answering(&good).await;
    let mut watch = good.watch("/");
    assert!(snapshot(&mut watch).await.is_empty());
    good.put("/k", "v", None).await.unwrap();
    assert_eq!(changes(&mut watch).await, [put("/k", "v")]);

    let plain = client_of(&[etcd.url()], |config| config.timeout = short);
    let identity = Some((client_cert.as_path(), client_key.as_path()));
    let foreign_identity = Some((foreign_cert.as_path(), foreign_key.as_path()));
    let wrong = [
        (
            "another CA",
            client(&by_address, &foreign_ca, identity),
            "UnknownIssuer",
        ),
        (
            "another name",
            client(&by_name, &ca, identity),
            "not valid for name",
        ),
        (
            "no certificate",
            client(&by_address, &ca, None),
            "client's certificate",
        ),
        (
            "a foreign certificate",
            client(&by_address, &ca, foreign_identity),
            "client's certificate",
        ),
        ("no TLS", plain, &etcd.url()),
    ];
    let tests = wrong.map(|(what, client, part)| async move {
        let error = client.get("/k").await.expect_err(what);
        assert!(error.is_unavailable(), "{what}: {error:?}");
        assert!(chain(&error).contains(part), "{what}: {}", chain(&error));
    });
    join_all(tests).await;
}

// --- What is no etcd ----------------------------------------------------------------------------------------------------

/// A server that answers everything with `answer` and then closes, or keeps silent; its URL.
async fn stranger(tasks: &mut JoinSet<()>, answer: Option<&'static [u8]>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tasks.spawn(async move {
        let mut kept = Vec::new();
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            match answer {
                Some(answer) => {
                    let _ = stream.read(&mut [0; 1024]).await;
                    let _ = stream.write_all(answer).await;
                }
                None => kept.push(stream),
            }
        }
    });
    url
}

#[tokio::test]
async fn what_is_no_etcd_is_an_error_in_time_and_does_not_hide_the_one_that_is() {
    const HTTP_1: &[u8] = b"HTTP/1.1 400 Bad Request\r\nContent-Length: 5\r\n\r\nwrong";
    const NONSENSE: &[u8] =
        b"\x00\xff SSH-2.0 \xde\xad\xbe\xef and more of it, so that it is read as a frame";
    // SETTINGS, and then on the first stream a status without a body: 404 of a server that speaks HTTP/2.
    const HTTP_2: &[u8] = b"\0\0\0\x04\0\0\0\0\0\0\0\x01\x01\x05\0\0\0\x01\x8d";
    let shared = Shared::etcd("stranger").await;
    let key = shared.key("k");
    shared.client.put(&key, "v", None).await.unwrap();
    let strangers = [
        ("silence", None),
        ("the end", Some(&b""[..])),
        ("HTTP/1", Some(HTTP_1)),
        ("nonsense", Some(NONSENSE)),
        ("HTTP/2", Some(HTTP_2)),
    ];
    let (shared, key) = (&shared, &key);
    let tests = strangers.map(|(what, answer)| async move {
        let mut tasks = JoinSet::new();
        let url = stranger(&mut tasks, answer).await;
        let timeout = Duration::from_millis(900);
        let client = client_of(&[&url], |config| config.timeout = timeout);
        let began = Instant::now();
        let error = client.get(key).await.expect_err(what);
        assert!(
            error.is_unavailable() && chain(&error).contains(&url),
            "{what}: {}",
            chain(&error)
        );
        assert!(began.elapsed() < timeout + SHORT, "{what}: {:?}", began.elapsed());
        match event(&mut client.watch(key)).await {
            WatchEvent::Unavailable { error, attempts: 1 } => {
                assert!(error.is_unavailable(), "{what}: {error:?}");
            }
            other => panic!("{what}: {other:?}"),
        }
        assert!(client.status().await[0].is_err(), "{what}");

        let both = client_beginning_with_first(&[url, shared.etcd.url()], |_| {});
        assert_eq!(value(&both, key).await.as_deref(), Some("v"), "{what}");
        assert_eq!(both.current_endpoint(), shared.etcd.url(), "{what}");
    });
    join_all(tests).await;
}

// --- Three members ------------------------------------------------------------------------------------------------------

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_that_fails_costs_one_attempt_and_no_more() {
    let cluster = EtcdCluster::start().await;
    let leader = cluster.leader().await;
    let (victim, other) = ((leader + 1) % 3, (leader + 2) % 3);
    // Begins with a follower, so that no election mingles with what is measured.
    let urls = [victim, leader, other].map(|index| cluster.urls()[index].clone());
    let begin_with_victim =
        || client_beginning_with_first(&urls, |config| config.attempt_timeout = Some(SHORT));

    let members = begin_with_victim().members().await.unwrap();
    let mut names: Vec<_> = members.iter().map(|member| member.name.as_str()).collect();
    names.sort_unstable();
    assert_eq!(names, ["n0", "n1", "n2"]);
    assert!(
        members
            .iter()
            .all(|member| cluster.urls().contains(&member.client_urls[0]))
    );

    let slack = Duration::from_millis(500);
    let measured = async |what: &str| {
        let client = begin_with_victim();
        let mut took = Vec::new();
        for number in 0..4 {
            let began = Instant::now();
            let written = client.put("/k", number.to_string(), None).await;
            written.unwrap_or_else(|error| panic!("{what}: {}", chain(&error)));
            took.push(began.elapsed());
        }
        eprintln!("a member {what}, four calls: {took:?}");
        assert!(took[0] < SHORT + slack, "{what}: {took:?}");
        assert!(
            took[1..].iter().all(|took| *took < slack),
            "{what}: asked again: {took:?}"
        );
        assert_ne!(client.current_endpoint(), urls[0], "{what}");
    };
    let see_four = async |watch: &mut Watch| {
        let mut seen = Vec::new();
        while seen.len() < 4 {
            seen.extend(changes(watch).await);
        }
        assert_eq!(seen, ["0", "1", "2", "3"].map(|value| put("/k", value)));
    };

    let connected = begin_with_victim();
    connected.get("/k").await.unwrap();
    let mut watch = begin_with_victim().watch("/k");
    assert!(snapshot(&mut watch).await.is_empty());

    cluster.member(victim).command(&["pause"]);
    let began = Instant::now();
    connected
        .get("/k")
        .await
        .expect("with a connection that was good");
    assert!(began.elapsed() < SHORT + slack, "{:?}", began.elapsed());
    measured("frozen").await;
    let statuses = connected.status().await;
    assert!(statuses[0].as_ref().is_err_and(Error::is_unavailable));
    assert!(statuses[1].is_ok() && statuses[2].is_ok());
    see_four(&mut watch).await;
    cluster.member(victim).command(&["unpause"]);

    let alone = client_of(&urls[..1], |_| {});
    until_answering(&alone).await;
    cluster.cut_from_clients(victim);
    measured("out of reach").await;
    cluster.join_clients(victim);
    until_answering(&alone).await;

    // Reachable, alive, and of no use: it has no leader, and what it knows grows old.
    let mut watch = begin_with_victim().watch("/k");
    assert_eq!(snapshot(&mut watch).await.len(), 1);
    cluster.cut_from_peers(victim);
    let began = Instant::now();
    measured("without its peers").await;
    see_four(&mut watch).await;
    eprintln!(
        "a watch left the member without peers after {:?}",
        began.elapsed()
    );
    assert!(began.elapsed() < Duration::from_secs(12), "{:?}", began.elapsed());
    let error = alone
        .get("/k")
        .await
        .expect_err("it must not answer from what it has");
    assert!(error.is_unavailable(), "{error:?}");
    let statuses = connected.status().await;
    let status = statuses[0].as_ref().expect("it can be asked how it is");
    assert_eq!(status.leader, None, "{status:?}");
    cluster.join_peers(victim);
    until_answering(&alone).await;

    cluster.member(victim).command(&["kill"]);
    measured("dead").await;
}

/// What the two writers contend for. Values differ by writer, as [`Client`]'s guarded writes ask for.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Counter {
    count: u64,
    /// How much each writer has added.
    by: BTreeMap<String, u64>,
}

/// Adds one again and again until told to stop; gives how often it did.
///
/// Fails when it is told that it has and it has not, or the other way round.
async fn count_up(client: Client, name: &'static str, stop: Arc<AtomicBool>) -> u64 {
    let record = Record::<Counter>::new(&client, "/counter");
    let mut mine = 0;
    let mut unknown = false;
    while !stop.load(Ordering::Relaxed) {
        let Ok(Some(seen)) = record.read().await else {
            continue;
        };
        let stored = seen.value.by.get(name).copied().unwrap_or(0);
        if unknown && stored == mine + 1 {
            mine += 1;
        }
        assert_eq!(stored, mine, "{name} was told otherwise");
        let mut next = seen.value.clone();
        next.count += 1;
        next.by.insert(name.to_owned(), mine + 1);
        unknown = match record.update(&seen, next).await {
            Ok(Update::Done(_)) => {
                mine += 1;
                false
            }
            Ok(Update::Conflict(_)) => false,
            Err(error) => error.is_ambiguous(),
        };
    }
    // What became of the last one may be unknown.
    let seen = record.read().await.unwrap().expect("the counter");
    let stored = seen.value.by.get(name).copied().unwrap_or(0);
    assert!(
        stored == mine || unknown && stored == mine + 1,
        "{name} was told otherwise"
    );
    stored
}

/// What a writer of new keys has seen.
#[derive(Default)]
struct Written {
    acknowledged: AtomicU64,
    /// The longest time in which nothing was written, in milliseconds.
    gap: AtomicU64,
    /// The longest call, in milliseconds.
    longest: AtomicU64,
}

async fn create_and_read(client: Client, written: Arc<Written>, stop: Arc<AtomicBool>) {
    let millis = |duration: Duration| u64::try_from(duration.as_millis()).unwrap();
    let mut last = Instant::now();
    while !stop.load(Ordering::Relaxed) {
        let number = written.acknowledged.load(Ordering::Relaxed);
        let key = format!("/new/{number:06}");
        let began = Instant::now();
        let result = client.create(&key, "v", None).await;
        written
            .longest
            .fetch_max(millis(began.elapsed()), Ordering::Relaxed);
        match result {
            // A conflict is what an error before it said may have happened.
            Ok(_) => {}
            Err(error) if error.is_unavailable() => continue,
            Err(error) => panic!("{}", chain(&error)),
        }
        written.gap.fetch_max(millis(last.elapsed()), Ordering::Relaxed);
        last = Instant::now();
        written.acknowledged.fetch_add(1, Ordering::Relaxed);
        match client.get(&key).await {
            Ok(entry) => assert!(entry.is_some(), "{key} was written and is not there"),
            Err(error) => assert!(error.is_unavailable(), "{}", chain(&error)),
        }
    }
}

/// All changes below `/` in the order in which a watch told of them.
#[derive(Default)]
struct Seen {
    counts: Vec<u64>,
    created: Vec<String>,
    revision: i64,
    outages: u32,
}

async fn follow(mut watch: Watch, seen: Arc<Mutex<Seen>>) {
    loop {
        let event = watch.next().await;
        let mut seen = seen.lock().unwrap();
        match event {
            WatchEvent::Snapshot(listing) => {
                assert_eq!(seen.revision, 0, "nothing was compacted");
                seen.revision = listing.revision;
            }
            WatchEvent::Unavailable { .. } => seen.outages += 1,
            WatchEvent::Resumed => {}
            WatchEvent::Changes(changes) => {
                for change in changes {
                    assert!(
                        change.revision() > seen.revision,
                        "out of order or twice: {change:?}"
                    );
                    seen.revision = change.revision();
                    match change {
                        Change::Put(entry) if entry.key == "/counter" => {
                            let counter: Counter = Versioned::decode(&entry).unwrap().value;
                            seen.counts.push(counter.count);
                        }
                        Change::Put(entry) if entry.key.starts_with("/new/") => seen.created.push(entry.key),
                        Change::Put(entry) => assert_eq!(entry.key, "/leased"),
                        Change::Deleted { key, .. } => panic!("{key} is gone"),
                    }
                }
            }
        }
    }
}

/// Reads, guarded writes, a lease and a watch, all going on at once.
struct Load {
    written: Arc<Written>,
    seen: Arc<Mutex<Seen>>,
    lease: tokio::sync::watch::Receiver<LeaseState>,
    stop: Arc<AtomicBool>,
    background: JoinSet<()>,
    writers: JoinSet<()>,
    counters: JoinSet<u64>,
}

impl Load {
    async fn start(client: impl Fn() -> Client) -> Load {
        let record = Record::<Counter>::new(&client(), "/counter");
        updated(record.create(Counter::default(), None).await.unwrap());
        let mut keeper = LeaseKeeper::grant(&client(), Duration::from_secs(8))
            .await
            .unwrap();
        let mut load = Load {
            written: Arc::default(),
            seen: Arc::default(),
            lease: keeper.state(),
            stop: Arc::default(),
            background: JoinSet::new(),
            writers: JoinSet::new(),
            counters: JoinSet::new(),
        };
        load.background
            .spawn(follow(client().watch("/"), Arc::clone(&load.seen)));
        until("the watch has begun", SOON, || async {
            match load.seen.lock().unwrap().revision {
                0 => Err("it has not".to_owned()),
                _ => Ok(()),
            }
        })
        .await;
        client().put("/leased", "", Some(keeper.id())).await.unwrap();
        load.background.spawn(async move {
            keeper.run().await;
            panic!("the lease was lost");
        });
        load.writers.spawn(create_and_read(
            client(),
            Arc::clone(&load.written),
            Arc::clone(&load.stop),
        ));
        for name in ["one", "two"] {
            load.counters
                .spawn(count_up(client(), name, Arc::clone(&load.stop)));
        }
        load
    }

    /// Waits until more is written, by all, and seen by the watch.
    async fn until_going(&self, what: &str) {
        let state = || {
            let seen = self.seen.lock().unwrap();
            let written = usize::try_from(self.written.acknowledged.load(Ordering::Relaxed)).unwrap();
            [written, seen.counts.len(), seen.created.len()]
        };
        let before = state();
        until(what, SOON, || async {
            let now = state();
            match now.iter().zip(before).all(|(now, before)| *now >= before + 10) {
                true => Ok(()),
                false => Err(format!("{before:?} to {now:?}")),
            }
        })
        .await;
    }

    /// Ends it and compares what was told with what is.
    async fn finish(mut self, client: &Client) {
        self.stop.store(true, Ordering::Relaxed);
        self.writers.join_all().await;
        let told: u64 = self.counters.join_all().await.into_iter().sum();
        let record = Record::<Counter>::new(client, "/counter");
        let counter = record.read().await.unwrap().expect("the counter").value;
        assert_eq!(counter.count, told, "{counter:?}");
        let created = client.list("/new/").await.unwrap().entries;
        let acknowledged = usize::try_from(self.written.acknowledged.load(Ordering::Relaxed)).unwrap();
        assert!(
            (acknowledged..=acknowledged + 1).contains(&created.len()),
            "{} keys of {acknowledged}",
            created.len()
        );
        until("the watch has seen all", SOON, || async {
            let seen = self.seen.lock().unwrap();
            let now = (seen.created.len(), seen.counts.last().copied());
            match now == (created.len(), Some(counter.count)) {
                true => Ok(()),
                false => Err(format!("{now:?}")),
            }
        })
        .await;
        let seen = self.seen.lock().unwrap();
        let longest = self.written.longest.load(Ordering::Relaxed);
        eprintln!(
            "counted to {}, created {}, longest call {longest} ms, {} outages told",
            counter.count,
            created.len(),
            seen.outages
        );
        assert!(
            seen.counts.iter().copied().eq(1..=counter.count),
            "each count once and in order"
        );
        assert!(
            seen.created.iter().eq(created.iter().map(|entry| &entry.key)),
            "each key once and in order"
        );
        // The deadline of 2 s, and what it takes to be scheduled.
        assert!(longest < 3000, "{longest} ms");
        assert!(self.lease.borrow().alive().is_some());
        if let Some(Err(failed)) = self.background.try_join_next() {
            panic!("{failed}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failure_of_each_member_in_turn_loses_and_doubles_nothing() {
    type Fault = (&'static str, fn(&EtcdCluster, usize), fn(&EtcdCluster, usize));
    const FAULTS: [Fault; 4] = [
        (
            "killed",
            |cluster, index| cluster.member(index).command(&["kill"]),
            |cluster, index| cluster.member(index).command(&["start"]),
        ),
        (
            "frozen",
            |cluster, index| cluster.member(index).command(&["pause"]),
            |cluster, index| cluster.member(index).command(&["unpause"]),
        ),
        (
            "cut off from its peers",
            EtcdCluster::cut_from_peers,
            EtcdCluster::join_peers,
        ),
        (
            "cut off from clients",
            EtcdCluster::cut_from_clients,
            EtcdCluster::join_clients,
        ),
    ];
    let cluster = EtcdCluster::start().await;
    let load = Load::start(|| client_of(cluster.urls(), |_| {})).await;
    load.until_going("at first").await;
    for (what, fail, mend) in FAULTS {
        // Each member in turn, and the leader among them.
        let leader = cluster.leader().await;
        for index in [leader, (leader + 1) % 3, (leader + 2) % 3] {
            load.written.gap.store(0, Ordering::Relaxed);
            let role = match cluster.leader().await == index {
                true => "the leader",
                false => "a follower",
            };
            fail(&cluster, index);
            load.until_going(&format!("n{index} {what}")).await;
            mend(&cluster, index);
            until_answering(&client_of(&cluster.urls()[index..=index], |_| {})).await;
            load.until_going(&format!("n{index} back, was {what}")).await;
            let gap = load.written.gap.load(Ordering::Relaxed);
            eprintln!("n{index}, {role}, {what}: nothing written for {gap} ms");
            // An election takes one to two seconds at worst here, an attempt two thirds of one; and as much again for a
            // slow machine.
            assert!(gap < 8000, "n{index} {what}: {gap} ms");
        }
    }
    load.finish(&client_of(cluster.urls(), |_| {})).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_that_was_stopped_comes_back_with_everything() {
    let cluster = EtcdCluster::start().await;
    let client = client_of(cluster.urls(), |config| config.timeout = Duration::from_secs(1));
    let mut watch = client.watch("/");
    assert!(snapshot(&mut watch).await.is_empty());
    let first = client.put("/k", "a", None).await.unwrap();
    assert_eq!(changes(&mut watch).await, [put("/k", "a")]);
    for index in 0..3 {
        cluster.member(index).command(&["kill"]);
    }
    outages(&mut watch, |attempts| attempts == 2).await;
    let error = client.put("/k", "b", None).await.unwrap_err();
    assert!(error.is_unavailable(), "{error:?}");
    let statuses = client.status().await;
    assert!(
        statuses
            .iter()
            .all(|status| status.as_ref().is_err_and(Error::is_unavailable))
    );
    // Two of three are enough.
    for index in [0, 2] {
        cluster.member(index).command(&["start"]);
    }
    let resumed = after_outages(&mut watch).await;
    assert!(matches!(resumed, WatchEvent::Resumed), "{resumed:?}");
    until_answering(&client).await;
    let entry = client.get("/k").await.unwrap().expect("it was written");
    assert_eq!((entry.value.as_slice(), entry.mod_revision), (&b"a"[..], first));
    client.put("/k", "c", None).await.unwrap();
    assert_eq!(changes(&mut watch).await, [put("/k", "c")]);
}
