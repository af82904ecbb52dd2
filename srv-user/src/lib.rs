//! srv's library: each module owns one responsibility.

pub mod cli;
pub mod config;
pub mod control;
