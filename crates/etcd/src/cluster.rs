//! What the members say of themselves.

use std::sync::Arc;

use etcd_client::ResponseHeader;
use futures_util::future::join_all;
use tokio::time::timeout;

use crate::client::Client;
use crate::endpoint::Member as Endpoint;
use crate::error::{AttemptError, CallError, Error};
use crate::failure::{Failure, classify, unanswered};

/// What a member says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemberStatus {
    /// Its client URL, as configured.
    pub endpoint: String,
    /// Its ID.
    pub member_id: u64,
    /// The cluster's ID.
    pub cluster_id: u64,
    /// etcd's version.
    pub version: String,
    /// The size of its database in bytes.
    pub db_size: i64,
    /// The leader it knows, by ID; `None`: it knows none.
    pub leader: Option<u64>,
    /// Whether it is a learner, which has no vote.
    pub is_learner: bool,
    /// The index of its raft log.
    pub raft_index: u64,
    /// Its raft term.
    pub raft_term: u64,
    /// The store's revision at this member, which may lag.
    pub revision: i64,
    /// Alarms and what else is wrong, in etcd's words.
    pub errors: Vec<String>,
}

/// A member of the cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Its ID.
    pub id: u64,
    /// Its name; empty before its first start.
    pub name: String,
    /// Where other members reach it.
    pub peer_urls: Vec<String>,
    /// Where clients reach it; empty before its first start.
    pub client_urls: Vec<String>,
    /// Whether it is a learner, which has no vote.
    pub is_learner: bool,
}

impl Client {
    /// Asks every endpoint, all at the same time and each once, for its status; in the order of the configuration. A
    /// member without a leader answers, too.
    pub async fn status(&self) -> Vec<Result<MemberStatus, Error>> {
        join_all(
            self.members_configured()
                .iter()
                .map(|endpoint| self.status_of(endpoint)),
        )
        .await
    }

    async fn status_of(&self, endpoint: &Arc<Endpoint>) -> Result<MemberStatus, Error> {
        let limit = self.attempt_timeout();
        let asked = async {
            let connection = endpoint
                .connection()
                .await
                .map_err(|error| classify(endpoint.url(), &error))?;
            let ask = async {
                let first = connection.maintenance().status().await;
                let failure = match first {
                    Ok(status) => return Ok(status),
                    Err(error) => classify(endpoint.url(), &error),
                };
                // Some versions tell only who is logged in.
                match (failure, self.credentials()) {
                    (Failure::Login(_), Some(credentials)) => {
                        connection
                            .login_for_maintenance(endpoint.url(), credentials)
                            .await?;
                        let second = connection.maintenance().status().await;
                        second.map_err(|error| classify(endpoint.url(), &error))
                    }
                    (failure, _) => Err(failure),
                }
            };
            let failure = match timeout(limit, ask).await {
                Ok(Ok(status)) => return Ok(status),
                Ok(Err(failure)) => failure,
                Err(_) => unanswered(limit, false),
            };
            if let Failure::Retry { disconnect: true, .. } = failure {
                endpoint.failed(Some(&connection));
            }
            Err(failure)
        };
        let status = asked.await.map_err(|failure| Error::Status {
            endpoint: endpoint.url().to_owned(),
            source: match failure {
                Failure::Final(error) => error,
                Failure::Login(message) => CallError::Login {
                    endpoint: endpoint.url().to_owned(),
                    user: self.credentials().map(|credentials| credentials.user.clone()),
                    message,
                },
                Failure::Retry { problem, .. } => CallError::Unavailable {
                    after: limit,
                    attempts: vec![AttemptError {
                        endpoint: endpoint.url().to_owned(),
                        problem,
                    }],
                    ambiguous: false,
                },
            },
        })?;
        let header = status.header();
        Ok(MemberStatus {
            endpoint: endpoint.url().to_owned(),
            member_id: header.map_or(0, ResponseHeader::member_id),
            cluster_id: header.map_or(0, ResponseHeader::cluster_id),
            version: status.version().to_owned(),
            db_size: status.db_size(),
            leader: (status.leader() != 0).then(|| status.leader()),
            is_learner: status.is_learner(),
            raft_index: status.raft_index(),
            raft_term: status.raft_term(),
            revision: header.map_or(0, ResponseHeader::revision),
            errors: status.errors().to_vec(),
        })
    }

    /// The members of the cluster.
    ///
    /// # Errors
    /// [`Error::Members`].
    pub async fn members(&self) -> Result<Vec<Member>, Error> {
        let mut call = self.begin();
        let answer = call.run(|connection| async move { connection.cluster().member_list().await });
        let members = answer.await.map_err(|source| Error::Members { source })?;
        Ok(members
            .members()
            .iter()
            .map(|member| Member {
                id: member.id(),
                name: member.name().to_owned(),
                peer_urls: member.peer_urls().to_vec(),
                client_urls: member.client_urls().to_vec(),
                is_learner: member.is_learner(),
            })
            .collect())
    }
}
