//! Sessions: what locks in the key/value store hang on (page "Session HTTP Endpoint" of Consul's API documentation).

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::error::Error;
use crate::json::{null_default, optional_duration, serialize_duration};
use crate::path;
use crate::query::{QueryOptions, Response};
use crate::transport::{Call, Client};

/// What becomes of the keys a session has locked when it ends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum SessionBehavior {
    /// Their locks are released.
    #[default]
    Release,
    /// They are deleted.
    Delete,
}

/// A session to create.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct SessionRequest {
    /// For people.
    pub name: String,
    /// The node it hangs on; `None` is the agent's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    /// How long a lock cannot be taken after the session ended without releasing it, 0 to 60 s; `None` is 15 s.
    #[serde(
        serialize_with = "serialize_duration",
        skip_serializing_if = "Option::is_none"
    )]
    pub lock_delay: Option<Duration>,
    /// What becomes of locked keys.
    pub behavior: SessionBehavior,
    /// The session ends when it was not renewed for this long, 10 s to 24 h. Consul may take up to twice as long to end
    /// it, but never less. `None`: it ends only with its checks.
    #[serde(
        rename = "TTL",
        serialize_with = "serialize_duration",
        skip_serializing_if = "Option::is_none"
    )]
    pub ttl: Option<Duration>,
    /// The node checks that end the session when one is critical; `None` is `serfHealth`, an empty list none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node_checks: Option<Vec<String>>,
}

/// A session.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Session {
    /// Its UUID.
    #[serde(rename = "ID", deserialize_with = "null_default")]
    pub id: String,
    /// Its name.
    #[serde(deserialize_with = "null_default")]
    pub name: String,
    /// The node it hangs on.
    #[serde(deserialize_with = "null_default")]
    pub node: String,
    /// See [`SessionRequest::lock_delay`].
    #[serde(deserialize_with = "optional_duration")]
    pub lock_delay: Option<Duration>,
    /// `release` or `delete`.
    #[serde(deserialize_with = "null_default")]
    pub behavior: String,
    /// See [`SessionRequest::ttl`].
    #[serde(rename = "TTL", deserialize_with = "optional_duration")]
    pub ttl: Option<Duration>,
    /// The node checks it hangs on.
    #[serde(deserialize_with = "null_default")]
    pub node_checks: Vec<String>,
    /// When it was made, as an index.
    #[serde(deserialize_with = "null_default")]
    pub create_index: u64,
    /// When it last changed, as an index.
    #[serde(deserialize_with = "null_default")]
    pub modify_index: u64,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Created {
    #[serde(rename = "ID")]
    id: String,
}

impl Client {
    /// Creates a session and gives its ID.
    ///
    /// # Errors
    /// Those of every call; 400 or 500 for a TTL or delay out of range.
    pub async fn session_create(&self, request: &SessionRequest) -> Result<String, Error> {
        let call = Call::put("create a session", "/v1/session/create")
            .with(self.datacenter_pair())
            .json(request)?;
        let created: Created = call.send(self).await?.ok()?.json()?;
        Ok(created.id)
    }

    /// Renews a session's TTL.
    ///
    /// # Errors
    /// Those of every call; 404 ([`Error::is_not_found`]) once it has ended.
    pub async fn session_renew(&self, id: &str) -> Result<Session, Error> {
        let operation = format!("renew session {id:?}");
        let path = format!("/v1/session/renew/{}", path::segment(&operation, id)?);
        let call = Call::put(operation.clone(), path).with(self.datacenter_pair());
        let sessions: Vec<Session> = call.send(self).await?.ok()?.json()?;
        sessions.into_iter().next().ok_or_else(|| Error::Status {
            operation,
            code: 404,
            body: "the answer names no session".to_owned(),
        })
    }

    /// Ends a session. One that is not there counts as ended.
    ///
    /// # Errors
    /// Those of every call.
    pub async fn session_destroy(&self, id: &str) -> Result<(), Error> {
        let operation = format!("destroy session {id:?}");
        let path = format!("/v1/session/destroy/{}", path::segment(&operation, id)?);
        Call::put(operation, path)
            .with(self.datacenter_pair())
            .send(self)
            .await?
            .ok()?;
        Ok(())
    }

    /// A session, `None` if it has ended.
    ///
    /// # Errors
    /// Those of every call; 500 for an ID that is no UUID.
    pub async fn session_info(
        &self,
        id: &str,
        options: &QueryOptions,
    ) -> Result<Response<Option<Session>>, Error> {
        let operation = format!("read session {id:?}");
        let path = format!("/v1/session/info/{}", path::segment(&operation, id)?);
        let answer: Response<Vec<Session>> = self.query_json(operation, &path, options).await?;
        Ok(Response {
            value: answer.value.into_iter().next(),
            meta: answer.meta,
        })
    }

    /// All sessions of the datacenter.
    ///
    /// # Errors
    /// Those of every call.
    pub async fn session_list(&self, options: &QueryOptions) -> Result<Response<Vec<Session>>, Error> {
        self.query_json("list the sessions".to_owned(), "/v1/session/list", options)
            .await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_in_both_of_consuls_forms() {
        let text = r#"{"ID":"s","LockDelay":1500000000,"TTL":"15s","NodeChecks":null}"#;
        let session: Session = serde_json::from_str(text).expect("session");
        assert_eq!(session.lock_delay, Some(Duration::from_millis(1500)));
        assert_eq!(session.ttl, Some(Duration::from_secs(15)));
        assert_eq!(
            serde_json::from_str::<Session>(r#"{"TTL":""}"#)
                .expect("session")
                .ttl,
            None
        );
    }

    #[test]
    fn a_request_is_written_as_consul_reads_it() {
        let request = SessionRequest {
            name: "x".into(),
            ttl: Some(Duration::from_secs(15)),
            ..SessionRequest::default()
        };
        assert_eq!(
            serde_json::to_value(&request).expect("json"),
            serde_json::json!({ "Name": "x", "Behavior": "release", "TTL": "15s" })
        );
    }
}
