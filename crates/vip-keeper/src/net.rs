//! What is done to and heard from the kernel: addresses and their lifetimes, the gate of nftables, announcements.
//!
//! [`Kernel`] does, [`KernelEvents`] hears. Both speak netlink themselves and run no task of their own: nothing
//! happens unless it is called, except what the kernel was armed with, which happens whether or not anything is called:
//!
//! - the gate (`nft`) shuts an address at the end of its time, to the millisecond, always early and never late (the kernel
//!   counts in ticks of its own, 1 to 10 ms, and rounds down);
//! - the kernel removes the address itself, whole seconds later.
//!
//! Other hosts are told where an address is now by `announce`. What they say of it is heard by `conflict`.

mod announce;
mod clock;
mod conflict;
pub mod doctor;
mod error;
mod events;
mod kernel;
mod mac;
mod netlink;
mod nft;
mod packet;
mod place;
pub mod privilege;
mod readiness;
mod route;

pub use clock::BootInstant;
pub use error::NetError;
pub use events::{KernelEvent, KernelEvents};
pub use kernel::{GateMode, Kernel, KernelOptions, cleanup};
pub use mac::Mac;
pub use netlink::NetlinkError;
pub use nft::GateHook;
pub use place::{Placement, Presence};
