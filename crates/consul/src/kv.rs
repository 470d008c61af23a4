//! The key/value store (page "KV Store API Endpoint" of Consul's API documentation).

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use reqwest::Method;
use serde::{Deserialize, Deserializer};

use crate::error::Error;
use crate::json::null_default;
use crate::path;
use crate::query::{QueryOptions, Response};
use crate::transport::{Call, Client};

/// A key and what is stored under it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct KvPair {
    /// The key.
    #[serde(deserialize_with = "null_default")]
    pub key: String,
    /// The value: any bytes, at most 512 KiB unless the servers are told otherwise.
    #[serde(deserialize_with = "base64_bytes")]
    pub value: Bytes,
    /// A number of the writer's choice.
    #[serde(deserialize_with = "null_default")]
    pub flags: u64,
    /// How often the key's lock has been acquired.
    #[serde(deserialize_with = "null_default")]
    pub lock_index: u64,
    /// The session that holds the key's lock.
    #[serde(deserialize_with = "null_default")]
    pub session: Option<String>,
    /// When it was made, as an index.
    #[serde(deserialize_with = "null_default")]
    pub create_index: u64,
    /// When it last changed, as an index; what `cas` compares with.
    #[serde(deserialize_with = "null_default")]
    pub modify_index: u64,
}

fn base64_bytes<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Bytes, D::Error> {
    match Option::<String>::deserialize(deserializer)? {
        Some(text) => STANDARD
            .decode(text)
            .map(Bytes::from)
            .map_err(serde::de::Error::custom),
        None => Ok(Bytes::new()),
    }
}

/// How a key is written. The default: whatever was there, without a lock, flags 0.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PutOptions {
    /// Only if the key's `modify_index` is this; 0: only if there is no such key.
    pub cas: Option<u64>,
    /// Only if this session can take, or has, the key's lock.
    pub acquire: Option<String>,
    /// Only if this session has the key's lock, and release it.
    pub release: Option<String>,
    /// A number to store beside the value.
    pub flags: u64,
}

/// A key that can be written: not the empty prefix.
fn writable(operation: &str, key: &str) -> Result<String, Error> {
    if key.is_empty() {
        return Err(path::refused(operation, key, "it is empty"));
    }
    Ok(format!("/v1/kv/{}", path::key(operation, key)?))
}

impl Client {
    /// What is stored under a key, `None` if nothing. A blocking query wakes when the key is made, changed or deleted,
    /// and may wake for its neighbours while it does not exist.
    ///
    /// # Errors
    /// [`Error::Identifier`] for a key that cannot be sent, and those of every call.
    pub async fn kv_get(&self, key: &str, options: &QueryOptions) -> Result<Response<Option<KvPair>>, Error> {
        let operation = format!("read key {key:?}");
        let path = writable(&operation, key)?;
        let answer = self.query(operation, &path, options).await?;
        let meta = answer.meta;
        let value = match answer.found()? {
            Some(answer) => answer.json::<Vec<KvPair>>()?.into_iter().next(),
            None => None,
        };
        Ok(Response { value, meta })
    }

    /// All keys that begin with `prefix`, with their values, in order. The prefix is text, not a folder: `a` also
    /// matches `ab`. Empty is everything.
    ///
    /// # Errors
    /// As [`Client::kv_get`].
    pub async fn kv_list(
        &self,
        prefix: &str,
        options: &QueryOptions,
    ) -> Result<Response<Vec<KvPair>>, Error> {
        self.kv_prefix(format!("read keys under {prefix:?}"), prefix, "recurse=", options)
            .await
    }

    /// The names of all keys that begin with `prefix`; with a `separator`, only up to its next occurrence.
    ///
    /// # Errors
    /// As [`Client::kv_get`].
    pub async fn kv_keys(
        &self,
        prefix: &str,
        separator: Option<&str>,
        options: &QueryOptions,
    ) -> Result<Response<Vec<String>>, Error> {
        let form = match separator {
            Some(separator) => format!("keys=&separator={}", path::encode(separator)),
            None => "keys=".to_owned(),
        };
        self.kv_prefix(format!("list keys under {prefix:?}"), prefix, &form, options)
            .await
    }

    async fn kv_prefix<T: serde::de::DeserializeOwned>(
        &self,
        operation: String,
        prefix: &str,
        form: &str,
        options: &QueryOptions,
    ) -> Result<Response<Vec<T>>, Error> {
        let path = format!("/v1/kv/{}?{form}", path::key(&operation, prefix)?);
        let answer = self.query(operation, &path, options).await?;
        let meta = answer.meta;
        let value = match answer.found()? {
            Some(answer) => answer.json()?,
            None => Vec::new(),
        };
        Ok(Response { value, meta })
    }

    /// Writes a key. `false`: a condition of `options` did not hold, and nothing was written.
    ///
    /// # Errors
    /// [`Error::Identifier`] for a key that is empty or cannot be sent, and those of every call; 413 for a value that is
    /// too large.
    pub async fn kv_put(
        &self,
        key: &str,
        value: impl Into<Bytes>,
        options: &PutOptions,
    ) -> Result<bool, Error> {
        let operation = format!("write key {key:?}");
        let path = writable(&operation, key)?;
        Call::put(operation, path)
            .with(self.datacenter_pair())
            .with(options.cas.map(|index| ("cas", index.to_string())))
            .with(options.acquire.as_deref().map(|session| ("acquire", session)))
            .with(options.release.as_deref().map(|session| ("release", session)))
            .with((options.flags != 0).then(|| ("flags", options.flags.to_string())))
            .bytes(value.into())
            .send(self)
            .await?
            .ok()?
            .json()
    }

    /// Deletes a key; with `cas` only if its `modify_index` is that. `false`: it is not, and 0 never is. A key
    /// that is not there counts as deleted.
    ///
    /// # Errors
    /// As [`Client::kv_put`].
    pub async fn kv_delete(&self, key: &str, cas: Option<u64>) -> Result<bool, Error> {
        let operation = format!("delete key {key:?}");
        let path = writable(&operation, key)?;
        Call::new(Method::DELETE, operation, path)
            .with(self.datacenter_pair())
            .with(cas.map(|index| ("cas", index.to_string())))
            .send(self)
            .await?
            .ok()?
            .json()
    }

    /// Deletes all keys that begin with `prefix`, as text: end it with `/` to mean a folder.
    ///
    /// # Errors
    /// As [`Client::kv_put`]. The empty prefix, which is everything, is refused.
    pub async fn kv_delete_recurse(&self, prefix: &str) -> Result<(), Error> {
        let operation = format!("delete keys under {prefix:?}");
        let path = writable(&operation, prefix)?;
        Call::new(Method::DELETE, operation, path)
            .with(self.datacenter_pair())
            .with([("recurse", "")])
            .send(self)
            .await?
            .ok()?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_bytes_and_null_is_none() {
        let text = r#"[{"Key":"a","Value":"AP8=","Flags":3,"ModifyIndex":7},{"Key":"b","Value":null,"Session":"s"}]"#;
        let pairs: Vec<KvPair> = serde_json::from_str(text).expect("pairs");
        assert_eq!(&pairs[0].value[..], [0, 255]);
        assert!(pairs[1].value.is_empty());
        assert_eq!(pairs[1].session.as_deref(), Some("s"));
        assert!(serde_json::from_str::<Vec<KvPair>>(r#"[{"Key":"a","Value":"!"}]"#).is_err());
    }
}
