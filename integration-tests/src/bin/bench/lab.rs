//! A platform of its own and the containers that are started on it; all of it is removed when dropped.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use bollard::Docker;
use bollard::models::{ContainerCreateBody, HostConfig, PortBinding};
use bollard::query_parameters::{CreateContainerOptionsBuilder, RemoveContainerOptionsBuilder};
use integration_tests::docker::{LABEL, docker, try_docker, unique};
use integration_tests::http::get;
use integration_tests::platform::Platform;
use serde_json::Value;
use tokio::time::sleep;

use crate::events::Events;
use crate::haproxy::HaProxy;
use crate::{Result, probe};

/// Deadline of Docker's calls: two hundred starts at once take their time.
const DOCKER_SECONDS: u64 = 240;

/// For how long both services must have had nothing to do before something is measured: more than the gap they leave
/// between two runs of a loop, so that each sample is that of a lone change.
const QUIET: Duration = Duration::from_millis(300);
/// Others on this machine may start and end containers for minutes, and our services follow those too.
const QUIET_DEADLINE: Duration = Duration::from_secs(300);

/// A connection to Docker.
pub(crate) async fn connect() -> Result<Docker> {
    let host = std::env::var("DOCKER_HOST").unwrap_or_else(|_| "unix:///var/run/docker.sock".to_owned());
    let docker = Docker::connect_with_host(&host)?.with_timeout(Duration::from_secs(DOCKER_SECONDS));
    Ok(docker.negotiate_version().await?)
}

/// The platform and the containers of this run.
pub(crate) struct Lab {
    /// Value of the label on its containers: by it they are found, and no other run's are.
    mark: String,
    docker: Docker,
    events: Events,
    haproxy: HaProxy,
    platform: Platform,
}

impl Lab {
    /// Starts the platform.
    pub(crate) async fn up(docker: Docker) -> Result<Self> {
        let platform = tokio::task::spawn_blocking(Platform::up).await?;
        let mark = unique("bench");
        let (label, project) = (mark.clone(), platform.project().to_owned());
        let events = Events::follow(docker.clone(), move |attributes| {
            attributes.get(LABEL) == Some(&label)
                || attributes.get("com.docker.compose.project") == Some(&project)
        });
        let lab = Self {
            mark,
            docker,
            events,
            haproxy: HaProxy::new(
                platform.router_directory().join("run/master.sock"),
                platform.stats(),
            ),
            platform,
        };
        lab.haproxy.reload().await?;
        Ok(lab)
    }

    /// The platform.
    pub(crate) fn platform(&self) -> &Platform {
        &self.platform
    }

    /// Docker.
    pub(crate) fn docker(&self) -> &Docker {
        &self.docker
    }

    /// Docker's events.
    pub(crate) fn events(&self) -> &Events {
        &self.events
    }

    /// HAProxy.
    pub(crate) fn haproxy(&self) -> &HaProxy {
        &self.haproxy
    }

    /// Makes a container as `docker create -p 80 -e SERVICE_NAME=<service>` does; one without a port when there is no
    /// service, which nobody registers.
    pub(crate) async fn create(&self, service: Option<&str>) -> Result<String> {
        let mut body = ContainerCreateBody {
            image: Some("colossus/example-web".to_owned()),
            labels: Some(HashMap::from([(LABEL.to_owned(), self.mark.clone())])),
            ..ContainerCreateBody::default()
        };
        if let Some(service) = service {
            let any_port = HashMap::from([("80/tcp".to_owned(), Some(vec![PortBinding::default()]))]);
            body.env = Some(vec![format!("SERVICE_NAME={service}")]);
            body.exposed_ports = Some(vec!["80/tcp".to_owned()]);
            body.host_config = Some(HostConfig {
                port_bindings: Some(any_port),
                ..HostConfig::default()
            });
        }
        // Named after its service, so that whatever tells of it can be recognised.
        let name = unique(service.unwrap_or(&self.mark));
        let options = CreateContainerOptionsBuilder::default().name(&name).build();
        Ok(self.docker.create_container(Some(options), body).await?.id)
    }

    /// `docker start`.
    pub(crate) async fn start(&self, id: &str) -> Result<()> {
        Ok(self.docker.start_container(id, None).await?)
    }

    /// `docker rm -f -v`.
    pub(crate) async fn remove(&self, id: &str) -> Result<()> {
        let options = RemoveContainerOptionsBuilder::default()
            .force(true)
            .v(true)
            .build();
        Ok(self.docker.remove_container(id, Some(options)).await?)
    }

    /// Starts a service whose one instance stays, and gives its name once it answers.
    pub(crate) async fn known_service(&self) -> Result<String> {
        let name = unique("bench-kn");
        let id = self.create(Some(&name)).await?;
        self.start(&id).await?;
        let host = self.platform.host(&name);
        probe::until_answers(self.platform.http(), &host, hostname(&id)).await?;
        Ok(name)
    }

    /// Waits until registrator and router-config have been idle for a moment.
    pub(crate) async fn settle(&self) -> Result<()> {
        let began = Instant::now();
        let (mut last, mut since) = (None, Instant::now());
        loop {
            let registrator = self.platform.registrator_status().await?;
            let router = self.platform.router_status().await?;
            let (containers, routes) = (&registrator["containers"], &router["routes"]);
            let runs = [idle_after(containers), idle_after(routes)];
            if last != Some(runs) || runs.contains(&None) {
                (last, since) = (Some(runs), Instant::now());
            }
            if since.elapsed() >= QUIET {
                return Ok(());
            }
            if began.elapsed() > QUIET_DEADLINE {
                let last_runs = [&containers["last_run"], &routes["last_run"]];
                return Err(format!(
                    "the services do not come to rest within {QUIET_DEADLINE:?}; they last did {last_runs:?}"
                )
                .into());
            }
            sleep(Duration::from_millis(50)).await;
        }
    }

    /// A figure of registrator's or router-config's `/metrics`; the sum when it has labels.
    pub(crate) async fn metric(&self, part: &str, name: &str) -> Result<f64> {
        let page = get(self.platform.admin(part), "localhost", "/metrics").await?;
        let values: Vec<f64> = page
            .body
            .lines()
            .filter_map(|line| line.strip_prefix(name))
            .filter(|rest| rest.starts_with([' ', '{']))
            .filter_map(|rest| rest.rsplit_once(' ')?.1.parse().ok())
            .collect();
        if values.is_empty() {
            return Err(format!("{part} has no metric {name}").into());
        }
        Ok(values.iter().sum())
    }

    /// The container of one of the platform's programs.
    pub(crate) fn part(&self, part: &str) -> String {
        self.platform.container(part)
    }

    /// Holds registrator and router-config still, so that what is measured is measured alone.
    pub(crate) fn pause_services(&self) {
        docker(&["pause", &self.part("registrator"), &self.part("router-config")]);
    }

    /// Lets them go on.
    pub(crate) fn unpause_services(&self) {
        docker(&["unpause", &self.part("registrator"), &self.part("router-config")]);
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        // By the label and not from a list: so it finds also what was being made when the run was cut short.
        let label = format!("label={LABEL}={}", self.mark);
        let ids = try_docker(&["ps", "-aq", "--filter", &label]).unwrap_or_default();
        let ids: Vec<&str> = ids.split_whitespace().collect();
        for some in ids.chunks(50) {
            if let Err(error) = try_docker(&[&["rm", "-f", "-v"], some].concat()) {
                crate::progress(&format!("cannot remove {some:?}: {error}"));
            }
        }
    }
}

/// The host name that Docker gives a container, which `example-web` answers with.
pub(crate) fn hostname(id: &str) -> &str {
    id.get(..12).unwrap_or(id)
}

/// How many runs a loop has made, if it has nothing to do now.
fn idle_after(status: &Value) -> Option<u64> {
    let nothing_pending = status["pending_reasons"].as_array().is_none_or(Vec::is_empty);
    let idle = status["running_for_ms"].is_null() && nothing_pending && status["consecutive_failures"] == 0;
    status["runs"].as_u64().filter(|_| idle)
}
