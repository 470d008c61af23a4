//! What can go wrong, one variant per operation.

use thiserror::Error;

use crate::files::FileError;
use crate::tls::TlsError;

/// An operation of consul-bootstrapper that failed.
#[derive(Debug, Error)]
pub enum Error {
    /// A file of this node.
    #[error(transparent)]
    File(#[from] FileError),
    /// The material for TLS.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// This host's machine ID.
    #[error(
        "cannot read this host's machine ID from {path}: mount the host's /etc/machine-id there, or name another file with --machine-id-file"
    )]
    MachineId {
        /// The file.
        path: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// This host's machine ID is none.
    #[error("{path} holds no machine ID (systemd-machine-id-setup makes one)")]
    NoMachineId {
        /// The file.
        path: String,
    },
    /// The system's random numbers.
    #[error("the system has no random bytes: {0}")]
    Random(String),
    /// Making this node known.
    #[error("cannot make this node known in etcd")]
    Presence(#[source] etcd::Error),
    /// etcd has given no lease yet, or the last one was lost.
    #[error("etcd has given this node no lease")]
    NoLease,
    /// The node's key was gone when the keys were listed.
    #[error("this node is not known in etcd: its lease has just ended")]
    NotKnown,
    /// Reading what is agreed on.
    #[error("cannot read the cluster's keys in etcd")]
    ReadKeys(#[source] etcd::Error),
    /// Writing what is agreed on.
    #[error("cannot change the cluster's record in etcd")]
    WriteRecord(#[source] etcd::Error),
    /// The record cannot be written down.
    #[error("cannot write the cluster's record as JSON")]
    Encode(#[source] serde_json::Error),
    /// The turn to restart.
    #[error("cannot take or end the turn to restart in etcd")]
    Turn(#[source] etcd::Error),
    /// A secret in etcd.
    #[error("cannot agree on a secret in etcd")]
    Secret(#[source] etcd::Error),
    /// A secret that was there a moment ago.
    #[error("the secret {key} in etcd was removed while it was read")]
    SecretGone {
        /// Its key.
        key: String,
    },
    /// A secret that cannot be one.
    #[error(
        "the gossip key at {key} in etcd is none (16, 24 or 32 bytes in base64): put the right one there, or remove it before the cluster is formed"
    )]
    GossipKey {
        /// Its key.
        key: String,
    },
    /// Consul keeps another gossip key than etcd.
    #[error(
        "this host's Consul keeps another gossip key than {key} in etcd: it belongs to another cluster, or the key in etcd was changed. Put the old key back there, or remove {keyring} on this host if it is to take the new one"
    )]
    OtherGossipKey {
        /// The key in etcd.
        key: String,
        /// Consul's file.
        keyring: String,
    },
    /// Making Consul join.
    #[error("Consul could not join any of {addresses}")]
    Join {
        /// Whom.
        addresses: String,
        /// What Consul said, of the last one.
        source: consul::Error,
    },
    /// Taking a dead server out.
    #[error("cannot take the dead server {peer} out of Consul's raft")]
    RemovePeer {
        /// Raft's ID and its address.
        peer: String,
        /// What Consul said.
        source: consul::Error,
    },
    /// Leaving.
    #[error("Consul could not leave its cluster")]
    Leave(#[source] consul::Error),
    /// Tokens.
    #[error("cannot set up Consul's tokens")]
    Acl(#[source] consul::Error),
    /// New certificates.
    #[error("Consul could not reload its certificates")]
    Reload(#[source] consul::Error),
    /// A blocking task that ended early.
    #[error("work on files was cut short")]
    Cancelled(#[source] tokio::task::JoinError),
}
