//! Attached servers, that is, servers of others: finding a listener group that is not srv's own,
//! steering it from outside, following it as it changes, and leaving it as it was. Knows nothing
//! of srv's own workers.

pub mod agent;
pub mod closes;
pub(crate) mod command;
pub mod detach;
mod follow;
pub mod group;
pub mod hint;
pub mod lock;
mod object;
pub mod observe;
mod offsets;
pub mod process;
mod processes;
pub mod programs;
pub mod rates;
pub(crate) mod refusal;
pub(crate) mod report;
pub mod select;
pub mod signals;
mod started;
pub(crate) mod table;
mod take;
mod tracepoint;
mod under;
pub mod verdict;
