//! srv against a real kernel, through the real binary: one module per topic.
//! One test binary for all of them, so that it is linked once.

mod client;
mod gate;
mod probe;

mod ab;
mod connections;
mod deaths;
mod delay_line;
mod fallbacks;
mod framing;
mod introspection;
mod limits;
mod load;
mod modes;
mod patience;
mod policies;
mod report;
mod ring;
mod start;
mod stop;
mod switch;
mod system_calls;
mod unprivileged;
