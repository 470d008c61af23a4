//! What was refused and why: bad input is named, reported and left out, and everything beside it goes on.

use std::fmt;

use serde::Serialize;

/// One item of a container that could not be used.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct Rejection {
    /// Name of the container it belongs to.
    pub container: String,
    /// What was refused: a variable, a port, a service ID.
    pub subject: String,
    /// Why, and what to change.
    pub reason: String,
}

impl Rejection {
    /// A rejection of `subject` of the container named `container`.
    pub fn new(container: &str, subject: impl fmt::Display, reason: impl fmt::Display) -> Self {
        Self {
            container: container.to_owned(),
            subject: shortened(&subject.to_string()),
            reason: shortened(&reason.to_string()),
        }
    }
}

impl fmt::Display for Rejection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "container {}: {}: {}",
            self.container, self.subject, self.reason
        )
    }
}

/// Hostile input may be megabytes long and is repeated in logs and `/status`: 200 characters identify it.
fn shortened(text: &str) -> String {
    const MAX: usize = 200;
    let mut shown: String = text
        .chars()
        .take(MAX)
        .map(|c| if c.is_control() { '\u{fffd}' } else { c })
        .collect();
    if text.chars().nth(MAX).is_some() {
        shown.push('…');
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hostile_text_is_shortened_and_made_printable() {
        let rejection = Rejection::new(
            "web",
            format!("SERVICE_{}", "A".repeat(5_000_000)),
            "has\na newline",
        );
        assert_eq!(rejection.subject.chars().count(), 201);
        assert_eq!(rejection.reason, "has\u{fffd}a newline");
    }
}
