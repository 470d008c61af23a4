//! `SERVICE_*` variables of a container, from its environment and its labels.
//!
//! The rules are those of gliderlabs/registrator: `SERVICE_<KEY>` speaks for every port and
//! `SERVICE_<port>_<KEY>` for one; a port's own key beats the general one, and at equal specificity a label
//! beats the environment. The prefix is case-sensitive, the key is not.

use std::collections::BTreeMap;

use crate::rejection::Rejection;

/// What every variable for us begins with.
pub const PREFIX: &str = "SERVICE_";

/// The longest value we look at, in bytes; far above any real one, far below what would hurt.
const VALUE_MAX: usize = 4096;

/// The parsed variables of one container.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ServiceVariables {
    general: BTreeMap<String, String>,
    by_port: BTreeMap<u16, BTreeMap<String, String>>,
}

impl ServiceVariables {
    /// Parses `KEY=value` lines of the environment and labels; never fails, names what it leaves out.
    ///
    /// `container` is the name that rejections carry.
    pub fn parse<'a>(
        container: &str,
        environment: impl IntoIterator<Item = &'a str>,
        labels: impl IntoIterator<Item = (&'a str, &'a str)>,
    ) -> (Self, Vec<Rejection>) {
        let mut variables = Self::default();
        let mut rejections = Vec::new();
        let environment = environment.into_iter().filter_map(|line| line.split_once('='));
        // Labels come last and overwrite: at equal specificity they beat the environment.
        for (variable, value) in environment.chain(labels) {
            let Some(rest) = variable.strip_prefix(PREFIX) else {
                continue;
            };
            if let Err(reason) = variables.insert(rest, value) {
                rejections.push(Rejection::new(container, variable, reason));
            }
        }
        (variables, rejections)
    }

    fn insert(&mut self, rest: &str, value: &str) -> Result<(), String> {
        if value.len() > VALUE_MAX {
            return Err(format!(
                "the value has {} bytes, {VALUE_MAX} is the most: shorten it",
                value.len()
            ));
        }
        let (keys, key) = match rest.split_once('_') {
            Some((port, key)) if !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit()) => {
                let port: u16 = port
                    .parse()
                    .ok()
                    .filter(|port| *port != 0)
                    .ok_or_else(|| format!("{port} is no port: use 1 to 65535"))?;
                (self.by_port.entry(port).or_default(), key)
            }
            _ => (&mut self.general, rest),
        };
        if key.is_empty() {
            return Err("no key follows the prefix: write SERVICE_NAME or SERVICE_80_NAME, say".to_owned());
        }
        keys.insert(key.to_lowercase(), value.to_owned());
        Ok(())
    }

    /// The value of `key` (lower case) for `port`: the port's own, else the general one. Empty counts as absent.
    pub fn get(&self, port: u16, key: &str) -> Option<&str> {
        self.own(port, key).or_else(|| {
            self.general
                .get(key)
                .map(String::as_str)
                .filter(|v| !v.is_empty())
        })
    }

    /// The value of `key` that was given for exactly this `port`. Empty counts as absent.
    pub fn own(&self, port: u16, key: &str) -> Option<&str> {
        self.by_port
            .get(&port)?
            .get(key)
            .map(String::as_str)
            .filter(|v| !v.is_empty())
    }

    /// Every key that speaks for `port`, with the value that wins.
    pub fn for_port(&self, port: u16) -> BTreeMap<&str, &str> {
        let own = self.by_port.get(&port).into_iter().flatten();
        self.general
            .iter()
            .chain(own)
            .map(|(key, value)| (key.as_str(), value.as_str()))
            .collect()
    }

    /// Whether the container wants to be a service, for any port, and not to be ignored altogether.
    pub fn names_a_service(&self) -> bool {
        if self
            .general
            .get("ignore")
            .is_some_and(|ignore| !ignore.is_empty())
        {
            return false;
        }
        let named = |keys: &BTreeMap<String, String>| keys.get("name").is_some_and(|name| !name.is_empty());
        named(&self.general) || self.by_port.values().any(named)
    }

    /// The ports that variables were given for.
    pub fn ports(&self) -> impl Iterator<Item = u16> {
        self.by_port.keys().copied()
    }
}

/// Splits a list on commas; `\,` is a comma that stays; empty items are dropped.
pub fn split_list(text: &str) -> Vec<String> {
    let mut items = Vec::new();
    let mut item = String::new();
    let mut characters = text.chars().peekable();
    while let Some(character) = characters.next() {
        match character {
            '\\' if characters.peek() == Some(&',') => {
                characters.next();
                item.push(',');
            }
            ',' => items.push(std::mem::take(&mut item)),
            _ => item.push(character),
        }
    }
    items.push(item);
    items.retain(|item| !item.is_empty());
    items
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parse(environment: &[&str], labels: &[(&str, &str)]) -> (ServiceVariables, Vec<Rejection>) {
        ServiceVariables::parse("web", environment.iter().copied(), labels.iter().copied())
    }

    #[test]
    fn a_port_key_beats_a_general_one_and_a_label_beats_the_environment() {
        let (variables, rejections) = parse(
            &[
                "SERVICE_NAME=env",
                "SERVICE_80_NAME=env80",
                "PATH=/bin",
                "service_name=lower",
            ],
            &[
                ("SERVICE_NAME", "label"),
                ("SERVICE_81_name", "label81"),
                ("other", "x"),
            ],
        );
        assert_eq!(rejections, []);
        assert_eq!(variables.get(79, "name"), Some("label"));
        assert_eq!(variables.get(80, "name"), Some("env80"));
        assert_eq!(variables.get(81, "name"), Some("label81"));
        assert_eq!(variables.own(79, "name"), None);
        assert_eq!(variables.ports().collect::<Vec<_>>(), [80, 81]);
    }

    #[test]
    fn an_empty_value_counts_as_absent() {
        let (variables, _) = parse(&["SERVICE_NAME=web", "SERVICE_80_NAME=", "SERVICE_IGNORE="], &[]);
        assert_eq!(variables.get(80, "name"), Some("web"));
        assert_eq!(variables.get(80, "ignore"), None);
    }

    #[test]
    fn what_does_not_parse_is_named_and_the_rest_is_kept() {
        let huge = format!("SERVICE_HUGE={}", "x".repeat(5 * 1024 * 1024));
        let (variables, rejections) = parse(
            &[
                "SERVICE_=x",
                "SERVICE_99999_NAME=x",
                "SERVICE_0_NAME=x",
                "SERVICE_80_=x",
                &huge,
                "SERVICE_OK=1",
            ],
            &[],
        );
        let subjects: Vec<_> = rejections.iter().map(|r| r.subject.as_str()).collect();
        assert_eq!(
            subjects,
            [
                "SERVICE_",
                "SERVICE_99999_NAME",
                "SERVICE_0_NAME",
                "SERVICE_80_",
                "SERVICE_HUGE"
            ]
        );
        assert!(
            rejections[1].reason.contains("1 to 65535"),
            "{}",
            rejections[1].reason
        );
        assert_eq!(variables.get(1, "ok"), Some("1"));
    }

    #[test]
    fn lists_split_on_commas_that_are_not_escaped() {
        assert_eq!(split_list(r"a,b\,c,,d"), ["a", "b,c", "d"]);
        assert_eq!(split_list(r"\a,\\"), [r"\a", r"\\"]);
        assert_eq!(split_list(""), Vec::<String>::new());
    }

    proptest! {
        #[test]
        fn parsing_never_panics(environment in prop::collection::vec("(SERVICE_)?[0-9]{0,6}_?.{0,20}=?.{0,20}", 0..8)) {
            let (variables, _) = ServiceVariables::parse("c", environment.iter().map(String::as_str), []);
            for port in variables.ports().collect::<Vec<_>>() {
                variables.for_port(port);
            }
        }

        #[test]
        fn a_list_survives_being_joined(items in prop::collection::vec("[a-z=/,]{1,8}", 0..6)) {
            let text = items.iter().map(|item| item.replace(',', r"\,")).collect::<Vec<_>>().join(",");
            prop_assert_eq!(split_list(&text), items);
        }
    }
}
