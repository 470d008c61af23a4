//! Identifiers of services and of their instances.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// The most bytes we accept in a name or an ID. Consul itself sets no limit; a longer one is a mistake or an
/// attack, and would be repeated in every log line and metric.
const MAX: usize = 255;

/// Why a text cannot be the name or the ID of a service.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ServiceNameError {
    /// No characters at all.
    #[error("it is empty: give it at least one character")]
    Empty,
    /// Over 255 bytes.
    #[error("it has {length} bytes, 255 is the most: shorten it")]
    TooLong {
        /// Length found, in bytes.
        length: usize,
    },
    /// A part between slashes that a path may not have.
    #[error(
        "a part between its slashes is empty, `.` or `..`, and Consul cannot be asked about such: remove it"
    )]
    Path,
    /// White space, a control character, or something other than ASCII.
    #[error("it contains the character {character:?}: use ASCII letters, digits and punctuation")]
    Character {
        /// The first offending character.
        character: char,
    },
}

/// The service under which Consul registers its own servers: nobody else may have its name.
pub const CONSUL_SERVICE: &str = "consul";

fn checked(text: &str) -> Result<String, ServiceNameError> {
    if text.is_empty() {
        return Err(ServiceNameError::Empty);
    }
    if text.len() > MAX {
        return Err(ServiceNameError::TooLong { length: text.len() });
    }
    // Consul takes both from the path of a request, and redirects paths with such parts to other ones: what was
    // registered under such an ID could never be deregistered.
    if text.split('/').any(|part| ["", ".", ".."].contains(&part)) {
        return Err(ServiceNameError::Path);
    }
    // Consul (1.8.7) takes anything here, but refuses requests about what it does not count as printable, by tables of
    // Unicode that change from version to version. ASCII is in all of them.
    match text.chars().find(|c| !c.is_ascii_graphic()) {
        Some(character) => Err(ServiceNameError::Character { character }),
        None => Ok(text.to_owned()),
    }
}

macro_rules! identifier {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            /// As text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = ServiceNameError;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                checked(text).map(Self)
            }
        }

        impl TryFrom<String> for $name {
            type Error = ServiceNameError;

            fn try_from(text: String) -> Result<Self, Self::Error> {
                text.parse()
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> Self {
                name.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

identifier! {
    /// The name under which the instances of one service are found in Consul.
    ///
    /// 1 to 255 printable ASCII characters without blanks. It need not be a DNS label; only then does
    /// the service get a host name.
    ServiceName
}

identifier! {
    /// The ID of one instance, unique on its node.
    ///
    /// 1 to 255 printable ASCII characters without blanks.
    ServiceId
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_printable_ascii() {
        for good in ["web", "Web_2", "host:web:80", "a/b?c", "100%", "...", "a.."] {
            assert_eq!(good.parse::<ServiceName>().unwrap().as_str(), good);
        }
        for (bad, error) in [
            ("", ServiceNameError::Empty),
            ("a b", ServiceNameError::Character { character: ' ' }),
            ("a\u{0}", ServiceNameError::Character { character: '\u{0}' }),
            ("a\n", ServiceNameError::Character { character: '\n' }),
            ("日本", ServiceNameError::Character { character: '日' }),
            (
                "g\u{200b}y",
                ServiceNameError::Character {
                    character: '\u{200b}',
                },
            ),
            (".", ServiceNameError::Path),
            ("..", ServiceNameError::Path),
            ("/a", ServiceNameError::Path),
            ("a//b", ServiceNameError::Path),
            ("a/../b", ServiceNameError::Path),
            (&"x".repeat(256), ServiceNameError::TooLong { length: 256 }),
        ] {
            assert_eq!(bad.parse::<ServiceName>(), Err(error.clone()), "{bad:?}");
            assert_eq!(bad.parse::<ServiceId>(), Err(error), "{bad:?}");
        }
    }
}
