//! One endpoint: its connection, made when first needed and thrown away when it is of no more use, and the log-in on it.
//!
//! Each endpoint has a channel of its own. etcd-client's balancer over several is not used: it goes on sending to a
//! member that is frozen or cut off from the others, since its connection is in order.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use etcd_client::{
    Channel, Client as EtcdClient, ClusterClient, ConnectOptions, Error as ClientError, KvClient,
    LeaseClient, MaintenanceClient, WatchClient,
};
use secrecy::{ExposeSecret, SecretString};
use tokio::time::Instant;
use tonic::transport::{ClientTlsConfig, Endpoint as Target};

use crate::config::{ConfigError, Credentials, Endpoint};
use crate::error::CallError;
use crate::failure::{Failure, classify};

/// The most bytes of an answer with keys that are read: a listing comes in pages that are smaller.
pub(crate) const MAX_KEYS: usize = 4 * 1024 * 1024;

/// The most bytes of a batch of changes that are read. etcd sends those of up to 1,000 revisions at once to a watch that
/// has to catch up; when they are more it has to begin anew, with a listing.
pub(crate) const MAX_CHANGES: usize = 16 * 1024 * 1024;

/// One endpoint of the cluster.
pub(crate) struct Member {
    url: String,
    target: Target,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    connection: Option<Arc<Connection>>,
    /// When it last failed, unless it has answered since.
    failed_at: Option<Instant>,
}

impl Member {
    pub(crate) fn new(
        endpoint: &Endpoint,
        tls: Option<&ClientTlsConfig>,
        attempt_timeout: Duration,
    ) -> Result<Member, ConfigError> {
        let url = endpoint.to_string();
        let wrong = |source| {
            ConfigError::new("--etcd", &endpoint.to_string(), "no connection can be made of it")
                .because(source)
        };
        let mut target = Target::from_shared(url.clone())
            .and_then(|target| target.user_agent(concat!("colossus-etcd/", env!("CARGO_PKG_VERSION"))))
            .map_err(wrong)?
            // Less than an attempt has, so that it is known when nothing was sent.
            .connect_timeout(attempt_timeout * 3 / 4)
            .tcp_nodelay(true)
            .tcp_keepalive(Some(Duration::from_secs(10)));
        if let (true, Some(tls)) = (endpoint.is_https(), tls) {
            target = target.tls_config(tls.clone()).map_err(wrong)?;
        }
        Ok(Member {
            url,
            target,
            state: Mutex::default(),
        })
    }

    pub(crate) fn is_https(&self) -> bool {
        self.url.starts_with("https:")
    }

    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    /// The connection, which may have to be made yet: the first request on it does.
    pub(crate) async fn connection(&self) -> Result<Arc<Connection>, ClientError> {
        if let Some(connection) = &self.lock().connection {
            return Ok(Arc::clone(connection));
        }
        let made = Arc::new(Connection::new(&self.target).await?);
        // Another call may have been quicker.
        Ok(Arc::clone(self.lock().connection.get_or_insert(made)))
    }

    /// Takes note that it answered.
    pub(crate) fn answered(&self) {
        self.lock().failed_at = None;
    }

    /// Takes note that it failed. `broken`: the connection that is of no more use, if it is still the present one.
    pub(crate) fn failed(&self, broken: Option<&Arc<Connection>>) {
        let mut state = self.lock();
        state.failed_at = Some(Instant::now());
        if let (Some(broken), Some(present)) = (broken, &state.connection)
            && Arc::ptr_eq(broken, present)
        {
            state.connection = None;
        }
    }

    pub(crate) fn failed_at(&self) -> Option<Instant> {
        self.lock().failed_at
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        // Valid after every single statement.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A connection to one member.
pub(crate) struct Connection {
    /// Asks for a leader: a member without one refuses at once instead of keeping the request.
    client: EtcdClient,
    /// The same channel without that: to ask a member how it is.
    any: EtcdClient,
    /// How often was logged in. The lock is held while doing so.
    logins: tokio::sync::Mutex<u64>,
    /// Whether anything ever came back.
    answered: AtomicBool,
}

impl Connection {
    async fn new(target: &Target) -> Result<Connection, ClientError> {
        let channel = Channel::Tonic(target.connect_lazy());
        // Without a user these wait for nothing.
        let client = EtcdClient::from_channel(
            channel.clone(),
            Some(ConnectOptions::new().with_require_leader(true)),
        )
        .await?;
        let any = EtcdClient::from_channel(channel, None).await?;
        Ok(Connection {
            client,
            any,
            logins: tokio::sync::Mutex::new(0),
            answered: AtomicBool::new(false),
        })
    }

    pub(crate) fn kv(&self) -> KvClient {
        self.client.kv_client().max_decoding_message_size(MAX_KEYS)
    }

    pub(crate) fn watch(&self) -> WatchClient {
        self.client.watch_client().max_decoding_message_size(MAX_CHANGES)
    }

    pub(crate) fn lease(&self) -> LeaseClient {
        self.client.lease_client()
    }

    pub(crate) fn cluster(&self) -> ClusterClient {
        self.client.cluster_client()
    }

    /// Takes note of how an attempt ended. What failed on a connection with TLS on which nothing ever came back is said with
    /// what may be behind it: with TLS 1.3 a member looks at this client's certificate when the connection is
    /// made already, and what it says of it is mostly lost in the closing.
    pub(crate) fn note<T>(&self, https: bool, result: &mut Result<T, Failure>) {
        match result {
            Err(Failure::Retry {
                problem,
                ambiguous: true,
                disconnect: true,
            }) if https && !self.answered.load(Ordering::Relaxed) => {
                problem
                    .push_str(" (perhaps the member does not take this client's certificate, or misses one)");
            }
            Err(Failure::Retry { disconnect: true, .. }) => {}
            _ => self.answered.store(true, Ordering::Relaxed),
        }
    }

    /// For a member that may have no leader.
    pub(crate) fn maintenance(&self) -> MaintenanceClient {
        self.any.maintenance_client()
    }

    /// Logs in unless that was done since `seen` log-ins; gives how many there have been.
    ///
    /// A token is of one member and one connection here: etcd's simple tokens end when they have not been used on a
    /// member for some minutes, on each by itself, and when it restarts.
    pub(crate) async fn login(
        &self,
        url: &str,
        credentials: &Credentials,
        seen: Option<u64>,
    ) -> Result<u64, Failure> {
        let mut logins = self.logins.lock().await;
        if seen.map_or(*logins > 0, |seen| *logins > seen) {
            return Ok(*logins);
        }
        let password = credentials.password().await.map_err(Failure::Final)?;
        log_in(&self.client, url, credentials, &password).await?;
        *logins += 1;
        Ok(*logins)
    }

    /// Logs in for [`Connection::maintenance`].
    pub(crate) async fn login_for_maintenance(
        &self,
        url: &str,
        credentials: &Credentials,
    ) -> Result<(), Failure> {
        let password = credentials.password().await.map_err(Failure::Final)?;
        log_in(&self.any, url, credentials, &password).await
    }
}

/// Logs one of a connection's clients in; they share the channel, not the token.
async fn log_in(
    client: &EtcdClient,
    url: &str,
    credentials: &Credentials,
    password: &SecretString,
) -> Result<(), Failure> {
    let user = (credentials.user.clone(), password.expose_secret().to_owned());
    match client.clone().update_user(Some(user)).await {
        Ok(()) => Ok(()),
        // Then calls need no log-in. When it is enabled later they are refused, and this is tried again.
        Err(ClientError::GRpcStatus(status))
            if status.message() == "etcdserver: authentication is not enabled" =>
        {
            Ok(())
        }
        Err(error) => Err(login_failure(url, credentials, &error)),
    }
}

fn login_failure(url: &str, credentials: &Credentials, error: &ClientError) -> Failure {
    match classify(url, error) {
        // "authentication failed, invalid user ID or password" is an InvalidArgument.
        Failure::Final(CallError::Refused {
            endpoint, message, ..
        }) => Failure::Final(CallError::Login {
            endpoint,
            user: Some(credentials.user.clone()),
            message,
        }),
        // Whatever became of the log-in, the write behind it was not sent.
        Failure::Retry {
            problem, disconnect, ..
        } => Failure::Retry {
            problem,
            ambiguous: false,
            disconnect,
        },
        other => other,
    }
}
