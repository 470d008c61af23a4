//! Programs, each with a deadline: a host that hangs must not hang its test.

use std::future::Future;
use std::process::Stdio;
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::process::Command;

/// For what takes no longer than looking, or starting a process.
pub(crate) const SHORT: Duration = Duration::from_secs(30);

/// For what may load images or start daemons.
pub(crate) const LONG: Duration = Duration::from_secs(180);

/// Runs a program and gives what it wrote to stdout. It is killed at the deadline, and when the future is dropped.
///
/// # Errors
/// With its whole command line and all it printed, when it fails.
pub(crate) async fn run(
    program: &str,
    arguments: &[&str],
    input: Option<&[u8]>,
    within: Duration,
) -> Result<Vec<u8>, String> {
    let describe = |what: String| format!("{program} {}: {what}", arguments.join(" "));
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(if input.is_some() {
            Stdio::piped()
        } else {
            Stdio::null()
        })
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(|error| describe(error.to_string()))?;
    let stdin = child.stdin.take();
    let finish = async {
        let feed = async {
            if let (Some(mut stdin), Some(input)) = (stdin, input) {
                // One that ends without reading says why itself.
                let _ = stdin.write_all(input).await;
            }
        };
        tokio::join!(feed, child.wait_with_output()).1
    };
    let output = tokio::time::timeout(within, finish)
        .await
        .map_err(|_| describe(format!("not done within {within:?}")))?
        .map_err(|error| describe(error.to_string()))?;
    if output.status.success() {
        return Ok(output.stdout);
    }
    let (stdout, stderr) = (text(&output.stdout), text(&output.stderr));
    Err(describe(format!("{}: {stdout} {stderr}", output.status)))
}

/// `docker` with these arguments; what it printed, trimmed.
///
/// # Errors
/// As [`run`].
pub(crate) async fn docker(arguments: &[&str], within: Duration) -> Result<String, String> {
    run("docker", arguments, None, within)
        .await
        .map(|output| text(&output))
}

pub(crate) fn text(output: &[u8]) -> String {
    String::from_utf8_lossy(output).trim().to_owned()
}

/// Waits for a future where nothing can be awaited: in a destructor, also within a runtime.
pub(crate) fn blocking<T: Send>(future: impl Future<Output = Result<T, String>> + Send) -> Result<T, String> {
    let run = || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| error.to_string())?;
        runtime.block_on(future)
    };
    std::thread::scope(|scope| {
        scope
            .spawn(run)
            .join()
            .unwrap_or_else(|_| Err("it panicked".to_owned()))
    })
}
