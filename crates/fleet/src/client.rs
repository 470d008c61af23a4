//! The client of fleet's HTTP API, version 1 (`Documentation/api-v1.md` of fleet; what that leaves open was measured with
//! fleet 1.0.0).

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use reqwest::{Method, StatusCode};
use rustls::{ClientConfig, RootCertStore};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::time::{Instant, sleep, timeout};

use crate::endpoint::Endpoint;
use crate::error::Error;
use crate::model::{DesiredState, Machine, Unit, UnitState};
use crate::name::UnitName;
use crate::unit::{UnitFile, UnitOption};

/// The most bytes of one page that are read: 16 MiB. fleet puts 100 units on a page.
pub const MAX_ANSWER: usize = 16 * 1024 * 1024;

/// How much of an error's text is kept.
const MAX_ERROR_TEXT: usize = 512;

/// fleet numbers pages with 16 bits.
const MAX_PAGES: usize = 65_535;

/// How often a destroyed unit is looked for.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// What a [`Client`] is built from.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where fleet's API listens.
    pub endpoint: Endpoint,
    /// The deadline of one call, or of one page, from connecting to the last byte of the answer. Default 10 s.
    pub timeout: Duration,
    /// How long [`Client::replace`] waits for a destroyed unit to stop. Default 120 s.
    pub stop_timeout: Duration,
}

impl Config {
    /// The defaults for `endpoint`.
    #[must_use]
    pub fn new(endpoint: Endpoint) -> Self {
        Self {
            endpoint,
            timeout: Duration::from_secs(10),
            stop_timeout: Duration::from_secs(120),
        }
    }
}

/// Which states to list; all of them, when nothing is said.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StateFilter {
    /// Only those of this unit.
    pub unit: Option<UnitName>,
    /// Only those from this machine, by its ID.
    pub machine_id: Option<String>,
}

/// A client of one fleet. Cloning is cheap, and clones share connections.
#[derive(Clone)]
pub struct Client {
    http: reqwest::Client,
    /// Scheme, host, port and prefix, without a slash at the end.
    base: Arc<str>,
    config: Arc<Config>,
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client")
            .field("config", &self.config)
            .finish_non_exhaustive()
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Put<'a> {
    desired_state: DesiredState,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    options: &'a [UnitOption],
}

#[derive(Deserialize)]
struct ErrorBody {
    error: ErrorEntity,
}

#[derive(Deserialize)]
struct ErrorEntity {
    #[serde(default)]
    message: String,
}

/// A whole answer.
struct Answer {
    operation: String,
    status: StatusCode,
    body: Vec<u8>,
}

impl Client {
    /// Builds a client. Nothing is connected to yet, and nothing is read from the system.
    ///
    /// # Errors
    /// [`Error::Build`].
    pub fn new(config: Config) -> Result<Self, Error> {
        // fleet speaks no TLS; but reqwest's own choice of a verifier reads the system's certificates and fails where
        // there are none, even for plain HTTP.
        let tls = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(|source| Error::Build {
                source: source.into(),
            })?
            .with_root_certificates(RootCertStore::empty())
            .with_no_client_auth();
        let mut builder = reqwest::Client::builder()
            .tls_backend_preconfigured(tls)
            .http1_only()
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .referer(false)
            .user_agent(concat!("colossus-fleet/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(config.timeout);
        let base = match &config.endpoint {
            Endpoint::Http(url) => url.as_str().trim_end_matches('/').to_owned(),
            Endpoint::Unix(path) => {
                builder = builder.unix_socket(path.as_path());
                // Only for the Host header.
                "http://localhost".to_owned()
            }
        };
        let http = builder.build().map_err(|source| Error::Build {
            source: source.into(),
        })?;
        Ok(Self {
            http,
            base: base.into(),
            config: Arc::new(config),
        })
    }

    /// Where this client's fleet is, for messages.
    #[must_use]
    pub fn endpoint(&self) -> &Endpoint {
        &self.config.endpoint
    }

    /// All units that fleet knows.
    ///
    /// # Errors
    /// Those of every call.
    pub async fn units(&self) -> Result<Vec<Unit>, Error> {
        self.list("list the units", "units", "units", &[]).await
    }

    /// One unit; `None` when fleet does not know it.
    ///
    /// # Errors
    /// Those of every call.
    pub async fn unit(&self, name: &UnitName) -> Result<Option<Unit>, Error> {
        let operation = format!("read unit {name}");
        let answer = self
            .send(Method::GET, operation, &unit_path(name), &[], None)
            .await?;
        if answer.status == StatusCode::NOT_FOUND {
            // Only fleet's own word counts: any server answers 404.
            return answer.fleets_error().map(|_| None);
        }
        answer.expect(StatusCode::OK)?.json().map(Some)
    }

    /// Makes a unit known to fleet, in the given state. Gives whether it is new.
    ///
    /// fleet does not change the options of a unit that it knows: such a unit only gets the state, and keeps its own
    /// options. [`Client::replace`] is for another version of it.
    ///
    /// # Errors
    /// Those of every call; 400 for what fleet refuses. [`check`](crate::check) finds out before.
    pub async fn create(&self, name: &UnitName, unit: &UnitFile, state: DesiredState) -> Result<bool, Error> {
        let options: Vec<UnitOption> = unit.options().cloned().collect();
        self.put(format!("create unit {name}"), name, &options, state)
            .await
    }

    /// Asks for another state of a unit that fleet knows.
    ///
    /// # Errors
    /// Those of every call; 409 ([`Error::is_conflict`]) for a unit that fleet does not know.
    pub async fn set_state(&self, name: &UnitName, state: DesiredState) -> Result<(), Error> {
        self.put(format!("set unit {name} to {state}"), name, &[], state)
            .await
            .map(drop)
    }

    /// Makes fleet stop and forget a unit. Gives whether it knew it.
    ///
    /// # Errors
    /// Those of every call.
    pub async fn destroy(&self, name: &UnitName) -> Result<bool, Error> {
        let operation = format!("destroy unit {name}");
        let answer = self
            .send(Method::DELETE, operation, &unit_path(name), &[], None)
            .await?;
        if answer.status == StatusCode::NOT_FOUND {
            return answer.fleets_error().map(|_| false);
        }
        answer.expect(StatusCode::NO_CONTENT).map(|_| true)
    }

    /// Makes fleet's unit the same as `unit`, in the given state. Gives whether its options were others before.
    ///
    /// As fleet cannot change options, a unit that differs is destroyed, waited for until no machine has it any more, and
    /// created again: in between it does not run anywhere. One that does not differ only gets the state.
    ///
    /// # Errors
    /// Those of every call, and [`Error::StillRunning`] when it does not stop in [`Config::stop_timeout`]. Call it again then: the
    /// unit is not known any more, and is created.
    pub async fn replace(
        &self,
        name: &UnitName,
        unit: &UnitFile,
        state: DesiredState,
    ) -> Result<bool, Error> {
        let known = self.unit(name).await?;
        let differs = known
            .as_ref()
            .is_some_and(|known| UnitFile::from_options(known.options.iter().cloned()).as_ref() != Ok(unit));
        if differs {
            self.destroy(name).await?;
        }
        if known.is_none() || differs {
            self.until_gone(name).await?;
        }
        self.create(name, unit, state).await?;
        Ok(differs)
    }

    /// Waits until no machine reports the unit.
    async fn until_gone(&self, name: &UnitName) -> Result<(), Error> {
        let filter = StateFilter {
            unit: Some(name.clone()),
            machine_id: None,
        };
        let after = self.config.stop_timeout;
        let deadline = Instant::now() + after;
        loop {
            let states = self.states(&filter).await?;
            if states.is_empty() {
                return Ok(());
            }
            if Instant::now() >= deadline {
                return Err(Error::StillRunning {
                    operation: format!("replace unit {name}"),
                    machines: states.into_iter().map(|state| state.machine_id).collect(),
                    after,
                });
            }
            sleep(LOOK_EVERY).await;
        }
    }

    /// What systemd says of the units, machine by machine.
    ///
    /// # Errors
    /// Those of every call.
    pub async fn states(&self, filter: &StateFilter) -> Result<Vec<UnitState>, Error> {
        let mut pairs = Vec::new();
        if let Some(unit) = &filter.unit {
            pairs.push(("unitName", unit.as_str()));
        }
        if let Some(id) = &filter.machine_id {
            pairs.push(("machineID", id.as_str()));
        }
        self.list("list the units' states", "state", "states", &pairs)
            .await
    }

    /// The machines of the cluster that are alive.
    ///
    /// # Errors
    /// Those of every call.
    pub async fn machines(&self) -> Result<Vec<Machine>, Error> {
        self.list("list the machines", "machines", "machines", &[]).await
    }

    async fn put(
        &self,
        operation: String,
        name: &UnitName,
        options: &[UnitOption],
        desired_state: DesiredState,
    ) -> Result<bool, Error> {
        let body = match serde_json::to_vec(&Put {
            desired_state,
            options,
        }) {
            Ok(body) => body,
            Err(source) => return Err(Error::Encode { operation, source }),
        };
        let answer = self
            .send(Method::PUT, operation, &unit_path(name), &[], Some(body))
            .await?;
        match answer.status {
            StatusCode::CREATED => Ok(true),
            StatusCode::NO_CONTENT => Ok(false),
            _ => Err(answer.error()),
        }
    }

    /// Every page of a list; `key` is what its items are under.
    async fn list<T: for<'de> Deserialize<'de>>(
        &self,
        operation: &str,
        resource: &str,
        key: &str,
        pairs: &[(&str, &str)],
    ) -> Result<Vec<T>, Error> {
        let mut items = Vec::new();
        let mut token = String::new();
        for page in 1..=MAX_PAGES {
            let mut pairs = pairs.to_vec();
            if !token.is_empty() {
                pairs.push(("nextPageToken", token.as_str()));
            }
            let answer = self
                .send(Method::GET, operation.to_owned(), resource, &pairs, None)
                .await?;
            let mut body: serde_json::Map<String, Value> = answer.expect(StatusCode::OK)?.json()?;
            let decode = |source| Error::Decode {
                operation: operation.to_owned(),
                source,
            };
            // fleet leaves out an empty list.
            if let Some(found) = body.remove(key) {
                items.extend(
                    serde_json::from_value::<Option<Vec<T>>>(found)
                        .map_err(decode)?
                        .unwrap_or_default(),
                );
            }
            let next = match body.remove("nextPageToken") {
                Some(next) => serde_json::from_value::<Option<String>>(next)
                    .map_err(decode)?
                    .unwrap_or_default(),
                None => String::new(),
            };
            if next.is_empty() {
                return Ok(items);
            }
            if next == token {
                return Err(Error::Pages {
                    operation: operation.to_owned(),
                    pages: page,
                });
            }
            token = next;
        }
        Err(Error::Pages {
            operation: operation.to_owned(),
            pages: MAX_PAGES,
        })
    }

    async fn send(
        &self,
        method: Method,
        operation: String,
        path: &str,
        pairs: &[(&str, &str)],
        body: Option<Vec<u8>>,
    ) -> Result<Answer, Error> {
        let mut request = self
            .http
            .request(method, format!("{}/fleet/v1/{path}", self.base))
            .query(pairs);
        if let Some(body) = body {
            request = request
                .header(reqwest::header::CONTENT_TYPE, "application/json")
                .body(body);
        }
        let exchange = async {
            let mut response = request
                .send()
                .await
                .map_err(|source| self.failed(&operation, source))?;
            let status = response.status();
            let mut body = Vec::new();
            while let Some(chunk) = response
                .chunk()
                .await
                .map_err(|source| self.failed(&operation, source))?
            {
                if body.len() + chunk.len() > MAX_ANSWER {
                    return Err(Error::TooLarge {
                        operation: operation.clone(),
                        limit: MAX_ANSWER,
                    });
                }
                body.extend_from_slice(&chunk);
            }
            Ok((status, body))
        };
        // One deadline around everything, so that no step can hang on its own.
        match timeout(self.config.timeout, exchange).await {
            Ok(Ok((status, body))) => Ok(Answer {
                operation,
                status,
                body,
            }),
            Ok(Err(error)) => Err(error),
            Err(_) => Err(Error::Deadline {
                operation,
                endpoint: self.config.endpoint.to_string(),
                after: self.config.timeout,
            }),
        }
    }

    fn failed(&self, operation: &str, source: reqwest::Error) -> Error {
        Error::Request {
            operation: operation.to_owned(),
            endpoint: self.config.endpoint.to_string(),
            // The URL repeats the endpoint and the operation, and for a Unix socket it misleads.
            source: source.without_url(),
        }
    }
}

/// A unit's name has no character that a path has a use for, but one that URLs do not have.
fn unit_path(name: &UnitName) -> String {
    format!("units/{}", name.as_str().replace('\\', "%5C"))
}

impl Answer {
    fn expect(self, status: StatusCode) -> Result<Self, Error> {
        if self.status == status {
            Ok(self)
        } else {
            Err(self.error())
        }
    }

    /// The answer, if it is fleet's own error.
    fn fleets_error(self) -> Result<Self, Error> {
        match serde_json::from_slice::<ErrorBody>(&self.body) {
            Ok(_) => Ok(self),
            Err(_) => Err(self.error()),
        }
    }

    fn error(self) -> Error {
        let code = self.status.as_u16();
        if self.status.is_success() {
            return Error::Unexpected {
                operation: self.operation,
                code,
            };
        }
        let message = match serde_json::from_slice::<ErrorBody>(&self.body) {
            Ok(body) => one_line(&body.error.message),
            Err(_) => one_line(&String::from_utf8_lossy(&self.body)),
        };
        Error::Status {
            operation: self.operation,
            code,
            message,
        }
    }

    fn json<T: for<'de> Deserialize<'de>>(self) -> Result<T, Error> {
        serde_json::from_slice(&self.body).map_err(|source| Error::Decode {
            operation: self.operation,
            source,
        })
    }
}

/// An error's text as one short line, safe to log: control characters become spaces.
fn one_line(text: &str) -> String {
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
