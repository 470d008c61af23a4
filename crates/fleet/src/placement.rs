//! What `[X-Fleet]` asks for, read as fleet reads it.

use std::collections::{BTreeMap, BTreeSet};

use crate::glob::Glob;
use crate::name::UnitName;
use crate::unit::UnitFile;

/// The section that is fleet's.
pub(crate) const SECTION: &str = "X-Fleet";

/// Where a unit may run.
///
/// As forgiving as fleet itself: what it ignores is not here. [`check`](crate::check) names that.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Placement {
    /// On every machine that [`Placement::allows`].
    pub global: bool,
    /// Only on the machine with this ID.
    pub machine_id: Option<String>,
    /// Only where these units are.
    pub machine_of: Vec<String>,
    /// Only on machines whose metadata has, for each key, one of the values.
    pub metadata: BTreeMap<String, BTreeSet<String>>,
    /// Not where units with such names are.
    pub conflicts: Vec<Glob>,
    /// In place of these units, which move elsewhere.
    pub replaces: Vec<String>,
}

impl Placement {
    /// What the unit asks for, its specifiers expanded.
    #[must_use]
    pub fn of(name: &UnitName, unit: &UnitFile) -> Self {
        let values = |key| words_of(name, unit, key);
        let mut metadata = BTreeMap::<_, BTreeSet<_>>::new();
        for pair in values("MachineMetadata") {
            if let Some((key, value)) = metadata_pair(&pair) {
                metadata
                    .entry(key.to_owned())
                    .or_default()
                    .insert(value.to_owned());
            }
        }
        Self {
            // The last one counts.
            global: values("Global").last().is_some_and(|value| is_true(value)),
            machine_id: values("MachineID").into_iter().next(),
            machine_of: values("MachineOf"),
            metadata,
            conflicts: values("Conflicts")
                .iter()
                .filter_map(|text| text.parse().ok())
                .collect(),
            replaces: values("Replaces"),
        }
    }

    /// Whether a machine will do, as far as its ID and metadata go.
    #[must_use]
    pub fn allows(&self, machine_id: &str, metadata: &BTreeMap<String, String>) -> bool {
        self.machine_id.as_deref().is_none_or(|id| id == machine_id)
            && self
                .metadata
                .iter()
                .all(|(key, values)| metadata.get(key).is_some_and(|value| values.contains(value)))
    }

    /// Whether it must not run where `other` runs.
    #[must_use]
    pub fn conflicts_with(&self, other: &UnitName) -> bool {
        self.conflicts.iter().any(|glob| glob.matches(other.as_str()))
    }
}

fn words_of(name: &UnitName, unit: &UnitFile, key: &str) -> Vec<String> {
    unit.values(SECTION, key)
        .flat_map(words)
        .map(|word| name.expand(&word))
        .collect()
}

/// The words of a value: `"a" "b"` are two, anything that does not begin and end with a quote is one, blanks and all
/// (`parseMultivalueLine` in fleet's `unit/unit.go`).
pub(crate) fn words(value: &str) -> Vec<String> {
    if value.len() < 2 || !value.starts_with('"') || !value.ends_with('"') {
        return vec![value.to_owned()];
    }
    let mut words = vec![String::new()];
    let mut quoted = false;
    for c in value.chars() {
        match c {
            '"' => quoted = !quoted,
            ' ' if !quoted => words.push(String::new()),
            _ => {
                if let Some(word) = words.last_mut() {
                    word.push(c);
                }
            }
        }
    }
    words.retain(|word| !word.is_empty());
    words
}

/// `key=value`, neither of them empty, with one `=`; fleet ignores anything else.
pub(crate) fn metadata_pair(text: &str) -> Option<(&str, &str)> {
    let (key, value) = text.split_once('=')?;
    (!key.is_empty() && !value.is_empty() && !value.contains('=')).then_some((key, value))
}

/// What fleet takes for true (`isTruthyValue` in its `job/job.go`).
pub(crate) fn is_true(value: &str) -> bool {
    ["true", "yes", "1", "on", "t"].contains(&value.to_lowercase().as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn placement(name: &str, fleet: &str) -> Placement {
        let unit = UnitFile::parse(&format!("[X-Fleet]\n{fleet}")).expect("unit");
        Placement::of(&name.parse().expect("name"), &unit)
    }

    fn metadata(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs
            .iter()
            .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
            .collect()
    }

    #[test]
    fn nothing_said_is_everywhere_once() {
        let anywhere = placement("a.service", "");
        assert_eq!(anywhere, Placement::default());
        assert!(anywhere.allows("m1", &BTreeMap::new()));
    }

    #[test]
    fn metadata_of_one_key_is_or_and_of_several_is_and() {
        for text in [
            "MachineMetadata=\"disk=ssd\" \"zone=a\" \"zone=b\"",
            "MachineMetadata=disk=ssd\nMachineMetadata=zone=a\nMachineMetadata=zone=b",
        ] {
            let placement = placement("a.service", text);
            for (machine, expected) in [
                (metadata(&[("disk", "ssd"), ("zone", "b")]), true),
                (metadata(&[("disk", "ssd"), ("zone", "a"), ("more", "x")]), true),
                (metadata(&[("disk", "ssd"), ("zone", "c")]), false),
                (metadata(&[("zone", "a")]), false),
                (metadata(&[]), false),
            ] {
                assert_eq!(placement.allows("m", &machine), expected, "{machine:?}");
            }
        }
    }

    #[test]
    fn specifiers_and_the_last_word_on_global() {
        let one = placement(
            "web@1.service",
            "MachineOf=php@%i.service\nConflicts=%p@*.service\nGlobal=true\nGlobal=no",
        );
        assert_eq!(one.machine_of, ["php@1.service"]);
        assert!(one.conflicts_with(&"web@2.service".parse().expect("name")));
        assert!(!one.conflicts_with(&"php@1.service".parse().expect("name")));
        assert!(!one.global);
        assert!(placement("a.service", "Global=Yes").global);
        assert!(!placement("a.service", "MachineID=m1").allows("m2", &BTreeMap::new()));
    }

    #[test]
    fn what_fleet_ignores_is_not_there() {
        let odd = placement(
            "a.service",
            "MachineMetadata=a=1 b=2\nMachineMetadata=c\nMachineMetadata==d\nConflicts=[",
        );
        assert_eq!(odd, Placement::default());
    }

    #[test]
    fn words_are_split_between_quotes_only() {
        assert_eq!(words("a b"), ["a b"]);
        assert_eq!(words("\"a b\"  \"c\""), ["a b", "c"]);
        assert_eq!(words("\""), ["\""]);
        assert_eq!(words("\"\""), Vec::<String>::new());
    }
}
