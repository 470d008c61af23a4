//! Names of units, as fleet takes them (`ValidateName` in its `api/units.go`, after systemd's `unit_name_is_valid`).

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use thiserror::Error;

const MAX: usize = 256;

const TYPES: [&str; 13] = [
    "service",
    "socket",
    "busname",
    "target",
    "snapshot",
    "device",
    "mount",
    "automount",
    "swap",
    "timer",
    "path",
    "slice",
    "scope",
];

/// Why a text is no unit's name.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum NameError {
    /// Nothing.
    #[error("it is empty: a unit is named as web.service")]
    Empty,
    /// Over 256 bytes.
    #[error("it has {length} bytes, 256 is the most: shorten it")]
    TooLong {
        /// Length found, in bytes.
        length: usize,
    },
    /// No type at its end, or one that there is not.
    #[error("its type is missing or unknown: a unit's name ends in .service, .timer or the like")]
    Type,
    /// A character that names do not have.
    #[error("it contains the character {character:?}: use ASCII letters, digits and : - _ . \\ @")]
    Character {
        /// The first offending one.
        character: char,
    },
    /// Nothing before the `@` or the dot.
    #[error("nothing stands before its {before:?}: a unit is named as web.service or web@1.service")]
    NoPrefix {
        /// What it begins with.
        before: char,
    },
}

/// The name of a unit, such as `web.service`, of a template, such as `web@.service`, or of an instance of one, such as
/// `web@1.service`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct UnitName {
    name: String,
    /// Where the last dot is.
    dot: usize,
    /// Where the first `@` is.
    at: Option<usize>,
}

impl UnitName {
    /// What a person types: `web` and `web@1` are short for `web.service` and `web@1.service`.
    ///
    /// # Errors
    /// When it is no name with `.service` added, either.
    pub fn from_short(text: &str) -> Result<Self, NameError> {
        match text.parse() {
            Err(NameError::Type) => format!("{text}.service").parse(),
            other => other,
        }
    }

    /// The whole name (`%n`).
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.name
    }

    /// The name without its type (`%N`).
    #[must_use]
    pub fn stem(&self) -> &str {
        self.name.get(..self.dot).unwrap_or_default()
    }

    /// What stands before the `@` (`%p`); without one, the stem.
    #[must_use]
    pub fn prefix(&self) -> &str {
        self.name.get(..self.at.unwrap_or(self.dot)).unwrap_or_default()
    }

    /// What stands after the `@` (`%i`): empty for a template, `None` for a unit that has nothing to do with templates.
    #[must_use]
    pub fn instance(&self) -> Option<&str> {
        self.name.get(self.at? + 1..self.dot)
    }

    /// The type: `service`, for example.
    #[must_use]
    pub fn kind(&self) -> &str {
        self.name.get(self.dot + 1..).unwrap_or_default()
    }

    /// Whether it is a template, which cannot run itself.
    #[must_use]
    pub fn is_template(&self) -> bool {
        self.instance() == Some("")
    }

    /// The template of an instance.
    #[must_use]
    pub fn template(&self) -> Option<UnitName> {
        self.instance().filter(|instance| !instance.is_empty())?;
        format!("{}@.{}", self.prefix(), self.kind()).parse().ok()
    }

    /// `text` with this unit's names for `%n`, `%N`, `%p` and `%i`, as fleet's `unitPrintf` does it.
    #[must_use]
    pub fn expand(&self, text: &str) -> String {
        text.replace("%n", self.as_str())
            .replace("%N", self.stem())
            .replace("%p", self.prefix())
            .replace("%i", self.instance().unwrap_or_default())
    }
}

impl FromStr for UnitName {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        if text.is_empty() {
            return Err(NameError::Empty);
        }
        if text.len() > MAX {
            return Err(NameError::TooLong { length: text.len() });
        }
        let (stem, kind) = text.rsplit_once('.').ok_or(NameError::Type)?;
        let is_known = |c: char| c.is_ascii_alphanumeric() || ":-_.\\@".contains(c);
        if let Some(character) = text.chars().find(|c| !is_known(*c)) {
            return Err(NameError::Character { character });
        }
        if !TYPES.contains(&kind) {
            return Err(NameError::Type);
        }
        match stem.chars().next() {
            None => Err(NameError::NoPrefix { before: '.' }),
            Some('@') => Err(NameError::NoPrefix { before: '@' }),
            Some(_) => Ok(Self {
                name: text.to_owned(),
                dot: stem.len(),
                at: stem.find('@'),
            }),
        }
    }
}

impl TryFrom<String> for UnitName {
    type Error = NameError;

    fn try_from(text: String) -> Result<Self, NameError> {
        text.parse()
    }
}

impl From<UnitName> for String {
    fn from(name: UnitName) -> Self {
        name.name
    }
}

impl fmt::Display for UnitName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn name(text: &str) -> UnitName {
        text.parse().unwrap_or_else(|error| panic!("{text:?}: {error}"))
    }

    #[test]
    fn the_parts_of_a_name() {
        let instance = name("web@a.b@1.service");
        assert_eq!(
            (
                instance.stem(),
                instance.prefix(),
                instance.instance(),
                instance.kind()
            ),
            ("web@a.b@1", "web", Some("a.b@1"), "service")
        );
        assert_eq!(instance.template(), Some(name("web@.service")));
        assert_eq!(
            instance.expand("%n %N %p %i %H"),
            "web@a.b@1.service web@a.b@1 web a.b@1 %H"
        );

        let plain = name("web.timer");
        assert_eq!(
            (plain.prefix(), plain.instance(), plain.template()),
            ("web", None, None)
        );
        assert!(name("web@.service").is_template() && !plain.is_template());
        assert_eq!(name("web@.service").template(), None);
    }

    #[test]
    fn a_person_may_leave_out_the_type() {
        for (text, whole) in [
            ("web", "web.service"),
            ("web@1", "web@1.service"),
            ("a.b", "a.b.service"),
            ("a.timer", "a.timer"),
        ] {
            assert_eq!(UnitName::from_short(text), Ok(name(whole)), "{text}");
        }
        assert_eq!(UnitName::from_short(""), Err(NameError::Empty));
        assert_eq!(
            UnitName::from_short("a b"),
            Err(NameError::Character { character: ' ' })
        );
    }

    #[test]
    fn what_is_no_name_says_why() {
        for (text, error) in [
            ("", NameError::Empty),
            ("web", NameError::Type),
            ("web.", NameError::Type),
            ("web.svc", NameError::Type),
            ("@1.service", NameError::NoPrefix { before: '@' }),
            (".service", NameError::NoPrefix { before: '.' }),
            ("a/b.service", NameError::Character { character: '/' }),
            ("a b.service", NameError::Character { character: ' ' }),
            ("é.service", NameError::Character { character: 'é' }),
        ] {
            assert_eq!(text.parse::<UnitName>(), Err(error), "{text:?}");
        }
        let long = format!("{}.service", "a".repeat(250));
        assert_eq!(long.parse::<UnitName>(), Err(NameError::TooLong { length: 258 }));
    }

    proptest! {
        #[test]
        fn any_text_is_a_name_or_refused(text in prop_oneof!["[a@.\\-]{0,9}(\\.service)?", "\\PC{0,20}"]) {
            if let Ok(name) = text.parse::<UnitName>() {
                prop_assert_eq!(name.as_str(), &text);
                prop_assert_eq!(format!("{}.{}", name.stem(), name.kind()), text);
                let _ = (name.prefix(), name.instance(), name.template(), UnitName::from_short(name.stem()));
            }
        }
    }
}
