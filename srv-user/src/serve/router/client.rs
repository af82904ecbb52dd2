//! What sites know of a client beside its request.

use std::net::IpAddr;

use crate::serve::access_log::record::Tls;

/// A client, for as long as its connection lasts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Client {
    /// The listener that it connected to, by its number in the order of the addresses.
    pub listener: usize,
    /// Its address, if that is known and a site asks for it ([`super::Router::asks_for_addresses`]).
    /// An IPv4 address is one, also if it came over an IPv6 socket.
    pub address: Option<IpAddr>,
    /// With TLS: the number of the certificate for the host that it has named.
    pub certificate: Option<u32>,
    /// Whether it speaks TLS.
    pub is_tls: bool,
    /// The version of TLS.
    pub tls: Tls,
    /// For how long its connection waited to be accepted, ns, if that is known.
    pub accept_delay_ns: Option<u64>,
}

impl Client {
    /// For how long its connection waited to be accepted, µs, if that is known. More than an hour is
    /// an hour.
    pub fn accept_delay_us(&self) -> Option<u32> {
        const MOST_US: u64 = 3_600_000_000;
        let delay_us = self.accept_delay_ns? / 1_000;
        Some(delay_us.min(MOST_US) as u32)
    }
}
