//! srv against a real kernel, through the real binary: one module per topic.
//! One test binary for all of them, so that it is linked once.

mod agent;
mod client;
mod gate;
mod loaded;
mod probe;

mod ab;
mod ab_spoiled;
mod attach;
mod attach_docs;
mod attach_follow;
mod attach_refusals;
mod attach_servers;
mod attach_stress;
mod connections;
mod container;
mod deaths;
mod delay_line;
mod fallbacks;
mod flood;
mod foreign_steering;
mod framing;
mod hangs;
mod introspection;
mod limits;
mod load;
mod malformed;
mod modes;
mod old_kernels;
mod patience;
mod policies;
mod privilege;
mod reload;
mod report;
mod ring;
mod simulation;
mod slowloris;
mod start;
mod stop;
mod storm;
mod switch;
mod system_calls;
mod systemd;
mod unprivileged;
mod upgrade;
