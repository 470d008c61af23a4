//! Netlink sockets: one that asks, one that hears.
//!
//! The kernel carries out a request inside the very call that sends it, and its answer lies in the socket when that call
//! returns. So there is no task and no queue here: ask, then read. The call itself cannot be ended from outside while
//! it waits for the kernel's own locks; whoever has to be in time looks at the clock afterwards.

use std::io;
use std::time::Duration;

use netlink_sys::{Socket, SocketAddr};
use nix::sys::socket::MsgFlags;
use tokio::io::unix::AsyncFd;
use tokio::time::timeout;

use super::NetlinkError;
use super::codec::{self, Attributes, HEADER, Message, Messages, Writer};
use crate::net::readiness::watched;

/// The largest answer that is read. The kernel cuts its lists into pieces of at most half of this.
const ANSWER_MAX: usize = 64 * 1024;
/// How much may wait to be heard before the kernel drops some (and says so).
const BACKLOG: usize = 1024 * 1024;
/// How often a list is asked for that changes while it is read.
const LIST_ATTEMPTS: usize = 8;

/// `NLMSG_ERROR`: an error, or with 0 an acknowledgement.
const ERROR: u16 = 2;
/// `NLMSG_DONE`: the end of a list.
const DONE: u16 = 3;
/// `NLM_F_REQUEST`.
const REQUEST: u16 = 1;
/// `NLM_F_ACK`: answer also if all is well.
const ACK: u16 = 4;
/// `NLM_F_DUMP_INTR` in an answer: the list changed while it was made.
const INTERRUPTED: u16 = 0x10;
/// `NLM_F_CAPPED` in an error: what was asked is not repeated.
const CAPPED: u16 = 0x100;
/// `NLM_F_DUMP`.
const DUMP: u16 = 0x300;
/// `NLMSGERR_ATTR_MSG`: the explanation of an error.
const EXPLANATION: u16 = 1;
/// Taken for an error that bears no number, which the kernel does not send: `EBADMSG`.
const NO_NUMBER: [u8; 4] = (-74i32).to_ne_bytes();
/// `NFNL_MSG_BATCH_BEGIN` and `NFNL_MSG_BATCH_END`.
const BATCH_BEGIN: u16 = 16;
const BATCH_END: u16 = 17;
/// `NFNL_SUBSYS_NFTABLES`, as the header of a batch wants it.
const BATCH_NFTABLES: [u8; 4] = [0, 0, 0, 10];

/// The parts of the kernel that are spoken to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Family {
    /// `NETLINK_ROUTE`: links and addresses.
    Route,
    /// `NETLINK_NETFILTER`: nftables.
    Netfilter,
}

impl Family {
    fn protocol(self) -> isize {
        match self {
            Self::Route => 0,
            Self::Netfilter => 12,
        }
    }
}

/// A socket for requests. One at a time, as `&mut self` says.
#[derive(Debug)]
pub(crate) struct Asking {
    socket: AsyncFd<Socket>,
    buffer: Vec<u8>,
    sequence: u32,
    deadline: Duration,
}

/// Changes of nftables that are made all or none.
#[derive(Debug)]
pub(crate) struct Batch {
    writer: Writer,
    first: u32,
    /// The number of the message that comes next.
    next: u32,
    /// Where the last change begins; 0 as long as there is none.
    last: usize,
}

impl Batch {
    /// One change: its type and flags, and what `body` writes.
    pub(crate) fn message(&mut self, kind: u16, flags: u16, body: impl FnOnce(&mut Writer)) {
        self.last = self.writer.bytes().len();
        self.writer.message(kind, flags | REQUEST, self.next, body);
        self.next = self.next.wrapping_add(1);
    }

    /// Has the last change acknowledged, and says its number. The others answer only if they fail.
    fn acknowledge_last(&mut self) -> u32 {
        self.writer.add_flags(self.last, ACK);
        self.next.wrapping_sub(1)
    }

    #[cfg(test)]
    pub(crate) fn bytes(&self) -> &[u8] {
        self.writer.bytes()
    }
}

impl Asking {
    /// A socket whose every answer must come within `deadline`.
    pub(crate) fn open(family: Family, deadline: Duration) -> io::Result<Self> {
        let mut socket = Socket::new(family.protocol())?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        socket.set_non_blocking(true)?;
        // Explanations in errors, and errors without the request: both only make them easier to read.
        let _ = socket.set_ext_ack(true);
        let _ = socket.set_cap_ack(true);
        Ok(Self {
            socket: watched(socket)?,
            buffer: Vec::with_capacity(ANSWER_MAX),
            sequence: 0,
            deadline,
        })
    }

    /// Asks for one change and waits for the acknowledgement.
    pub(crate) async fn request(
        &mut self,
        kind: u16,
        flags: u16,
        body: impl FnOnce(&mut Writer),
    ) -> Result<(), NetlinkError> {
        let sequence = self.reserve(1);
        let mut writer = Writer::default();
        writer.message(kind, flags | REQUEST | ACK, sequence, body);
        self.send(writer.bytes())?;
        self.acknowledged(sequence, sequence).await
    }

    /// Asks for a list, and gives what `entry` makes of each message. Begins anew if the list changed while it was read.
    pub(crate) async fn list<T>(
        &mut self,
        kind: u16,
        body: impl Fn(&mut Writer),
        entry: impl Fn(&Message<'_>) -> Option<T>,
    ) -> Result<Vec<T>, NetlinkError> {
        for _ in 0..LIST_ATTEMPTS {
            let sequence = self.reserve(1);
            let mut writer = Writer::default();
            writer.message(kind, REQUEST | DUMP, sequence, &body);
            self.send(writer.bytes())?;
            let (list, steady) = within(self.deadline, self.entries(sequence, &entry)).await?;
            if steady {
                return Ok(list);
            }
        }
        Err(NetlinkError::Unsteady)
    }

    /// Asks for one thing, and gives what `entry` makes of it.
    pub(crate) async fn get<T>(
        &mut self,
        kind: u16,
        body: impl FnOnce(&mut Writer),
        entry: impl Fn(&Message<'_>) -> Option<T>,
    ) -> Result<Option<T>, NetlinkError> {
        let sequence = self.reserve(1);
        let mut writer = Writer::default();
        writer.message(kind, REQUEST, sequence, body);
        self.send(writer.bytes())?;
        within(self.deadline, async {
            loop {
                self.receive().await?;
                if let Some(message) = Messages(&self.buffer).find(|message| message.sequence == sequence) {
                    let refused = (message.kind == ERROR).then(|| refusal(&message)).flatten();
                    return refused.map_or_else(|| Ok(entry(&message)), Err);
                }
            }
        })
        .await
    }

    async fn entries<T>(
        &mut self,
        sequence: u32,
        entry: impl Fn(&Message<'_>) -> Option<T>,
    ) -> Result<(Vec<T>, bool), NetlinkError> {
        let (mut list, mut steady) = (Vec::new(), true);
        loop {
            self.receive().await?;
            for message in Messages(&self.buffer).filter(|message| message.sequence == sequence) {
                steady &= message.flags & INTERRUPTED == 0;
                match message.kind {
                    DONE => return Ok((list, steady)),
                    ERROR => match refusal(&message) {
                        Some(error) => return Err(error),
                        None => return Ok((list, steady)),
                    },
                    _ => list.extend(entry(&message)),
                }
            }
        }
    }

    /// An empty batch for nftables.
    pub(crate) fn batch(&mut self) -> Batch {
        // Numbers enough for any batch: an answer that came too late belongs to none of the next one's.
        let first = self.reserve(1 << 16);
        let mut writer = Writer::default();
        writer.message(BATCH_BEGIN, REQUEST, first, |message| {
            message.put(&BATCH_NFTABLES);
        });
        Batch {
            writer,
            first,
            next: first.wrapping_add(1),
            last: 0,
        }
    }

    /// Makes the changes of `batch`, all or none.
    pub(crate) async fn commit(&mut self, mut batch: Batch) -> Result<(), NetlinkError> {
        if batch.last == 0 {
            return Ok(());
        }
        let last = batch.acknowledge_last();
        batch.writer.message(BATCH_END, REQUEST, batch.next, |message| {
            message.put(&BATCH_NFTABLES);
        });
        self.send(batch.writer.bytes())?;
        self.acknowledged(batch.first, last).await
    }

    /// Says whether the changes of `batch` could be made, and makes none: a batch without an end is checked and dropped.
    pub(crate) async fn check(&mut self, mut batch: Batch) -> Result<(), NetlinkError> {
        let last = batch.acknowledge_last();
        self.send(batch.writer.bytes())?;
        self.acknowledged(batch.first, last).await
    }

    fn reserve(&mut self, count: u32) -> u32 {
        let first = self.sequence.wrapping_add(1);
        self.sequence = self.sequence.wrapping_add(count);
        first
    }

    fn send(&self, bytes: &[u8]) -> Result<(), NetlinkError> {
        self.socket
            .get_ref()
            .send(bytes, 0)
            .map(drop)
            .map_err(NetlinkError::Socket)
    }

    /// Waits for the acknowledgement of `last`, or an error in answer to anything from `first` on.
    async fn acknowledged(&mut self, first: u32, last: u32) -> Result<(), NetlinkError> {
        within(self.deadline, async {
            loop {
                self.receive().await?;
                for message in Messages(&self.buffer).filter(|message| message.kind == ERROR) {
                    // In the order of sending, also where the numbers begin again.
                    if message.sequence.wrapping_sub(first) > last.wrapping_sub(first) {
                        continue;
                    }
                    match refusal(&message) {
                        Some(error) => return Err(error),
                        None if message.sequence == last => return Ok(()),
                        None => {}
                    }
                }
            }
        })
        .await
    }

    async fn receive(&mut self) -> Result<(), NetlinkError> {
        receive(&self.socket, &mut self.buffer).await
    }
}

/// A socket that hears what changes.
#[derive(Debug)]
pub(crate) struct Hearing {
    socket: AsyncFd<Socket>,
    buffer: Vec<u8>,
}

impl Hearing {
    /// Hears the news of these multicast groups (bits of `RTMGRP_*`).
    pub(crate) fn open(family: Family, groups: u32) -> io::Result<Self> {
        let mut socket = Socket::new(family.protocol())?;
        socket.bind(&SocketAddr::new(0, groups))?;
        socket.set_non_blocking(true)?;
        // The kernel caps it at net.core.rmem_max, and what does not fit is told as lost.
        let _ = socket.set_rx_buf_sz(BACKLOG);
        Ok(Self {
            socket: watched(socket)?,
            buffer: Vec::with_capacity(ANSWER_MAX),
        })
    }

    /// Drops the news that wait. At most as many as there can be.
    pub(crate) fn forget(&mut self) {
        for _ in 0..BACKLOG / HEADER {
            // Also past an error: that is only that some were dropped before.
            match attempt(self.socket.get_ref(), &mut self.buffer) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                _ => {}
            }
        }
    }

    /// The next piece of news. Nothing is lost if this is dropped while it waits.
    pub(crate) async fn next(&mut self) -> Result<Messages<'_>, NetlinkError> {
        receive(&self.socket, &mut self.buffer).await?;
        Ok(Messages(&self.buffer))
    }
}

async fn within<T>(
    deadline: Duration,
    work: impl Future<Output = Result<T, NetlinkError>>,
) -> Result<T, NetlinkError> {
    timeout(deadline, work)
        .await
        .unwrap_or(Err(NetlinkError::Deadline(deadline)))
}

/// Reads one datagram.
async fn receive(socket: &AsyncFd<Socket>, buffer: &mut Vec<u8>) -> Result<(), NetlinkError> {
    // Without asking the event loop first: an answer is there already.
    let mut length = attempt(socket.get_ref(), buffer);
    while matches!(&length, Err(error) if error.kind() == io::ErrorKind::WouldBlock) {
        let mut ready = socket.readable().await.map_err(NetlinkError::Socket)?;
        if let Ok(result) = ready.try_io(|socket| attempt(socket.get_ref(), buffer)) {
            length = result;
        }
    }
    match length.map_err(NetlinkError::Socket)? {
        length if length > buffer.len() => Err(NetlinkError::TooLong(length)),
        _ => Ok(()),
    }
}

fn attempt(socket: &Socket, buffer: &mut Vec<u8>) -> io::Result<usize> {
    buffer.clear();
    socket.recv(buffer, MsgFlags::MSG_TRUNC.bits())
}

/// The error that a message of the type `ERROR` tells of, unless it is an acknowledgement.
fn refusal(message: &Message<'_>) -> Option<NetlinkError> {
    let (errno, asked) = message.payload.split_first_chunk().unwrap_or((&NO_NUMBER, &[]));
    let errno = i32::from_ne_bytes(*errno);
    if errno == 0 {
        return None;
    }
    // What was asked is repeated behind the number: its header, and all of it unless the kernel left that out.
    let length = codec::number(asked)
        .and_then(|length| usize::try_from(length).ok())
        .unwrap_or_default();
    let repeated = if message.flags & CAPPED == 0 {
        length
    } else {
        HEADER
    };
    let attributes = asked
        .get(repeated.checked_next_multiple_of(4).unwrap_or(usize::MAX)..)
        .unwrap_or_default();
    let message = Attributes(attributes)
        .find(|(kind, _)| *kind == EXPLANATION)
        .map(|(_, text)| codec::text(text));
    Some(NetlinkError::Refused {
        source: io::Error::from_raw_os_error(errno.wrapping_neg()),
        message,
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn answer(flags: u16, payload: &[u8]) -> Option<NetlinkError> {
        refusal(&Message {
            kind: ERROR,
            flags,
            sequence: 1,
            payload,
        })
    }

    #[test]
    fn an_error_is_told_with_its_explanation_and_zero_is_none() {
        let mut explained = Writer::default();
        explained.put(&(-17i32).to_ne_bytes());
        explained.message(25, 0, 1, |_| {});
        explained.text(EXPLANATION, "it is there");
        let error = answer(CAPPED, explained.bytes()).expect("an error");
        assert_eq!(
            (error.refusal(), error.to_string().as_str()),
            (Some(17), "the kernel refused (it is there)")
        );

        let mut repeated = Writer::default();
        repeated.put(&(-17i32).to_ne_bytes());
        repeated.message(25, 0, 1, |message| message.text(EXPLANATION, "what was asked"));
        repeated.text(EXPLANATION, "it is there");
        let error = answer(0, repeated.bytes()).expect("an error");
        assert_eq!(error.to_string(), "the kernel refused (it is there)");

        assert!(answer(0, &[0; 20]).is_none());
        assert_eq!(answer(0, &[]).and_then(|error| error.refusal()), Some(74));
    }

    proptest! {
        #[test]
        fn no_answer_panics(flags: u16, payload in proptest::collection::vec(any::<u8>(), 0..80)) {
            let _ = answer(flags, &payload);
        }
    }
}
