//! Holds one virtual IP until it is killed: for the tests, which stop it.
//!
//! `hold VIP RIGHT_MS auto|nftables|lifetime` writes a line for every right before it takes it: its end, in nanoseconds since the
//! boot. It extends the right when a third of it is over.

#![allow(clippy::print_stdout, reason = "its output is what it is for")]

use std::error::Error;
use std::time::Duration;

use clap::ValueEnum;
use vip_keeper::net::{BootInstant, GateMode, Kernel, KernelOptions};
use vip_keeper::vip::Vip;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [vip, right, gate] = arguments.as_slice() else {
        return Err("usage: hold VIP RIGHT_MS GATE".into());
    };
    let vip: Vip = vip.parse()?;
    let right = Duration::from_millis(right.parse()?);
    let gate = GateMode::from_str(gate, false)?;
    let options = KernelOptions {
        gate,
        ..KernelOptions::default()
    };
    let (mut kernel, _events) = Kernel::open(std::slice::from_ref(&vip), options).await?;
    kernel.hold(&vip.name, taken(right)).await?;
    loop {
        tokio::time::sleep(right / 3).await;
        let failed = kernel.extend(&[(vip.name.clone(), taken(right))]).await?;
        if let Some((_, error)) = failed.into_iter().next() {
            return Err(error.into());
        }
    }
}

/// The end of a right that begins now, written down before it is used.
fn taken(right: Duration) -> BootInstant {
    let end = BootInstant::now().saturating_add(right);
    println!("{}", end.since_boot().as_nanos());
    end
}
