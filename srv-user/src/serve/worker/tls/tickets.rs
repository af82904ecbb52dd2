//! Makes and takes session tickets with the keys of the master. A ticket is the name of its key, a
//! random nonce, and the session under ChaCha20-Poly1305: what rustls' own tickets are, whose keys
//! cannot be set. What a client had to prove is authenticated with it: a session is not resumed
//! where other certificates are asked of clients than when it began.

use std::sync::{Arc, PoisonError, RwLock};

use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use ring::digest::{Digest, SHA256, digest};
use ring::rand::{SecureRandom as _, SystemRandom};
use rustls::server::ProducesTickets;

use crate::serve::tickets::{LIFETIME_S, TicketKey, TicketKeys};

/// The longest ticket that is read, bytes. With the certificates of a client, a session has some
/// thousand.
const TICKET_BYTES_MAX: usize = 64 << 10;
const NAME_BYTES: usize = 16;

/// The keys that a worker uses now. Its sessions share them.
#[derive(Clone, Debug, Default)]
pub struct Keys(Arc<RwLock<Vec<Key>>>);

#[derive(Debug)]
struct Key {
    name: [u8; NAME_BYTES],
    aead: LessSafeKey,
}

impl Keys {
    /// Uses these keys from now on.
    pub fn replace(&self, keys: &TicketKeys) {
        let keys = keys.list().iter().filter_map(Key::new).collect();
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = keys;
    }
}

impl Key {
    /// `None`: the key has not as many bytes as the cipher needs, which its type rules out.
    fn new(key: &TicketKey) -> Option<Self> {
        let aead = UnboundKey::new(&CHACHA20_POLY1305, &key.secret).ok()?;
        Some(Self {
            name: key.name,
            aead: LessSafeKey::new(aead),
        })
    }
}

/// For rustls.
#[derive(Debug)]
pub(super) struct Tickets {
    keys: Keys,
    random: SystemRandom,
    /// What is asked of clients.
    terms: Digest,
}

impl Tickets {
    /// `terms` says what is asked of clients.
    pub(super) fn new(keys: Keys, terms: &[u8]) -> Self {
        Self {
            keys,
            random: SystemRandom::new(),
            terms: digest(&SHA256, terms),
        }
    }

    fn authenticated(&self, key: &Key) -> Aad<Vec<u8>> {
        Aad::from([&key.name[..], self.terms.as_ref()].concat())
    }

    fn read<T>(&self, read: impl FnOnce(&[Key]) -> T) -> T {
        read(&self.keys.0.read().unwrap_or_else(PoisonError::into_inner))
    }
}

impl ProducesTickets for Tickets {
    fn enabled(&self) -> bool {
        self.read(|keys| !keys.is_empty())
    }

    fn lifetime(&self) -> u32 {
        LIFETIME_S
    }

    fn encrypt(&self, session: &[u8]) -> Option<Vec<u8>> {
        // A counter would tell clients how many sessions there are, and each worker would need its
        // own. There are far fewer than 2^32 tickets of one key.
        let mut nonce = [0; NONCE_LEN];
        self.random.fill(&mut nonce).ok()?;
        self.read(|keys| {
            let key = keys.first()?;
            let mut ticket = [&key.name[..], &nonce, session].concat();
            let aad = self.authenticated(key);
            let nonce = Nonce::assume_unique_for_key(nonce);
            let sealed = &mut ticket[NAME_BYTES + NONCE_LEN..];
            let tag = key
                .aead
                .seal_in_place_separate_tag(nonce, aad, sealed)
                .ok()?;
            ticket.extend_from_slice(tag.as_ref());
            Some(ticket)
        })
    }

    fn decrypt(&self, ticket: &[u8]) -> Option<Vec<u8>> {
        if ticket.len() > TICKET_BYTES_MAX {
            return None;
        }
        let (name, rest) = ticket.split_first_chunk::<NAME_BYTES>()?;
        let (nonce, sealed) = rest.split_first_chunk::<NONCE_LEN>()?;
        self.read(|keys| {
            let key = keys.iter().find(|key| key.name == *name)?;
            let mut session = sealed.to_vec();
            let nonce = Nonce::assume_unique_for_key(*nonce);
            let aad = self.authenticated(key);
            let length = key.aead.open_in_place(nonce, aad, &mut session).ok()?.len();
            session.truncate(length);
            Some(session)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tickets(keys: &TicketKeys, terms: &[u8]) -> Tickets {
        let shared = Keys::default();
        shared.replace(keys);
        Tickets::new(shared, terms)
    }

    #[test]
    fn a_ticket_is_taken_by_every_worker_with_its_key_and_no_other() {
        const HOUR_NS: u64 = 3_600_000_000_000;
        let mut keys = TicketKeys::default();
        assert!(!tickets(&keys, b"").enabled());
        keys.renew(0).unwrap();
        let [one, other] = [tickets(&keys, b""), tickets(&keys, b"")];
        let ticket = one.encrypt(b"a session").unwrap();
        assert_eq!(other.decrypt(&ticket).as_deref(), Some(&b"a session"[..]));
        assert_ne!(one.encrypt(b"a session").unwrap(), ticket);
        // Other terms.
        assert_eq!(tickets(&keys, b"a client-ca").decrypt(&ticket), None);
        keys.renew(HOUR_NS).unwrap();
        other.keys.replace(&keys);
        assert_eq!(other.decrypt(&ticket).as_deref(), Some(&b"a session"[..]));
        assert_eq!(
            one.decrypt(&other.encrypt(b"").unwrap()),
            None,
            "a later key"
        );
        for hour in 2..4 {
            keys.renew(hour * HOUR_NS).unwrap();
        }
        other.keys.replace(&keys);
        assert_eq!(other.decrypt(&ticket), None, "its key is gone");
    }

    #[test]
    fn what_is_no_ticket_is_not_taken() {
        let mut keys = TicketKeys::default();
        keys.renew(0).unwrap();
        let tickets = tickets(&keys, b"");
        let ticket = tickets.encrypt(b"a session").unwrap();
        for length in 0..ticket.len() {
            assert_eq!(tickets.decrypt(&ticket[..length]), None, "{length}");
        }
        for nth in 0..ticket.len() {
            let mut changed = ticket.clone();
            changed[nth] ^= 1;
            assert_eq!(tickets.decrypt(&changed), None, "{nth}");
        }
    }
}
