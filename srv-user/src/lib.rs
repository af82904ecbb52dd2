//! srv's library: each module owns one responsibility.

// Before all that prints: its macros take the place of std's.
#[macro_use]
pub mod output;

pub mod ab;
pub mod arrivals;
pub mod balance;
pub mod between_masters;
pub mod binary;
pub mod channel;
pub mod cli;
pub mod closed;
pub mod config;
pub mod confine;
pub mod connection;
pub mod control;
pub mod delay_line;
pub mod dispatch;
pub mod doctor;
pub mod environment;
pub mod exchange;
pub mod foreign;
#[cfg(test)]
#[path = "../../tests/src/gate.rs"]
mod gate;
mod generator;
pub mod group;
pub mod hang;
pub mod hear;
pub mod hold;
pub mod http;
pub mod join;
pub mod json;
pub mod limit;
pub mod listen;
pub mod load;
pub mod log;
pub mod master;
#[cfg(test)]
mod mutation;
pub mod open_files;
pub mod orders;
pub mod overflow;
pub mod peer;
pub mod process;
pub mod reactor;
pub mod rehearsal;
pub mod report;
mod requests;
pub mod response;
pub mod result;
pub mod ring;
pub mod seldom;
pub mod simulate;
pub mod site;
pub mod slots;
pub mod spawn;
pub mod stats;
pub mod status;
pub mod steer;
pub mod stream;
pub mod systemd;
pub mod takeover;
pub mod turn;
pub mod view;
pub mod worker;
