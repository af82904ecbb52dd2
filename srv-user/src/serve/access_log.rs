//! The access log: one line for each request that has ended. A worker leaves a record in a ring of
//! its own in shared memory (`ring`, `record`), by plain stores, and never waits. The log writer, a
//! process that the master starts, takes the records, makes lines of them (`line`) and writes them to
//! their logs (`sink`). What there is no room for is dropped and counted.

pub mod channel;
mod line;
mod outlet;
pub mod record;
pub mod ring;
mod sink;
mod tally;
pub mod writer;

pub use tally::{Tally, TallyMemory};
