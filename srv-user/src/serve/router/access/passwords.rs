//! Verifies passwords (HTTP Basic, RFC 7617). That is slow on purpose, and the worker does nothing
//! else meanwhile. So it remembers which ones were right, by a keyed hash and for a bounded time; a
//! client that is wrong has to wait; and all verifications of a worker together take at most a
//! tenth of its time.

use std::net::IpAddr;
use std::num::NonZeroUsize;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use lru::LruCache;
use ring::hmac;
use ring::rand::SystemRandom;
use srv_steer::monotonic_ns;

use super::rates::{Key, Rates};
use crate::serve::budget::Budget;
use crate::serve::config::sites::{Auth, Rate};

/// How many right passwords are remembered, and for how long, ns.
const KNOWN_MAX: NonZeroUsize = NonZeroUsize::new(1024).unwrap();
const KNOWN_FOR_NS: u64 = 300_000_000_000;

/// The longest header line. Hashing a long password would take long.
const SAID_BYTES_MAX: usize = 512;

/// How often a client may be wrong.
const WRONG: Rate = Rate {
    per_second: 1,
    burst: 5,
};

/// All verifications have a tenth of the worker's time, and half a second, ns, if they come together.
const BUDGET: Budget = Budget::new(10, 500_000_000);

/// What a worker remembers of passwords.
#[derive(Debug)]
pub(super) struct Passwords {
    /// `None`: the system has no random numbers, and nothing is remembered.
    key: Option<hmac::Key>,
    /// Until when a password counts as right, ns.
    known: LruCache<[u8; 32], u64>,
    wrong: Rates,
    budget: Budget,
}

/// Whether a password is right.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It is.
    Right,
    /// There is none, or it is not.
    Wrong,
    /// It is not verified for so many ns.
    TooMany(u64),
}

impl Default for Passwords {
    fn default() -> Self {
        Self {
            key: hmac::Key::generate(hmac::HMAC_SHA256, &SystemRandom::new()).ok(),
            known: LruCache::new(KNOWN_MAX),
            wrong: Rates::default(),
            budget: BUDGET,
        }
    }
}

impl Passwords {
    /// Whether an `Authorization` header was right not long ago.
    pub(super) fn knows(&mut self, route: usize, said: &[u8], now_ns: u64) -> bool {
        let Some(sum) = self.sum(route, said) else {
            return false;
        };
        // A client without the key cannot choose sums, so the time of the lookup says nothing.
        self.known
            .get(&sum)
            .is_some_and(|until_ns| now_ns < *until_ns)
    }

    /// Judges an `Authorization` header, which a client with this address has sent.
    pub(super) fn verify(
        &mut self,
        auth: &Auth,
        route: usize,
        said: Option<&[u8]>,
        address: Option<IpAddr>,
        now_ns: u64,
    ) -> Verdict {
        let Some(said) = said.filter(|said| said.len() <= SAID_BYTES_MAX) else {
            return Verdict::Wrong;
        };
        if self.knows(route, said, now_ns) {
            return Verdict::Right;
        }
        let Some((name, password)) = decoded(said) else {
            return Verdict::Wrong;
        };
        // One bucket for all routes.
        let client = Key::of(usize::MAX, address);
        let wait_ns = self.wrong.wait_ns(client, WRONG, now_ns);
        let wait_ns = wait_ns.max(self.budget.wait_ns(now_ns));
        if wait_ns > 0 {
            return Verdict::TooMany(wait_ns);
        }
        let begun_ns = monotonic_ns();
        let user = auth.users.iter().find(|user| user.name.as_bytes() == name);
        // An unknown name takes as long as a known one.
        let hash = user.or(auth.users.first()).map(|user| &user.hash);
        let is_right = hash.is_some_and(|hash| hash.is_of(&password)) && user.is_some();
        let took_ns = monotonic_ns().saturating_sub(begun_ns);
        self.budget.spend(now_ns, took_ns);
        if !is_right {
            // It had no wait to make.
            let _ = self.wrong.take(client, WRONG, now_ns);
            return Verdict::Wrong;
        }
        if let Some(sum) = self.sum(route, said) {
            self.known.put(sum, now_ns + KNOWN_FOR_NS);
        }
        Verdict::Right
    }

    fn sum(&self, route: usize, said: &[u8]) -> Option<[u8; 32]> {
        let mut context = hmac::Context::with_key(self.key.as_ref()?);
        context.update(&route.to_le_bytes());
        context.update(said);
        context.sign().as_ref().try_into().ok()
    }
}

/// The name in an `Authorization` header. Whether the password is right, this does not say.
pub(super) fn user(said: &[u8]) -> Option<String> {
    decoded(said).and_then(|(name, _)| String::from_utf8(name).ok())
}

/// Name and password.
fn decoded(said: &[u8]) -> Option<(Vec<u8>, Vec<u8>)> {
    let (scheme, rest) = said.split_at_checked(6)?;
    if !scheme.eq_ignore_ascii_case(b"basic ") {
        return None;
    }
    let mut name = STANDARD.decode(rest.trim_ascii()).ok()?;
    let colon = name.iter().position(|byte| *byte == b':')?;
    let password = name.split_off(colon + 1);
    name.pop();
    Some((name, password))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of `secret`, with the least work that there is.
    fn auth() -> Auth {
        let file = tempfile::NamedTempFile::new().unwrap();
        let line = "a:$2y$04$eMzaL6P9AuVXjP3t7AWaleC3sWsC2YeqJEod7.OKOWgtt9nAMujoS\n";
        std::fs::write(file.path(), line).unwrap();
        Auth {
            realm: "r".into(),
            file: file.path().to_owned(),
            users: crate::serve::config::sites::read_users(file.path()).unwrap(),
        }
    }

    fn said(credentials: &str) -> Vec<u8> {
        format!("Basic {}", STANDARD.encode(credentials)).into_bytes()
    }

    #[test]
    fn a_right_password_is_remembered_for_its_route_and_time() {
        let (auth, mut passwords) = (auth(), Passwords::default());
        let right = said("a:secret");
        let mut verify = |now_ns| passwords.verify(&auth, 0, Some(&right), None, now_ns);
        assert_eq!(verify(1), Verdict::Right);
        let known =
            |passwords: &mut Passwords, route, now_ns| passwords.knows(route, &right, now_ns);
        assert!(known(&mut passwords, 0, KNOWN_FOR_NS));
        assert!(!known(&mut passwords, 1, 2));
        assert!(!known(&mut passwords, 0, KNOWN_FOR_NS + 1));
    }

    #[test]
    fn what_is_wrong_is_wrong_and_soon_has_to_wait() {
        let (auth, mut passwords) = (auth(), Passwords::default());
        let mut verify = |said: Option<&[u8]>| passwords.verify(&auth, 0, said, None, 1);
        let long = said(&format!("a:{}", "x".repeat(SAID_BYTES_MAX)));
        for not_verified in [
            None,
            Some(&b"Basic"[..]),
            Some(b"Basic !"),
            Some(b"Bearer YTpzZWNyZXQ="),
            Some(&said("a")),
            Some(&long),
        ] {
            for _ in 0..10 {
                assert_eq!(verify(not_verified), Verdict::Wrong);
            }
        }
        for wrong in ["a:Secret", "b:secret", ":secret", "a:", "a:secret:"] {
            assert_eq!(verify(Some(&said(wrong))), Verdict::Wrong, "{wrong}");
        }
        let right = said("a:secret");
        assert!(matches!(verify(Some(&right)), Verdict::TooMany(1..)));
        let later_ns = 60_000_000_000;
        let verdict = passwords.verify(&auth, 0, Some(&right), None, later_ns);
        assert_eq!(verdict, Verdict::Right);
    }

    #[test]
    fn all_verifications_together_have_a_bound() {
        let (auth, mut passwords) = (auth(), Passwords::default());
        passwords.budget.spend(1, 600_000_000);
        let right = said("a:secret");
        let verdict = passwords.verify(&auth, 0, Some(&right), None, 1);
        assert_eq!(verdict, Verdict::TooMany(1_000_000_000));
    }
}
