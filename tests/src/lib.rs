//! What integration tests and benches share: servers as child processes, what
//! they cost, and how a bench reports. Nothing here judges a result.

pub mod arm;
pub mod child;
pub mod environment;
pub mod nginx;
pub mod report;
pub mod server;
pub mod usage;
pub mod wrk;
