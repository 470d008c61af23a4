//! Containers, through the `docker` program: what an operator would type.

use std::process::{Command, Stdio};

/// Label of everything the tests make, so that leftovers of a killed test can be found.
pub const LABEL: &str = "colossus.test";

/// Runs `docker` with `arguments` and gives what it printed, trimmed.
///
/// # Panics
/// When it fails.
pub fn docker(arguments: &[&str]) -> String {
    try_docker(arguments).unwrap_or_else(|error| panic!("docker {}: {error}", arguments.join(" ")))
}

/// The same for what may fail.
///
/// # Errors
/// With what it printed on stderr.
pub fn try_docker(arguments: &[&str]) -> Result<String, String> {
    let output = Command::new("docker")
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .map_err(|error| error.to_string())?;
    if output.status.success() {
        Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    } else {
        Err(String::from_utf8_lossy(&output.stderr).trim().to_owned())
    }
}

/// A name that no other test, and no other run of this one, uses.
pub fn unique(prefix: &str) -> String {
    format!("{prefix}-{:08x}", fastrand::u32(..))
}

/// A running container; removed with its volumes when dropped.
#[derive(Debug)]
pub struct Container {
    id: String,
}

impl Container {
    /// `docker run -d` with these options, image and command.
    ///
    /// # Panics
    /// When it does not start.
    pub fn run(options: &[&str], image: &str, command: &[&str]) -> Self {
        let label = format!("{LABEL}={}", std::process::id());
        let id = docker(&[&["run", "-d", "--label", &label], options, &[image], command].concat());
        Self { id }
    }

    /// An `example-web` whose service is called `service`, with a published port and more `options`.
    pub fn example(service: &str, options: &[&str]) -> Self {
        let name = format!("SERVICE_NAME={service}");
        Self::run(
            &[&["-p", "80", "-e", &name], options].concat(),
            "colossus/example-web",
            &[],
        )
    }

    /// Its full ID.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Its host name, which `example-web` answers with.
    pub fn hostname(&self) -> &str {
        self.id.get(..12).unwrap_or(&self.id)
    }

    /// Its address on Docker's default bridge.
    pub fn ip(&self) -> String {
        docker(&["inspect", "-f", "{{.NetworkSettings.IPAddress}}", &self.id])
    }

    /// `docker <verb> <options> ID`: `stop`, `kill -s STOP`, `pause`, `start`, `restart`.
    pub fn command(&self, verb: &[&str]) {
        docker(&[verb, &[&self.id]].concat());
    }

    /// Everything it has logged.
    pub fn logs(&self) -> String {
        let output = Command::new("docker")
            .args(["logs", &self.id])
            .output()
            .expect("docker logs");
        format!(
            "{}{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        )
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let logs = self.logs();
            let lines: Vec<&str> = logs.lines().collect();
            let tail = lines[lines.len().saturating_sub(30)..].join("\n");
            eprintln!("--- the last lines of container {}:\n{tail}", self.hostname());
        }
        // A container that is gone already is as good as removed; one that stays carries the label.
        let _ = try_docker(&["rm", "-f", "-v", &self.id]);
    }
}
