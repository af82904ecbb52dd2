//! TLS: sessions with real clients, certificates by name, and clients that do not behave.

mod fixture;
mod http2;
mod transfers;
