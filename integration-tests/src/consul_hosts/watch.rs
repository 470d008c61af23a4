//! Looks at all hosts and at etcd all the while, for what must never be: a second cluster, something lost, two server slots
//! that change hands at once.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::process::Command;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use etcd::{Change, KeyValue, WatchEvent};
use futures_util::future::join_all;
use serde_json::Value;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::http::get;

/// Where the value that must be kept is.
pub(super) const KEPT: &str = "colossus-test";
const PREFIX: &str = "/colossus/consul/";
const PAUSE: Duration = Duration::from_millis(250);
const ANSWER: Duration = Duration::from_secs(1);
/// For how many looks in a row two leaders may be seen: one that was cut off takes half a second to know.
const TWO_LEADERS: usize = 10;

/// A host that is on.
#[derive(Clone, Debug)]
pub(super) struct Place {
    pub(super) name: String,
    pub(super) cluster: String,
    pub(super) consul: SocketAddr,
    pub(super) admin: SocketAddr,
}

/// The hosts that are on, and what containers that are gone have logged.
#[derive(Clone, Debug, Default)]
pub(super) struct Places {
    inner: Arc<Mutex<Known>>,
}

#[derive(Debug, Default)]
struct Known {
    on: BTreeMap<usize, Place>,
    logs: BTreeMap<String, String>,
}

impl Places {
    fn lock(&self) -> MutexGuard<'_, Known> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn put(&self, number: usize, place: Place) {
        self.lock().on.insert(number, place);
    }

    pub(super) fn take(&self, number: usize) {
        self.lock().on.remove(&number);
    }

    pub(super) fn on(&self) -> Vec<Place> {
        self.lock().on.values().cloned().collect()
    }

    /// Remembers what these containers have logged, before they go.
    pub(super) fn keep_logs(&self, containers: &[&str]) {
        for container in containers {
            let text = logs(container);
            let mut known = self.lock();
            let kept = known.logs.entry((*container).to_owned()).or_default();
            kept.push_str(&text);
            kept.push_str("--- gone\n");
        }
    }

    /// All that containers of this name have ever logged.
    pub(super) fn logs(&self, container: &str) -> String {
        let mut text = self.lock().logs.get(container).cloned().unwrap_or_default();
        text.push_str(&logs(container));
        text
    }

    /// The names of all containers whose logs there are.
    pub(super) fn logged(&self) -> Vec<String> {
        self.lock().logs.keys().cloned().collect()
    }
}

fn logs(container: &str) -> String {
    match Command::new("docker").args(["logs", container]).output() {
        Ok(output) if output.status.success() => format!(
            "{}{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        ),
        _ => String::new(),
    }
}

/// What must hold, what was seen, and what did not hold.
#[derive(Debug, Default)]
struct Seen {
    kept: BTreeMap<String, String>,
    /// A new cluster in the place of the old was asked for.
    renewed: bool,
    records: BTreeMap<String, Vec<Value>>,
    violations: BTreeSet<String>,
    /// Whose Consuls did not run at the same time, since it was last asked for.
    down: BTreeSet<BTreeSet<String>>,
}

/// Looks until it is dropped.
#[derive(Debug)]
pub struct Watch {
    places: Places,
    seen: Arc<Mutex<Seen>>,
    _tasks: JoinSet<()>,
}

impl Watch {
    pub(super) fn start(etcd: etcd::Client) -> Self {
        let (places, seen) = (Places::default(), Arc::new(Mutex::new(Seen::default())));
        let mut tasks = JoinSet::new();
        tasks.spawn(look(places.clone(), seen.clone()));
        tasks.spawn(follow(etcd, seen.clone()));
        Self {
            places,
            seen,
            _tasks: tasks,
        }
    }

    pub(super) fn places(&self) -> Places {
        self.places.clone()
    }

    /// From now on a consistent read in this cluster must give this value.
    pub(super) fn must_keep(&self, cluster: &str, value: &str) {
        lock(&self.seen).kept.insert(cluster.to_owned(), value.to_owned());
    }

    /// Until the next value is written any will do.
    pub(super) fn keeps_nothing(&self, cluster: &str) {
        lock(&self.seen).kept.remove(cluster);
    }

    /// The value that must be kept.
    pub(super) fn kept(&self, cluster: &str) -> Option<String> {
        lock(&self.seen).kept.get(cluster).cloned()
    }

    /// An operator is about to give up some or all of what was: nothing must be kept any more, slots may change hands at
    /// once, and the cluster may get another ID.
    pub fn all_is_given_up(&self) {
        let mut seen = lock(&self.seen);
        seen.kept.clear();
        seen.renewed = true;
    }

    /// Every record that was seen in etcd, in order.
    pub fn records(&self, cluster: &str) -> Vec<Value> {
        lock(&self.seen).records.get(cluster).cloned().unwrap_or_default()
    }

    pub(super) fn all_records(&self) -> BTreeMap<String, Vec<Value>> {
        lock(&self.seen).records.clone()
    }

    /// Of which hosts that are on no Consul ran, at any one time since this was last asked.
    pub fn down_at_once(&self) -> BTreeSet<BTreeSet<String>> {
        std::mem::take(&mut lock(&self.seen).down)
    }

    /// What must never be, and was.
    pub fn violations(&self) -> Vec<String> {
        lock(&self.seen).violations.iter().cloned().collect()
    }
}

fn lock(seen: &Mutex<Seen>) -> MutexGuard<'_, Seen> {
    seen.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What one Consul says of itself.
#[derive(Debug, Default)]
struct Look {
    /// Nobody listens. One that takes its time is there.
    down: bool,
    leads: bool,
    value: Option<Option<String>>,
}

async fn look(places: Places, seen: Arc<Mutex<Seen>>) {
    let mut leaders: BTreeMap<String, usize> = BTreeMap::new();
    loop {
        let kept = lock(&seen).kept.clone();
        let on = places.on();
        let looks = join_all(
            on.iter()
                .map(|place| async { timeout(ANSWER, look_at(place)).await.unwrap_or_default() }),
        )
        .await;
        judge(&mut lock(&seen), &kept, &on, &looks, &mut leaders);
        sleep(PAUSE).await;
    }
}

/// Notes what does not hold. `leaders` counts for how many looks in a row each cluster had two leaders.
fn judge(
    seen: &mut Seen,
    kept: &BTreeMap<String, String>,
    on: &[Place],
    looks: &[Look],
    leaders: &mut BTreeMap<String, usize>,
) {
    let mut leading: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for (place, look) in on.iter().zip(looks) {
        if look.leads {
            leading.entry(&place.cluster).or_default().push(&place.name);
        }
        // Only what was expected before this look began, and still is.
        let expected = kept
            .get(&place.cluster)
            .filter(|value| seen.kept.get(&place.cluster) == Some(value));
        if let (Some(expected), Some(value)) = (expected, &look.value)
            && value.as_ref() != Some(expected)
        {
            let violation = format!("{} reads {value:?} where {expected} was written", place.name);
            seen.violations.insert(violation);
        }
    }
    let down = on.iter().zip(looks).filter(|(_, look)| look.down);
    let down: BTreeSet<_> = down.map(|(place, _)| place.name.clone()).collect();
    if !down.is_empty() {
        seen.down.insert(down);
    }
    for place in on {
        leaders.entry(place.cluster.clone()).or_default();
    }
    for (cluster, count) in leaders {
        match leading.get(cluster.as_str()) {
            Some(names) if names.len() > 1 => {
                *count += 1;
                if *count >= TWO_LEADERS {
                    seen.violations
                        .insert(format!("{} lead {cluster} at once", names.join(" and ")));
                }
            }
            _ => *count = 0,
        }
    }
}

async fn look_at(place: &Place) -> Look {
    let mut look = Look::default();
    let agent = match get(place.consul, "localhost", "/v1/agent/self").await {
        Ok(agent) => agent,
        Err(error) => {
            look.down = error.kind() == std::io::ErrorKind::ConnectionRefused;
            return look;
        }
    };
    // Where it asks for a token it says nothing of itself, and nothing of what it keeps.
    let agent: Value = serde_json::from_str(&agent.body).unwrap_or_default();
    look.leads = agent["Stats"]["consul"]["leader"] == "true";
    let path = format!("/v1/kv/{KEPT}?consistent&raw");
    look.value = match get(place.consul, "localhost", &path).await {
        Ok(answer) if answer.status == 200 => Some(Some(answer.body)),
        Ok(answer) if answer.status == 404 => Some(None),
        _ => None,
    };
    look
}

async fn follow(client: etcd::Client, seen: Arc<Mutex<Seen>>) {
    let mut watch = client.watch(PREFIX);
    loop {
        match watch.next().await {
            WatchEvent::Snapshot(listing) => {
                for entry in &listing.entries {
                    note(&seen, entry);
                }
            }
            WatchEvent::Changes(changes) => {
                for change in &changes {
                    if let Change::Put(entry) = change {
                        note(&seen, entry);
                    }
                }
            }
            WatchEvent::Unavailable { .. } | WatchEvent::Resumed => {}
        }
    }
}

fn note(seen: &Mutex<Seen>, entry: &KeyValue) {
    let Some(cluster) = entry
        .key
        .strip_prefix(PREFIX)
        .and_then(|rest| rest.strip_suffix("/record"))
    else {
        return;
    };
    // Garbage, which a test has put there.
    let Ok(record) = serde_json::from_slice::<Value>(&entry.value) else {
        return;
    };
    if record["version"] != 1 || !record["slots"].is_array() {
        return;
    }
    let mut seen = lock(seen);
    let before = seen
        .records
        .get(cluster)
        .and_then(|records| records.last().cloned());
    if let Some(before) = &before
        && let Some(complaint) = wrong_change(before, &record)
        && !seen.renewed
    {
        seen.violations
            .insert(format!("{complaint}: {before} became {record}"));
    }
    if before.as_ref() != Some(&record) {
        seen.records.entry(cluster.to_owned()).or_default().push(record);
    }
}

fn wrong_change(before: &Value, after: &Value) -> Option<&'static str> {
    let holders = |record: &Value, state: Option<&str>| -> BTreeSet<String> {
        let slots = record["slots"].as_array().cloned().unwrap_or_default();
        slots
            .iter()
            .filter(|slot| state.is_none_or(|state| slot["state"] == state))
            .map(|slot| slot["node"].as_str().unwrap_or_default().to_owned())
            .collect()
    };
    let all = holders(after, None);
    if all.len() as u64 > after["servers"].as_u64().unwrap_or_default() {
        return Some("more servers than slots");
    }
    if before["bootstrapped"] != true {
        return None;
    }
    if after["bootstrapped"] != true {
        return Some("a cluster that was bootstrapped is to be bootstrapped again");
    }
    if before["id"] != after["id"] {
        return Some("another cluster took the place of one that was bootstrapped");
    }
    let freed: BTreeSet<_> = holders(before, None).difference(&all).cloned().collect();
    let joining: BTreeSet<_> = holders(before, Some("joining"))
        .difference(&freed)
        .cloned()
        .collect();
    if freed.len() > 1 || (!freed.is_empty() && !joining.is_empty()) {
        return Some("two server slots changed hands at once");
    }
    None
}
