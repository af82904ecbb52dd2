//! What the kernel tells any part of srv about this machine: sockets and their owners,
//! processes, limits, time, readiness. Knows neither servers nor steering.

pub mod elf;
pub mod epoll;
pub mod open_files;
pub mod openat2;
pub mod owners;
pub mod packets;
pub mod process;
pub mod reactor;
pub mod sealed;
pub mod sock_diag;
pub mod socket_options;
pub mod watched;
