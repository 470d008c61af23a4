//! Unit files, fleet's rules for them, and a client of fleet's HTTP API.
//!
//! fleet is the distributed init system of the platform's sources: it places systemd units on the machines of a
//! cluster. What holds here:
//!
//! - [`UnitFile`] is what systemd and fleet read alike; text that they would read differently is refused, with its line.
//! - [`check`] names what fleet would refuse or, worse, silently ignore in `[X-Fleet]`.
//! - [`Placement`] is what `[X-Fleet]` asks for.
//! - [`Client`] speaks fleet's API. Every call has a deadline and reads at most [`MAX_ANSWER`] bytes, a list is read to
//!   its last page, and a failed call is an [`Error`], never an empty value.
//!
//! ```
//! use fleet::{UnitFile, UnitName, check};
//!
//! let name: UnitName = "web@1.service".parse().unwrap();
//! let unit = UnitFile::parse("[Service]\nExecStart=/bin/true\n[X-Fleet]\nConflict=web@*.service\n").unwrap();
//! assert_eq!(check(&name, &unit)[0].to_string(), "error: line 4: fleet knows no Conflict= and ignores it: is Conflicts= meant?");
//! ```

mod check;
mod client;
mod endpoint;
mod error;
mod glob;
mod model;
mod name;
mod placement;
mod unit;

#[cfg(test)]
mod failure_tests;

pub use check::{Finding, Severity, check};
pub use client::{Client, Config, MAX_ANSWER, StateFilter};
pub use endpoint::Endpoint;
pub use error::Error;
pub use glob::{BadPattern, Glob};
pub use model::{DesiredState, Machine, Unit, UnitState};
pub use name::{NameError, UnitName};
pub use placement::Placement;
pub use unit::{OptionError, ParseError, Problem, UnitFile, UnitOption};
