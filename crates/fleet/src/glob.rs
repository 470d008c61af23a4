//! The patterns of `Conflicts=`: Go's `path.Match`, which fleet uses.

use std::fmt;
use std::str::FromStr;

use thiserror::Error;

/// The pattern cannot be one: a `[` without its end, an empty class, or a `\` with nothing after it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("a [ without its ], an empty [], or a \\ at the end")]
pub struct BadPattern;

/// A pattern: `*` is any run of characters, `?` any one, neither of them a slash; `[a-z]` and `[^a-z]` are classes;
/// `\` takes the next character as it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Glob {
    text: String,
    tokens: Vec<Token>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Token {
    Any,
    One,
    Class {
        negated: bool,
        ranges: Vec<(char, char)>,
    },
    Literal(char),
}

impl Token {
    /// Whether it takes this one character.
    fn takes(&self, c: char) -> bool {
        match self {
            Self::Any | Self::One => c != '/',
            Self::Class { negated, ranges } => {
                ranges.iter().any(|(low, high)| (*low..=*high).contains(&c)) != *negated
            }
            Self::Literal(literal) => *literal == c,
        }
    }
}

impl Glob {
    /// Whether the pattern stands for all of `text`.
    #[must_use]
    pub fn matches(&self, text: &str) -> bool {
        // `reached`: whether the tokens so far can have taken exactly the first n characters. Linear in both, whatever
        // the pattern: no backtracking.
        let text: Vec<char> = text.chars().collect();
        let mut reached = vec![false; text.len() + 1];
        if let Some(first) = reached.first_mut() {
            *first = true;
        }
        for token in &self.tokens {
            let mut next = vec![false; reached.len()];
            let mut carried = false;
            for (index, slot) in next.iter_mut().enumerate() {
                let here = reached.get(index).copied().unwrap_or_default();
                let taken = index
                    .checked_sub(1)
                    .and_then(|i| text.get(i))
                    .is_some_and(|c| token.takes(*c));
                let before = index
                    .checked_sub(1)
                    .and_then(|i| reached.get(i))
                    .copied()
                    .unwrap_or_default();
                *slot = match token {
                    Token::Any => here || (carried && taken),
                    _ => before && taken,
                };
                carried = *slot;
            }
            reached = next;
        }
        reached.last().copied().unwrap_or_default()
    }
}

impl FromStr for Glob {
    type Err = BadPattern;

    fn from_str(text: &str) -> Result<Self, BadPattern> {
        let mut tokens = Vec::new();
        let mut rest = text.chars().peekable();
        while let Some(c) = rest.next() {
            tokens.push(match c {
                '*' => Token::Any,
                '?' => Token::One,
                '\\' => Token::Literal(rest.next().ok_or(BadPattern)?),
                '[' => {
                    let negated = rest.next_if_eq(&'^').is_some();
                    let mut ranges = Vec::new();
                    while ranges.is_empty() || rest.next_if_eq(&']').is_none() {
                        let low = class_character(&mut rest)?;
                        let high = match rest.next_if_eq(&'-') {
                            Some(_) => class_character(&mut rest)?,
                            None => low,
                        };
                        ranges.push((low, high));
                    }
                    Token::Class { negated, ranges }
                }
                literal => Token::Literal(literal),
            });
        }
        Ok(Self {
            text: text.to_owned(),
            tokens,
        })
    }
}

fn class_character(rest: &mut std::iter::Peekable<std::str::Chars<'_>>) -> Result<char, BadPattern> {
    match rest.next().ok_or(BadPattern)? {
        '-' | ']' => Err(BadPattern),
        '\\' => rest.next().ok_or(BadPattern),
        c => Ok(c),
    }
}

impl fmt::Display for Glob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The table of Go's own test of `path.Match` (`src/path/match_test.go`).
    #[test]
    fn matches_as_go_does() {
        for (pattern, text, expected) in [
            ("abc", "abc", true),
            ("*", "abc", true),
            ("*c", "abc", true),
            ("a*", "a", true),
            ("a*", "abc", true),
            ("a*", "ab/c", false),
            ("a*/b", "abc/b", true),
            ("a*/b", "a/c/b", false),
            ("a*b*c*d*e*/f", "axbxcxdxe/f", true),
            ("a*b*c*d*e*/f", "axbxcxdxexxx/f", true),
            ("a*b*c*d*e*/f", "axbxcxdxe/xxx/f", false),
            ("a*b?c*x", "abxbbxdbxebxczzx", true),
            ("a*b?c*x", "abxbbxdbxebxczzy", false),
            ("ab[c]", "abc", true),
            ("ab[b-d]", "abc", true),
            ("ab[e-g]", "abc", false),
            ("ab[^c]", "abc", false),
            ("ab[^e-g]", "abc", true),
            ("a\\*b", "a*b", true),
            ("a\\*b", "ab", false),
            ("a?b", "a☺b", true),
            ("a[^a]b", "a☺b", true),
            ("a???b", "a☺b", false),
            ("[a-ζ]*", "α", true),
            ("*[a-ζ]", "A", false),
            ("a?b", "a/b", false),
            ("a*b", "a/b", false),
            ("[\\]a]", "]", true),
            ("[\\-x]", "-", true),
            ("*x", "xxx", true),
            ("", "", true),
            ("", "a", false),
        ] {
            let glob: Glob = pattern.parse().expect(pattern);
            assert_eq!(glob.matches(text), expected, "{pattern:?} on {text:?}");
        }
        for pattern in [
            "[]a]", "[-]", "[x-]", "[-x]", "\\", "[a-b-c]", "[", "[^", "[^bc", "a[",
        ] {
            assert_eq!(pattern.parse::<Glob>(), Err(BadPattern), "{pattern:?}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_a_pattern_or_refused(pattern in "[a\\*\\?\\[\\]\\^\\-\\\\/]{0,12}", text in "[a/*]{0,12}") {
            if let Ok(glob) = pattern.parse::<Glob>() {
                let _ = glob.matches(&text);
                prop_assert_eq!(glob.to_string(), pattern);
            }
        }

        #[test]
        fn a_name_matches_itself_and_its_star(text in "[a-z@.]{0,12}", rest in "[a-z@.]{0,12}") {
            prop_assert!(text.parse::<Glob>().expect("literal").matches(&text));
            let whole = format!("{text}{rest}");
            let star = format!("{text}*");
            prop_assert!(star.parse::<Glob>().expect("star").matches(&whole));
        }
    }
}
