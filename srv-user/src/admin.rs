//! `srv admin`: a process that answers HTTP about a server: its status, its metrics, whether it
//! lives and is ready, and a page. A server starts one by itself ([`crate::control::admin`]) and
//! asks nothing of it; by hand one can be started for any server.
//!
//! It has one thread, changes nothing but the policy, and learns everything from the server's status. Knows no
//! workers and no listeners of the server.

mod clients;
mod events;
mod health;
mod listener;
mod metrics;
mod names;
mod page;
mod process;
mod router;
mod source;
mod switching;

pub use process::{Inheritance, answer_for, answer_inherited};
