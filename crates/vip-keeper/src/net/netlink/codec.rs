//! Netlink messages as bytes: headers, attributes, nested attributes.
//!
//! Everything is in the host's order unless a protocol says otherwise, and padded to four bytes (`linux/netlink.h`).

/// Bytes of a message's header.
pub(super) const HEADER: usize = 16;
/// Bytes of an attribute's header.
const ATTRIBUTE: usize = 4;
/// Set in the type of an attribute that holds attributes.
const NESTED: u16 = 0x8000;
/// The bits of an attribute's type that are its type.
const TYPE: u16 = 0x3fff;

/// Messages being written, one behind the other.
#[derive(Debug, Default)]
pub(crate) struct Writer(Vec<u8>);

impl Writer {
    /// One message: its header, and what `body` writes.
    pub(crate) fn message(&mut self, kind: u16, flags: u16, sequence: u32, body: impl FnOnce(&mut Self)) {
        let start = self.0.len();
        self.put(&0u32.to_ne_bytes());
        self.put(&[kind.to_ne_bytes(), flags.to_ne_bytes()].concat());
        self.put(&sequence.to_ne_bytes());
        self.put(&0u32.to_ne_bytes());
        body(self);
        let length = u32::try_from(self.0.len() - start).unwrap_or(u32::MAX);
        self.patch(start, &length.to_ne_bytes());
    }

    /// Bytes as they are, padded.
    pub(crate) fn put(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(bytes);
        self.0.resize(self.0.len().next_multiple_of(4), 0);
    }

    /// An attribute.
    pub(crate) fn attribute(&mut self, kind: u16, payload: &[u8]) {
        self.raw_attribute(kind, |writer| writer.0.extend_from_slice(payload));
    }

    /// An attribute that is a text; its end is marked with a zero.
    pub(crate) fn text(&mut self, kind: u16, text: &str) {
        self.raw_attribute(kind, |writer| {
            writer.0.extend_from_slice(text.as_bytes());
            writer.0.push(0);
        });
    }

    /// An attribute that is a number in network order, as nftables wants them.
    pub(crate) fn number(&mut self, kind: u16, number: u32) {
        self.attribute(kind, &number.to_be_bytes());
    }

    /// An attribute that holds what `body` writes. All of it must fit into 65,535 bytes.
    pub(crate) fn nest(&mut self, kind: u16, body: impl FnOnce(&mut Self)) {
        self.raw_attribute(kind | NESTED, body);
    }

    fn raw_attribute(&mut self, kind: u16, body: impl FnOnce(&mut Self)) {
        let start = self.0.len();
        self.0.extend_from_slice(&[0; 2]);
        self.0.extend_from_slice(&kind.to_ne_bytes());
        body(self);
        let length = u16::try_from(self.0.len() - start).unwrap_or(u16::MAX);
        self.patch(start, &length.to_ne_bytes());
        self.put(&[]);
    }

    /// Adds flags to the message that begins at `start`.
    pub(super) fn add_flags(&mut self, start: usize, flags: u16) {
        let present = u16_at(&self.0, start + 6).unwrap_or_default();
        self.patch(start + 6, &(present | flags).to_ne_bytes());
    }

    fn patch(&mut self, at: usize, bytes: &[u8]) {
        if let Some(place) = self.0.get_mut(at..at + bytes.len()) {
            place.copy_from_slice(bytes);
        }
    }

    /// What was written.
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.0
    }
}

/// One message that was received.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Message<'a> {
    /// Its type.
    pub(crate) kind: u16,
    /// Its flags.
    pub(crate) flags: u16,
    /// The sequence number of what it answers.
    pub(crate) sequence: u32,
    /// All behind the header.
    pub(crate) payload: &'a [u8],
}

/// The messages in a datagram. Ends at the first that does not fit.
#[derive(Clone, Debug)]
pub(crate) struct Messages<'a>(pub(crate) &'a [u8]);

impl<'a> Iterator for Messages<'a> {
    type Item = Message<'a>;

    fn next(&mut self) -> Option<Message<'a>> {
        let length = usize::try_from(u32_at(self.0, 0)?).ok()?;
        let message = Message {
            kind: u16_at(self.0, 4)?,
            flags: u16_at(self.0, 6)?,
            sequence: u32_at(self.0, 8)?,
            payload: self.0.get(HEADER..length)?,
        };
        self.0 = self.0.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some(message)
    }
}

/// The attributes in a payload, as `(type, payload)`. Ends at the first that does not fit.
#[derive(Clone, Debug)]
pub(crate) struct Attributes<'a>(pub(crate) &'a [u8]);

impl<'a> Iterator for Attributes<'a> {
    type Item = (u16, &'a [u8]);

    fn next(&mut self) -> Option<(u16, &'a [u8])> {
        let length = usize::from(u16_at(self.0, 0)?);
        let kind = u16_at(self.0, 2)? & TYPE;
        let payload = self.0.get(ATTRIBUTE..length)?;
        self.0 = self.0.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, payload))
    }
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    bytes
        .get(at..)?
        .first_chunk()
        .map(|bytes| u16::from_ne_bytes(*bytes))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    bytes
        .get(at..)?
        .first_chunk()
        .map(|bytes| u32::from_ne_bytes(*bytes))
}

/// A text of an attribute: up to its zero. Bytes that are no text are replaced.
pub(crate) fn text(payload: &[u8]) -> String {
    let text = payload.split(|byte| *byte == 0).next().unwrap_or_default();
    String::from_utf8_lossy(text).into_owned()
}

/// A number of an attribute, in the host's order.
pub(crate) fn number(payload: &[u8]) -> Option<u32> {
    u32_at(payload, 0)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn messages_and_attributes_are_padded_and_their_lengths_are_not() {
        let mut writer = Writer::default();
        writer.message(20, 5, 7, |message| {
            message.put(&[1, 2, 3, 4]);
            message.text(3, "eth0");
            message.nest(4, |nest| nest.number(1, 258));
        });
        let expected = [
            &44u32.to_ne_bytes()[..],
            &20u16.to_ne_bytes(),
            &5u16.to_ne_bytes(),
            &7u32.to_ne_bytes(),
            &[0; 4],
            &[1, 2, 3, 4],
            &9u16.to_ne_bytes(),
            &3u16.to_ne_bytes(),
            b"eth0\0\0\0\0",
            &12u16.to_ne_bytes(),
            &0x8004u16.to_ne_bytes(),
            &8u16.to_ne_bytes(),
            &1u16.to_ne_bytes(),
            &[0, 0, 1, 2],
        ]
        .concat();
        assert_eq!(writer.bytes(), expected);
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(items in proptest::collection::vec((0u16..0x3fff, proptest::collection::vec(any::<u8>(), 0..40)), 0..20), kind: u16, flags: u16, sequence: u32) {
            let mut writer = Writer::default();
            for _ in 0..2 {
                writer.message(kind, flags, sequence, |message| {
                    for (kind, payload) in &items {
                        message.attribute(*kind, payload);
                    }
                });
            }
            let messages: Vec<_> = Messages(writer.bytes()).collect();
            prop_assert_eq!(messages.len(), 2);
            for message in messages {
                prop_assert_eq!((message.kind, message.flags, message.sequence), (kind, flags, sequence));
                let read: Vec<_> = Attributes(message.payload).map(|(kind, payload)| (kind, payload.to_vec())).collect();
                prop_assert_eq!(&read, &items);
            }
        }

        #[test]
        fn no_bytes_panic_and_all_reading_ends(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            prop_assert!(Messages(&bytes).count() <= bytes.len() / HEADER);
            prop_assert!(Attributes(&bytes).count() <= bytes.len() / ATTRIBUTE);
            let _ = text(&bytes);
        }
    }
}
