//! TLS: sessions with real clients, certificates by name, tickets, and clients that do not behave.

mod clients;
mod fixture;
mod hostile;
mod http2;
mod names;
mod renewal;
mod tickets;
mod transfers;
