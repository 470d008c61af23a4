//! Consul's tokens: their policies are kept as they shall be, by the node of the leader.

use consul::{AclLink, AclPolicyRequest, AclTokenRequest, Client};
use secrecy::SecretString;

use crate::error::Error;
use crate::secrets::{AclSecrets, Secret};

/// What an agent needs to make itself and its services known.
const AGENT: &str = r#"node_prefix "" { policy = "write" } service_prefix "" { policy = "read" }"#;
/// What a client needs that only looks: DNS, router-config.
const READER: &str = r#"node_prefix "" { policy = "read" } service_prefix "" { policy = "read" }"#;
/// What registrator needs.
const REGISTRATOR: &str = r#"service_prefix "" { policy = "write" } node_prefix "" { policy = "read" } agent_prefix "" { policy = "read" }"#;

/// Makes the tokens known to Consul, with their policies. Gives how many things were changed.
///
/// # Errors
/// When Consul does not take one.
pub async fn ensure(client: &Client, secrets: &AclSecrets) -> Result<usize, Error> {
    let wanted = [
        ("colossus-agent", AGENT, &secrets.agent),
        ("colossus-reader", READER, &secrets.reader),
        ("colossus-registrator", REGISTRATOR, &secrets.registrator),
    ];
    let policies = client.acl_policies().await.map_err(Error::Acl)?;
    let mut changes = 0;
    for (name, rules, secret) in wanted {
        let request = AclPolicyRequest {
            name: name.to_owned(),
            description: "Kept by consul-bootstrapper".to_owned(),
            rules: rules.to_owned(),
            ..AclPolicyRequest::default()
        };
        if !policies.iter().any(|policy| policy.name == name) {
            client.acl_policy_create(&request).await.map_err(Error::Acl)?;
            changes += 1;
        }
        if ensure_token(client, name, secret).await? {
            changes += 1;
        }
    }
    Ok(changes)
}

/// Whether the token had to be created.
async fn ensure_token(client: &Client, policy: &str, secret: &Secret) -> Result<bool, Error> {
    let request = AclTokenRequest {
        description: format!("{policy}, kept by consul-bootstrapper"),
        policies: vec![AclLink::named(policy)],
        secret_id: Some(SecretString::from(secret.expose().to_owned())),
        ..AclTokenRequest::default()
    };
    match client.acl_token_create(&request).await {
        Ok(_) => Ok(true),
        // Consul: "Invalid Token: SecretID is already in use".
        Err(error) if error.to_string().contains("already in use") => Ok(false),
        Err(error) => Err(Error::Acl(error)),
    }
}
