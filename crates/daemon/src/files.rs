//! Files that are always whole: whoever reads one sees the old content or the new one, also after a power cut.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// Replaces the file at `path`, with `mode` as its permissions (`0o600`: nobody but the owner reads it).
///
/// What was there stays unharmed when this fails, as on a full disk. Blocks for as long as the disk takes to write.
///
/// # Errors
/// What the system says.
pub fn replace(path: &Path, content: &[u8], mode: u32) -> io::Result<()> {
    let temporary = temporary(path)?;
    let write = || {
        let mut file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(mode)
            .open(&temporary)?;
        file.write_all(content)?;
        // Without this, a power cut after the rename could leave an empty file under the final name.
        file.sync_data()?;
        std::fs::rename(&temporary, path)?;
        // And without this the rename itself could be lost.
        match path.parent() {
            Some(parent) => File::open(parent)?.sync_all(),
            None => Ok(()),
        }
    };
    write().inspect_err(|_| {
        // On a full disk what was written is in the way of the next attempt; if it stays, no harm is done.
        let _ = std::fs::remove_file(&temporary);
    })
}

fn temporary(path: &Path) -> io::Result<PathBuf> {
    let name = path
        .file_name()
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "the path names no file"))?;
    let mut hidden = std::ffi::OsString::from(".");
    hidden.push(name);
    hidden.push(".new");
    Ok(path.with_file_name(hidden))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_file_is_replaced_with_its_mode_and_nothing_is_left_beside_it() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("file");
        replace(&path, b"one", 0o600).expect("written");
        replace(&path, b"two", 0o600).expect("replaced");
        assert_eq!(std::fs::read(&path).expect("readable"), b"two");
        let mode = std::fs::metadata(&path).expect("there").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert_eq!(std::fs::read_dir(directory.path()).expect("listed").count(), 1);
    }

    #[test]
    fn what_cannot_be_written_leaves_the_old_file_and_nothing_else() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("file");
        replace(&path, b"old", 0o600).expect("written");
        std::fs::create_dir(directory.path().join(".file.new")).expect("in the way");
        assert!(replace(&path, b"new", 0o600).is_err());
        assert_eq!(std::fs::read(&path).expect("readable"), b"old");
    }
}
