//! srv's library: each module owns one responsibility.

pub mod balance;
pub mod cli;
pub mod config;
pub mod control;
pub mod doctor;
pub mod view;
