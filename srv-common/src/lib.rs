//! What the BPF program and user space share, and nothing else: the layout of
//! the memory both of them map ([`layout`]), the steering policies ([`policy`]),
//! whose turn it is among equals ([`turns`]), the order of arrival ([`tickets`]),
//! when connections were established ([`established`]) and histograms of durations ([`histogram`]), pure functions over that layout, compiled for both
//! sides.
//!
//! Nothing here performs a system call or calls a BPF helper; only
//! [`Group::boxed`], which the BPF target does not have, allocates.

#![cfg_attr(not(test), no_std)]
#![cfg_attr(target_arch = "bpf", feature(asm_experimental_arch))]

#[cfg(not(target_arch = "bpf"))]
extern crate alloc;

#[cfg(not(target_arch = "bpf"))]
pub mod acceptance;
pub mod attached;
pub mod branchless;
pub mod busy;
#[cfg(not(target_arch = "bpf"))]
pub mod claim;
pub mod established;
pub mod histogram;
pub mod layout;
pub mod observed;
pub mod policy;
pub mod shared;
pub mod tickets;
pub mod turns;

pub use layout::{Group, Line, MAX_WORKERS, Reason, Refusal, Slot, State, StatusClass};
pub use policy::{Host, Policy, choose};
pub use shared::Shared;
