//! What can be asked of a query, and what comes with its answer: index, consistency, filter and meta data.
//!
//! The rules are those of the pages "Blocking Queries", "Consistency Modes" and "Filtering" of Consul's HTTP API
//! documentation.

use std::borrow::Cow;
use std::time::Duration;

use reqwest::header::HeaderMap;

/// The longest wait Consul grants; it shortens longer ones (page "Blocking Queries").
const WAIT_MAX: Duration = Duration::from_secs(600);

/// The wait Consul takes when a blocking query names none, or zero.
const WAIT_DEFAULT: Duration = Duration::from_secs(300);

/// Which servers may answer, and how sure they must be that they are current.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Consistency {
    /// The leader answers. A deposed leader may give old data for a moment.
    #[default]
    Default,
    /// Any server answers, without bound on age but also without a leader; spreads load. See
    /// [`QueryMeta::last_contact`].
    Stale,
    /// The leader asks a quorum whether it still leads before it answers.
    Consistent,
}

/// How a query is asked. The default: at once, of the leader, of the client's datacenter, unfiltered.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct QueryOptions {
    /// Block until the answer's index is greater than this one. `None` answers at once; 0 is sent as 1, because 0
    /// would not block.
    pub index: Option<u64>,
    /// How long to block at most, in whole milliseconds, at least 1 and at most 10 minutes (values outside are
    /// brought inside); `None` is 5 minutes. The server adds up to a sixteenth of it at random. Without an
    /// `index` it says nothing.
    pub wait: Option<Duration>,
    /// Which servers may answer.
    pub consistency: Consistency,
    /// A filter expression, evaluated by the server.
    pub filter: Option<String>,
    /// Sort by round trip time from this node; `_agent` is the agent asked.
    pub near: Option<String>,
    /// The datacenter to ask instead of the client's.
    pub datacenter: Option<String>,
}

impl QueryOptions {
    /// How long the server may hold the answer back: `None` for a query that does not block.
    pub(crate) fn blocks_for(&self) -> Option<Duration> {
        self.index.map(|_| clamp_wait(self.wait.unwrap_or(WAIT_DEFAULT)))
    }

    /// The URL's query.
    pub(crate) fn pairs<'a>(&'a self, datacenter: Option<&'a str>) -> Vec<(&'static str, Cow<'a, str>)> {
        let mut pairs: Vec<(&'static str, Cow<'a, str>)> = Vec::new();
        if let Some(datacenter) = self.datacenter.as_deref().or(datacenter) {
            pairs.push(("dc", datacenter.into()));
        }
        match self.consistency {
            Consistency::Default => {}
            Consistency::Stale => pairs.push(("stale", "".into())),
            Consistency::Consistent => pairs.push(("consistent", "".into())),
        }
        if let (Some(index), Some(wait)) = (self.index, self.blocks_for()) {
            pairs.push(("index", index.max(1).to_string().into()));
            pairs.push(("wait", wait_text(wait).into()));
        }
        if let Some(filter) = &self.filter {
            pairs.push(("filter", filter.as_str().into()));
        }
        if let Some(near) = &self.near {
            pairs.push(("near", near.as_str().into()));
        }
        pairs
    }
}

/// A wait that the server takes as it is. Zero would mean its default of 5 minutes.
pub(crate) fn clamp_wait(wait: Duration) -> Duration {
    wait.clamp(Duration::from_millis(1), WAIT_MAX)
}

pub(crate) fn wait_text(wait: Duration) -> String {
    format!("{}ms", wait.as_millis())
}

/// The deadline of a call that the server may hold back for `wait`: the server adds up to a sixteenth of the wait, so
/// that a crowd of watches does not return at once, and `margin` is for connecting and the answer's way.
pub(crate) fn deadline(wait: Option<Duration>, margin: Duration) -> Duration {
    match wait {
        Some(wait) => wait + wait / 16 + margin,
        None => margin,
    }
}

/// An answer and what the server said about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Response<T> {
    /// The answer.
    pub value: T,
    /// What the server said about it.
    pub meta: QueryMeta,
}

/// What the answer's headers say about it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct QueryMeta {
    /// The index to block on next (`X-Consul-Index`). A server's 0 is read as 1, because blocking on 0 would not
    /// block (page "Blocking Queries"). 0 only if the answer had no index.
    pub index: u64,
    /// Whether the server that answered knows a leader (`X-Consul-KnownLeader`).
    pub known_leader: Option<bool>,
    /// How long ago that server last heard from the leader, in whole milliseconds (`X-Consul-LastContact`); zero from
    /// the leader itself.
    pub last_contact: Option<Duration>,
    /// Whether the token's rights hid something (`X-Consul-Results-Filtered-By-ACLs`). Only newer servers say so;
    /// 1.8 hides without a word.
    pub filtered_by_acls: bool,
}

impl QueryMeta {
    pub(crate) fn from_headers(headers: &HeaderMap) -> QueryMeta {
        let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
        QueryMeta {
            index: text("x-consul-index")
                .and_then(|index| index.parse::<u64>().ok())
                .map_or(0, |i| i.max(1)),
            known_leader: text("x-consul-knownleader").and_then(|known| known.parse().ok()),
            last_contact: text("x-consul-lastcontact")
                .and_then(|millis| millis.parse().ok())
                .map(Duration::from_millis),
            filtered_by_acls: text("x-consul-results-filtered-by-acls") == Some("true"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(options: &QueryOptions) -> String {
        options
            .pairs(Some("dc1"))
            .iter()
            .map(|(k, v)| format!("{k}={v}"))
            .collect::<Vec<_>>()
            .join("&")
    }

    #[test]
    fn a_blocking_query_names_index_and_wait_and_others_neither() {
        let mut options = QueryOptions {
            wait: Some(Duration::from_millis(1500)),
            ..QueryOptions::default()
        };
        assert_eq!(text(&options), "dc=dc1");
        options.index = Some(0);
        options.consistency = Consistency::Stale;
        options.datacenter = Some("dc2".into());
        assert_eq!(text(&options), "dc=dc2&stale=&index=1&wait=1500ms");
    }

    #[test]
    fn a_wait_the_server_would_change_is_changed_first_so_that_the_deadline_fits() {
        let options = |wait| QueryOptions {
            index: Some(7),
            wait,
            ..QueryOptions::default()
        };
        assert_eq!(options(None).blocks_for(), Some(Duration::from_secs(300)));
        assert_eq!(
            options(Some(Duration::ZERO)).blocks_for(),
            Some(Duration::from_millis(1))
        );
        assert_eq!(
            options(Some(Duration::from_secs(9_000))).blocks_for(),
            Some(Duration::from_secs(600))
        );
        assert_eq!(
            deadline(Some(Duration::from_secs(16)), Duration::from_secs(5)),
            Duration::from_secs(22)
        );
        assert_eq!(deadline(None, Duration::from_secs(5)), Duration::from_secs(5));
    }

    #[test]
    fn index_zero_reads_as_one_and_no_index_as_zero() {
        let mut headers = HeaderMap::new();
        assert_eq!(QueryMeta::from_headers(&headers), QueryMeta::default());
        headers.insert("x-consul-index", "0".parse().expect("value"));
        headers.insert("x-consul-knownleader", "false".parse().expect("value"));
        headers.insert("x-consul-lastcontact", "12".parse().expect("value"));
        let meta = QueryMeta::from_headers(&headers);
        assert_eq!((meta.index, meta.known_leader), (1, Some(false)));
        assert_eq!(meta.last_contact, Some(Duration::from_millis(12)));
    }
}
