//! What can go wrong, one variant per operation.

use thiserror::Error;

/// An operation of registrator that failed.
#[derive(Debug, Error)]
pub enum Error {
    /// The Docker endpoint cannot be used at all.
    #[error(
        "--docker-host (DOCKER_HOST) {endpoint:?} is no usable Docker endpoint: use unix:///var/run/docker.sock or tcp://HOST:PORT"
    )]
    DockerEndpoint {
        /// The endpoint as given.
        endpoint: String,
        /// What the client said.
        source: bollard::errors::Error,
    },
    /// Docker cannot be reached, or did not tell about itself.
    #[error("cannot talk to Docker")]
    DockerConnect(#[source] bollard::errors::Error),
    /// Docker has no name for its host.
    #[error("Docker does not tell this host's name: give it with --hostname")]
    HostName,
    /// Docker's event stream broke.
    #[error("Docker's event stream broke")]
    DockerEvents(#[source] bollard::errors::Error),
    /// Docker did not list its containers.
    #[error("cannot list containers")]
    ListContainers(#[source] bollard::errors::Error),
    /// Docker did not describe a container.
    #[error("cannot inspect container {container}")]
    InspectContainer {
        /// Short ID.
        container: String,
        /// What the client said.
        source: bollard::errors::Error,
    },
    /// Docker did not answer within the deadline.
    #[error("Docker did not answer {operation} within {seconds} s")]
    DockerDeadline {
        /// What was asked.
        operation: &'static str,
        /// The deadline, in seconds.
        seconds: u64,
    },
    /// The agent did not say what it holds.
    #[error("cannot list the services of the Consul agent")]
    ListServices(#[source] consul::Error),
    /// The agent did not take a registration.
    #[error("cannot register service {id}")]
    Register {
        /// The service's ID.
        id: String,
        /// What the client said.
        source: consul::Error,
    },
    /// The agent did not take a deregistration.
    #[error("cannot deregister service {id}")]
    Deregister {
        /// The service's ID.
        id: String,
        /// What the client said.
        source: consul::Error,
    },
    /// Several items of one plan failed; the first one is the source.
    #[error("{failed} of {total} changes failed")]
    Apply {
        /// How many failed.
        failed: usize,
        /// How many there were.
        total: usize,
        /// The first failure.
        source: Box<Error>,
    },
    /// Several containers could not be inspected; the first one is the source.
    #[error("{failed} containers could not be inspected, their last known state is kept")]
    Inspect {
        /// How many failed.
        failed: usize,
        /// The first failure.
        source: Box<Error>,
    },
    /// The host's own address could not be found out.
    #[error("cannot find this host's own address: give it with --ip")]
    HostAddress(#[from] daemon::host::HostError),
}
