//! srv's own server: the master that starts, replaces and stops worker processes, and the
//! workers that serve.

pub mod access_log;
pub mod budget;
pub mod channel;
pub mod config;
pub mod master;
pub mod orders;
pub mod rate_limit;
pub mod rehearsal;
pub mod router;
pub mod sandbox;
pub mod site;
pub mod systemd;
pub mod tickets;
pub mod worker;
