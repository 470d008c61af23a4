//! Snapshots: all that the servers know, as one file (page "Snapshot HTTP Endpoint" of Consul's API documentation).
//!
//! Consul sends a snapshot while it makes it, so its 200 says nothing about the end. What came is therefore checked as
//! Consul would check it before restoring: the archive must be whole, and its files must have the sums it names.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::time::Duration;

use bytes::BytesMut;
use flate2::write::GzDecoder;
use reqwest::Body;
use serde::Deserialize;
use sha2::{Digest, Sha256};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use crate::error::Error;
use crate::transport::{Call, Client};

/// How much is read at once of what is restored or checked.
const CHUNK: usize = 64 * 1024;

/// Tar's unit.
const BLOCK: usize = 512;

/// The most that the files beside the state may have; they have some hundreds of bytes.
const MAX_SMALL: u64 = 1024 * 1024;

/// What is in the archive, and nothing else.
const META: &str = "meta.json";
const STATE: &str = "state.bin";
const SUMS: &str = "SHA256SUMS";

/// What a snapshot says about itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SnapshotInfo {
    /// The Raft index it was taken at.
    pub index: u64,
    /// The Raft term it was taken in.
    pub term: u64,
    /// The bytes of the archive.
    pub archive_size: u64,
    /// The bytes of the state in it, unpacked.
    pub state_size: u64,
}

impl Client {
    /// Takes a snapshot and writes it, as it comes, to `writer`. With `stale` any server may take it, which works without a
    /// leader; otherwise the leader does. `within` is the deadline for all of it.
    ///
    /// After an error `writer` may have got a part: write to a new file, and give it its name when this is done.
    ///
    /// # Errors
    /// Those of every call, [`Error::Archive`] for a snapshot that is not whole, [`Error::Stream`] when `writer` fails.
    pub async fn snapshot_save(
        &self,
        writer: &mut (impl AsyncWrite + Unpin),
        stale: bool,
        within: Duration,
    ) -> Result<SnapshotInfo, Error> {
        let operation = "save a snapshot";
        let call = Call::get(operation, "/v1/snapshot")
            .with(self.datacenter_pair())
            .with(stale.then_some(("stale", "")));
        let save = async {
            let mut opened = call.open(self).await?;
            if !opened.status().is_success() {
                opened.read(crate::MAX_ANSWER).await?.ok()?;
                return Err(not_whole(operation, "the answer has none"));
            }
            if opened.meta().index == 0 {
                return Err(Error::MissingHeader {
                    operation: operation.to_owned(),
                    header: "X-Consul-Index",
                });
            }
            let mut check = Check::new(operation);
            while let Some(chunk) = opened.chunk().await? {
                writer
                    .write_all(&chunk)
                    .await
                    .map_err(|source| stream(operation, source))?;
                check.push(&chunk)?;
            }
            writer.flush().await.map_err(|source| stream(operation, source))?;
            check.finish()
        };
        self.within(within, operation.to_owned(), save).await
    }

    /// Replaces all that the servers know by the snapshot that `reader` gives, which is sent as it is read. The servers
    /// check it in full before they change anything. `within` is the deadline for all of it; after that, or after a
    /// lost connection, it may have been restored or not.
    ///
    /// # Errors
    /// Those of every call; 500 for a snapshot that is not whole. [`Error::Request`] when `reader` fails: nothing is
    /// restored then.
    pub async fn snapshot_restore(
        &self,
        reader: impl AsyncRead + Send + Unpin + 'static,
        within: Duration,
    ) -> Result<(), Error> {
        let chunks = futures_util::stream::try_unfold(reader, |mut reader| async move {
            let chunk = read_chunk(&mut reader).await?;
            io::Result::Ok((!chunk.is_empty()).then(|| (chunk.freeze(), reader)))
        });
        Call::put("restore a snapshot", "/v1/snapshot")
            .with(self.datacenter_pair())
            .bytes(Body::wrap_stream(chunks))
            .send_within(self, within)
            .await?
            .ok()?;
        Ok(())
    }
}

/// Checks that `reader` gives a whole snapshot. Needs no Consul.
///
/// # Errors
/// [`Error::Archive`] if it is none, [`Error::Stream`] when `reader` fails.
pub async fn verify_snapshot(reader: &mut (impl AsyncRead + Unpin)) -> Result<SnapshotInfo, Error> {
    let operation = "check a snapshot";
    let mut check = Check::new(operation);
    loop {
        let chunk = read_chunk(reader)
            .await
            .map_err(|source| stream(operation, source))?;
        if chunk.is_empty() {
            return check.finish();
        }
        check.push(&chunk)?;
    }
}

async fn read_chunk(reader: &mut (impl AsyncRead + Unpin)) -> io::Result<BytesMut> {
    let mut chunk = BytesMut::with_capacity(CHUNK);
    reader.read_buf(&mut chunk).await?;
    Ok(chunk)
}

fn stream(operation: &str, source: io::Error) -> Error {
    Error::Stream {
        operation: operation.to_owned(),
        source,
    }
}

fn not_whole(operation: &str, problem: impl Into<String>) -> Error {
    Error::Archive {
        operation: operation.to_owned(),
        problem: problem.into(),
    }
}

/// Takes an archive apart as it comes, keeping none of the state.
struct Check {
    operation: &'static str,
    archive_size: u64,
    files: GzDecoder<Files>,
}

impl Check {
    fn new(operation: &'static str) -> Check {
        Check {
            operation,
            archive_size: 0,
            files: GzDecoder::new(Files::default()),
        }
    }

    fn push(&mut self, bytes: &[u8]) -> Result<(), Error> {
        self.archive_size += bytes.len() as u64;
        self.files.write_all(bytes).map_err(|error| {
            // The decoder takes nothing more once the archive has ended.
            let problem = match error.kind() {
                io::ErrorKind::WriteZero => "something follows its end".to_owned(),
                _ => error.to_string(),
            };
            not_whole(self.operation, problem)
        })
    }

    fn finish(self) -> Result<SnapshotInfo, Error> {
        let Check {
            operation,
            archive_size,
            files,
        } = self;
        files
            .finish()
            .map_err(|error| match error.kind() {
                // What `Files` says: the decoder hands the last blocks over only now.
                io::ErrorKind::Other => error.to_string(),
                // The decoder has one kind of error for both.
                _ => format!("it breaks off after {archive_size} bytes, or its checksum is wrong"),
            })
            .and_then(Files::finish)
            .map(|info| SnapshotInfo { archive_size, ..info })
            .map_err(|problem| not_whole(operation, problem))
    }
}

/// A reader of the tar format as Consul writes it: plain files, no longer names, no files over 8 GiB.
#[derive(Default)]
struct Files {
    /// The begin of a block.
    partial: Vec<u8>,
    at: At,
    sums: BTreeMap<String, String>,
    meta: Vec<u8>,
    named_sums: Vec<u8>,
    state_size: u64,
}

#[derive(Default)]
enum At {
    #[default]
    Header,
    File {
        name: String,
        left: u64,
        sum: Sha256,
    },
    End,
}

impl Write for Files {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let length = bytes.len();
        let missing = (BLOCK - self.partial.len()).min(length);
        let (first, rest) = if self.partial.is_empty() {
            (&[][..], bytes)
        } else {
            bytes.split_at(missing)
        };
        self.partial.extend_from_slice(first);
        if self.partial.len() == BLOCK {
            let block = std::mem::take(&mut self.partial);
            self.block(&block)?;
        }
        let mut blocks = rest.chunks_exact(BLOCK);
        for block in &mut blocks {
            self.block(block)?;
        }
        self.partial.extend_from_slice(blocks.remainder());
        Ok(length)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Files {
    fn block(&mut self, block: &[u8]) -> io::Result<()> {
        self.at = match std::mem::take(&mut self.at) {
            At::End => At::End,
            At::Header if block.iter().all(|byte| *byte == 0) => At::End,
            At::Header => self.begin(block)?,
            At::File { name, left, mut sum } => {
                let part = usize::try_from(left).unwrap_or(BLOCK).min(BLOCK);
                let part = block.get(..part).unwrap_or(block);
                sum.update(part);
                match name.as_str() {
                    META => self.meta.extend_from_slice(part),
                    SUMS => self.named_sums.extend_from_slice(part),
                    _ => {}
                }
                self.after(name, left - part.len() as u64, sum)
            }
        };
        Ok(())
    }

    fn begin(&mut self, block: &[u8]) -> io::Result<At> {
        let field = |from: usize, to: usize| {
            let bytes = block.get(from..to).unwrap_or_default();
            let text = bytes.split(|byte| *byte == 0).next().unwrap_or_default();
            String::from_utf8_lossy(text).trim().to_owned()
        };
        let (name, size, kind) = (field(0, 100), field(124, 136), field(156, 157));
        if ![META, STATE, SUMS].contains(&name.as_str()) || !["", "0"].contains(&kind.as_str()) {
            return Err(io::Error::other(format!("{name:?} does not belong in it")));
        }
        if self.sums.contains_key(&name) {
            return Err(io::Error::other(format!("{name} is in it twice")));
        }
        let size = u64::from_str_radix(&size, 8)
            .map_err(|_| io::Error::other(format!("the size of {name} is not readable")))?;
        if name == STATE {
            self.state_size = size;
        } else if size > MAX_SMALL {
            return Err(io::Error::other(format!("{name} has {size} bytes")));
        }
        Ok(self.after(name, size, Sha256::new()))
    }

    fn after(&mut self, name: String, left: u64, sum: Sha256) -> At {
        if left > 0 {
            return At::File { name, left, sum };
        }
        let sum = sum.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
        self.sums.insert(name, sum);
        At::Header
    }

    fn finish(self) -> Result<SnapshotInfo, String> {
        #[derive(Deserialize)]
        #[serde(rename_all = "PascalCase")]
        struct Meta {
            index: u64,
            term: u64,
        }

        if !matches!(self.at, At::End) {
            return Err("the archive in it breaks off".to_owned());
        }
        let text = String::from_utf8_lossy(&self.named_sums);
        let named: BTreeMap<&str, &str> = text
            .lines()
            .filter_map(|line| line.split_once("  "))
            .map(|(sum, name)| (name, sum))
            .collect();
        for name in [META, STATE] {
            let (Some(sum), Some(named)) = (self.sums.get(name), named.get(name)) else {
                return Err(format!("{name} or its sum is missing"));
            };
            if sum != named {
                return Err(format!("{name} does not have the sum that {SUMS} names"));
            }
        }
        let meta: Meta =
            serde_json::from_slice(&self.meta).map_err(|error| format!("{META} is not readable: {error}"))?;
        Ok(SnapshotInfo {
            index: meta.index,
            term: meta.term,
            archive_size: 0,
            state_size: self.state_size,
        })
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use flate2::Compression;
    use flate2::write::GzEncoder;
    use proptest::prelude::*;

    const META_TEXT: &[u8] = br#"{"Version":1,"ID":"2-17-1","Index":17,"Term":2,"Size":5}"#;

    fn tar(files: &[(&str, &[u8])], end: bool) -> Vec<u8> {
        let mut out = Vec::new();
        for (name, content) in files {
            let mut header = [0; BLOCK];
            header[..name.len()].copy_from_slice(name.as_bytes());
            header[124..136].copy_from_slice(format!("{:011o}\0", content.len()).as_bytes());
            header[156] = b'0';
            out.extend_from_slice(&header);
            out.extend_from_slice(content);
            out.resize(out.len().next_multiple_of(BLOCK), 0);
        }
        if end {
            out.resize(out.len() + 2 * BLOCK, 0);
        }
        out
    }

    fn gzip(content: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(content).expect("write");
        encoder.finish().expect("finish")
    }

    fn sums(state: &[u8]) -> String {
        let sum = |content: &[u8]| -> String {
            Sha256::digest(content)
                .iter()
                .map(|byte| format!("{byte:02x}"))
                .collect()
        };
        format!("{}  meta.json\n{}  state.bin\n", sum(META_TEXT), sum(state))
    }

    pub(crate) fn archive(state: &[u8]) -> Vec<u8> {
        let sums = sums(state);
        gzip(&tar(
            &[(META, META_TEXT), (STATE, state), (SUMS, sums.as_bytes())],
            true,
        ))
    }

    fn check(bytes: &[u8], chunk: usize) -> Result<SnapshotInfo, Error> {
        let mut check = Check::new("test");
        for chunk in bytes.chunks(chunk.max(1)) {
            check.push(chunk)?;
        }
        check.finish()
    }

    fn problem(bytes: &[u8]) -> String {
        match check(bytes, bytes.len()) {
            Err(Error::Archive { problem, .. }) => problem,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_snapshot_says_what_it_is() {
        let whole = archive(b"state");
        let info = SnapshotInfo {
            index: 17,
            term: 2,
            archive_size: whole.len() as u64,
            state_size: 5,
        };
        assert_eq!(check(&whole, whole.len()).expect("whole"), info);
    }

    #[test]
    fn what_is_wrong_is_said() {
        let whole = archive(b"state");
        for (bytes, part) in [
            (vec![], "breaks off after 0 bytes"),
            (b"failed to take a snapshot".to_vec(), "invalid gzip header"),
            (whole[..whole.len() - 1].to_vec(), "breaks off"),
            ([&whole[..], b"Internal error"].concat(), "follows its end"),
            (gzip(b""), "breaks off"),
            (gzip(&tar(&[(META, META_TEXT)], false)), "breaks off"),
            (gzip(&tar(&[(META, META_TEXT)], true)), "its sum is missing"),
            (gzip(&tar(&[(META, META_TEXT), (META, META_TEXT)], true)), "twice"),
            (gzip(&tar(&[("../meta.json", b"")], true)), "does not belong"),
            (gzip(&tar(&[(META, &[b' '; 2 << 20])], true)), "2097152 bytes"),
            (
                gzip(&tar(
                    &[
                        (META, META_TEXT),
                        (STATE, b"State"),
                        (SUMS, sums(b"state").as_bytes()),
                    ],
                    true,
                )),
                "state.bin does not have the sum",
            ),
        ] {
            let problem = problem(&bytes);
            assert!(problem.contains(part), "{part}: {problem}");
        }
    }

    #[tokio::test]
    async fn a_file_is_checked_without_a_server() {
        let state = vec![7; 3 * CHUNK + 1];
        let info = verify_snapshot(&mut archive(&state).as_slice())
            .await
            .expect("whole");
        assert_eq!(info.state_size, state.len() as u64);
        let error = verify_snapshot(&mut &b""[..]).await.expect_err("empty");
        assert!(matches!(error, Error::Archive { .. }), "{error:?}");
    }

    proptest! {
        #[test]
        fn how_it_comes_makes_no_difference(
            state in proptest::collection::vec(any::<u8>(), 0..3000), chunk in 1_usize..2000,
        ) {
            let whole = archive(&state);
            let info = check(&whole, chunk).expect("whole");
            prop_assert_eq!(info.state_size, state.len() as u64);
            prop_assert_eq!(info, check(&whole, whole.len()).expect("whole"));
        }

        #[test]
        fn no_part_is_taken_for_the_whole(state in proptest::collection::vec(any::<u8>(), 0..3000), cut in 0.0..1.0) {
            let whole = archive(&state);
            let length = (whole.len() as f64 * cut) as usize;
            prop_assert!(check(&whole[..length], 700).is_err());
        }

        #[test]
        fn a_changed_bit_is_found_or_means_nothing(
            state in proptest::collection::vec(any::<u8>(), 0..300), at in 0.0..1.0, bit in 0_u32..8,
        ) {
            let whole = archive(&state);
            let mut changed = whole.clone();
            changed[(whole.len() as f64 * at) as usize] ^= 1_u8 << bit;
            if let Ok(info) = check(&changed, changed.len()) {
                prop_assert_eq!(info, check(&whole, whole.len()).expect("whole"));
            }
        }

        #[test]
        fn any_bytes_are_refused(bytes in proptest::collection::vec(any::<u8>(), 0..2000)) {
            prop_assert!(check(&gzip(&bytes), 512).is_err());
            prop_assert!(check(&bytes, 512).is_err());
        }
    }
}
