//! Access control: bootstrapping it, policies and tokens (page "ACLs" of Consul's API documentation).

use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Deserializer, Serialize};

use crate::error::Error;
use crate::json::null_default;
use crate::path;
use crate::transport::{Answer, Call, Client};

/// What came of bootstrapping access control.
#[derive(Clone, Debug)]
pub enum AclBootstrap {
    /// The first token, which may do everything. Consul shows it this once only.
    Done(AclToken),
    /// Somebody has done it before.
    AlreadyDone {
        /// The number that must be in the file `acl-bootstrap-reset` in the leader's data directory for it to be done
        /// once more. `None` when Consul did not say: to those who lose a race it does not; ask again.
        reset_index: Option<u64>,
    },
}

/// A reference to a policy: the server takes either, and answers with both.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct AclLink {
    /// Its UUID.
    #[serde(
        rename = "ID",
        deserialize_with = "null_default",
        skip_serializing_if = "String::is_empty"
    )]
    pub id: String,
    /// Its name.
    #[serde(deserialize_with = "null_default", skip_serializing_if = "String::is_empty")]
    pub name: String,
}

impl AclLink {
    /// The policy with this name.
    #[must_use]
    pub fn named(name: impl Into<String>) -> AclLink {
        AclLink {
            name: name.into(),
            ..AclLink::default()
        }
    }
}

/// A token.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct AclToken {
    /// Its name, a UUID, which gives no rights.
    #[serde(rename = "AccessorID", deserialize_with = "null_default")]
    pub accessor_id: String,
    /// The token itself, a UUID. Whoever has it has its rights.
    #[serde(rename = "SecretID", deserialize_with = "secret")]
    pub secret_id: SecretString,
    /// For people.
    #[serde(deserialize_with = "null_default")]
    pub description: String,
    /// What it may do.
    #[serde(deserialize_with = "null_default")]
    pub policies: Vec<AclLink>,
    /// Whether it is known in its datacenter only.
    #[serde(deserialize_with = "null_default")]
    pub local: bool,
    /// When it was made, as an index.
    #[serde(deserialize_with = "null_default")]
    pub create_index: u64,
    /// When it last changed, as an index.
    #[serde(deserialize_with = "null_default")]
    pub modify_index: u64,
}

fn secret<'de, D: Deserializer<'de>>(deserializer: D) -> Result<SecretString, D::Error> {
    null_default::<D, String>(deserializer).map(SecretString::from)
}

/// A token to create.
#[derive(Clone, Debug, Default)]
pub struct AclTokenRequest {
    /// For people.
    pub description: String,
    /// What it may do. The policies must exist.
    pub policies: Vec<AclLink>,
    /// Whether it is known in its datacenter only.
    pub local: bool,
    /// The accessor ID it is to have, a UUID; `None`: Consul makes one.
    pub accessor_id: Option<String>,
    /// The secret it is to have, a UUID; `None`: Consul makes one. With one of the caller's, stored before it is asked
    /// for, an answer that gets lost loses no token.
    pub secret_id: Option<SecretString>,
}

impl AclTokenRequest {
    /// A request for a token with these policies, by their names.
    #[must_use]
    pub fn with_policies<N: Into<String>>(policies: impl IntoIterator<Item = N>) -> AclTokenRequest {
        AclTokenRequest {
            policies: policies.into_iter().map(AclLink::named).collect(),
            ..AclTokenRequest::default()
        }
    }
}

/// A policy: rules with a name.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct AclPolicy {
    /// Its UUID.
    #[serde(rename = "ID", deserialize_with = "null_default")]
    pub id: String,
    /// Its name.
    #[serde(deserialize_with = "null_default")]
    pub name: String,
    /// For people.
    #[serde(deserialize_with = "null_default")]
    pub description: String,
    /// The rules, as they were written. Empty in a list.
    #[serde(deserialize_with = "null_default")]
    pub rules: String,
    /// The datacenters it holds in; empty is all.
    #[serde(deserialize_with = "null_default")]
    pub datacenters: Vec<String>,
    /// When it was made, as an index.
    #[serde(deserialize_with = "null_default")]
    pub create_index: u64,
    /// When it last changed, as an index.
    #[serde(deserialize_with = "null_default")]
    pub modify_index: u64,
}

/// A policy to create, or what one is to become.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct AclPolicyRequest {
    /// Its name: letters, digits, `-` and `_`, at most 128.
    pub name: String,
    /// For people.
    pub description: String,
    /// The rules, in HCL or JSON.
    pub rules: String,
    /// The datacenters it is to hold in; empty is all.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub datacenters: Vec<String>,
}

impl Client {
    /// Makes the first token, which may do everything. Works once in the life of a cluster: of several who try, one gets
    /// it.
    ///
    /// # Errors
    /// Those of every call; 401 ([`Error::is_forbidden`]) while access control is not enabled, 500 while there is no
    /// leader or the servers have not yet agreed to use it, right after the first start.
    pub async fn acl_bootstrap(&self) -> Result<AclBootstrap, Error> {
        let answer = Call::put("bootstrap access control", "/v1/acl/bootstrap")
            .with(self.datacenter_pair())
            .send(self)
            .await?;
        if let Some(done) = already_done(&answer) {
            return Ok(done);
        }
        token(answer).map(AclBootstrap::Done)
    }

    /// All policies, without their rules.
    ///
    /// # Errors
    /// Those of every call.
    pub async fn acl_policies(&self) -> Result<Vec<AclPolicy>, Error> {
        Call::get("list the policies", "/v1/acl/policies")
            .with(self.datacenter_pair())
            .send(self)
            .await?
            .ok()?
            .json()
    }

    /// The policy with this name; `None` if there is none. Two calls: of a name it does not have Consul 1.8.7 says 403 "ACL
    /// not found", as it does of a token it does not know (measured), so the list must say it.
    ///
    /// # Errors
    /// Those of every call.
    pub async fn acl_policy(&self, name: &str) -> Result<Option<AclPolicy>, Error> {
        let policies = self.acl_policies().await?;
        let Some(found) = policies.into_iter().find(|policy| policy.name == name) else {
            return Ok(None);
        };
        let operation = format!("read policy {name:?}");
        let path = format!("/v1/acl/policy/{}", path::segment(&operation, &found.id)?);
        let call = Call::get(operation, path).with(self.datacenter_pair());
        Ok(Some(call.send(self).await?.ok()?.json()?))
    }

    /// Creates a policy.
    ///
    /// # Errors
    /// Those of every call; 500 for a name that is taken and for rules that cannot be read.
    pub async fn acl_policy_create(&self, policy: &AclPolicyRequest) -> Result<AclPolicy, Error> {
        Call::put(format!("create policy {:?}", policy.name), "/v1/acl/policy")
            .with(self.datacenter_pair())
            .json(policy)?
            .send(self)
            .await?
            .ok()?
            .json()
    }

    /// Makes the policy with this ID what `policy` says, its name included.
    ///
    /// # Errors
    /// As [`Client::acl_policy_create`]; 500 for an ID that is unknown.
    pub async fn acl_policy_update(&self, id: &str, policy: &AclPolicyRequest) -> Result<AclPolicy, Error> {
        let operation = format!("update policy {:?}", policy.name);
        let path = format!("/v1/acl/policy/{}", path::segment(&operation, id)?);
        Call::put(operation, path)
            .with(self.datacenter_pair())
            .json(policy)?
            .send(self)
            .await?
            .ok()?
            .json()
    }

    /// Creates a token.
    ///
    /// # Errors
    /// Those of every call; 500 for a policy that is unknown and for IDs that are taken.
    pub async fn acl_token_create(&self, request: &AclTokenRequest) -> Result<AclToken, Error> {
        let mut body = serde_json::json!({
            "Description": request.description, "Policies": request.policies, "Local": request.local,
        });
        if let Some(fields) = body.as_object_mut() {
            if let Some(id) = &request.accessor_id {
                fields.insert("AccessorID".to_owned(), id.as_str().into());
            }
            if let Some(id) = &request.secret_id {
                fields.insert("SecretID".to_owned(), id.expose_secret().into());
            }
        }
        token(
            Call::put("create a token", "/v1/acl/token")
                .with(self.datacenter_pair())
                .json(&body)?
                .send(self)
                .await?,
        )
    }

    /// The token this client sends.
    ///
    /// # Errors
    /// Those of every call; 403 ([`Error::is_forbidden`]) for one that Consul does not know, and for none.
    pub async fn acl_token_self(&self) -> Result<AclToken, Error> {
        token(
            Call::get("read the own token", "/v1/acl/token/self")
                .with(self.datacenter_pair())
                .send(self)
                .await?,
        )
    }
}

/// A token without its secret would be sent as no token at all.
fn token(answer: Answer) -> Result<AclToken, Error> {
    let operation = answer.operation.clone();
    let token: AclToken = answer.ok()?.json()?;
    if token.secret_id.expose_secret().is_empty() {
        return Err(Error::Decode {
            operation,
            source: serde::de::Error::missing_field("SecretID"),
        });
    }
    Ok(token)
}

/// The words of Consul 1.8.7 (measured): `Permission denied: ACL bootstrap no longer allowed (reset index: 12)`; without
/// the index to who loses a race; `Invalid bootstrap reset index (specified 7, reset index: 12)` when the file to reset
/// by has another number, and `Invalid ACL bootstrap reset index` to who loses a race for that.
fn already_done(answer: &Answer) -> Option<AclBootstrap> {
    let text = answer.text();
    let says = ["bootstrap no longer allowed", "bootstrap reset index"]
        .iter()
        .any(|words| text.contains(words));
    if answer.status.is_success() || !says {
        return None;
    }
    let reset_index = text
        .rsplit_once("reset index:")
        .and_then(|(_, rest)| rest.trim().trim_end_matches(')').parse().ok());
    Some(AclBootstrap::AlreadyDone { reset_index })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(status: u16, body: &'static str) -> Answer {
        Answer {
            operation: "try".to_owned(),
            status: reqwest::StatusCode::from_u16(status).expect("status"),
            meta: crate::QueryMeta::default(),
            content_hash: None,
            body: body.as_bytes().into(),
        }
    }

    #[test]
    fn only_consuls_own_words_say_that_it_is_done() {
        let done = |status, body| match already_done(&answer(status, body)) {
            Some(AclBootstrap::AlreadyDone { reset_index }) => Some(reset_index),
            _ => None,
        };
        let text = "Permission denied: ACL bootstrap no longer allowed (reset index: 12)";
        assert_eq!(done(403, text), Some(Some(12)));
        assert_eq!(done(403, "ACL bootstrap no longer allowed"), Some(None));
        let text = "Invalid bootstrap reset index (specified 7, reset index: 12)";
        assert_eq!(done(500, text), Some(Some(12)));
        assert_eq!(done(403, "Permission denied"), None);
        assert_eq!(done(401, "ACL support disabled"), None);
        assert_eq!(done(200, text), None);
    }

    #[test]
    fn a_token_is_not_shown_and_not_taken_without_its_secret() {
        let read = token(answer(200, r#"{"AccessorID":"a","SecretID":"s3cret"}"#)).expect("token");
        assert_eq!(read.secret_id.expose_secret(), "s3cret");
        let request = AclTokenRequest {
            secret_id: Some("s3cret".into()),
            ..AclTokenRequest::with_policies(["p"])
        };
        assert!(!format!("{read:?} {request:?}").contains("s3cret"));
        for body in ["{}", r#"{"SecretID":null}"#, r#"{"SecretID":""}"#] {
            assert!(
                matches!(token(answer(200, body)), Err(Error::Decode { .. })),
                "{body}"
            );
        }
    }
}
