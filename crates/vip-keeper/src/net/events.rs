//! What the kernel says by itself: addresses that come and go, links that change, others that speak for our addresses.

mod known;

use std::collections::BTreeSet;
use std::future::pending;
use std::io;
use std::net::IpAddr;
use std::time::Duration;

use daemon::error_chain;
use tokio::time::sleep;

use super::conflict::{Claim, Claims};
use super::error::NetError;
use super::mac::Mac;
use super::netlink::{Family, Hearing, NetlinkError};
use super::route::{self, Marks, Route};
use crate::vip::{Vip, VipName};
use known::Known;

/// Between two attempts at what failed, so that no error that stays makes a busy loop.
const PAUSE: Duration = Duration::from_millis(100);

/// Something that happened on this host's network. It is a reason to look, no more: what counts is what is there then.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KernelEvent {
    /// A virtual IP is no longer on an interface: its lifetime ended, somebody removed it (also we), or the interface went.
    AddressGone {
        /// Which.
        vip: VipName,
    },
    /// A virtual IP is on an interface now.
    AddressAppeared {
        /// Which.
        vip: VipName,
        /// Whether a keeper of this host put it there.
        ours: bool,
    },
    /// An interface came, went, got another name or hardware address, or its link changed.
    LinkChanged {
        /// Its name, as it is now.
        interface: String,
    },
    /// Another host speaks for a virtual IP, whether or not it is held here. While it is not, this is what its holder does.
    Conflict {
        /// Which.
        vip: VipName,
        /// Where the other says it is.
        mac: Mac,
    },
    /// More happened than could be heard: look at everything again.
    Lost,
}

/// The events of this host's network, from when [`Kernel::open`](super::Kernel::open) was called. It never ends.
///
/// Nothing runs behind it: the sockets are read when [`KernelEvents::next`] is called. What comes meanwhile waits in the
/// kernel, which drops what is too much; that is told as [`KernelEvent::Lost`].
#[derive(Debug)]
pub struct KernelEvents {
    news: Hearing,
    arp: Option<Claims>,
    advertisements: Option<Claims>,
    route: Route,
    known: Known,
}

impl KernelEvents {
    /// Begins to hear. What is there already is no event.
    pub(crate) async fn open(vips: &[Vip], marks: Marks, deadline: Duration) -> Result<Self, NetError> {
        // Heard before it is listed: no change falls between the two.
        let news = Hearing::open(Family::Route, route::NEWS).map_err(socket("the news of addresses"))?;
        let mut v4 = Vec::new();
        let mut v6 = Vec::new();
        for vip in vips {
            match vip.address {
                IpAddr::V4(address) => v4.push(address),
                IpAddr::V6(address) => v6.push(address),
            }
        }
        let arp = (!v4.is_empty()).then(|| Claims::of_v4(&v4)).transpose();
        let advertisements = (!v6.is_empty()).then(|| Claims::of_v6(&v6)).transpose();
        let mut events = Self {
            news,
            arp: arp.map_err(socket("hearing ARP"))?,
            advertisements: advertisements.map_err(socket("hearing neighbour advertisements"))?,
            route: Route::open(deadline).map_err(socket("rtnetlink"))?,
            known: Known::new(vips, marks),
        };
        let survey = events.route.survey().await?;
        events.known.list(survey);
        Ok(events)
    }

    /// The next event. Nothing is lost if this is dropped while it waits: each of its steps either only waits, or is
    /// finished without waiting.
    pub async fn next(&mut self) -> KernelEvent {
        loop {
            if let Some(event) = self.known.events.pop_front() {
                return event;
            }
            if self.known.lost {
                self.list_again().await;
                continue;
            }
            let Self {
                news,
                arp,
                advertisements,
                known,
                ..
            } = self;
            let heard = tokio::select! {
                heard = news.next() => match heard {
                    Ok(messages) => {
                        messages.for_each(|message| known.hear(&message));
                        Ok(())
                    }
                    Err(error) => {
                        known.lost = true;
                        failed(&error)
                    }
                },
                claims = claimed(arp) => claims.map(|claims| known.conflicts(claims)).map_err(drop),
                claims = claimed(advertisements) => claims.map(|claims| known.conflicts(claims)).map_err(drop),
            };
            if heard.is_err() {
                sleep(PAUSE).await;
            }
        }
    }

    async fn list_again(&mut self) {
        // What still waits is older than the list.
        self.news.forget();
        match self.route.survey().await {
            Ok(survey) => {
                self.known.list(survey);
                self.known.lost = false;
                self.known.events.push_back(KernelEvent::Lost);
            }
            Err(error) => {
                tracing::warn!("cannot look at the network again: {}", error_chain(&error));
                sleep(PAUSE).await;
            }
        }
    }
}

/// Whether an error is more than that something was lost.
fn failed(error: &NetlinkError) -> Result<(), ()> {
    let overrun = error.errno() == Some(nix::libc::ENOBUFS);
    if !overrun {
        tracing::warn!("cannot hear the news of addresses: {}", error_chain(error));
    }
    overrun.then_some(()).ok_or(())
}

async fn claimed(claims: &mut Option<Claims>) -> io::Result<BTreeSet<Claim>> {
    match claims {
        Some(claims) => claims.next().await,
        None => pending().await,
    }
}

fn socket(purpose: &'static str) -> impl FnOnce(io::Error) -> NetError {
    move |source| NetError::Socket { purpose, source }
}
