//! The keys of TLS session tickets (RFC 8446, 4.6.1; RFC 5077). The master draws them and hands them
//! to every worker, so that a client resumes its session at any of them. A key is used for an hour,
//! and tickets that were made with it are taken for two hours more. Keys are never written to a
//! file: the sessions of a client are as secret as these keys.

use std::fmt;

use rustix::rand::{GetRandomFlags, getrandom};
use serde::{Deserialize, Serialize};

/// For how long new tickets are made with the same key, ns.
const USED_NS: u64 = 3_600_000_000_000;
/// How many keys there are at most: the one that is used, and those before it.
const KEYS_MAX: usize = 3;

/// For how long a ticket can be used at least, s: as long as it takes until its key is dropped.
pub const LIFETIME_S: u32 = ((KEYS_MAX as u64 - 1) * USED_NS / 1_000_000_000) as u32;

/// The keys, the one that is used first. Without any, there are no tickets.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TicketKeys(Vec<TicketKey>);

/// One key.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TicketKey {
    /// What a ticket says of its key.
    pub name: [u8; 16],
    /// The key itself.
    pub secret: [u8; 32],
    /// When it was drawn, ns of `CLOCK_MONOTONIC`, which all processes of the machine share.
    drawn_ns: u64,
}

impl fmt::Debug for TicketKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "(a ticket key of {} ns)", self.drawn_ns)
    }
}

impl TicketKeys {
    /// The keys, the one that is used first.
    pub fn list(&self) -> &[TicketKey] {
        &self.0
    }

    /// Draws a key if there is none, or if the one that is used is too old. Returns whether it did.
    ///
    /// # Errors
    /// The kernel gives out no random bytes.
    pub fn renew(&mut self, now_ns: u64) -> rustix::io::Result<bool> {
        let newest_ns = self.0.first().map(|key| key.drawn_ns);
        if newest_ns.is_some_and(|drawn_ns| now_ns < drawn_ns + USED_NS) {
            return Ok(false);
        }
        let mut key = TicketKey {
            name: [0; 16],
            secret: [0; 32],
            drawn_ns: now_ns,
        };
        for bytes in [&mut key.name[..], &mut key.secret[..]] {
            // The kernel fills up to 256 bytes at once.
            getrandom(bytes, GetRandomFlags::empty())?;
        }
        self.0.insert(0, key);
        self.0
            .retain(|key| now_ns < key.drawn_ns + KEYS_MAX as u64 * USED_NS);
        self.0.truncate(KEYS_MAX);
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_used_for_an_hour_and_taken_for_two_more() {
        let mut keys = TicketKeys::default();
        assert!(keys.renew(5).unwrap());
        let first = keys.list()[0].clone();
        assert!(!keys.renew(USED_NS + 4).unwrap());
        for hours in 1..3 {
            assert!(keys.renew(hours * USED_NS + 5).unwrap());
            assert_ne!(keys.list()[0], first);
            assert!(keys.list().contains(&first));
        }
        assert!(keys.renew(3 * USED_NS + 5).unwrap());
        assert!(!keys.list().contains(&first));
        // The machine slept, or no worker was there.
        assert!(keys.renew(9 * USED_NS).unwrap());
        assert_eq!(keys.list().len(), 1);
        assert!(!format!("{keys:?}").contains("secret"));
    }
}
