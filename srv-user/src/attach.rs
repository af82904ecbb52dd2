//! Other people's servers: finding a listener group that is not srv's own,
//! steering it from outside, following it as it changes, and leaving it as it
//! was. Knows nothing of srv's own workers.

pub mod agent;
pub mod btf;
pub mod closes;
pub mod command;
pub mod detach;
pub mod follow;
pub mod group;
pub mod lock;
pub mod object;
pub mod observe;
pub mod offsets;
pub mod process;
mod processes;
pub mod programs;
pub mod rates;
pub mod refusal;
pub mod report;
pub mod select;
pub mod signals;
pub mod table;
pub mod take;
pub mod verdict;
