//! srv's library: each module owns one responsibility.

pub mod config;
pub mod control;
