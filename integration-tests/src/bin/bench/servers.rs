//! Consul's servers: what they say of their peers, and when their processes began.
//!
//! What the test kit cannot do or wait for it says by panicking; [`caught`] makes an error of it, once all that was made
//! is removed.

use std::collections::BTreeSet;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::try_join_all;
use integration_tests::consul_hosts::Host;
use integration_tests::wait::until;

use crate::Result;
use crate::clock::Moment;

/// After this long something is broken. The targets are 10 and 30 s.
pub(crate) const WITHIN: Duration = Duration::from_secs(90);

/// A server and how to ask it.
#[derive(Debug)]
pub(crate) struct Server {
    /// Where the others reach it.
    pub(crate) address: String,
    /// Its HTTP API.
    pub(crate) consul: consul::Client,
}

impl Server {
    /// The one on a host of the test kit.
    pub(crate) fn of(host: &Host) -> Self {
        Self {
            address: host.address().to_owned(),
            consul: host.consul(),
        }
    }

    /// The one whose HTTP API is open to its network.
    pub(crate) fn open(address: String) -> Result<Self> {
        let api = format!("http://{address}:8500").parse()?;
        Ok(Self {
            address,
            consul: consul::Client::new(consul::Config::new(api))?,
        })
    }

    /// Its peers by its own copy of them: whatever needs a leader is held back for up to half a second after there is one.
    async fn peers(&self) -> Result<Peers, String> {
        let answer = self.consul.raft_configuration(true).await;
        let mut peers = Peers::default();
        for peer in answer.map_err(|error| error.to_string())?.servers {
            let address = peer.address.split(':').next().unwrap_or_default().to_owned();
            peers.led |= peer.leader;
            if peer.voter {
                peers.voters.insert(address.clone());
            }
            peers.all.insert(address);
        }
        Ok(peers)
    }
}

/// Raft's configuration as one server has it.
#[derive(Debug, Default)]
struct Peers {
    led: bool,
    all: BTreeSet<String>,
    voters: BTreeSet<String>,
}

/// The moment at which each of these servers knows a leader and has exactly all of them as peers, with a vote.
pub(crate) async fn until_voters(servers: &[Server]) -> Moment {
    let wanted: BTreeSet<_> = servers.iter().map(|server| server.address.clone()).collect();
    until(
        &format!("all of {wanted:?} vote, and have a leader"),
        WITHIN,
        || async {
            let agreed = |server| {
                let wanted = &wanted;
                async move {
                    let peers = Server::peers(server).await?;
                    let agreed = peers.led && peers.voters == *wanted && peers.all == *wanted;
                    agreed.then_some(()).ok_or_else(|| format!("{peers:?}"))
                }
            };
            try_join_all(servers.iter().map(agreed)).await.map(drop)
        },
    )
    .await;
    Moment::now()
}

/// The moment at which `asked` has the server at `address` as a peer, with or without a vote.
pub(crate) async fn until_peer(asked: &Server, address: &str) -> Moment {
    until(&format!("{address} is a peer"), WITHIN, || async {
        let peers = asked.peers().await?;
        peers
            .all
            .contains(address)
            .then_some(())
            .ok_or_else(|| format!("{peers:?}"))
    })
    .await;
    Moment::now()
}

/// When the process began of a container that has never been started again, by Docker's "StartedAt RestartCount".
pub(crate) fn only_start(starts: &str) -> Result<Moment> {
    match starts.split_once(' ') {
        Some((at, "0")) => {
            Moment::from_rfc3339(at).ok_or_else(|| format!("Docker's {at} is no moment").into())
        }
        _ => Err(format!("a container did not go on running: {starts}").into()),
    }
}

/// What `work` gives; an error, too, when it panics.
pub(crate) async fn caught<T>(work: impl Future<Output = Result<T>>) -> Result<T> {
    // Nothing of what it leaves half done is looked at again: its figures are whole samples.
    AssertUnwindSafe(work)
        .catch_unwind()
        .await
        .unwrap_or_else(|panic| {
            let text = panic.downcast_ref::<String>().map(String::as_str);
            let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
            Err(text.unwrap_or("a panic without words").into())
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_start_counts_only_if_it_was_the_only_one() {
        let earlier = only_start("2026-11-21T10:00:00.25Z 0").expect("a moment");
        let later = only_start("2026-11-21T10:00:01.000000001Z 0").expect("a moment");
        assert_eq!(later.since(earlier), 750.0);
        assert!(only_start("2026-11-21T10:00:00.25Z 1").is_err());
        assert!(only_start("").is_err());
    }

    #[tokio::test]
    async fn a_panic_becomes_an_error_with_its_words() {
        let error = caught::<()>(async { panic!("not within {}", 5) }).await;
        assert_eq!(error.expect_err("it panicked").to_string(), "not within 5");
        assert_eq!(caught(async { Ok(1) }).await.expect("a value"), 1);
    }
}
