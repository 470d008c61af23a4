//! [`Client`], and the one loop that every call goes through: attempts at one endpoint after the other until one
//! answers, nobody will answer otherwise, or the deadline has come.

use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use etcd_client::Error as ClientError;
use tokio::time::{Instant, timeout};

use crate::backoff::backoff;
use crate::config::{Config, ConfigError, Credentials};
use crate::endpoint::{Connection, Member};
use crate::error::{AttemptError, CallError};
use crate::failure::{Failure, classify, unanswered};
use crate::tls;

/// The pause after the first round in which every endpoint failed. It doubles with each further one.
const ROUND_PAUSE: Duration = Duration::from_millis(25);

/// The longest such pause.
const ROUND_PAUSE_MAX: Duration = Duration::from_millis(400);

/// A client of one etcd cluster. Cloning is cheap, and clones share connections.
///
/// A call goes to the endpoint that answered last. When that fails, or does not answer within
/// [`Config::attempt_timeout`], the call goes to the next, until [`Config::timeout`] is over; the endpoint that answers is
/// remembered.
#[derive(Clone)]
pub struct Client {
    inner: Arc<Inner>,
}

struct Inner {
    members: Vec<Arc<Member>>,
    /// The index of the one that answered last.
    preferred: AtomicUsize,
    credentials: Option<Credentials>,
    timeout: Duration,
    attempt_timeout: Duration,
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client")
            .field("endpoints", &self.endpoints())
            .field("timeout", &self.inner.timeout)
            .finish_non_exhaustive()
    }
}

impl Client {
    /// Builds a client. Nothing is connected to yet, but the files of certificates and password are read.
    ///
    /// # Errors
    /// When a setting cannot be used.
    pub fn new(config: Config) -> Result<Client, ConfigError> {
        config.validate()?;
        let tls = tls::client_tls(&config)?;
        let attempt_timeout = config.time_of_attempt();
        let members = config
            .endpoints
            .iter()
            .map(|endpoint| Ok(Arc::new(Member::new(endpoint, tls.as_ref(), attempt_timeout)?)))
            .collect::<Result<Vec<_>, ConfigError>>()?;
        Ok(Client {
            inner: Arc::new(Inner {
                // So that not every client of a cluster begins with the same member.
                preferred: AtomicUsize::new(fastrand::usize(..members.len())),
                members,
                credentials: config.credentials,
                timeout: config.timeout,
                attempt_timeout,
            }),
        })
    }

    /// The members' client URLs, as configured.
    #[must_use]
    pub fn endpoints(&self) -> Vec<String> {
        self.inner
            .members
            .iter()
            .map(|member| member.url().to_owned())
            .collect()
    }

    /// The endpoint that calls go to first: the one that answered last.
    #[must_use]
    pub fn current_endpoint(&self) -> String {
        let preferred = self.inner.preferred.load(Ordering::Relaxed);
        self.inner
            .members
            .get(preferred)
            .map(|member| member.url().to_owned())
            .unwrap_or_default()
    }

    pub(crate) fn members_configured(&self) -> &[Arc<Member>] {
        &self.inner.members
    }

    pub(crate) fn attempt_timeout(&self) -> Duration {
        self.inner.attempt_timeout
    }

    pub(crate) fn credentials(&self) -> Option<&Credentials> {
        self.inner.credentials.as_ref()
    }

    /// Begins a call; its deadline runs from now.
    pub(crate) fn begin(&self) -> Call<'_> {
        let began = Instant::now();
        Call {
            client: self,
            began,
            deadline: began + self.inner.timeout,
            ambiguous: false,
            problems: Vec::new(),
        }
    }

    /// The endpoints, most promising first: the preferred one, then those that have not failed, then those whose
    /// failure is the longest ago. The preferred one loses its place when it has failed since it last answered.
    fn order(&self) -> Vec<usize> {
        let preferred = self.inner.preferred.load(Ordering::Relaxed);
        let count = self.inner.members.len();
        let mut order: Vec<_> = self
            .inner
            .members
            .iter()
            .enumerate()
            // From the preferred one on, so that clients which lose the same member do not all go to the first.
            .map(|(index, member)| {
                (
                    member.failed_at(),
                    (index + count - preferred % count) % count,
                    index,
                )
            })
            .collect();
        order.sort_unstable();
        order.into_iter().map(|(_, _, index)| index).collect()
    }
}

/// One call under way: what is left of its deadline, and what has failed so far. A call may be several requests; they
/// share the deadline.
pub(crate) struct Call<'a> {
    client: &'a Client,
    began: Instant,
    deadline: Instant,
    ambiguous: bool,
    /// The last problem at each endpoint that was tried.
    problems: Vec<(usize, String)>,
}

/// An answer and who gave it.
pub(crate) struct Answer<T> {
    pub(crate) value: T,
    pub(crate) member: Arc<Member>,
    pub(crate) connection: Arc<Connection>,
}

impl Call<'_> {
    /// Whether a write of this call may have been made by an attempt that seemed to fail.
    pub(crate) fn is_ambiguous(&self) -> bool {
        self.ambiguous
    }

    /// Whether its deadline has come.
    pub(crate) fn is_over(&self) -> bool {
        Instant::now() >= self.deadline
    }

    /// Makes a request, at one endpoint after the other.
    pub(crate) async fn run<T, F, Fut>(&mut self, request: F) -> Result<T, CallError>
    where
        F: Fn(Arc<Connection>) -> Fut,
        Fut: Future<Output = Result<T, ClientError>>,
    {
        let run = self.run_with(|_, connection| {
            let request = request(connection);
            async { request.await.map_err(RequestError::Client) }
        });
        Ok(run.await?.value)
    }

    /// The same for requests that judge answers themselves, with who answered.
    pub(crate) async fn run_with<T, F, Fut>(&mut self, request: F) -> Result<Answer<T>, CallError>
    where
        F: Fn(Arc<Member>, Arc<Connection>) -> Fut,
        Fut: Future<Output = Result<T, RequestError>>,
    {
        let mut rounds: u32 = 0;
        loop {
            for index in self.client.order() {
                let Some(member) = self.client.inner.members.get(index) else {
                    continue;
                };
                if Instant::now() >= self.deadline {
                    return Err(self.unavailable());
                }
                let cut_short = self.time_of_attempt() < self.client.inner.attempt_timeout;
                match self.attempt(member, &request).await {
                    Ok(answer) => {
                        member.answered();
                        self.client.inner.preferred.store(index, Ordering::Relaxed);
                        return Ok(answer);
                    }
                    Err(Failure::Final(error)) => return Err(error),
                    Err(Failure::Login(message)) => return Err(self.not_logged_in(member, message)),
                    Err(Failure::Retry {
                        problem, ambiguous, ..
                    }) => {
                        self.ambiguous |= ambiguous;
                        self.note_problem(index, problem, cut_short);
                    }
                }
            }
            rounds = rounds.saturating_add(1);
            let pause = Instant::now() + backoff(rounds, ROUND_PAUSE, ROUND_PAUSE_MAX);
            if pause >= self.deadline {
                return Err(self.unavailable());
            }
            tokio::time::sleep_until(pause).await;
        }
    }

    /// One attempt at one endpoint, with a log-in before it where one is needed.
    async fn attempt<T, F, Fut>(&self, member: &Arc<Member>, request: &F) -> Result<Answer<T>, Failure>
    where
        F: Fn(Arc<Member>, Arc<Connection>) -> Fut,
        Fut: Future<Output = Result<T, RequestError>>,
    {
        let limit = self.time_of_attempt();
        let connection = member
            .connection()
            .await
            .map_err(|error| classify(member.url(), &error))?;
        // Whether the request itself was on its way when time ran out.
        let mut sent = false;
        let exchange = exchange(member, &connection, self.client.credentials(), request, &mut sent);
        let mut result = match timeout(limit, exchange).await {
            Ok(result) => result,
            Err(_) => Err(unanswered(limit, sent)),
        };
        connection.note(member.is_https(), &mut result);
        match result {
            Ok(value) => Ok(Answer {
                value,
                member: Arc::clone(member),
                connection,
            }),
            Err(failure) => {
                if let Failure::Retry { disconnect, .. } = &failure {
                    member.failed(disconnect.then_some(&connection));
                }
                Err(failure)
            }
        }
    }

    /// How long an attempt may take that begins now.
    fn time_of_attempt(&self) -> Duration {
        let left = self.deadline.saturating_duration_since(Instant::now());
        self.client.inner.attempt_timeout.min(left)
    }

    /// Keeps the last problem at each endpoint. That an attempt had no time is none, beside what was known before.
    fn note_problem(&mut self, index: usize, problem: String, cut_short: bool) {
        match self.problems.iter_mut().find(|(other, _)| *other == index) {
            Some(_) if cut_short => {}
            Some((_, last)) => *last = problem,
            None => self.problems.push((index, problem)),
        }
    }

    fn not_logged_in(&self, member: &Member, message: String) -> CallError {
        CallError::Login {
            endpoint: member.url().to_owned(),
            user: self
                .client
                .credentials()
                .map(|credentials| credentials.user.clone()),
            message,
        }
    }

    pub(crate) fn unavailable(&self) -> CallError {
        let url = |index: usize| {
            self.client
                .inner
                .members
                .get(index)
                .map(|member| member.url().to_owned())
        };
        CallError::Unavailable {
            after: self.began.elapsed(),
            attempts: self
                .problems
                .iter()
                .map(|(index, problem)| AttemptError {
                    endpoint: url(*index).unwrap_or_default(),
                    problem: problem.clone(),
                })
                .collect(),
            ambiguous: self.ambiguous,
        }
    }
}

/// How a request failed.
pub(crate) enum RequestError {
    /// With what etcd-client says.
    Client(ClientError),
    /// As the request judges itself.
    Failure(Failure),
}

impl From<ClientError> for RequestError {
    fn from(error: ClientError) -> RequestError {
        RequestError::Client(error)
    }
}

/// The request on one connection, repeated once when the log-in turns out to be of no more use.
async fn exchange<T, F, Fut>(
    member: &Arc<Member>,
    connection: &Arc<Connection>,
    credentials: Option<&Credentials>,
    request: &F,
    sent: &mut bool,
) -> Result<T, Failure>
where
    F: Fn(Arc<Member>, Arc<Connection>) -> Fut,
    Fut: Future<Output = Result<T, RequestError>>,
{
    let mut login = match credentials {
        Some(credentials) => Some(connection.login(member.url(), credentials, None).await?),
        None => None,
    };
    let mut again = true;
    loop {
        *sent = true;
        let failure = match request(Arc::clone(member), Arc::clone(connection)).await {
            Ok(value) => return Ok(value),
            Err(RequestError::Client(error)) => classify(member.url(), &error),
            Err(RequestError::Failure(failure)) => failure,
        };
        match (failure, credentials) {
            (Failure::Login(_), Some(credentials)) if again => {
                again = false;
                *sent = false;
                login = Some(connection.login(member.url(), credentials, login).await?);
            }
            (failure, _) => return Err(failure),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Endpoint;

    fn client(endpoints: &str) -> Client {
        Client::new(Config::new(Endpoint::parse_list(endpoints).expect("endpoints"))).expect("client")
    }

    #[test]
    fn the_preferred_endpoint_comes_first_until_it_fails() {
        let client = client("http://a,http://b,http://c");
        client.inner.preferred.store(1, Ordering::Relaxed);
        assert_eq!(client.order(), [1, 2, 0]);
        assert_eq!(client.current_endpoint(), "http://b:2379");

        client.inner.members[1].failed(None);
        assert_eq!(client.order(), [2, 0, 1]);
        client.inner.members[2].failed(None);
        assert_eq!(client.order(), [0, 1, 2], "the longest ago of those that failed");
        client.inner.members[1].answered();
        assert_eq!(client.order(), [1, 0, 2]);
    }

    #[test]
    fn building_a_client_needs_neither_a_runtime_nor_a_server() {
        let client = client("http://192.0.2.1,http://192.0.2.2");
        assert_eq!(
            client.endpoints(),
            ["http://192.0.2.1:2379", "http://192.0.2.2:2379"]
        );
        assert!(format!("{client:?}").contains("192.0.2.1"));
    }

    #[tokio::test]
    async fn nobody_there_is_unavailable_and_nothing_was_written() {
        // A port that was just free.
        let free = std::net::TcpListener::bind("127.0.0.1:0")
            .expect("bind")
            .local_addr()
            .expect("address");
        let mut config = Config::new(Endpoint::parse_list(&format!("http://{free}")).expect("endpoint"));
        config.timeout = Duration::from_millis(300);
        let client = Client::new(config).expect("client");
        let began = Instant::now();
        let error = client.put("/k", "v", None).await.expect_err("nobody");
        assert!(error.is_unavailable() && !error.is_ambiguous(), "{error:?}");
        assert!(
            began.elapsed() < Duration::from_millis(600),
            "{:?}",
            began.elapsed()
        );
        let cause = std::error::Error::source(&error).expect("a cause").to_string();
        assert!(
            cause.contains(&free.to_string()) && cause.contains("refused"),
            "{cause}"
        );
    }
}
