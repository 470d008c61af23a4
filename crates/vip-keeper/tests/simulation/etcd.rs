//! One key of etcd with its history, and the answers to offers.

use vip_keeper::election::{Found, Outcome, Record};

#[derive(Clone, Debug)]
pub(crate) struct Etcd {
    pub(crate) found: Found,
    /// The record's revision, or that of its deletion.
    pub(crate) changed: i64,
    /// The store's.
    pub(crate) revision: i64,
    /// Nothing is written before then: an election of its leader.
    pub(crate) stalled_until: u64,
    /// Counts the stores that there were: a wiped one is another.
    pub(crate) store: u64,
}

impl Etcd {
    pub(crate) fn new() -> Self {
        Self {
            found: Found::Absent,
            changed: 0,
            revision: 1,
            stalled_until: 0,
            store: 1,
        }
    }

    /// A write that is guarded by revision and value: another store may have the same revisions.
    pub(crate) fn write(&mut self, guard: i64, replaces: Option<&Record>, record: Record) -> Outcome {
        let present = if self.found == Found::Absent {
            0
        } else {
            self.changed
        };
        if guard != present || replaces != self.found.record() {
            return Outcome::Conflict(self.found.clone(), present);
        }
        self.set(Found::Record(record));
        Outcome::Done(self.revision)
    }

    pub(crate) fn set(&mut self, found: Found) {
        self.revision += 1;
        self.changed = self.revision;
        self.found = found;
    }

    /// An old copy is put back, as the reference says: with new revisions that were never used (`--bump-revision`).
    pub(crate) fn restore(&mut self, backup: &Etcd) {
        *self = Self {
            store: self.store + 1,
            stalled_until: self.stalled_until,
            revision: self.revision + 1000,
            ..backup.clone()
        };
    }

    /// Everything is lost, and it begins anew.
    pub(crate) fn wipe(&mut self) {
        let store = self.store + 1;
        *self = Self {
            store,
            stalled_until: self.stalled_until,
            ..Self::new()
        };
    }
}
