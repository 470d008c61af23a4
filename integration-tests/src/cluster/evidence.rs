//! What is kept of a host when a test fails.

use std::path::Path;
use std::time::Duration;

use super::command::run;
use super::node::RUN_OPTIONS;
use super::seed::HOST_IMAGE;
use super::{Node, State};

/// How long a host may take to say what it knows; its script gives each question less.
const WITHIN: Duration = Duration::from_secs(120);

/// Writes what can be known of a host to `<directory>/<its name>/`.
pub(crate) async fn collect(node: &Node, directory: &Path) -> Result<(), String> {
    let directory = directory.join(node.hostname());
    // What an earlier run left would be taken for this one's.
    let _ = std::fs::remove_dir_all(&directory);
    std::fs::create_dir_all(&directory).map_err(|error| format!("{}: {error}", directory.display()))?;
    let state = node.state().await;
    let write = |name: &str, text: String| {
        // What can be written is worth more than a complaint about what cannot.
        let _ = std::fs::write(directory.join(name), text);
    };
    write(
        "state.txt",
        format!("{} {} {state:?}\n", node.container(), node.address()),
    );
    let tar = match state? {
        State::On => {
            let arguments = ["exec", node.container(), "/test-bed/evidence.sh"];
            run("docker", &arguments, None, WITHIN).await
        }
        State::Off | State::Frozen => {
            let disk = format!("{}:/var", node.volume());
            let mut arguments = vec!["run", "--rm", "-v", &disk];
            arguments.extend(RUN_OPTIONS);
            arguments.extend(["--entrypoint", "/test-bed/evidence.sh", HOST_IMAGE, "disk"]);
            run("docker", &arguments, None, WITHIN).await
        }
    };
    let unpacked = match tar {
        Ok(tar) => {
            run(
                "tar",
                &["-x", "-C", &directory.to_string_lossy()],
                Some(&tar),
                WITHIN,
            )
            .await
        }
        Err(error) => Err(error),
    };
    unpacked
        .map(drop)
        .inspect_err(|error| write("error.txt", error.clone()))
}
