//! srv's library: each module owns one responsibility.

pub mod config;
pub mod control;

pub mod arrivals;
pub mod limit;
pub mod stats;
