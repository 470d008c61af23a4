//! A Docker engine of its own, in a container: to be killed and restarted without harm to the one the tests run on.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::docker::{Container, docker, try_docker};
use crate::wait::until;

const IMAGE: &str = "colossus/test-docker";

/// The engine; removed with all its containers when dropped.
#[derive(Debug)]
pub struct Engine {
    container: Container,
    shared: tempfile::TempDir,
}

impl Engine {
    /// Starts one that knows the image `colossus/example-web`, and waits until it answers.
    ///
    /// # Panics
    /// When it does not answer within 60 s.
    pub async fn start() -> Self {
        // Made by deploy/test.sh; made here for who runs this test alone.
        if try_docker(&["image", "inspect", IMAGE]).is_err() {
            let package = std::env::var("CARGO_MANIFEST_DIR").expect("cargo runs the tests");
            docker(&["build", "-q", "-t", IMAGE, &format!("{package}/images/docker")]);
        }
        let shared = tempfile::tempdir().expect("a temporary directory");
        let mount = format!("{}:/shared", shared.path().display());
        // What a nested engine needs where `--privileged` is not to be had.
        let options = [
            "--cap-add=ALL",
            "--cap-drop=SYS_RESOURCE",
            "--security-opt=seccomp=unconfined",
            "--security-opt=apparmor=unconfined",
            "--security-opt=systempaths=unconfined",
            "--cgroupns=private",
            "--tmpfs=/run",
            "--tmpfs=/tmp:exec",
            "-v=/var/lib/docker",
            "-v",
            &mount,
        ];
        let engine = Self {
            container: Container::run(&options, IMAGE, &[]),
            shared,
        };
        engine.until_answering().await;
        engine.load("colossus/example-web");
        engine
    }

    /// The directory in which its socket `docker.sock` is.
    pub fn directory(&self) -> &Path {
        self.shared.path()
    }

    /// Runs `docker` with these arguments against it.
    ///
    /// # Errors
    /// With what it printed on stderr.
    pub fn docker(&self, arguments: &[&str]) -> Result<String, String> {
        try_docker(&[&["-H", &self.endpoint()], arguments].concat())
    }

    fn endpoint(&self) -> String {
        format!("unix://{}/docker.sock", self.shared.path().display())
    }

    /// Kills it with SIGKILL and keeps it from starting again until [`Engine::release`].
    pub fn kill(&self) {
        self.in_container("touch /run/hold; kill -9 $(cat /run/docker.pid)");
    }

    /// Lets it start again, and waits until it answers.
    ///
    /// # Panics
    /// When it does not answer within 60 s.
    pub async fn release(&self) {
        self.in_container("rm /run/hold");
        self.until_answering().await;
    }

    async fn until_answering(&self) {
        until("the engine answers", Duration::from_secs(60), || async {
            self.docker(&["version"])
        })
        .await;
    }

    fn in_container(&self, command: &str) {
        docker(&["exec", self.container.id(), "sh", "-c", command]);
    }

    fn load(&self, image: &str) {
        let mut save = Command::new("docker")
            .args(["save", image])
            .stdout(Stdio::piped())
            .spawn()
            .expect("docker save");
        let image = save.stdout.take().expect("its output");
        let loaded = Command::new("docker")
            .args(["-H", &self.endpoint(), "load"])
            .stdin(image)
            .output()
            .expect("docker load");
        assert!(
            save.wait().expect("docker save").success() && loaded.status.success(),
            "{loaded:?}"
        );
    }
}
