//! From `main` to exit code.

use std::{ffi::OsString, future::Future, process::ExitCode, time::Duration};

use clap::Command;
use tokio::runtime::{Builder, Runtime};
use tracing::error;

use crate::{
    BoxError, CommonArgs, HasCommon, Process, ProcessError, RunError, Shutdown, after, error_chain,
    signals::Signals, telemetry,
};

/// The exit code for bad usage or configuration, from BSD's `sysexits.h`. Units are told not to restart on it.
pub const EX_USAGE: u8 = 64;

/// What a `run` that ignores the end of its deadline gets before the process ends without it.
const GRACE: Duration = Duration::from_secs(1);

/// How long the runtime may take to stop once everything is over.
const RUNTIME_STOP: Duration = Duration::from_millis(100);

/// How the process came to its end.
enum End {
    Ran(Result<(), RunError>),
    /// A signal came before the process had begun to act.
    Interrupted,
}

/// Runs a service, or one of its operator commands, and gives the process's exit code.
///
/// Parses the arguments, sets up logging, builds the runtime, catches signals and runs `run`. Its error, if any, is
/// logged once with all its sources. The exit code is 0 after a clean end, [`EX_USAGE`] (64) for bad usage or
/// configuration, 1 for anything else, and 130 when a signal came before the process had begun to act (see
/// [`Process::serve_admin`]).
pub fn main<A, F, Fut>(service: &'static str, run: F) -> ExitCode
where
    A: clap::Parser + HasCommon,
    F: FnOnce(A, Process) -> Fut,
    Fut: Future<Output = Result<(), RunError>>,
{
    let (args, version) = match parse::<A>(std::env::args_os()) {
        Ok(parsed) => parsed,
        Err(error) => {
            // Help and version are "errors" too, and go to stdout. If that is closed, there is nobody to tell.
            let _ = error.print();
            return if error.use_stderr() {
                EX_USAGE.into()
            } else {
                ExitCode::SUCCESS
            };
        }
    };
    if let Err(error) = telemetry::init(args.common()) {
        eprintln!("error: {}", error_chain(&error));
        return ExitCode::FAILURE;
    }
    let end = match runtime(service) {
        Ok(runtime) => {
            let end = runtime.block_on(execute(service, &version, args, run));
            // What is left are aborted tasks and blocking calls that nobody waits for.
            runtime.shutdown_timeout(RUNTIME_STOP);
            end
        }
        Err(error) => End::Ran(Err(RunError::failed(error))),
    };
    match end {
        End::Ran(Ok(())) => ExitCode::SUCCESS,
        End::Ran(Err(error)) => {
            error!("{}", error_chain(&error));
            error.exit_code().into()
        }
        End::Interrupted => 130.into(),
    }
}

/// The arguments and the service's version.
fn parse<A: clap::Parser + HasCommon>(
    args: impl IntoIterator<Item = OsString>,
) -> Result<(A, String), clap::Error> {
    let mut command = with_default_admin_addr(A::command(), A::DEFAULT_ADMIN_ADDR);
    let version = command
        .get_version()
        .unwrap_or(env!("CARGO_PKG_VERSION"))
        .to_owned();
    let mut matches = command.try_get_matches_from_mut(args)?;
    let args = A::from_arg_matches_mut(&mut matches).map_err(|error| error.format(&mut command))?;
    Ok((args, version))
}

/// Gives `--admin-addr` the service's own default, so that `--help` shows it too.
fn with_default_admin_addr(command: Command, default: &'static str) -> Command {
    const ID: &str = "admin_addr";
    // `mut_arg` panics on an argument that is not there, as when the arguments are flattened into a subcommand.
    if command.get_arguments().any(|argument| argument.get_id() == ID) {
        command.mut_arg(ID, |argument| argument.default_value(default))
    } else {
        command
    }
}

/// Two workers: the services mostly wait, and one of the two may be busy with a large plan.
fn runtime(service: &'static str) -> Result<Runtime, BoxError> {
    let runtime = Builder::new_multi_thread()
        .worker_threads(2)
        .thread_name(service)
        .enable_all()
        .build()?;
    Ok(runtime)
}

async fn execute<A, F, Fut>(service: &'static str, version: &str, args: A, run: F) -> End
where
    A: HasCommon,
    F: FnOnce(A, Process) -> Fut,
    Fut: Future<Output = Result<(), RunError>>,
{
    let signals = match Signals::install() {
        Ok(signals) => signals,
        Err(error) => return End::Ran(Err(RunError::failed(error))),
    };
    let process = match Process::new(service, version, args.common()) {
        Ok(process) => process,
        Err(error) => return End::Ran(Err(error.into())),
    };
    let CommonArgs {
        shutdown_deadline, ..
    } = *args.common();
    let shutdown = process.shutdown.clone();
    let watcher = tokio::spawn(signals.watch(shutdown.clone()));

    // `run` is cancelled only when it may be: before it has begun to act, or after its deadline. `cut_short` has no state.
    let end = tokio::select! {
        biased;
        result = run(args, process) => End::Ran(result),
        end = cut_short(shutdown, shutdown_deadline) => end,
    };
    watcher.abort();
    end
}

/// Ready when `run` is not to be waited for any longer.
async fn cut_short(shutdown: Shutdown, deadline: Duration) -> End {
    shutdown.requested().await;
    if !shutdown.is_engaged() {
        return End::Interrupted;
    }
    // `run_until_shutdown` keeps the deadline itself; this is for a `run` that hangs before or after it.
    tokio::time::sleep_until(after(shutdown.requested_at(), deadline.saturating_add(GRACE))).await;
    End::Ran(Err(ProcessError::Deadline {
        deadline,
        unfinished: vec!["run".to_owned()],
    }
    .into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(clap::Parser, Debug)]
    #[command(version = "9.9.9")]
    struct Args {
        #[command(flatten)]
        common: CommonArgs,
        #[command(subcommand)]
        command: Option<Sub>,
    }

    #[derive(clap::Subcommand, Debug)]
    enum Sub {
        Status,
    }

    impl HasCommon for Args {
        const DEFAULT_ADMIN_ADDR: &'static str = "127.0.0.1:9876";
        fn common(&self) -> &CommonArgs {
            &self.common
        }
    }

    fn parse_words(words: &[&str]) -> Result<(Args, String), clap::Error> {
        parse::<Args>(words.iter().map(OsString::from))
    }

    #[test]
    fn the_service_sets_the_default_of_the_admin_address() {
        let (args, version) = parse_words(&["test"]).unwrap();
        assert_eq!(args.common.admin_addr.to_string(), "127.0.0.1:9876");
        assert_eq!(args.common.shutdown_deadline, Duration::from_secs(10));
        assert_eq!(version, "9.9.9");
        let help = parse_words(&["test", "--help"]).unwrap_err();
        assert!(!help.use_stderr());
        assert!(help.to_string().contains("[default: 127.0.0.1:9876]"), "{help}");
    }

    #[test]
    fn common_flags_work_before_and_after_a_command() {
        for words in [
            ["test", "--admin-addr=[::1]:1", "status"],
            ["test", "status", "--admin-addr=[::1]:1"],
        ] {
            let (args, _) = parse_words(&words).unwrap();
            assert_eq!(args.common.admin_addr.to_string(), "[::1]:1");
            assert!(matches!(args.command, Some(Sub::Status)));
        }
    }

    #[test]
    fn bad_values_name_the_flag_the_value_and_the_mend() {
        for (flag, value, mend) in [
            ("--log", "inof", "give off, error"),
            ("--shutdown-deadline", "10", "such as 500ms"),
            ("--log-format", "xml", "possible values: human, json"),
            ("--admin-addr", "localhost", "invalid socket address"),
        ] {
            let error = parse_words(&["test", flag, value]).unwrap_err();
            let text = error.to_string();
            assert!(error.use_stderr());
            assert!(
                text.contains(flag) && text.contains(value) && text.contains(mend),
                "{text}"
            );
        }
    }
}
