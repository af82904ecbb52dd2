//! What integration tests and benches share: servers as child processes, what
//! they cost, and how a bench reports. Nothing here judges a result.

pub mod arguments;
pub mod arm;
pub mod floor;
pub mod gate;
pub mod nginx;
pub mod old_kernel;
pub mod past;
pub mod report;
pub mod runs;
pub mod server;
pub mod slowloris;
pub mod wrk;

pub use srv::measure::baseline::free_address;
pub use srv::measure::baseline::{child, haproxy, python, usage};
pub use srv::measure::environment;
