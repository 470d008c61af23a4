//! What has to be known to compare two runs.

use std::path::Path;
use std::process::Command;

use bollard::Docker;
use integration_tests::docker::{LABEL, docker, try_docker};
use serde::Serialize;

use crate::Result;

/// The machine and what ran on it.
#[derive(Debug, Serialize)]
pub(crate) struct Machine {
    pub(crate) cores: usize,
    processor: String,
    kernel: String,
    docker: String,
    haproxy: String,
    consul: String,
    etcd: String,
    /// The commit, with `-dirty` when the tree differs from it.
    pub(crate) commit: String,
    /// Tags of the images of the services that were measured.
    images: Vec<String>,
    /// How this program was built.
    build: &'static str,
    /// Registrators on this machine before it began. Each follows our containers too and takes its share
    /// of the cores.
    pub(crate) other_registrators: usize,
    began_at: String,
    /// How many processes wanted a core in the minute before it began: what others do takes its share of every figure.
    load: String,
}

impl Machine {
    /// This one, before anything of ours runs.
    pub(crate) async fn here(docker_api: &Docker) -> Result<Self> {
        let version = docker_api.version().await?;
        let label = "label=com.docker.compose.service=registrator";
        let registrators = docker(&["ps", "-q", "--filter", label]).lines().count();
        Ok(Self {
            cores: std::thread::available_parallelism()?.get(),
            processor: processor(),
            kernel: version.kernel_version.unwrap_or_default(),
            docker: version.version.unwrap_or_default(),
            haproxy: version_of("haproxy", "-v", "HAProxy"),
            consul: version_of("consul", "version", "Consul"),
            etcd: version_of("etcd", "--version", "etcd"),
            commit: commit(),
            images: images(),
            build: if cfg!(debug_assertions) {
                "debug"
            } else {
                "release"
            },
            other_registrators: registrators,
            load: load(),
            began_at: humantime::format_rfc3339_seconds(std::time::SystemTime::now()).to_string(),
        })
    }
}

impl std::fmt::Display for Machine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        writeln!(
            f,
            "{} cores ({}), Linux {}, Docker {}, {}, {}, {}",
            self.cores, self.processor, self.kernel, self.docker, self.haproxy, self.consul, self.etcd
        )?;
        write!(
            f,
            "commit {}, images {}, {} build of this program, {}, load {}",
            self.commit,
            self.images.join(" "),
            self.build,
            self.began_at,
            self.load
        )
    }
}

/// What a program's image says of itself: the line that begins with its name, as others may be complaints.
fn version_of(program: &str, question: &str, name: &str) -> String {
    let (entrypoint, image) = (format!("--entrypoint={program}"), format!("colossus/{program}"));
    let label = format!("--label={LABEL}={}", std::process::id());
    let printed = try_docker(&[
        "run",
        "--rm",
        "--network=none",
        &label,
        &entrypoint,
        &image,
        question,
    ])
    .unwrap_or_default();
    let line = printed.lines().find(|line| line.starts_with(name));
    let words = line.unwrap_or("?").split_whitespace();
    words
        .take_while(|word| *word != "-")
        .collect::<Vec<_>>()
        .join(" ")
}

fn processor() -> String {
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let name = info
        .lines()
        .find_map(|line| line.strip_prefix("model name")?.split_once(':'));
    name.map_or("unknown", |(_, name)| name.trim()).to_owned()
}

fn load() -> String {
    let averages = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    averages.split(' ').next().unwrap_or("?").to_owned()
}

fn commit() -> String {
    let git = Command::new("git")
        .args(["describe", "--always", "--dirty", "--abbrev=7"])
        .current_dir(Path::new(env!("CARGO_MANIFEST_DIR")))
        .output();
    match git {
        Ok(output) if output.status.success() => String::from_utf8_lossy(&output.stdout).trim().to_owned(),
        _ => "unknown".to_owned(),
    }
}

/// The images of the services, by the tag that names their commit, or else by their ID.
fn images() -> Vec<String> {
    let image = |name: &&str| {
        let latest = format!("colossus/{name}:latest");
        let format = "{{range .RepoTags}}{{.}} {{end}}{{.Id}}";
        let tags = try_docker(&["image", "inspect", "-f", format, &latest]).unwrap_or_default();
        // The ID comes last, and so counts where there is no other tag.
        let tag = tags
            .split_whitespace()
            .find(|tag| **tag != latest)
            .unwrap_or(&latest);
        let short = tag.split_once("sha256:").and_then(|(_, id)| id.get(..12));
        short.map_or_else(|| tag.to_owned(), |id| format!("{name}@{id}"))
    };
    ["registrator", "router-config", "consul-bootstrapper"]
        .iter()
        .map(image)
        .collect()
}
