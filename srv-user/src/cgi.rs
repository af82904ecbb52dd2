//! `srv cgi`: a process that executes CGI/1.1 scripts (RFC 3875) for clients that speak FastCGI. Workers
//! of `srv serve` cannot execute anything, and must not: they ask this process, which can read no more
//! than its user can, and which is not reached from the network.
//!
//! Each script has a supervisor, a process that ends whatever the script has started ([`supervisor`]).
//! Knows nothing of sites.

pub mod args;
mod connection;
mod environment;
mod execution;
mod incoming;
mod listener;
mod notes;
mod reaper;
mod scripts;
mod server;
mod shared;
mod supervisor;

pub use server::run;
