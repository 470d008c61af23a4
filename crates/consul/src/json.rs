//! How Go writes JSON, and reading it tolerantly: a nil slice or map is `null`, a duration is text such as `1m30s`.
//!
//! Tolerance ends at the answer itself: a top-level `null` where a list belongs is an error, because a caller would
//! take it for "there are none".

use std::collections::BTreeMap;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Deserializer, Serializer};

/// `null` reads as the default.
pub(crate) fn null_default<'de, D: Deserializer<'de>, T: Deserialize<'de> + Default>(
    deserializer: D,
) -> Result<T, D::Error> {
    Ok(Option::<T>::deserialize(deserializer)?.unwrap_or_default())
}

/// A port; what is none (negative, over 65535) reads as 0, so that one bad registration does not make the whole list
/// unreadable.
pub(crate) fn port<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u16, D::Error> {
    let number = Option::<i64>::deserialize(deserializer)?.unwrap_or_default();
    Ok(u16::try_from(number).unwrap_or_default())
}

/// A count; negative reads as 0, too large as the largest.
pub(crate) fn count<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u32, D::Error> {
    let number = Option::<i64>::deserialize(deserializer)?.unwrap_or_default();
    Ok(u32::try_from(number.max(0)).unwrap_or(u32::MAX))
}

/// A count; what is none reads as `None`.
pub(crate) fn count_or_none<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u32>, D::Error> {
    let number = Option::<i64>::deserialize(deserializer)?;
    Ok(number.and_then(|number| u32::try_from(number).ok()))
}

/// What is written as text; text that cannot be understood reads as `None`.
pub(crate) fn parsed<'de, D: Deserializer<'de>, T: FromStr>(deserializer: D) -> Result<Option<T>, D::Error> {
    let text = Option::<String>::deserialize(deserializer)?;
    Ok(text.and_then(|text| text.parse().ok()))
}

/// A map of lists in which a list may be `null`.
pub(crate) fn lists<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<BTreeMap<String, Vec<String>>, D::Error> {
    let map = BTreeMap::<String, Option<Vec<String>>>::deserialize(deserializer)?;
    Ok(map
        .into_iter()
        .map(|(key, list)| (key, list.unwrap_or_default()))
        .collect())
}

/// A duration as Go's `time.ParseDuration` reads it, in the largest unit that is exact.
pub(crate) fn go_duration(duration: Duration) -> String {
    if duration.subsec_nanos() == 0 {
        format!("{}s", duration.as_secs())
    } else if duration.subsec_nanos().is_multiple_of(1_000_000) {
        format!("{}ms", duration.as_millis())
    } else {
        format!("{}ns", duration.as_nanos())
    }
}

/// For `serialize_with` on an optional duration; used with `skip_serializing_if`.
#[expect(clippy::ref_option, reason = "serde hands over a reference to the field")]
pub(crate) fn serialize_duration<S: Serializer>(
    duration: &Option<Duration>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    match duration {
        Some(duration) => serializer.serialize_str(&go_duration(*duration)),
        None => serializer.serialize_none(),
    }
}

/// Reads what Go's `time.Duration.String` writes, and a bare number as nanoseconds (how Go writes a duration as
/// JSON). `None` for anything else.
pub(crate) fn parse_go_duration(text: &str) -> Option<Duration> {
    let mut rest = text;
    let mut nanos = 0_f64;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, tail) = rest.split_at_checked(digits)?;
        let unit_end = tail.find(|c: char| c.is_ascii_digit()).unwrap_or(tail.len());
        let (unit, tail) = tail.split_at_checked(unit_end)?;
        let scale = match unit {
            "ns" => 1.0,
            "us" | "µs" | "μs" => 1e3,
            "ms" => 1e6,
            "s" => 1e9,
            "m" => 60e9,
            "h" => 3600e9,
            _ => return None,
        };
        nanos += number.parse::<f64>().ok()? * scale;
        rest = tail;
    }
    // Beyond 2^53 ns (104 days) a nanosecond may be lost, which no caller can tell.
    Duration::try_from_secs_f64(nanos / 1e9).ok()
}

/// A duration given as text or as nanoseconds; empty and absent read as `None`.
pub(crate) fn optional_duration<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<Duration>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Either {
        Nanos(i64),
        Text(String),
    }
    Ok(match Option::<Either>::deserialize(deserializer)? {
        Some(Either::Nanos(nanos)) => u64::try_from(nanos).ok().map(Duration::from_nanos),
        Some(Either::Text(text)) if !text.is_empty() => parse_go_duration(&text),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn durations_are_read_as_go_writes_them() {
        for (text, millis) in [
            ("10s", 10_000),
            ("1m30s", 90_000),
            ("1h0m0s", 3_600_000),
            ("1.5s", 1_500),
            ("5ms", 5),
        ] {
            assert_eq!(
                parse_go_duration(text),
                Some(Duration::from_millis(millis)),
                "{text}"
            );
        }
        for text in ["s", "1", "1x", "-1s", "1.2.3s"] {
            assert_eq!(parse_go_duration(text), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn a_duration_survives_the_way_there_and_back(millis in 0_u64..10_000_000_000) {
            let duration = Duration::from_millis(millis);
            let back = parse_go_duration(&go_duration(duration)).expect("own text");
            prop_assert!(back.abs_diff(duration) < Duration::from_micros(1));
        }

        #[test]
        fn any_text_is_read_or_refused(text in "\\PC{0,20}") {
            let _ = parse_go_duration(&text);
        }
    }
}
