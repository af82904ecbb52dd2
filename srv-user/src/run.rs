//! `srv run`: steering and the ring inside the processes of a server that was not made for them.
//! `launch` checks COMMAND, places the library, starts the coordinator and becomes COMMAND.
//! `keeper` is the process beside the server that starts the coordinator, and another one should
//! that be killed. `coordinator` opens the sockets that the server lacks and steers between them;
//! `group` is its state of one address. The library, which each process of the server loads, is in
//! `srv-preload`. Both speak the protocol of `srv_common::claim`. `copies` runs several copies of a
//! server that has one process.

mod admin;
mod answers;
mod command;
pub mod coordinator;
mod copies;
mod event;
mod exec;
mod group;
mod groups;
mod holders;
mod invitation;
pub mod keeper;
mod kept;
pub mod launch;
mod library;
mod listener;
mod members;
mod separate;
#[cfg(test)]
mod tests;
mod twin;
