//! The loop: who is alive, what goes where, and each machine brought to what it shall have.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use fleet::{UnitName, UnitState};
use futures_util::future::join_all;

use super::registry::Wanted;
use super::{Host, Shared, host};

/// How often it looks although nothing seems to have happened.
const RESYNC: Duration = Duration::from_secs(1);

pub(super) async fn run(shared: Arc<Shared>) {
    loop {
        see_who_is_alive(&shared).await;
        let work: Vec<(Host, Wanted, BTreeMap<UnitName, bool>)> = {
            let mut registry = shared.registry();
            registry.schedule();
            let reached = registry.members.iter().filter(|member| member.reachable);
            reached
                .map(|member| {
                    (
                        member.host.clone(),
                        registry.wanted(&member.host),
                        member.loaded.clone(),
                    )
                })
                .collect()
        };
        join_all(
            work.into_iter()
                .map(|(host, wanted, loaded)| agent(&shared, host, wanted, loaded)),
        )
        .await;
        // Cancel-safe: what is notified meanwhile is kept.
        let _ = tokio::time::timeout(RESYNC, shared.wake.notified()).await;
    }
}

async fn see_who_is_alive(shared: &Shared) {
    let hosts: Vec<Host> = shared
        .registry()
        .members
        .iter()
        .map(|member| member.host.clone())
        .collect();
    let seen = join_all(hosts.iter().map(async |host| match &host.container {
        Some(container) => Some(host::answers(container).await),
        None => None,
    }))
    .await;
    let mut registry = shared.registry();
    for (member, seen) in registry.members.iter_mut().zip(seen) {
        member.reachable = seen.unwrap_or(member.reachable);
        if member.reachable {
            member.last_seen = Instant::now();
        }
    }
}

/// Does one round of a machine's agent, and publishes what is there then.
async fn agent(shared: &Shared, host: Host, wanted: Wanted, mut loaded: BTreeMap<UnitName, bool>) {
    let states = match &host.container {
        Some(container) => on_host(container, &host, &wanted, &mut loaded).await,
        None => in_memory(shared, &host, &wanted, &mut loaded),
    };
    let mut registry = shared.registry();
    if let Some(member) = registry
        .members
        .iter_mut()
        .find(|member| member.host.id == host.id)
    {
        member.loaded = loaded;
        match states {
            Ok(states) => member.states = states,
            // Tried again in the next round; a host that is switched off is one of these.
            Err(error) => eprintln!("fleet's stand-in, {}: {error}", host.ip),
        }
    }
}

async fn on_host(
    container: &str,
    host: &Host,
    wanted: &Wanted,
    loaded: &mut BTreeMap<UnitName, bool>,
) -> Result<Vec<UnitState>, String> {
    let surplus: Vec<UnitName> = loaded
        .keys()
        .filter(|name| !wanted.contains_key(*name))
        .cloned()
        .collect();
    for name in surplus {
        host::unload(container, &name).await?;
        loaded.remove(&name);
    }
    let names: Vec<UnitName> = wanted.keys().cloned().collect();
    let present = host::states(container, host, &names).await?;
    for (name, (text, run)) in wanted {
        // A host that was restarted has lost what was in /run.
        let is_there = present
            .get(name)
            .is_some_and(|state| state.systemd_load_state == "loaded");
        if !is_there || !loaded.contains_key(name) {
            host::load(container, name, text).await?;
            loaded.insert(name.clone(), false);
        }
        let runs = loaded.get(name).copied().unwrap_or_default();
        match (run, runs) {
            (true, false) => host::start(container, name).await?,
            (false, true) => host::stop(container, name).await?,
            _ => {}
        }
        loaded.insert(name.clone(), *run);
    }
    Ok(host::states(container, host, &names)
        .await?
        .into_values()
        .collect())
}

fn in_memory(
    shared: &Shared,
    host: &Host,
    wanted: &Wanted,
    loaded: &mut BTreeMap<UnitName, bool>,
) -> Result<Vec<UnitState>, String> {
    *loaded = wanted
        .iter()
        .map(|(name, (_, run))| (name.clone(), *run))
        .collect();
    let registry = shared.registry();
    let state = |(name, run): (&UnitName, &bool)| {
        let (active, sub) = match (*run, registry.failing.contains(name)) {
            (true, true) => ("failed", "failed"),
            (true, false) => ("active", "running"),
            (false, _) => ("inactive", "dead"),
        };
        UnitState {
            name: name.to_string(),
            machine_id: host.id.clone(),
            hash: String::new(),
            systemd_load_state: "loaded".to_owned(),
            systemd_active_state: active.to_owned(),
            systemd_sub_state: sub.to_owned(),
        }
    };
    Ok(loaded.iter().map(state).collect())
}
