//! Measuring servers, srv among them: load, comparisons, the bound of a single queue,
//! simulation, and the report of what was found.

pub mod ab;
pub mod arrivals;
pub mod baseline;
pub mod bound;
pub mod delay_line;
mod distribution;
pub mod environment;
pub mod load;
pub mod report;
pub mod result;
pub mod simulate;
pub mod stats;
