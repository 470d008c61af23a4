//! The rules of `[X-Fleet]`: what fleet refuses, and what it takes and ignores, which is worse.

use std::fmt;

use crate::glob::Glob;
use crate::name::UnitName;
use crate::placement::{Placement, SECTION, is_true, metadata_pair, words};
use crate::unit::{UnitFile, UnitOption};

/// The options that fleet knows.
const KEYS: [&str; 6] = [
    "MachineID",
    "MachineOf",
    "MachineMetadata",
    "Conflicts",
    "Global",
    "Replaces",
];

/// Old names of these, and what they are called now.
const OLD_KEYS: [(&str, &str); 5] = [
    ("X-ConditionMachineID", "MachineID"),
    ("X-ConditionMachineBootID", "MachineID"),
    ("X-ConditionMachineOf", "MachineOf"),
    ("X-ConditionMachineMetadata", "MachineMetadata"),
    ("X-Conflicts", "Conflicts"),
];

/// The types of units that fleet runs.
const KINDS: [&str; 7] = [
    "service",
    "socket",
    "device",
    "mount",
    "automount",
    "timer",
    "path",
];

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// It does what it says, and that is hardly what was meant.
    Warning,
    /// fleet refuses it, or ignores what was written.
    Error,
}

/// One thing that is wrong with a unit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// How bad it is.
    pub severity: Severity,
    /// Where it is in the text, from 1; `None` for what is no line's alone.
    pub line: Option<usize>,
    /// What it is, and how to mend it.
    pub message: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.severity {
            Severity::Warning => "warning: ",
            Severity::Error => "error: ",
        })?;
        if let Some(line) = self.line {
            write!(f, "line {line}: ")?;
        }
        f.write_str(&self.message)
    }
}

/// What is wrong with a unit for fleet, in the order of its lines; nothing, when all is well.
///
/// Rules: fleet's documentation ("Unit files and scheduling") and what was measured with fleet 1.0.0. systemd's own rules are
/// `systemd-analyze verify`'s.
#[must_use]
pub fn check(name: &UnitName, unit: &UnitFile) -> Vec<Finding> {
    // A template is as good as its instances are.
    let instance = name
        .is_template()
        .then(|| format!("{}@1.{}", name.prefix(), name.kind()).parse().ok());
    let mut checks = Checks {
        name: instance.flatten().unwrap_or_else(|| name.clone()),
        findings: Vec::new(),
    };
    checks.kind();
    for (option, line) in unit.section(SECTION) {
        checks.option(option, line);
    }
    checks.combinations(unit);
    checks.install(unit);
    // Stable: what is about the whole unit comes first.
    checks.findings.sort_by_key(|finding| finding.line);
    checks.findings
}

struct Checks {
    /// The unit, or an instance of the template.
    name: UnitName,
    findings: Vec<Finding>,
}

impl Checks {
    fn error(&mut self, line: Option<usize>, message: String) {
        self.findings.push(Finding {
            severity: Severity::Error,
            line,
            message,
        });
    }

    fn warning(&mut self, line: Option<usize>, message: String) {
        self.findings.push(Finding {
            severity: Severity::Warning,
            line,
            message,
        });
    }

    fn kind(&mut self) {
        let kind = self.name.kind();
        if !KINDS.contains(&kind) {
            self.error(
                None,
                format!(
                    "fleet runs no unit of type .{kind}: it takes .{}",
                    KINDS.join(", .")
                ),
            );
        }
    }

    fn option(&mut self, option: &UnitOption, line: Option<usize>) {
        let UnitOption { name: key, value, .. } = option;
        if let Some((_, new)) = OLD_KEYS.iter().find(|(old, _)| old == key) {
            self.warning(line, format!("{key}= is an old name: write {new}="));
            return;
        }
        if !KEYS.contains(&key.as_str()) {
            let meant = nearest(key).map_or_else(
                || format!("it knows {}=", KEYS.join("=, ")),
                |near| format!("is {near}= meant?"),
            );
            self.error(line, format!("fleet knows no {key}= and ignores it: {meant}"));
            return;
        }
        if value.is_empty() {
            self.error(line, format!("{key}= is empty: give it a value, or remove it"));
            return;
        }
        self.specifiers(key, value, line);
        for word in words(value) {
            let word = self.name.expand(&word);
            match key.as_str() {
                "Global" => self.boolean(&word, line),
                "MachineMetadata" => self.metadata(&word, line),
                "Conflicts" => self.conflict(&word, line),
                "MachineOf" | "Replaces" => self.peer(key, &word, line),
                _ => self.machine_id(&word, line),
            }
        }
    }

    /// fleet replaces four; any other stays in the value as it is.
    fn specifiers(&mut self, key: &str, value: &str, line: Option<usize>) {
        let mut rest = value;
        while let Some((_, after)) = rest.split_once('%') {
            match after.chars().next() {
                Some('n' | 'N' | 'p') => {}
                Some('i') if self.name.instance().is_some() => {}
                Some('i') => self.error(
                    line,
                    format!(
                        "{key}= has %i, which is empty here: {} is no template and no instance of one",
                        self.name
                    ),
                ),
                Some(other) => {
                    self.error(
                        line,
                        format!(
                            "{key}= has %{other}, which fleet does not replace: it knows %n, %N, %p and %i"
                        ),
                    );
                }
                None => self.error(line, format!("{key}= ends in a lone %")),
            }
            rest = after.get(1..).unwrap_or_default();
        }
    }

    fn boolean(&mut self, word: &str, line: Option<usize>) {
        let is_false = ["false", "no", "0", "off", "f"].contains(&word.to_lowercase().as_str());
        if !is_true(word) && !is_false {
            self.error(
                line,
                format!("Global={word} is false to fleet: write true or false"),
            );
        }
    }

    fn metadata(&mut self, word: &str, line: Option<usize>) {
        if metadata_pair(word).is_some() {
            return;
        }
        let mend = if word.contains(' ') {
            "quote each pair: MachineMetadata=\"a=1\" \"b=2\""
        } else {
            "write one key, one = and one value"
        };
        self.error(line, format!("fleet ignores MachineMetadata={word}: {mend}"));
    }

    fn conflict(&mut self, word: &str, line: Option<usize>) {
        if word.contains(' ') {
            self.error(
                line,
                format!("Conflicts={word} is one pattern to fleet, blank and all: give each its own line"),
            );
            return;
        }
        match word.parse::<Glob>() {
            Err(bad) => self.error(line, format!("Conflicts={word} is no pattern: {bad}")),
            Ok(glob) if self.name.instance().is_none() && glob.matches(self.name.as_str()) => {
                self.warning(
                    line,
                    format!(
                        "Conflicts={word} means {} itself, of which there is only one",
                        self.name
                    ),
                );
            }
            Ok(glob) if !glob.to_string().contains(['*', '?', '[', '.']) => {
                self.error(
                    line,
                    format!("Conflicts={word} matches no unit's name: write the whole name, {word}.service"),
                );
            }
            Ok(_) => {}
        }
    }

    fn peer(&mut self, key: &str, word: &str, line: Option<usize>) {
        match word.parse::<UnitName>() {
            Err(error) => self.error(line, format!("{key}={word} is no unit's name: {error}")),
            Ok(peer) if peer == self.name => self.error(line, format!("{key}= names the unit itself")),
            Ok(peer) if peer.is_template() => {
                self.error(line, format!("{key}={peer} is a template, which runs nowhere: name an instance, with %i for example"));
            }
            Ok(_) => {}
        }
    }

    fn machine_id(&mut self, word: &str, line: Option<usize>) {
        if word.len() != 32 || !word.chars().all(|c| c.is_ascii_hexdigit()) {
            self.error(
                line,
                format!(
                    "MachineID={word} is no machine's ID: it has 32 hexadecimal digits (/etc/machine-id)"
                ),
            );
        }
    }

    fn combinations(&mut self, unit: &UnitFile) {
        let placement = Placement::of(&self.name, unit);
        let mut given = KEYS.map(|key| (key, unit.values(SECTION, key).next().is_some()));
        for slot in &mut given {
            if slot.0 == "Global" {
                slot.1 = placement.global;
            }
        }
        let has = |key| given.iter().any(|(found, is)| *found == key && *is);
        for (one, other, why) in [
            ("Global", "MachineID", "it runs on every machine"),
            ("Global", "MachineOf", "it runs on every machine"),
            ("Global", "Replaces", "it runs on every machine"),
            ("MachineID", "MachineOf", "one machine is said already"),
            ("MachineID", "Conflicts", "one machine is said already"),
            (
                "Replaces",
                "Conflicts",
                "it shall be where the other is, and must not be there",
            ),
        ] {
            if has(one) && has(other) {
                self.error(
                    None,
                    format!("{one}= and {other}= do not go together ({why}): remove one of them"),
                );
            }
        }
        for peer in placement.machine_of.iter().filter_map(|text| text.parse().ok()) {
            if placement.conflicts_with(&peer) {
                self.error(
                    None,
                    format!("MachineOf={peer} and Conflicts= contradict each other: it could run nowhere"),
                );
            }
        }
    }

    fn install(&mut self, unit: &UnitFile) {
        if let Some((option, line)) = unit.section("Install").next() {
            self.warning(
                line,
                format!(
                    "[Install] {}= lets systemd start the unit behind fleet's back: remove the section, and link the unit where \
                     fleet is not used (systemctl add-wants)",
                    option.name
                ),
            );
        }
    }
}

/// The key that was probably meant.
fn nearest(key: &str) -> Option<&'static str> {
    let near = KEYS.into_iter().min_by_key(|known| distance(key, known))?;
    (distance(key, near) <= near.len() / 3).then_some(near)
}

/// How many letters must be put in, left out or replaced to make one of the other (Levenshtein); case does not count.
fn distance(one: &str, other: &str) -> usize {
    let other: Vec<char> = other.to_lowercase().chars().collect();
    let mut row: Vec<usize> = (0..=other.len()).collect();
    for (index, c) in one.to_lowercase().chars().enumerate() {
        let mut left = index + 1;
        let mut diagonal = index;
        for (position, d) in other.iter().enumerate() {
            let above = row.get(position + 1).copied().unwrap_or_default();
            let best = (left + 1).min(above + 1).min(diagonal + usize::from(c != *d));
            diagonal = above;
            if let Some(slot) = row.get_mut(position) {
                *slot = left;
            }
            left = best;
        }
        if let Some(last) = row.last_mut() {
            *last = left;
        }
    }
    row.last().copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn findings(name: &str, fleet: &str) -> Vec<String> {
        let unit =
            UnitFile::parse(&format!("[Service]\nExecStart=/bin/a\n[X-Fleet]\n{fleet}\n")).expect("unit");
        check(&name.parse().expect("name"), &unit)
            .iter()
            .map(ToString::to_string)
            .collect()
    }

    #[test]
    fn what_fleet_takes_has_no_findings() {
        for (name, fleet) in [
            ("a.service", ""),
            ("a.service", "Global=true"),
            (
                "a.service",
                "Global=true\nMachineMetadata=\"disk=ssd\" \"zone=a\"\nConflicts=b.service",
            ),
            ("a.service", "Global=false\nMachineOf=b.service"),
            ("a@.service", "Conflicts=a@*.service"),
            ("a@1.service", "Conflicts=%p@*.service"),
            ("nginx@.service", "MachineOf=php-fpm@%i.service"),
            ("nginx@1.service", "MachineOf=php-fpm@%i.service"),
            ("a.timer", "MachineOf=%N.service"),
            ("a.service", "MachineID=2dde0d31f1b244b9a8e0a5a6b0f1e0cd"),
            ("a.service", "Replaces=b.service"),
            ("a.service", "Conflicts=b.service\nConflicts=c[0-9].service"),
        ] {
            assert_eq!(findings(name, fleet), Vec::<String>::new(), "{name}: {fleet}");
        }
    }

    #[test]
    fn what_it_refuses_or_ignores_is_named_with_its_mend() {
        for (name, fleet, part) in [
            (
                "a.service",
                "Conflict=b.service",
                "error: line 4: fleet knows no Conflict= and ignores it: is Conflicts= meant?",
            ),
            ("a.service", "global=true", "is Global= meant?"),
            ("a.service", "MachineMetaData=a=b", "is MachineMetadata= meant?"),
            (
                "a.service",
                "Colour=red",
                "it knows MachineID=, MachineOf=, MachineMetadata=, Conflicts=, Global=, Replaces=",
            ),
            (
                "a.service",
                "X-Conflicts=b*",
                "warning: line 4: X-Conflicts= is an old name: write Conflicts=",
            ),
            ("a.service", "Conflicts=", "is empty"),
            ("a.service", "Global=maybe", "Global=maybe is false to fleet"),
            ("a.service", "MachineMetadata=a=1 b=2", "quote each pair"),
            ("a.service", "MachineMetadata=a", "one key, one = and one value"),
            (
                "a.service",
                "MachineMetadata=a=b=c",
                "fleet ignores MachineMetadata=a=b=c",
            ),
            (
                "a.service",
                "Conflicts=b.service c.service",
                "give each its own line",
            ),
            (
                "a.service",
                "Conflicts=b[.service",
                "is no pattern: a [ without its ]",
            ),
            ("a.service", "Conflicts=b", "write the whole name, b.service"),
            (
                "a.service",
                "Conflicts=a.*",
                "warning: line 4: Conflicts=a.* means a.service itself",
            ),
            (
                "a.service",
                "MachineOf=b",
                "is no unit's name: its type is missing",
            ),
            ("a.service", "MachineOf=%n", "names the unit itself"),
            ("a@.service", "MachineOf=%n", "names the unit itself"),
            (
                "a@1.service",
                "MachineOf=b@.service",
                "is a template, which runs nowhere",
            ),
            ("a.service", "MachineOf=b@%i.service", "%i, which is empty here"),
            (
                "a@1.service",
                "MachineOf=b-%H.service",
                "%H, which fleet does not replace",
            ),
            ("a.service", "Conflicts=b%", "ends in a lone %"),
            ("a.service", "MachineID=n1", "32 hexadecimal digits"),
            (
                "a.service",
                "Global=true\nMachineID=2dde0d31f1b244b9a8e0a5a6b0f1e0cd",
                "Global= and MachineID= do not go together",
            ),
            (
                "a.service",
                "Global=true\nMachineOf=b.service",
                "Global= and MachineOf=",
            ),
            (
                "a.service",
                "Global=true\nReplaces=b.service",
                "Global= and Replaces=",
            ),
            (
                "a.service",
                "Replaces=b.service\nConflicts=c.service",
                "Replaces= and Conflicts=",
            ),
            (
                "a.service",
                "MachineOf=b.service\nConflicts=b*",
                "it could run nowhere",
            ),
            ("a.target", "", "fleet runs no unit of type .target"),
        ] {
            let found = findings(name, fleet);
            assert!(
                found.iter().any(|finding| finding.contains(part)),
                "{name}: {fleet}: {found:?}"
            );
        }
    }

    #[test]
    fn an_install_section_is_warned_of() {
        let unit = UnitFile::parse("[Service]\nExecStart=/bin/a\n[Install]\nWantedBy=multi-user.target")
            .expect("unit");
        let found = check(&"a.service".parse().expect("name"), &unit);
        assert_eq!(found.len(), 1);
        assert_eq!((found[0].severity, found[0].line), (Severity::Warning, Some(4)));
        assert!(found[0].message.contains("behind fleet's back"));
    }

    #[test]
    fn findings_come_in_the_order_of_lines() {
        let found = findings(
            "a.service",
            "Global=true\nColour=red\nMachineOf=b.service\nGlobal=maybe\nGlobal=1",
        );
        let places: Vec<_> = found.iter().map(|text| text.contains("line")).collect();
        assert_eq!(places, [false, true, true], "{found:?}");
    }

    #[test]
    fn distances() {
        for (one, other, expected) in [
            ("", "abc", 3),
            ("abc", "abc", 0),
            ("kitten", "sitting", 3),
            ("Global", "gloabl", 2),
        ] {
            assert_eq!(
                (distance(one, other), distance(other, one)),
                (expected, expected),
                "{one} {other}"
            );
        }
    }

    proptest! {
        #[test]
        fn any_unit_is_checked_without_a_panic(
            name in "[a-b]{1,3}(@[a-b]{0,2})?\\.(service|target)",
            lines in proptest::collection::vec(
                ("(Global|MachineOf|MachineMetadata|Conflicts|Replaces|MachineID|Globl)", "([a-b@%inN=\\*\\[\\]\" .é]|\\.service){0,12}"), 0..5),
        ) {
            let text: String = lines.iter().map(|(key, value)| format!("{key}={value}\n")).collect();
            if let Ok(unit) = UnitFile::parse(&format!("[X-Fleet]\n{text}")) {
                let _ = check(&name.parse().expect("name"), &unit);
            }
        }
    }
}
