//! What has to be known to compare two runs.

use std::path::Path;
use std::process::Command;

use integration_tests::docker::{docker, try_docker};
use serde::Serialize;

use crate::Result;
use crate::lab::Lab;

/// The machine and what ran on it.
#[derive(Debug, Serialize)]
pub(crate) struct Machine {
    pub(crate) cores: usize,
    processor: String,
    kernel: String,
    docker: String,
    haproxy: String,
    consul: String,
    /// The commit, with `-dirty` when the tree differs from it.
    pub(crate) commit: String,
    /// Tags of the images of the services that were measured.
    images: Vec<String>,
    /// How this program was built.
    build: &'static str,
    /// Registrators of other platforms on this machine when it began. Each follows our containers too and takes its share
    /// of the cores.
    pub(crate) other_registrators: usize,
    began_at: String,
}

impl Machine {
    /// This one.
    pub(crate) async fn here(lab: &Lab) -> Result<Self> {
        let version = lab.docker().version().await?;
        let label = "label=com.docker.compose.service=registrator";
        let registrators = docker(&["ps", "-q", "--filter", label]).lines().count();
        // The line that begins with the program's name: others may be complaints.
        let version_of = |part: &str, command: &[&str], name: &str| {
            let printed = try_docker(&[&["exec", &lab.part(part)], command].concat()).unwrap_or_default();
            let line = printed.lines().find(|line| line.starts_with(name));
            let words = line.unwrap_or("?").split_whitespace();
            words
                .take_while(|word| *word != "-")
                .collect::<Vec<_>>()
                .join(" ")
        };
        Ok(Self {
            cores: std::thread::available_parallelism()?.get(),
            processor: processor(),
            kernel: version.kernel_version.unwrap_or_default(),
            docker: version.version.unwrap_or_default(),
            haproxy: version_of("haproxy", &["haproxy", "-v"], "HAProxy"),
            consul: version_of("consul", &["consul", "version"], "Consul"),
            commit: commit(),
            images: images(),
            build: if cfg!(debug_assertions) {
                "debug"
            } else {
                "release"
            },
            other_registrators: registrators.saturating_sub(1),
            began_at: humantime::format_rfc3339_seconds(std::time::SystemTime::now()).to_string(),
        })
    }
}

impl std::fmt::Display for Machine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        writeln!(
            f,
            "{} cores ({}), Linux {}, Docker {}, {}, {}",
            self.cores, self.processor, self.kernel, self.docker, self.haproxy, self.consul
        )?;
        write!(
            f,
            "commit {}, images {}, {} build of this program, {}",
            self.commit,
            self.images.join(" "),
            self.build,
            self.began_at
        )
    }
}

fn processor() -> String {
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let name = info
        .lines()
        .find_map(|line| line.strip_prefix("model name")?.split_once(':'));
    name.map_or("unknown", |(_, name)| name.trim()).to_owned()
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

/// The images of both services, by the tag that names their commit, or else by their ID.
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
    ["registrator", "router-config"].iter().map(image).collect()
}
