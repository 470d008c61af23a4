//! The secrets all agents share: made once, by whoever is first, and read from etcd by everybody else.
//!
//! etcd is trusted with them: who reads its keys can join Consul. Give it TLS and a user of its own where others can
//! reach it.

use std::fmt;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use etcd::{Record, Update};
use serde::{Deserialize, Serialize};

use crate::error::Error;

/// A text that is shown to nobody.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Secret(String);

impl Secret {
    /// A secret that was made elsewhere.
    pub fn new(text: String) -> Self {
        Self(text)
    }

    /// The text itself.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[secret]")
    }
}

/// What every agent of a cluster must know.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Secrets {
    /// The key of gossip: 32 bytes in base64.
    pub gossip: Secret,
    /// Tokens, when Consul asks for them.
    pub acl: Option<AclSecrets>,
}

/// The tokens' secret IDs. They are drawn before Consul runs, so that no answer with the only copy can be lost.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AclSecrets {
    /// May do everything.
    pub management: Secret,
    /// What agents register themselves with.
    pub agent: Secret,
    /// May read nodes and services: DNS, and services of ours that only look.
    pub reader: Secret,
    /// May write services: registrator.
    pub registrator: Secret,
}

/// The private key and certificate that sign those of agents.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CaSecret {
    /// The certificate, as PEM.
    pub certificate: String,
    /// The key, as PEM.
    pub key: Secret,
}

/// `N` bytes from the system.
///
/// # Errors
/// When the system has none.
pub fn random<const N: usize>() -> Result<[u8; N], Error> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).map_err(|source| Error::Random(source.to_string()))?;
    Ok(bytes)
}

/// A new gossip key (Consul: `consul keygen`, 32 bytes: AES-256).
///
/// # Errors
/// When the system has no random bytes.
pub fn new_gossip_key() -> Result<Secret, Error> {
    Ok(Secret(BASE64_STANDARD.encode(random::<32>()?)))
}

impl AclSecrets {
    /// New tokens.
    ///
    /// # Errors
    /// When the system has no random bytes.
    pub fn new() -> Result<Self, Error> {
        Ok(Self {
            management: new_uuid()?,
            agent: new_uuid()?,
            reader: new_uuid()?,
            registrator: new_uuid()?,
        })
    }
}

/// A random UUID (RFC 9562, version 4): Consul takes no other secret IDs.
fn new_uuid() -> Result<Secret, Error> {
    let bytes = random::<16>()?;
    let mut number = u128::from_be_bytes(bytes);
    number = (number & !(0xf << 76)) | (0x4 << 76);
    number = (number & !(0x3 << 62)) | (0x2 << 62);
    let hex = format!("{number:032x}");
    let mut text = String::with_capacity(36);
    for (index, digit) in hex.chars().enumerate() {
        if matches!(index, 8 | 12 | 16 | 20) {
            text.push('-');
        }
        text.push(digit);
    }
    Ok(Secret(text))
}

/// Whether `key` can be a gossip key of Consul: 16, 24 or 32 bytes in base64.
pub fn is_gossip_key(key: &Secret) -> bool {
    BASE64_STANDARD
        .decode(key.expose())
        .is_ok_and(|bytes| matches!(bytes.len(), 16 | 24 | 32))
}

/// What `record` holds, or `make`'s value, if nobody else was faster.
///
/// # Errors
/// When etcd does not answer, holds something else, or nothing can be made.
pub async fn agree<T, F>(record: &Record<T>, make: F) -> Result<T, Error>
where
    T: Serialize + serde::de::DeserializeOwned,
    F: FnOnce() -> Result<T, Error>,
{
    if let Some(held) = record.read().await.map_err(Error::Secret)? {
        return Ok(held.value);
    }
    match record.create(make()?, None).await.map_err(Error::Secret)? {
        Update::Done(made) => Ok(made.value),
        Update::Conflict(Some(held)) => Ok(held.value),
        Update::Conflict(None) => Err(Error::SecretGone {
            key: record.key().to_owned(),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_what_consul_takes_and_are_not_shown() {
        let key = new_gossip_key().expect("random");
        assert!(is_gossip_key(&key), "{}", key.expose());
        assert_eq!(format!("{key:?}"), "[secret]");
        for wrong in ["", "short", "!!!", "AAAA"] {
            assert!(!is_gossip_key(&Secret(wrong.to_owned())), "{wrong}");
        }
    }

    #[test]
    fn tokens_are_uuids_and_differ() {
        let tokens = AclSecrets::new().expect("random");
        let text = tokens.management.expose();
        assert_eq!(text.len(), 36);
        assert_eq!(text.as_bytes().get(14), Some(&b'4'), "{text}");
        assert!(
            matches!(text.as_bytes().get(19), Some(b'8' | b'9' | b'a' | b'b')),
            "{text}"
        );
        assert_ne!(tokens.management, tokens.agent);
        assert!(!format!("{tokens:?}").contains(text));
    }
}
