//! TLS: a layer between a connection's socket and all that reads and writes it. `session` is the
//! TLS of one connection, `acceptor` what the sessions of a worker have in common. This module knows
//! no HTTP, no listeners and no master.

mod acceptor;
mod certificates;
mod clients;
mod session;
mod shared;
mod tickets;

pub use acceptor::Acceptor;
pub use session::{Failure, Session};
pub use tickets::Keys;

#[cfg(test)]
mod tests;
