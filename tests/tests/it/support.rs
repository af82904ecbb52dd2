//! What the tests of several topics use. Nothing here is a test.

pub(crate) mod agent;
pub(crate) mod attached_server;
pub(crate) mod beside;
pub(crate) mod browser;
pub(crate) mod client;
pub(crate) mod configured;
pub(crate) mod executable;
pub(crate) mod frozen;
pub(crate) mod gate;
pub(crate) mod loaded;
pub(crate) mod manager;
pub(crate) mod network;
pub(crate) mod php;
pub(crate) mod probe;
pub(crate) mod serve;
pub(crate) mod terminal;
pub(crate) mod unmodified;
pub(crate) mod upgradable;
