//! srv's library. Each folder is one subject, and imports go one way:
//!
//! `kernel`, `values`, `logging`, `output`, [`fastcgi`] ← [`control`] ← [`serve`],
//! [`attach`], [`run`] ← [`admin`], [`cgi`], [`doctor`], [`measure`], [`top`] ← [`cli`].
//!
//! `cargo xtask tidy` checks this order and that no modules import one another in a
//! circle.

// Before all that prints: its macros take the place of std's.
#[macro_use]
pub mod output;

pub mod admin;
pub mod attach;
pub mod cgi;
pub mod cli;
pub mod control;
pub mod doctor;
pub mod fastcgi;
#[cfg(test)]
#[path = "../../tests/src/gate.rs"]
mod gate;
pub mod kernel;
pub mod logging;
pub mod measure;
#[cfg(test)]
mod mutation;
pub mod run;
pub mod serve;
pub mod top;
pub mod values;
