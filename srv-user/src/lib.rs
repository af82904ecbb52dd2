//! srv's library: each module owns one responsibility.

mod body;
mod byte_range;
mod conditional;
pub mod config;
mod content_type;
pub mod control;
mod docroot;
mod file_cache;
mod notice;
mod representation;
mod request_path;
pub mod site;
mod work;
