//! One steered listener group: its sockets, the BPF program and the memory that both
//! share with workers, what a worker publishes about its load, and the ring of listeners
//! that it accepts from. Knows no configuration, no HTTP and no processes but by number.

pub mod accept_mode;
pub mod balance;
pub mod group;
pub mod listeners;
pub mod memory;
pub mod options;
pub mod program;
pub mod published;
pub mod ring;
pub mod slots;
pub mod stall;
pub mod status;
