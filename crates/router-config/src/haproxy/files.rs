//! The files that HAProxy and the next router-config start from: always whole, always one that worked behind.
//!
//! `haproxy.cfg` is what HAProxy reads; `haproxy.cfg.last-good` is the last one that it took, put back when it
//! refuses a newer one and used by HAProxy's start script for the same end; `known.json` is what this process knew.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use thiserror::Error;
use tokio::fs;

use super::config::Rendered;
use crate::instance::ServiceInstance;

/// The file HAProxy reads.
pub const CONFIG: &str = "haproxy.cfg";
/// The last one that HAProxy took.
pub const LAST_GOOD: &str = "haproxy.cfg.last-good";
/// The services this process knew.
pub const KNOWN: &str = "known.json";

/// Held by the router-config that works in the directory.
const LOCK: &str = ".lock";

/// What went wrong with a file.
#[derive(Debug, Error)]
pub enum FileError {
    /// It could not be written; what was there is unharmed.
    #[error("cannot write {path}, the old one is kept")]
    Write {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Another process holds it, or it cannot be made.
    #[error("cannot lock {path}: does another router-config work there? give each its own --state-dir")]
    Lock {
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
    #[error("{path} is damaged and is ignored")]
    Parse {
        /// The file.
        path: PathBuf,
        /// Where and why.
        source: serde_json::Error,
    },
}

/// What is kept from one process to the next.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Known {
    services: BTreeMap<String, Vec<ServiceInstance>>,
}

/// The directory with the files.
#[derive(Debug, Clone)]
pub struct Files {
    directory: PathBuf,
}

impl Files {
    /// The files in `directory`.
    pub fn new(directory: PathBuf) -> Self {
        Self { directory }
    }

    /// The configuration that HAProxy would read now; `None` when there is none, or none that can be read.
    pub async fn config(&self) -> Option<String> {
        let bytes = fs::read(self.directory.join(CONFIG)).await.ok()?;
        Some(String::from_utf8_lossy(&bytes).into_owned())
    }

    /// Makes sure that no other router-config works in the directory, as long as the answer is kept.
    ///
    /// # Errors
    /// When there is one, or the directory cannot be written to.
    pub fn lock(&self) -> Result<std::fs::File, FileError> {
        let path = self.directory.join(LOCK);
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

    /// Puts `rendered` where HAProxy reads it.
    ///
    /// # Errors
    /// When the disk is full or read-only: HAProxy's present files are unharmed.
    pub async fn write(&self, rendered: &Rendered) -> Result<(), FileError> {
        self.replace(CONFIG, rendered.config.as_bytes()).await
    }

    /// Remembers that HAProxy took the present configuration.
    ///
    /// # Errors
    /// When it cannot be written; the one before stays then.
    pub async fn keep_as_last_good(&self, rendered: &Rendered) -> Result<(), FileError> {
        self.replace(LAST_GOOD, rendered.config.as_bytes()).await
    }

    /// Puts back what HAProxy should start from: the last good configuration, else `previous`, the file that was
    /// there before, else none at all.
    ///
    /// # Errors
    /// When it cannot be read or written.
    pub async fn restore(&self, previous: Option<&str>) -> Result<(), FileError> {
        let path = self.directory.join(LAST_GOOD);
        match (fs::read(&path).await, previous) {
            (Ok(config), _) => self.replace(CONFIG, &config).await,
            (Err(error), Some(config)) if error.kind() == io::ErrorKind::NotFound => {
                self.replace(CONFIG, config.as_bytes()).await
            }
            (Err(error), None) if error.kind() == io::ErrorKind::NotFound => {
                let path = self.directory.join(CONFIG);
                fs::remove_file(&path)
                    .await
                    .map_err(|source| FileError::Write { path, source })
            }
            (Err(source), _) => Err(FileError::Read { path, source }),
        }
    }

    /// The services an earlier process knew; none when there was none.
    ///
    /// # Errors
    /// When the file is damaged or cannot be read: go on without it.
    pub async fn known(&self) -> Result<BTreeMap<String, Vec<ServiceInstance>>, FileError> {
        let path = self.directory.join(KNOWN);
        let bytes = match fs::read(&path).await {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(BTreeMap::new()),
            Err(source) => return Err(FileError::Read { path, source }),
        };
        let known: Known =
            serde_json::from_slice(&bytes).map_err(|source| FileError::Parse { path, source })?;
        Ok(known.services)
    }

    /// Keeps the services for the next process.
    ///
    /// # Errors
    /// When it cannot be written; the one before stays then.
    pub async fn keep_known(
        &self,
        services: BTreeMap<String, Vec<ServiceInstance>>,
    ) -> Result<(), FileError> {
        let path = self.directory.join(KNOWN);
        let json =
            serde_json::to_vec(&Known { services }).map_err(|source| FileError::Parse { path, source })?;
        self.replace(KNOWN, &json).await
    }

    /// Replaces a file as a whole: whoever reads it sees the old text or the new one.
    async fn replace(&self, name: &str, content: &[u8]) -> Result<(), FileError> {
        let path = self.directory.join(name);
        let temporary = self.directory.join(format!(".{name}.new"));
        let (target, content) = (path.clone(), content.to_owned());
        // In one go and not with tokio's files: those report a failed write with the next one, and after the last
        // there is none. An empty file would be renamed into place, and HAProxy takes an empty file for a configuration.
        let written = tokio::task::spawn_blocking(move || replace(&temporary, &target, &content)).await;
        let written = written.unwrap_or_else(|panic| Err(io::Error::other(panic)));
        written.map_err(|source| FileError::Write { path, source })
    }
}

fn replace(temporary: &Path, target: &Path, content: &[u8]) -> io::Result<()> {
    let write = || {
        let mut file = std::fs::File::create(temporary)?;
        file.write_all(content)?;
        // Without this, a power cut after the rename could leave an empty file under the final name.
        file.sync_data()?;
        std::fs::rename(temporary, target)
    };
    write().inspect_err(|_| {
        // On a full disk what was written is in the way of the next attempt; if it stays, no harm is done.
        let _ = std::fs::remove_file(temporary);
    })
}

#[cfg(test)]
mod tests {
    use super::super::config::{render, tests::settings};
    use super::*;
    use crate::table::RoutingTable;

    fn rendered(max_connections: u32) -> Rendered {
        let settings = super::super::config::Settings {
            max_connections,
            ..settings()
        };
        render(&RoutingTable::default(), &settings)
    }

    #[tokio::test]
    async fn the_last_good_configuration_is_put_back() {
        let directory = tempfile::tempdir().unwrap();
        let files = Files::new(directory.path().to_owned());
        assert_eq!(files.config().await, None);
        let (good, bad) = (rendered(1), rendered(2));

        // The first one ever is refused: what was there before comes back, be it nothing.
        files.write(&bad).await.unwrap();
        files.restore(Some("before")).await.unwrap();
        assert_eq!(files.config().await.as_deref(), Some("before"));
        files.restore(None).await.unwrap();
        assert_eq!(files.config().await, None);

        files.write(&good).await.unwrap();
        files.keep_as_last_good(&good).await.unwrap();
        files.write(&bad).await.unwrap();
        assert_eq!(files.config().await.as_ref(), Some(&bad.config));

        files.restore(Some("before")).await.unwrap();
        assert_eq!(files.config().await.as_ref(), Some(&good.config));
    }

    #[tokio::test]
    async fn a_file_that_cannot_be_written_leaves_the_old_one_and_no_litter() {
        let directory = tempfile::tempdir().unwrap();
        let files = Files::new(directory.path().join("missing"));
        let error = files.write(&rendered(1)).await.unwrap_err();
        assert!(error.to_string().contains("the old one is kept"), "{error}");

        // A directory in the way of the rename: the temporary file must not stay.
        let files = Files::new(directory.path().to_owned());
        std::fs::create_dir_all(directory.path().join(CONFIG).join("x")).unwrap();
        files.write(&rendered(1)).await.unwrap_err();
        assert!(!directory.path().join(format!(".{CONFIG}.new")).exists());
    }

    #[test]
    fn one_router_config_works_in_a_directory() {
        let directory = tempfile::tempdir().unwrap();
        let files = Files::new(directory.path().to_owned());
        let held = files.lock().unwrap();
        let error = files.lock().unwrap_err().to_string();
        assert!(error.contains("another router-config"), "{error}");
        drop(held);
        files.lock().unwrap();
    }

    #[tokio::test]
    async fn a_damaged_memory_is_an_error_that_names_the_file() {
        let directory = tempfile::tempdir().unwrap();
        let files = Files::new(directory.path().to_owned());
        assert!(files.known().await.unwrap().is_empty());
        files
            .keep_known(BTreeMap::from([("web".to_owned(), vec![])]))
            .await
            .unwrap();
        assert_eq!(files.known().await.unwrap().keys().collect::<Vec<_>>(), ["web"]);
        std::fs::write(directory.path().join(KNOWN), "{\"services\":").unwrap();
        let error = files.known().await.unwrap_err();
        assert!(error.to_string().contains(KNOWN), "{error}");
    }
}
