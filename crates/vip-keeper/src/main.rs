//! See the library for what it does and how.

use std::process::ExitCode;

fn main() -> ExitCode {
    daemon::main("vip-keeper", vip_keeper::run)
}
