//! srv's library: each module owns one responsibility.

pub mod balance;
pub mod channel;
pub mod cli;
pub mod config;
pub mod connection;
pub mod control;
pub mod doctor;
pub mod group;
pub mod http;
pub mod listen;
pub mod log;
pub mod master;
pub mod reactor;
pub mod site;
pub mod spawn;
pub mod status;
pub mod steer;
pub mod stream;
pub mod view;
pub mod worker;
