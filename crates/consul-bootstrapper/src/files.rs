//! The files of this node: Consul's configuration and permit, what its data belongs to, and what is known from before.
//!
//! Everything here blocks; [`crate::reconciler`] calls it off the runtime.

use std::io;
use std::path::{Path, PathBuf};

use daemon::files::replace;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::observed::{AgentPlan, Data, Role};
use crate::record::ClusterRecord;
use crate::secrets::Secrets;

/// What went wrong with a file.
#[derive(Debug, Error)]
pub enum FileError {
    /// It could not be written; what was there is unharmed.
    #[error(
        "cannot write {path}, the old one is kept: is the disk full or read-only, and is the directory ours (65532)?"
    )]
    Write {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// It could not be read.
    #[error("cannot read {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// It does not contain what it should.
    #[error("{path} is damaged: {mend}")]
    Parse {
        /// The file.
        path: PathBuf,
        /// What to do.
        mend: &'static str,
        /// Where and why.
        source: serde_json::Error,
    },
    /// Another process works in the directory.
    #[error("cannot lock {path}: does another consul-bootstrapper work there? give each its own --state-dir")]
    Lock {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// What is kept from one process to the next.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Known {
    /// The record as last read.
    pub record: Option<ClusterRecord>,
    /// The plan last written.
    pub written: Option<AgentPlan>,
    /// Under which instance this node last made itself known.
    pub instance: Option<String>,
    /// What it was allowed to be.
    pub role: Option<Role>,
}

/// Where the files are.
#[derive(Clone, Debug)]
pub struct Files {
    state: PathBuf,
    run: PathBuf,
}

impl Files {
    /// The files below `state`, which lasts, and `run`, which a restart of the host empties.
    pub fn new(state: PathBuf, run: PathBuf) -> Self {
        Self { state, run }
    }

    /// Consul's data directory.
    pub fn data_dir(&self) -> PathBuf {
        self.state.join("data")
    }

    /// Where Consul reads its configuration.
    pub fn config_dir(&self) -> PathBuf {
        self.state.join("config")
    }

    /// Where tokens for other services are put.
    pub fn token(&self, name: &str) -> PathBuf {
        self.state.join("tokens").join(name)
    }

    /// Where certificates that were made for this node are put.
    pub fn tls(&self, name: &str) -> PathBuf {
        self.state.join("tls").join(name)
    }

    fn known_file(&self) -> PathBuf {
        self.state.join("known.json")
    }

    fn permit_file(&self) -> PathBuf {
        self.run.join("permit")
    }

    fn config_file(&self) -> PathBuf {
        self.config_dir().join("colossus.json")
    }

    fn data_file(&self) -> PathBuf {
        self.data_dir().join("colossus-cluster.json")
    }

    /// Makes the directories, and sees to it that no other process works in them as long as the answer is kept.
    ///
    /// # Errors
    /// When they cannot be made, or there is another one.
    pub fn prepare(&self) -> Result<std::fs::File, FileError> {
        for directory in [
            self.data_dir(),
            self.config_dir(),
            self.state.join("tokens"),
            self.state.join("tls"),
            self.run.clone(),
        ] {
            make_directory(&directory)?;
        }
        let path = self.state.join(".lock");
        let lock = || {
            let file = std::fs::File::options().create(true).append(true).open(&path)?;
            file.try_lock()?;
            Ok(file)
        };
        lock().map_err(|source| FileError::Lock {
            path: path.clone(),
            source,
        })
    }

    /// What an earlier process knew; nothing when there was none.
    ///
    /// # Errors
    /// When the file is damaged or cannot be read.
    pub fn known(&self) -> Result<Known, FileError> {
        let mend = "remove it; it is made again from what etcd knows";
        Ok(read_json(&self.known_file(), mend)?.unwrap_or_default())
    }

    /// Keeps that for the next process.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn keep_known(&self, known: &Known) -> Result<(), FileError> {
        write_json(&self.known_file(), known)
    }

    /// What Consul's data belongs to.
    ///
    /// # Errors
    /// When the mark is damaged or cannot be read: to guess could make a second cluster.
    pub fn data(&self) -> Result<Data, FileError> {
        let mend = "if you know that this host's Consul data is of no use, remove the directory it is in";
        Ok(read_json(&self.data_file(), mend)?.unwrap_or_default())
    }

    /// Marks what Consul's data belongs to.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn mark_data(&self, data: &Data) -> Result<(), FileError> {
        write_json(&self.data_file(), data)
    }

    /// Puts Consul's configuration where Consul reads it, unless it is there already.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write_config(&self, config: &str) -> Result<(), FileError> {
        let path = self.config_file();
        if std::fs::read(&path).is_ok_and(|held| held == config.as_bytes()) {
            return Ok(());
        }
        write(&path, config.as_bytes())
    }

    /// Lets Consul run; another `token` than the one before restarts it.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn permit(&self, token: &str) -> Result<(), FileError> {
        write(&self.permit_file(), token.as_bytes())
    }

    /// Whether, and by which token, Consul may run.
    pub fn permitted(&self) -> Option<String> {
        std::fs::read_to_string(self.permit_file())
            .ok()
            .filter(|token| !token.is_empty())
    }

    /// Keeps Consul from running.
    ///
    /// # Errors
    /// When the permit cannot be removed.
    pub fn withdraw_permit(&self) -> Result<(), FileError> {
        remove(&self.permit_file())
    }

    /// Puts the raft log of an earlier life as a server aside: the cluster has gone on without it.
    ///
    /// # Errors
    /// When it cannot be moved.
    pub fn retire_raft(&self) -> Result<(), FileError> {
        let (raft, retired) = (self.raft_dir(), self.data_dir().join("raft.retired"));
        if !raft.exists() {
            return Ok(());
        }
        let moved = || {
            if retired.exists() {
                std::fs::remove_dir_all(&retired)?;
            }
            std::fs::rename(&raft, &retired)
        };
        moved().map_err(|source| FileError::Write {
            path: raft.clone(),
            source,
        })
    }

    /// Whether there is a raft log.
    pub fn has_raft(&self) -> bool {
        self.raft_dir().join("raft.db").exists()
    }

    fn raft_dir(&self) -> PathBuf {
        self.data_dir().join("raft")
    }

    /// Tells Consul at its next start who its raft peers are (Consul: "Outage Recovery", `peers.json` of raft protocol 3).
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write_raft_peers(&self, peers: &str) -> Result<(), FileError> {
        write(&self.raft_dir().join("peers.json"), peers.as_bytes())
    }

    /// Whether it was told, and has not started since: it removes the file.
    pub fn has_raft_peers(&self) -> bool {
        self.raft_dir().join("peers.json").exists()
    }

    /// Takes that back.
    ///
    /// # Errors
    /// When it cannot be removed.
    pub fn remove_raft_peers(&self) -> Result<(), FileError> {
        remove(&self.raft_dir().join("peers.json"))
    }

    /// Consul's own ID for this node, if it has run here.
    pub fn consul_id(&self) -> Option<String> {
        let text = std::fs::read_to_string(self.data_dir().join("node-id")).ok()?;
        let id = text.trim();
        (!id.is_empty() && id.len() <= 64).then(|| id.to_owned())
    }

    /// The gossip keys that Consul keeps here, the one it sends with first.
    ///
    /// # Errors
    /// When the keyring is damaged or cannot be read.
    pub fn gossip_keys(&self) -> Result<Vec<String>, FileError> {
        let mend = "remove it; Consul makes it again from its configuration";
        Ok(read_json(&self.keyring(), mend)?.unwrap_or_default())
    }

    /// Where Consul keeps its gossip keys.
    pub fn keyring(&self) -> PathBuf {
        self.data_dir().join("serf").join("local.keyring")
    }

    /// The secrets as they were last agreed on.
    ///
    /// # Errors
    /// When the file is damaged or cannot be read.
    pub fn secrets(&self) -> Result<Option<Secrets>, FileError> {
        let mend = "remove it; the secrets are read again from etcd";
        read_json(&self.secrets_file(), mend)
    }

    /// Keeps the secrets for when etcd is away.
    ///
    /// # Errors
    /// When they cannot be written.
    pub fn keep_secrets(&self, secrets: &Secrets) -> Result<(), FileError> {
        write_json(&self.secrets_file(), secrets)
    }

    /// Keeps a token for the service `name`.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn keep_token(&self, name: &str, token: &str) -> Result<(), FileError> {
        let path = self.token(name);
        if std::fs::read(&path).is_ok_and(|held| held == token.as_bytes()) {
            return Ok(());
        }
        write(&path, token.as_bytes())
    }

    fn secrets_file(&self) -> PathBuf {
        self.state.join("secrets.json")
    }
}

/// Writes a file that only its owner may read.
///
/// # Errors
/// When it cannot be written.
pub fn write(path: &Path, content: &[u8]) -> Result<(), FileError> {
    replace(path, content, 0o600).map_err(|source| FileError::Write {
        path: path.to_owned(),
        source,
    })
}

fn write_json<T: Serialize>(path: &Path, value: &T) -> Result<(), FileError> {
    let json = serde_json::to_vec_pretty(value).map_err(|source| FileError::Write {
        path: path.to_owned(),
        source: source.into(),
    })?;
    if std::fs::read(path).is_ok_and(|held| held == json) {
        return Ok(());
    }
    write(path, &json)
}

fn read_json<T: DeserializeOwned>(path: &Path, mend: &'static str) -> Result<Option<T>, FileError> {
    let bytes = match std::fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => {
            return Err(FileError::Read {
                path: path.to_owned(),
                source,
            });
        }
    };
    serde_json::from_slice(&bytes)
        .map(Some)
        .map_err(|source| FileError::Parse {
            path: path.to_owned(),
            mend,
            source,
        })
}

fn remove(path: &Path) -> Result<(), FileError> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed.map_err(|source| FileError::Write {
            path: path.to_owned(),
            source,
        }),
    }
}

fn make_directory(path: &Path) -> Result<(), FileError> {
    use std::os::unix::fs::DirBuilderExt;
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(|source| FileError::Write {
            path: path.to_owned(),
            source,
        })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::secrets::{Secret, Secrets};

    fn files(directory: &tempfile::TempDir) -> Files {
        Files::new(directory.path().join("state"), directory.path().join("run"))
    }

    fn prepared() -> (tempfile::TempDir, Files, std::fs::File) {
        let directory = tempfile::tempdir().expect("a directory");
        let files = files(&directory);
        let lock = files.prepare().expect("prepared");
        (directory, files, lock)
    }

    #[test]
    fn what_is_kept_is_read_again_and_is_its_owners_alone() {
        let (_directory, files, _lock) = prepared();
        let known = Known {
            record: Some(ClusterRecord::new("c1".into(), 3)),
            ..Known::default()
        };
        let data = Data::Member {
            cluster: "c1".into(),
            server: true,
        };
        let secrets = Secrets {
            gossip: Secret::new("key".to_owned()),
            acl: None,
        };
        files.keep_known(&known).expect("kept");
        files.mark_data(&data).expect("marked");
        files.keep_secrets(&secrets).expect("kept");
        files.write_config("{}").expect("written");
        files.permit("go").expect("permitted");
        assert_eq!(files.known().expect("read"), known);
        assert_eq!(files.data().expect("read"), data);
        assert_eq!(files.secrets().expect("read"), Some(secrets));
        assert_eq!(files.permitted().as_deref(), Some("go"));
        for file in [
            files.known_file(),
            files.data_file(),
            files.secrets_file(),
            files.config_file(),
        ] {
            let mode = std::fs::metadata(&file).expect("there").permissions().mode();
            assert_eq!(mode & 0o777, 0o600, "{}", file.display());
        }
    }

    #[test]
    fn a_damaged_mark_is_an_error_and_never_reads_as_no_data() {
        let (_directory, files, _lock) = prepared();
        std::fs::write(files.data_file(), "garbage").expect("written");
        let error = files.data().expect_err("damaged").to_string();
        assert!(error.contains("colossus-cluster.json is damaged"), "{error}");
    }

    #[test]
    fn two_processes_do_not_work_in_one_directory() {
        let (_directory, files, _lock) = prepared();
        assert!(matches!(files.prepare(), Err(FileError::Lock { .. })));
    }

    #[test]
    fn raft_of_an_earlier_life_is_put_aside_and_not_deleted() {
        let (_directory, files, _lock) = prepared();
        for life in ["first", "second"] {
            std::fs::create_dir_all(files.raft_dir()).expect("made");
            std::fs::write(files.raft_dir().join("raft.db"), life).expect("written");
            assert!(files.has_raft());
            files.retire_raft().expect("moved");
            assert!(!files.has_raft());
        }
        let kept = std::fs::read_to_string(files.data_dir().join("raft.retired").join("raft.db"));
        assert_eq!(kept.expect("kept"), "second");
        files.retire_raft().expect("nothing to do");
    }

    #[test]
    fn a_directory_that_cannot_be_written_is_named_and_what_was_there_stays() {
        let (_directory, files, _lock) = prepared();
        files.write_config("old").expect("written");
        // Root may write into a read-only directory; not into one that is in the way.
        std::fs::create_dir(files.config_dir().join(".colossus.json.new")).expect("in the way");
        let error = files.write_config("new").expect_err("not written").to_string();
        assert!(error.contains("colossus.json, the old one is kept"), "{error}");
        assert_eq!(
            std::fs::read_to_string(files.config_file()).expect("there"),
            "old"
        );
    }
}
