//! Names in URL paths, encoded so that Consul reads back exactly the name that was given.
//!
//! Consul 1.8.7 takes the decoded path and cuts the endpoint's prefix off, so `%2F`, `%3F`, `%23`, `%20` and UTF-8
//! arrive as meant (measured). Its mux however answers 301 to a decoded path with `//`, `/./` or `/../` in it, so
//! names with such parts cannot be addressed at all and are refused here. Newer versions decode the cut-off name
//! a second time, so a name with a literal `%` followed by two hexadecimal digits means another name there: do not
//! make such names.

use std::fmt::Write;

use crate::error::Error;

/// Percent-encodes everything but the unreserved characters of RFC 3986, section 2.3.
pub(crate) fn encode(text: &str) -> String {
    encode_except(text, b"")
}

fn encode_except(text: &str, kept: &[u8]) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte) || kept.contains(&byte) {
            out.push(char::from(byte));
        } else {
            // Writing to a String cannot fail.
            let _ = write!(out, "%{byte:02X}");
        }
    }
    out
}

/// `name` as one path segment.
///
/// # Errors
/// [`Error::Identifier`] for names that Consul's mux would rewrite, and for empty ones.
pub(crate) fn segment(operation: &str, name: &str) -> Result<String, Error> {
    if name.is_empty() {
        return Err(refused(operation, name, "it is empty"));
    }
    check(operation, name)?;
    Ok(encode(name))
}

/// `key` as the rest of a path, its slashes kept: `a/b c` becomes `a/b%20c`. Empty is allowed, as the prefix of all
/// keys.
///
/// # Errors
/// [`Error::Identifier`] for keys that Consul's mux would rewrite.
pub(crate) fn key(operation: &str, key: &str) -> Result<String, Error> {
    check(operation, key)?;
    Ok(encode_except(key, b"/"))
}

/// Refuses names that would not arrive as they are.
pub(crate) fn check(operation: &str, name: &str) -> Result<(), Error> {
    // The last part may be empty: `a/` keeps its slash.
    let mut parts = name.split('/').peekable();
    while let Some(part) = parts.next() {
        if part == "." || part == ".." {
            return Err(refused(operation, name, "a part of it is `.` or `..`"));
        }
        if part.is_empty() && parts.peek().is_some() {
            return Err(refused(operation, name, "it begins with `/` or has `//` in it"));
        }
    }
    if name.contains('\0') {
        return Err(refused(operation, name, "it has a NUL in it"));
    }
    Ok(())
}

pub(crate) fn refused(operation: &str, value: &str, problem: &'static str) -> Error {
    Error::Identifier {
        operation: operation.to_owned(),
        value: value.to_owned(),
        problem,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn reserved_characters_are_encoded() {
        assert_eq!(
            segment("t", "host:web:80/udp ?#%é").expect("name"),
            "host%3Aweb%3A80%2Fudp%20%3F%23%25%C3%A9"
        );
        assert_eq!(key("t", "a/b c/").expect("key"), "a/b%20c/");
    }

    #[test]
    fn names_that_the_mux_would_rewrite_are_refused() {
        for name in [
            "", ".", "..", "a/../b", "a//b", "/a", "./a", "a/..", "//", "/", "a\0",
        ] {
            assert!(
                matches!(segment("t", name), Err(Error::Identifier { .. })),
                "{name:?}"
            );
        }
        for name in ["a", "a/", "a.b", "...", "a/.b/..c", "é漢"] {
            assert!(segment("t", name).is_ok(), "{name:?}");
        }
    }

    proptest! {
        #[test]
        fn the_url_parser_leaves_an_encoded_name_alone(name in "\\PC{0,40}") {
            if let Ok(segment) = segment("t", &name) {
                let text = format!("http://h/v1/agent/service/{segment}");
                let url = url::Url::parse(&text).expect("url");
                prop_assert_eq!(url.as_str(), text.as_str());
            }
            if let Ok(key) = key("t", &name) {
                let text = format!("http://h/v1/kv/{key}");
                let url = url::Url::parse(&text).expect("url");
                prop_assert_eq!(url.as_str(), text.as_str());
            }
        }
    }
}
