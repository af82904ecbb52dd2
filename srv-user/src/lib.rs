//! srv's library: each module owns one responsibility.

pub mod config;
pub mod control;

pub mod arrivals;
pub mod exchange;
mod generator;
pub mod hold;
pub mod limit;
pub mod load;
pub mod response;
pub mod stats;
