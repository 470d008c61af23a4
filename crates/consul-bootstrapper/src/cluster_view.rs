//! What etcd holds of one cluster, as plain values; what cannot be read is left out by name.

use std::collections::{BTreeMap, BTreeSet};

use contract::DnsLabel;
use etcd::{KeyValue, Listing};

use crate::keys::Keys;
use crate::observed::RecordView;
use crate::presence::Seen;
use crate::record::ClusterRecord;

/// The keys of one cluster, read at one revision.
#[derive(Debug)]
pub struct ClusterView {
    /// What was agreed on.
    pub record: RecordView,
    /// The revision of the record, to guard a change by; 0 without one.
    pub record_revision: i64,
    /// Who lives.
    pub nodes: BTreeMap<DnsLabel, Seen>,
    /// Whose turn it is to restart, with its revision.
    pub turn: Option<(DnsLabel, i64)>,
    /// Keys that hold something else than they should, with the reason.
    pub rejected: BTreeSet<String>,
}

impl ClusterView {
    /// Reads a listing of everything below [`Keys::prefix`].
    pub fn read(keys: &Keys, listing: &Listing) -> Self {
        let mut view = Self {
            record: RecordView::Absent,
            record_revision: 0,
            nodes: BTreeMap::new(),
            turn: None,
            rejected: listing
                .rejected
                .iter()
                .map(|key| format!("{key}: the key is not UTF-8"))
                .collect(),
        };
        for entry in &listing.entries {
            if entry.key == keys.record() {
                view.record_revision = entry.mod_revision;
                view.record = match record(&entry.value) {
                    Ok(record) => RecordView::Present(record),
                    Err(reason) => RecordView::Unreadable(format!("{}: {reason}", entry.key)),
                };
            } else if entry.key == keys.turn() {
                match String::from_utf8_lossy(&entry.value).parse() {
                    Ok(node) => view.turn = Some((node, entry.mod_revision)),
                    Err(reason) => view.reject(entry, &reason.to_string()),
                }
            } else if let Some(name) = entry.key.strip_prefix(&keys.nodes()) {
                match node(name, entry) {
                    Ok(seen) => {
                        view.nodes.insert(seen.presence.node.clone(), seen);
                    }
                    Err(reason) => view.reject(entry, &reason),
                }
            }
        }
        view
    }

    fn reject(&mut self, entry: &KeyValue, reason: &str) {
        self.rejected.insert(format!("{}: {reason}", entry.key));
    }
}

fn record(value: &[u8]) -> Result<ClusterRecord, String> {
    let record: ClusterRecord = serde_json::from_slice(value).map_err(|error| error.to_string())?;
    record.check().map_err(|problem| problem.to_string())?;
    Ok(record)
}

fn node(name: &str, entry: &KeyValue) -> Result<Seen, String> {
    let presence: crate::observed::Presence =
        serde_json::from_slice(&entry.value).map_err(|error| error.to_string())?;
    if presence.node.as_str() != name {
        return Err(format!("it says it is {}", presence.node));
    }
    if entry.lease.is_none() {
        return Err("it has no lease, so it would never end".to_owned());
    }
    if presence.address.is_unspecified() || presence.address.is_multicast() {
        return Err(format!("nobody can be at {}", presence.address));
    }
    Ok(Seen {
        presence,
        create_revision: entry.create_revision,
    })
}

#[cfg(test)]
mod tests {
    use contract::ClusterName;
    use proptest::prelude::*;

    use super::*;

    fn keys() -> Keys {
        Keys::new(&"main".parse::<ClusterName>().expect("a name"))
    }

    fn listing(entries: Vec<(String, Vec<u8>)>) -> Listing {
        Listing {
            revision: 1,
            entries: entries
                .into_iter()
                .map(|(key, value)| KeyValue {
                    key,
                    value,
                    create_revision: 1,
                    mod_revision: 1,
                    lease: None,
                })
                .collect(),
            rejected: Vec::new(),
        }
    }

    #[test]
    fn garbage_is_left_out_by_name_and_the_rest_is_read() {
        let keys = keys();
        let record = ClusterRecord::new("c1".into(), 3);
        let view = ClusterView::read(
            &keys,
            &listing(vec![
                (keys.record(), serde_json::to_vec(&record).expect("JSON")),
                (format!("{}n1", keys.nodes()), b"garbage".to_vec()),
                (format!("{}n2", keys.nodes()), Vec::new()),
            ]),
        );
        assert_eq!(view.record, RecordView::Present(record));
        assert!(view.nodes.is_empty());
        let named: Vec<_> = view.rejected.iter().map(String::as_str).collect();
        assert!(
            named.len() == 2
                && named
                    .iter()
                    .all(|text| text.starts_with("/colossus/consul/main/nodes/n")),
            "{named:?}"
        );
    }

    #[test]
    fn a_record_that_cannot_be_is_not_read() {
        let keys = keys();
        for value in [
            &b""[..],
            b"[]",
            b"{\"version\":2,\"id\":\"x\",\"servers\":3,\"bootstrapped\":true,\"slots\":[]}",
        ] {
            let view = ClusterView::read(&keys, &listing(vec![(keys.record(), value.to_vec())]));
            assert!(
                matches!(view.record, RecordView::Unreadable(_)),
                "{:?}",
                view.record
            );
        }
    }

    proptest! {
        #[test]
        fn no_value_panics(entries in proptest::collection::vec((".{0,40}", proptest::collection::vec(any::<u8>(), 0..200)), 0..8)) {
            let keys = keys();
            let entries = entries.into_iter().map(|(key, value)| (format!("{}{key}", keys.prefix()), value)).collect();
            let _ = ClusterView::read(&keys, &listing(entries));
        }
    }
}
