//! Unit files on the disk.

use std::io;
use std::path::{Path, PathBuf};

use fleet::{NameError, ParseError, UnitFile, UnitName};
use thiserror::Error;

/// Why a file gives no unit.
#[derive(Debug, Error)]
pub(crate) enum FileError {
    #[error("{}: the file's name is no unit's name", path.display())]
    Name { path: PathBuf, source: NameError },
    #[error("{}: it cannot be read", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("{}", path.display())]
    Parse { path: PathBuf, source: ParseError },
}

/// A unit file and the name that it goes by.
pub(crate) struct Source {
    pub(crate) name: UnitName,
    pub(crate) unit: UnitFile,
}

/// Reads a unit file. An instance that has no file of its own is made from the template beside it.
pub(crate) fn read(path: &Path) -> Result<Source, FileError> {
    let text = path
        .file_name()
        .map(|name| name.to_string_lossy())
        .unwrap_or_default();
    let name: UnitName = text.parse().map_err(|source| FileError::Name {
        path: path.to_owned(),
        source,
    })?;
    let path = match name.template() {
        Some(template) if !path.exists() => path.with_file_name(template.as_str()),
        _ => path.to_owned(),
    };
    let text = match std::fs::read_to_string(&path) {
        Ok(text) => text,
        Err(source) => return Err(FileError::Read { path, source }),
    };
    match UnitFile::parse(&text) {
        Ok(unit) => Ok(Source { name, unit }),
        Err(source) => Err(FileError::Parse { path, source }),
    }
}

/// Whether a person means a file by this, and not a unit that fleet knows.
pub(crate) fn is_path(text: &str) -> bool {
    text.contains('/') || Path::new(text).is_file()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_instance_comes_from_the_template_beside_it() {
        let directory = tempfile::tempdir().unwrap();
        let template = directory.path().join("web@.service");
        std::fs::write(&template, "[Service]\nExecStart=/bin/true\n").unwrap();
        let source = read(&directory.path().join("web@7.service")).unwrap();
        assert_eq!(source.name.as_str(), "web@7.service");
        assert_eq!(source.unit, read(&template).unwrap().unit);

        let missing = read(&directory.path().join("other@7.service"));
        assert!(matches!(missing, Err(FileError::Read { .. })));
        assert!(matches!(read(Path::new("/tmp/x")), Err(FileError::Name { .. })));
        std::fs::write(&template, "hello").unwrap();
        assert!(matches!(read(&template), Err(FileError::Parse { .. })));
    }

    #[test]
    fn a_path_is_told_from_a_name() {
        assert!(is_path("./web@1.service") && is_path("fleet-units/web.service"));
        assert!(!is_path("web@1") && !is_path("web.service"));
    }
}
