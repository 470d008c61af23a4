//! One HTTP exchange with Consul: address, token, deadline, size limit, and errors that say what was tried.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use reqwest::{Body, Method, StatusCode};
use serde::Serialize;
use serde::de::DeserializeOwned;
use url::Url;

use crate::config::{Address, Config};
use crate::error::Error;
use crate::query::{QueryMeta, QueryOptions, Response, deadline};
use crate::tls;
use crate::token::Token;

/// The most bytes of an answer that are read: 64 MiB, room for the health of some 50,000 instances of about 1 KiB each.
/// More is an [`Error::TooLarge`]. Snapshots, which are passed on as they come, have no limit.
pub const MAX_ANSWER: usize = 64 * 1024 * 1024;

/// How much of an error's text is kept.
const MAX_ERROR_TEXT: usize = 512;

/// How much of an error's body is read: a rolled back transaction lists up to 64 failures there.
const MAX_ERROR_BODY: usize = 64 * 1024;

/// A client for one Consul agent. Cloning is cheap, and clones share connections.
#[derive(Clone)]
pub struct Client {
    inner: Arc<Inner>,
}

struct Inner {
    http: reqwest::Client,
    /// Scheme, host, port and prefix, without a slash at the end.
    base: String,
    address: String,
    token: Token,
    datacenter: Option<String>,
    timeout: Duration,
    max_answer: usize,
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client")
            .field("address", &self.inner.address)
            .finish_non_exhaustive()
    }
}

impl Client {
    /// Builds a client. Nothing is connected to yet, but the token's and certificates' files are read.
    ///
    /// # Errors
    /// [`Error::Address`], [`Error::Tls`], [`Error::Token`], [`Error::TokenValue`] or [`Error::Build`]: all of them
    /// configuration errors.
    pub fn new(config: Config) -> Result<Client, Error> {
        config.address.validate()?;
        let https = config.address.is_https();
        let mut builder = reqwest::Client::builder()
            .tls_backend_preconfigured(tls::client_config(&config.tls, https)?)
            .http1_only()
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .referer(false)
            .user_agent(concat!("colossus-consul/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(config.timeout)
            // A peer that vanished without a word (power, cable, a firewall that forgot) is found after
            // 10 s + 4 × 5 s rather than at the deadline of a 5-minute query. A frozen process is not: its kernel
            // goes on answering, so only the deadline finds that.
            .tcp_keepalive(Duration::from_secs(10))
            .tcp_keepalive_interval(Duration::from_secs(5))
            .tcp_keepalive_retries(4)
            .tcp_user_timeout(Duration::from_secs(30))
            .tcp_nodelay(true);
        let base = match &config.address {
            Address::Http(url) => url.as_str().trim_end_matches('/').to_owned(),
            Address::Unix(path) => {
                builder = builder.unix_socket(path.as_path());
                // Only for the Host header.
                "http://localhost".to_owned()
            }
        };
        let http = builder.build().map_err(|source| Error::Build { source })?;
        Ok(Client {
            inner: Arc::new(Inner {
                http,
                base,
                address: config.address.to_string(),
                token: Token::new(&config.token)?,
                datacenter: config.datacenter,
                timeout: config.timeout,
                max_answer: MAX_ANSWER,
            }),
        })
    }

    /// Where this client's Consul is, for messages.
    #[must_use]
    pub fn address(&self) -> &str {
        &self.inner.address
    }

    /// The deadline of one non-blocking call.
    #[must_use]
    pub fn timeout(&self) -> Duration {
        self.inner.timeout
    }

    #[cfg(test)]
    pub(crate) fn with_max_answer(mut self, bytes: usize) -> Client {
        Arc::get_mut(&mut self.inner).expect("not cloned yet").max_answer = bytes;
        self
    }

    /// A query of the catalog, health, key/value or session endpoints, which all take the same options.
    pub(crate) async fn query(
        &self,
        operation: String,
        path: &str,
        options: &QueryOptions,
    ) -> Result<Answer, Error> {
        let wait = options.blocks_for();
        Call {
            wait,
            ..Call::get(operation, path)
        }
        .with(options.pairs(self.inner.datacenter.as_deref()))
        .send(self)
        .await
    }

    /// [`Client::query`], decoded.
    pub(crate) async fn query_json<T: DeserializeOwned>(
        &self,
        operation: String,
        path: &str,
        options: &QueryOptions,
    ) -> Result<Response<T>, Error> {
        let answer = self.query(operation, path, options).await?.ok()?;
        Ok(Response {
            meta: answer.meta,
            value: answer.json()?,
        })
    }

    /// One deadline around everything `work` does, the token's file included, so that no step can hang on its own.
    pub(crate) async fn within<T>(
        &self,
        limit: Duration,
        operation: String,
        work: impl Future<Output = Result<T, Error>>,
    ) -> Result<T, Error> {
        match tokio::time::timeout(limit, work).await {
            Ok(result) => result,
            Err(_) => Err(Error::Deadline {
                operation,
                address: self.inner.address.clone(),
                after: limit,
            }),
        }
    }

    /// The datacenter as a query pair, for writes outside the agent's own endpoints.
    pub(crate) fn datacenter_pair(&self) -> Vec<(&'static str, Cow<'static, str>)> {
        self.inner
            .datacenter
            .iter()
            .map(|datacenter| ("dc", datacenter.clone().into()))
            .collect()
    }
}

/// One request, not yet sent.
pub(crate) struct Call {
    operation: String,
    method: Method,
    /// From `/v1/`, encoded.
    path: String,
    pairs: Vec<(&'static str, String)>,
    body: Option<(&'static str, Body)>,
    wait: Option<Duration>,
}

impl Call {
    pub(crate) fn new(method: Method, operation: impl Into<String>, path: impl Into<String>) -> Call {
        Call {
            operation: operation.into(),
            method,
            path: path.into(),
            pairs: Vec::new(),
            body: None,
            wait: None,
        }
    }

    pub(crate) fn get(operation: impl Into<String>, path: impl Into<String>) -> Call {
        Call::new(Method::GET, operation, path)
    }

    pub(crate) fn put(operation: impl Into<String>, path: impl Into<String>) -> Call {
        Call::new(Method::PUT, operation, path)
    }

    /// Adds pairs to the URL's query.
    pub(crate) fn with<V: Into<String>>(
        mut self,
        pairs: impl IntoIterator<Item = (&'static str, V)>,
    ) -> Call {
        self.pairs
            .extend(pairs.into_iter().map(|(name, value)| (name, value.into())));
        self
    }

    /// Says that the server may hold the answer back this long.
    pub(crate) fn waiting(mut self, wait: Duration) -> Call {
        self.wait = Some(wait);
        self
    }

    pub(crate) fn json(mut self, body: &impl Serialize) -> Result<Call, Error> {
        match serde_json::to_vec(body) {
            Ok(bytes) => self.body = Some(("application/json", bytes.into())),
            Err(source) => {
                return Err(Error::Encode {
                    operation: self.operation,
                    source,
                });
            }
        }
        Ok(self)
    }

    pub(crate) fn bytes(mut self, body: impl Into<Body>) -> Call {
        self.body = Some(("application/octet-stream", body.into()));
        self
    }

    /// Sends the request and reads the whole answer, whatever its status.
    pub(crate) async fn send(self, client: &Client) -> Result<Answer, Error> {
        let limit = deadline(self.wait, client.inner.timeout);
        self.send_within(client, limit).await
    }

    /// The same with a deadline other than the client's.
    pub(crate) async fn send_within(self, client: &Client, limit: Duration) -> Result<Answer, Error> {
        let operation = self.operation.clone();
        client
            .within(limit, operation, async {
                let max_answer = client.inner.max_answer;
                self.open(client).await?.read(max_answer).await
            })
            .await
    }

    /// Sends the request and reads the answer's head. Has no deadline: see [`Client::within`].
    pub(crate) async fn open(self, client: &Client) -> Result<Opened, Error> {
        let inner = &*client.inner;
        let mut url =
            Url::parse(&format!("{}{}", inner.base, self.path)).map_err(|error| Error::Address {
                value: inner.address.clone(),
                problem: format!("{error}: write it as http://127.0.0.1:8500"),
            })?;
        if !self.pairs.is_empty() {
            url.query_pairs_mut().extend_pairs(&self.pairs);
        }
        let mut request = inner.http.request(self.method, url);
        if let Some(token) = inner.token.header().await? {
            request = request.header("x-consul-token", token);
        }
        if let Some((content_type, body)) = self.body {
            request = request
                .header(reqwest::header::CONTENT_TYPE, content_type)
                .body(body);
        }
        let response = request
            .send()
            .await
            .map_err(|source| failed(&self.operation, &inner.address, source))?;
        Ok(Opened {
            operation: self.operation,
            address: inner.address.clone(),
            response,
        })
    }
}

fn failed(operation: &str, address: &str, source: reqwest::Error) -> Error {
    Error::Request {
        operation: operation.to_owned(),
        address: address.to_owned(),
        // The URL repeats the address and the operation, and for a Unix socket it misleads.
        source: source.without_url(),
    }
}

/// An answer of which only the head has been read.
pub(crate) struct Opened {
    operation: String,
    address: String,
    response: reqwest::Response,
}

impl Opened {
    pub(crate) fn status(&self) -> StatusCode {
        self.response.status()
    }

    pub(crate) fn meta(&self) -> QueryMeta {
        QueryMeta::from_headers(self.response.headers())
    }

    /// The next part of the body; `None` at its end.
    pub(crate) async fn chunk(&mut self) -> Result<Option<Bytes>, Error> {
        self.response
            .chunk()
            .await
            .map_err(|source| failed(&self.operation, &self.address, source))
    }

    /// The whole answer, of which at most `max_answer` bytes are read.
    pub(crate) async fn read(mut self, max_answer: usize) -> Result<Answer, Error> {
        let (status, meta) = (self.status(), self.meta());
        let content_hash = self
            .response
            .headers()
            .get("x-consul-contenthash")
            .and_then(|hash| hash.to_str().ok())
            .filter(|hash| !hash.is_empty())
            .map(str::to_owned);
        let too_large = |operation: &String| Error::TooLarge {
            operation: operation.clone(),
            limit: max_answer,
        };
        let length = self.response.content_length().unwrap_or_default();
        if status.is_success() && length > max_answer as u64 {
            return Err(too_large(&self.operation));
        }
        let mut body = BytesMut::new();
        while let Some(chunk) = self.chunk().await? {
            if body.len() + chunk.len() > max_answer {
                return Err(too_large(&self.operation));
            }
            body.extend_from_slice(&chunk);
            if !status.is_success() && body.len() > MAX_ERROR_BODY {
                // Enough to say what went wrong; the rest of an error page is nobody's loss.
                break;
            }
        }
        Ok(Answer {
            operation: self.operation,
            status,
            meta,
            content_hash,
            body: body.freeze(),
        })
    }
}

/// A whole answer.
pub(crate) struct Answer {
    pub(crate) operation: String,
    pub(crate) status: StatusCode,
    pub(crate) meta: QueryMeta,
    pub(crate) content_hash: Option<String>,
    pub(crate) body: Bytes,
}

impl Answer {
    /// The answer if its status is 2xx.
    pub(crate) fn ok(self) -> Result<Answer, Error> {
        if self.status.is_success() {
            return Ok(self);
        }
        let code = self.status.as_u16();
        Err(Error::Status {
            body: self.text(),
            operation: self.operation,
            code,
        })
    }

    /// What Consul said, as [`Error::Status`] has it.
    pub(crate) fn text(&self) -> String {
        one_line(&self.body)
    }

    /// `None` for a 404 that is the key/value store's own: it says with an index that there is nothing. A 404 without
    /// an index comes from something else, such as a proxy, and says nothing about what is stored.
    pub(crate) fn found(self) -> Result<Option<Answer>, Error> {
        if self.status == StatusCode::NOT_FOUND && self.meta.index > 0 {
            return Ok(None);
        }
        self.ok().map(Some)
    }

    pub(crate) fn json<T: DeserializeOwned>(self) -> Result<T, Error> {
        serde_json::from_slice(&self.body).map_err(|source| Error::Decode {
            operation: self.operation,
            source,
        })
    }
}

/// An error's text as one short line, safe to log: control characters become spaces.
fn one_line(body: &[u8]) -> String {
    let text = String::from_utf8_lossy(body);
    let words = text
        .split(|c: char| c.is_whitespace() || c.is_control())
        .filter(|word| !word.is_empty());
    let mut line = words.collect::<Vec<_>>().join(" ");
    if line.len() > MAX_ERROR_TEXT {
        let end = line.floor_char_boundary(MAX_ERROR_TEXT - '…'.len_utf8());
        line.truncate(end);
        line.push('…');
    }
    if line.is_empty() {
        "(no text)".to_owned()
    } else {
        line
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_errors_text_is_one_short_line() {
        assert_eq!(one_line(b"a\r\n\tb\x1b[31m c"), "a b [31m c");
        assert_eq!(one_line(b" \n"), "(no text)");
        let long = one_line("é".repeat(5_000).as_bytes());
        assert!(long.len() <= MAX_ERROR_TEXT && long.ends_with('…'));
    }

    #[test]
    fn a_client_is_built_without_system_certificates_and_shows_no_secret() {
        let mut config = Config::new("http://127.0.0.1:8500".parse().expect("address"));
        config.token = crate::TokenSource::Value("s3cret".into());
        let client = Client::new(config).expect("client");
        assert!(!format!("{client:?}").contains("s3cret"));
    }
}
