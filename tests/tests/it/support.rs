//! What the tests of several topics use. Nothing here is a test.

pub mod agent;
pub mod attached_server;
pub mod client;
pub mod configured;
pub mod frozen;
pub mod gate;
pub mod loaded;
pub mod manager;
pub mod network;
pub mod probe;
pub mod serve;
pub mod upgradable;
