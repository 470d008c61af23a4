//! The ACL token as a header, kept fresh from its file.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use reqwest::header::HeaderValue;
use secrecy::ExposeSecret;

use crate::config::TokenSource;
use crate::error::Error;

/// How old a file's time stamp must be before an unchanged stamp proves unchanged content: a second write within one
/// tick of the file system's clock leaves the stamp as it was.
const STAMP_SETTLES: Duration = Duration::from_secs(2);

/// What a file looked like when it was read. `None` means "do not trust it, read again".
type Stamp = (u64, u64, SystemTime);

pub(crate) enum Token {
    None,
    Value(HeaderValue),
    File {
        path: PathBuf,
        cached: Mutex<Option<(Stamp, HeaderValue)>>,
    },
}

impl Token {
    /// Reads the token once, so that a wrong file or value is found before anything is started.
    pub(crate) fn new(source: &TokenSource) -> Result<Token, Error> {
        match source {
            TokenSource::None => Ok(Token::None),
            TokenSource::Value(secret) => header(secret.expose_secret())
                .map(Token::Value)
                .ok_or(Error::TokenValue),
            TokenSource::File(path) => {
                let read = std::fs::metadata(path)
                    .and_then(|metadata| Ok((stamp(&metadata), std::fs::read_to_string(path)?)));
                let (stamp, text) = read.map_err(|source| Error::Token {
                    path: path.clone(),
                    source,
                })?;
                let value = parse(path, &text)?;
                let cached = Mutex::new(stamp.map(|stamp| (stamp, value)));
                Ok(Token::File {
                    path: path.clone(),
                    cached,
                })
            }
        }
    }

    /// The header to send now.
    ///
    /// # Errors
    /// [`Error::Token`] when the file is gone, empty or unreadable. The last token is not used then: who removes a
    /// token's file wants it unused.
    pub(crate) async fn header(&self) -> Result<Option<HeaderValue>, Error> {
        let (path, cached) = match self {
            Token::None => return Ok(None),
            Token::Value(value) => return Ok(Some(value.clone())),
            Token::File { path, cached } => (path, cached),
        };
        let failed = |source| Error::Token {
            path: path.clone(),
            source,
        };
        // The stamp is taken before the content: a write between the two makes the next call read again.
        let now = stamp(&tokio::fs::metadata(path).await.map_err(failed)?);
        let known = cached.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let (Some(now), Some((then, value))) = (now, known)
            && now == then
        {
            return Ok(Some(value));
        }
        let text = tokio::fs::read_to_string(path).await.map_err(failed)?;
        let value = parse(path, &text)?;
        *cached.lock().unwrap_or_else(PoisonError::into_inner) = now.map(|stamp| (stamp, value.clone()));
        Ok(Some(value))
    }
}

fn stamp(metadata: &std::fs::Metadata) -> Option<Stamp> {
    use std::os::unix::fs::MetadataExt;
    let modified = metadata.modified().ok()?;
    let settled = SystemTime::now()
        .duration_since(modified)
        .is_ok_and(|age| age > STAMP_SETTLES);
    settled.then(|| (metadata.ino(), metadata.len(), modified))
}

fn parse(path: &Path, text: &str) -> Result<HeaderValue, Error> {
    header(text.trim_end()).ok_or_else(|| Error::Token {
        path: path.to_owned(),
        source: io::Error::new(
            io::ErrorKind::InvalidData,
            "it is empty or holds more than one line of plain ASCII text",
        ),
    })
}

/// `None` when the text cannot be a token. Marked sensitive: neither `Debug` nor the HTTP layers show or index it.
fn header(text: &str) -> Option<HeaderValue> {
    if text.is_empty() || !text.is_ascii() {
        return None;
    }
    let mut value = HeaderValue::from_str(text).ok()?;
    value.set_sensitive(true);
    Some(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn shown(token: &Token) -> String {
        token
            .header()
            .await
            .expect("token")
            .expect("header")
            .to_str()
            .expect("text")
            .to_owned()
    }

    #[tokio::test]
    async fn a_rotated_file_is_read_again() {
        let dir = tempfile::tempdir().expect("dir");
        let path = dir.path().join("token");
        std::fs::write(&path, "one\n").expect("write");
        let token = Token::new(&TokenSource::File(path.clone())).expect("token");
        assert_eq!(shown(&token).await, "one");
        // Same length, and the same time stamp as far as the file system's clock can tell.
        std::fs::write(&path, "two\n").expect("write");
        assert_eq!(shown(&token).await, "two");
    }

    #[tokio::test]
    async fn a_settled_file_is_read_once_until_its_stamp_changes() {
        let dir = tempfile::tempdir().expect("dir");
        let path = dir.path().join("token");
        std::fs::write(&path, "one").expect("write");
        let old = SystemTime::now() - Duration::from_secs(60);
        let set_time = |time| {
            std::fs::File::options()
                .write(true)
                .open(&path)
                .and_then(|f| f.set_modified(time))
        };
        set_time(old).expect("time");
        let token = Token::new(&TokenSource::File(path.clone())).expect("token");
        std::fs::write(&path, "two").expect("write");
        set_time(old).expect("time");
        assert_eq!(shown(&token).await, "one", "an unchanged stamp is trusted");
        set_time(old + Duration::from_secs(1)).expect("time");
        assert_eq!(shown(&token).await, "two");
    }

    #[tokio::test]
    async fn a_missing_or_empty_file_is_an_error_and_not_no_token() {
        let dir = tempfile::tempdir().expect("dir");
        let path = dir.path().join("token");
        assert!(matches!(
            Token::new(&TokenSource::File(path.clone())),
            Err(Error::Token { .. })
        ));
        std::fs::write(&path, "\n").expect("write");
        assert!(matches!(
            Token::new(&TokenSource::File(path.clone())),
            Err(Error::Token { .. })
        ));
        std::fs::write(&path, "one").expect("write");
        let token = Token::new(&TokenSource::File(path.clone())).expect("token");
        std::fs::remove_file(&path).expect("remove");
        assert!(matches!(token.header().await, Err(Error::Token { .. })));
    }

    #[test]
    fn a_token_that_no_header_can_carry_is_refused_and_not_shown() {
        let error = Token::new(&TokenSource::Value("se\ncret".into()))
            .err()
            .expect("error");
        assert!(!format!("{error} {error:?}").contains("cret\""));
        assert!(matches!(error, Error::TokenValue));
    }
}
