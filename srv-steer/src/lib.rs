//! Steers each new TCP connection to the worker that can serve it soonest.
//!
//! A server with several workers has two bad choices on Linux: one shared listening socket (short
//! queues, but one worker takes most connections), or one `SO_REUSEPORT` socket for each worker
//! (even shares, but a connection that the kernel hashed to a busy worker waits while others
//! idle). A [`Group`] has one listener for each worker and attaches a BPF program to them, which
//! chooses for each SYN by what the workers publish about their load. A [`Ring`] corrects at
//! accept time what the choice could not know.
//!
//! ```no_run
//! use std::io::Write;
//!
//! let mut group = srv_steer::Group::bind("127.0.0.1:8080".parse()?, 4)?;
//! println!("{}", group.state());
//! for worker in group.workers()? {
//!     std::thread::spawn(move || {
//!         while let Ok((mut stream, _)) = worker.accept() {
//!             let _request = worker.load().request();
//!             let _ = stream.write_all(b"HTTP/1.0 200 OK\r\n\r\nhello\n");
//!         }
//!     });
//! }
//! loop {
//!     group.maintain();
//!     std::thread::sleep(srv_steer::Group::MAINTENANCE_INTERVAL);
//! }
//! # #[allow(unreachable_code)]
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Without BPF
//!
//! The BPF program needs Linux 5.12, `CAP_BPF` and `CAP_PERFMON`, and a build that contains it.
//! Nothing fails without them: the kernel's hash chooses, the ring still corrects, and
//! [`Group::state`] says why. (`cargo xtask build` in srv's repository builds the program; a
//! packaged crate contains it.)
//!
//! # Which part for which program
//!
//! | the program has | it uses |
//! |---|---|
//! | threads that block in `accept` | [`Group::workers`], [`Worker::accept`], the guards of [`Load`] |
//! | listeners already | [`Group::from_listeners`] |
//! | its own epoll loop in each worker | [`Worker::into_ring`], [`Ring`], [`Poller`], [`Load::sleeps`] and [`Load::wakes`] |
//! | a process for each worker | [`Group::send_worker`] or [`Group::pass_worker`], [`Worker::receive`] or [`Worker::inherited`] |
//! | several addresses, upgrades without loss | [`Group::open`], [`ListenerGroup`], [`Load::attach`], [`Ring::new`] |
//!
//! The examples (`threads`, `epoll`, `mio`, `processes`) are complete programs.
//!
//! # Rules
//!
//! - One process owns the group and calls [`Group::maintain`] (or its parts).
//! - One thread at a time writes a worker's [`Load`].
//! - The group keeps all listeners open, so a worker's end resets nothing.
//!
//! # Features
//!
//! - `tracing` (default): events about what is repaired, and what the BPF program logs.
//! - `serde`: [`AcceptMode`] by its name in configuration files and messages.

mod accept_mode;
pub mod balance;
pub mod btf;
mod clock;
mod error;
#[cfg(test)]
#[path = "../../tests/src/gate.rs"]
mod gate;
mod group;
mod handover;
mod listeners;
mod load;
mod log;
mod memory;
mod options;
mod overflow;
pub mod program;
mod ring;
mod slots;
mod socket_options;
mod stall;
mod syn_cookies;
mod worker;

pub use accept_mode::{AcceptMode, UnknownAcceptMode};
pub use clock::monotonic_ns;
pub use error::{Error, ErrorKind, Result};
pub use group::{Group, GroupState, HashingReason, ProgramCounts, Stage, Stall};
pub use listeners::{ListenerGroup, ListenerInfo, Sockets, accept_queue, drop_syns};
pub use load::{Busy, Connection, Load, Request};
pub use memory::{Layout, Mapping, SharedMemory};
pub use options::{GroupOptions, ensure_workers_fit};
pub use overflow::Overflow;
pub use program::SelectProgram;
pub use ring::{Accepted, Incoming, LISTENER_TOKEN, Poller, Ring, is_listener};
pub use slots::SlotTable;
pub use socket_options::set_socket_option;
pub use srv_common::{Policy, State};
pub use stall::Looks;
pub use worker::{RingLoad, Worker};
