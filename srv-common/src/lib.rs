//! What the BPF program and user space share, and nothing else: the layout of
//! the memory both of them map ([`layout`]) and the steering policies
//! ([`policy`]), pure functions over that layout, compiled for both sides.
//!
//! Nothing here performs a system call, calls a BPF helper or allocates.

#![cfg_attr(not(test), no_std)]

pub mod layout;
pub mod policy;
pub mod shared;

pub use layout::{Group, Line, MAX_WORKERS, Reason, Refusal, Slot, State};
pub use policy::{Host, Policy, choose};
pub use shared::Shared;
