//! Load: what to send where ([`spec`]), and what became of every request ([`record`]). In
//! the open loop a request is due at its scheduled instant, whatever became of those before
//! it, and its latency counts from that instant. A late generator shows as latency and in
//! [`Run::lateness`], never as fewer requests. In the closed loop ([`Closed`]) there is no
//! schedule: latency counts from the instant at which the request is sent.
//!
//! Knows nothing of how plans are drawn, and leaves all judgement of the records to others.
//! [`mod@run`] runs a load on `generator`, which does the sending; [`keep_alive`] opens
//! connections that are used once. `srv load` is [`command`].

pub mod args;
pub mod closed;
pub mod command;
mod doubts;
mod exchange;
pub mod figures;
pub(crate) mod files;
mod generator;
mod header;
pub mod keep_alive;
mod lookup;
mod progress;
pub mod record;
mod requests;
pub mod response;
pub mod run;
pub mod spec;
mod statuses;
mod table;
mod target;
mod targets;
mod targets_file;
mod tls;
mod url;
mod watch;

pub use closed::Closed;
pub use figures::Figures;
pub use header::Header;
pub use lookup::ConnectTo;
pub use record::{Outcome, Record, Run};
pub use spec::{Connections, Load, Pace};
pub use statuses::Statuses;
pub use target::{Address, Endpoint, Target, Tls};
pub use watch::Watch;

#[cfg(test)]
mod tests;
