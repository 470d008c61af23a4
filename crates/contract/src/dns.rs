//! Host names, parsed once: labels, domains and full names.
//!
//! The rules are those of RFC 1123 section 2.1 (letters, digits, hyphens; no hyphen at an end; at most 63
//! octets a label and 253 a name). Names compare without regard to case (RFC 4343), so they are kept in
//! lower case.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use thiserror::Error;

const LABEL_MAX: usize = 63;
const NAME_MAX: usize = 253;

/// Why a text is no DNS name; the message says what to change.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum DnsNameError {
    /// Nothing between two dots, or nothing at all.
    #[error("a DNS label is empty: write at least one letter or digit")]
    EmptyLabel,
    /// A label over 63 octets.
    #[error("a DNS label has {length} characters, 63 is the most: shorten it")]
    LabelTooLong {
        /// Length found, in bytes.
        length: usize,
    },
    /// A name over 253 octets.
    #[error("a DNS name has {length} characters, 253 is the most: shorten it")]
    NameTooLong {
        /// Length found, in bytes.
        length: usize,
    },
    /// Something other than a letter, a digit or a hyphen.
    #[error("{character:?} is not allowed in a DNS label: use letters, digits and hyphens")]
    Character {
        /// The first offending character.
        character: char,
    },
    /// A hyphen at either end.
    #[error("a DNS label begins or ends with a hyphen: remove it")]
    HyphenAtEnd,
}

/// One label of a host name, in lower case: `example`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct DnsLabel(String);

impl DnsLabel {
    /// The label as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The nearest valid label to `text`, to be shown as a suggestion; `None` when nothing of it is usable.
    ///
    /// `my_app` gives `my-app`, `Ünïcode.web` gives `n-code-web`.
    pub fn nearest(text: &str) -> Option<Self> {
        let mut label = String::new();
        for character in text.chars().map(|c| c.to_ascii_lowercase()) {
            if character.is_ascii_alphanumeric() {
                label.push(character);
            } else if !label.is_empty() && !label.ends_with('-') {
                label.push('-');
            }
            if label.len() == LABEL_MAX {
                break;
            }
        }
        label.trim_end_matches('-').parse().ok()
    }
}

impl FromStr for DnsLabel {
    type Err = DnsNameError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.is_empty() {
            return Err(DnsNameError::EmptyLabel);
        }
        if let Some(character) = text.chars().find(|c| !c.is_ascii_alphanumeric() && *c != '-') {
            return Err(DnsNameError::Character { character });
        }
        if text.len() > LABEL_MAX {
            return Err(DnsNameError::LabelTooLong { length: text.len() });
        }
        if text.starts_with('-') || text.ends_with('-') {
            return Err(DnsNameError::HyphenAtEnd);
        }
        Ok(Self(text.to_ascii_lowercase()))
    }
}

/// The domain under which services answer, in lower case and without a trailing dot: `cluster.local`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct DomainName(String);

impl DomainName {
    /// The domain as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for DomainName {
    type Err = DnsNameError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let name = text.strip_suffix('.').unwrap_or(text);
        if name.len() > NAME_MAX {
            return Err(DnsNameError::NameTooLong { length: name.len() });
        }
        for label in name.split('.') {
            label.parse::<DnsLabel>()?;
        }
        Ok(Self(name.to_ascii_lowercase()))
    }
}

/// A full host name that a route answers to: `example.cluster.local`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct HostName(String);

impl HostName {
    /// `label` under `domain`.
    ///
    /// # Errors
    /// [`DnsNameError::NameTooLong`] when both together exceed 253 octets.
    pub fn under(label: &DnsLabel, domain: &DomainName) -> Result<Self, DnsNameError> {
        format!("{label}.{domain}").parse()
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for HostName {
    type Err = DnsNameError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.parse().map(|DomainName(name)| Self(name))
    }
}

macro_rules! as_text {
    ($($name:ident),*) => {$(
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl TryFrom<String> for $name {
            type Error = DnsNameError;

            fn try_from(text: String) -> Result<Self, Self::Error> {
                text.parse()
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> Self {
                name.0
            }
        }
    )*};
}

as_text!(DnsLabel, DomainName, HostName);

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn labels_follow_rfc_1123() {
        for good in ["a", "example", "9lives", "my-app", &"a".repeat(63)] {
            assert_eq!(good.parse::<DnsLabel>().unwrap().as_str(), good);
        }
        for (bad, error) in [
            ("", DnsNameError::EmptyLabel),
            ("my_app", DnsNameError::Character { character: '_' }),
            ("a.b", DnsNameError::Character { character: '.' }),
            ("café", DnsNameError::Character { character: 'é' }),
            ("a\nb", DnsNameError::Character { character: '\n' }),
            ("-a", DnsNameError::HyphenAtEnd),
            ("a-", DnsNameError::HyphenAtEnd),
            (&"a".repeat(64), DnsNameError::LabelTooLong { length: 64 }),
        ] {
            assert_eq!(bad.parse::<DnsLabel>(), Err(error), "{bad:?}");
        }
    }

    #[test]
    fn names_are_kept_in_lower_case_without_the_root_dot() {
        assert_eq!(
            "Cluster.LOCAL.".parse::<DomainName>().unwrap().as_str(),
            "cluster.local"
        );
        assert_eq!("Example".parse::<DnsLabel>().unwrap().as_str(), "example");
    }

    #[test]
    fn a_domain_without_a_label_is_refused() {
        for bad in ["", ".", "a..b", ".a"] {
            assert_eq!(
                bad.parse::<DomainName>(),
                Err(DnsNameError::EmptyLabel),
                "{bad:?}"
            );
        }
        let long = vec!["a".repeat(63); 4].join(".");
        assert_eq!(
            long.parse::<DomainName>(),
            Err(DnsNameError::NameTooLong { length: 255 })
        );
    }

    #[test]
    fn the_nearest_label_is_a_usable_suggestion() {
        assert_eq!(DnsLabel::nearest("my_app").unwrap().as_str(), "my-app");
        assert_eq!(DnsLabel::nearest("__Web__2.0__").unwrap().as_str(), "web-2-0");
        assert_eq!(DnsLabel::nearest("日本"), None);
    }

    proptest! {
        #[test]
        fn parsing_never_panics_and_is_idempotent(text in ".{0,80}") {
            if let Ok(label) = text.parse::<DnsLabel>() {
                prop_assert_eq!(label.as_str().parse::<DnsLabel>().unwrap(), label);
            }
            if let Some(label) = DnsLabel::nearest(&text) {
                prop_assert!(label.as_str().len() <= LABEL_MAX);
            }
        }
    }
}
