//! Whether a client has an answer: by its address, by how many requests it makes, and by a password.
//! The address comes first, since it costs least, and the password last. `rates` and `passwords` are
//! what a worker remembers of clients; both are bounded.

mod passwords;
mod rates;

use std::cell::RefCell;
use std::net::IpAddr;

use http::header::{AUTHORIZATION, RETRY_AFTER, WWW_AUTHENTICATE};
use http::{HeaderMap, HeaderValue, Response, StatusCode};
use srv_steer::monotonic_ns;

use super::Client;
use crate::serve::config::sites::Access as Rules;
use crate::serve::site::{Body, PlainRequest, notice};
use passwords::{Passwords, Verdict};
use rates::{Key, Rates};

/// What a worker remembers of clients, for all sites and routes together.
#[derive(Debug, Default)]
pub(super) struct Memory {
    rates: RefCell<Rates>,
    passwords: RefCell<Passwords>,
}

/// The rules of a route, or of the rest of a site.
#[derive(Debug)]
pub(super) struct Access {
    rules: Rules,
    /// Another one for each answer of a worker.
    number: usize,
    /// What asks for a password.
    challenge: Option<HeaderValue>,
}

impl Access {
    pub(super) fn new(rules: &Rules, number: usize) -> anyhow::Result<Self> {
        let challenge = rules.auth.as_ref().map(|auth| {
            let challenge = format!("Basic realm=\"{}\", charset=\"UTF-8\"", auth.realm);
            HeaderValue::try_from(challenge)
        });
        Ok(Self {
            rules: rules.clone(),
            number,
            challenge: challenge.transpose()?,
        })
    }

    /// The rules as the settings have them.
    pub(super) fn rules(&self) -> &Rules {
        &self.rules
    }

    /// The refusal of a request, if it is refused. Counts the request, and may take up to 100 ms for
    /// a password that was not verified before.
    pub(super) fn refusal(
        &self,
        memory: &Memory,
        client: Client,
        headers: &HeaderMap,
    ) -> Option<Response<Body>> {
        if !self.rules.asks_for_address() {
            return None;
        }
        if !self.admits(client.address) {
            return Some(notice(
                StatusCode::FORBIDDEN,
                "403 Forbidden: this address is not allowed here.\n",
            ));
        }
        let now_ns = monotonic_ns();
        if let Some(rate) = self.rules.rate {
            let key = Key::of(self.number, client.address);
            let taken = memory.rates.borrow_mut().take(key, rate, now_ns);
            if let Err(wait_ns) = taken {
                return Some(too_many(
                    "429 Too Many Requests: this client is to wait.\n",
                    wait_ns,
                ));
            }
        }
        let auth = self.rules.auth.as_ref()?;
        let said = headers.get(AUTHORIZATION).map(HeaderValue::as_bytes);
        let mut passwords = memory.passwords.borrow_mut();
        match passwords.verify(auth, self.number, said, client.address, now_ns) {
            Verdict::Right => None,
            Verdict::Wrong => Some(self.challenge()),
            Verdict::TooMany(wait_ns) => Some(too_many(
                "429 Too Many Requests: wait before the next password.\n",
                wait_ns,
            )),
        }
    }

    /// The user that a request is from, if it needed a password and was not refused.
    pub(super) fn user(&self, headers: &HeaderMap) -> Option<String> {
        self.rules.auth.as_ref()?;
        passwords::user(headers.get(AUTHORIZATION)?.as_bytes())
    }

    /// Whether a plain request would be answered, as far as that can be said at once. It does not
    /// count the request. If it says no, [`Self::refusal`] decides.
    pub(super) fn is_open_at_once(
        &self,
        memory: &Memory,
        client: Client,
        request: &PlainRequest<'_>,
    ) -> bool {
        if !self.rules.asks_for_address() {
            return true;
        }
        let now_ns = monotonic_ns();
        let has_room = |rate| {
            let key = Key::of(self.number, client.address);
            memory.rates.borrow().wait_ns(key, rate, now_ns) == 0
        };
        let is_known = || {
            let mut said = request.values(AUTHORIZATION.as_str());
            let (first, second) = (said.next(), said.next());
            second.is_none()
                && first.is_some_and(|said| {
                    let mut passwords = memory.passwords.borrow_mut();
                    passwords.knows(self.number, said, now_ns)
                })
        };
        self.admits(client.address)
            && self.rules.rate.is_none_or(has_room)
            && (self.rules.auth.is_none() || is_known())
    }

    /// Counts a request that is answered without [`Self::refusal`].
    pub(super) fn count(&self, memory: &Memory, client: Client) {
        if let Some(rate) = self.rules.rate {
            let key = Key::of(self.number, client.address);
            // It was found to have room.
            let _ = memory.rates.borrow_mut().take(key, rate, monotonic_ns());
        }
    }

    /// Whether the networks allow this address: it is not among those that are denied and, if some
    /// are allowed, it is among them. An unknown address is among none, and refused.
    fn admits(&self, address: Option<IpAddr>) -> bool {
        let Some(address) = address else {
            return !self.rules.has_networks();
        };
        let (allow, deny) = (&self.rules.allow, &self.rules.deny);
        !deny.iter().any(|network| network.contains(&address))
            && (allow.is_empty() || allow.iter().any(|network| network.contains(&address)))
    }

    fn challenge(&self) -> Response<Body> {
        let mut response = notice(
            StatusCode::UNAUTHORIZED,
            "401 Unauthorized: this needs a user and a password.\n",
        );
        if let Some(challenge) = &self.challenge {
            let headers = response.headers_mut();
            headers.insert(WWW_AUTHENTICATE, challenge.clone());
        }
        response
    }
}

/// The answer 429, which says how long the client is to wait, rounded up to seconds.
fn too_many(text: &'static str, wait_ns: u64) -> Response<Body> {
    let mut response = notice(StatusCode::TOO_MANY_REQUESTS, text);
    let seconds = HeaderValue::from(wait_ns.div_ceil(1_000_000_000));
    response.headers_mut().insert(RETRY_AFTER, seconds);
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(allow: &[&str], deny: &[&str]) -> Access {
        let networks = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect();
        let rules = Rules {
            allow: networks(allow),
            deny: networks(deny),
            ..Rules::default()
        };
        Access::new(&rules, 0).unwrap()
    }

    #[track_caller]
    fn assert_admits(access: &Access, admitted: &[&str], refused: &[&str]) {
        for (addresses, expected) in [(admitted, true), (refused, false)] {
            for address in addresses {
                let is_admitted = access.admits(Some(address.parse().unwrap()));
                assert_eq!(is_admitted, expected, "{address}");
            }
        }
    }

    #[test]
    fn what_is_denied_is_refused_and_what_is_allowed_refuses_the_rest() {
        let some = rules(&[], &["192.0.2.0/24", "2001:db8::/32"]);
        assert_admits(
            &some,
            &["198.51.100.1", "::1"],
            &["192.0.2.7", "2001:db8::7"],
        );
        let only = rules(&["10.0.0.0/8", "::1/128"], &["10.0.0.5/32"]);
        assert_admits(
            &only,
            &["10.0.0.4", "::1"],
            &["10.0.0.5", "192.0.2.7", "::2"],
        );
        assert!(!only.admits(None) && !some.admits(None));
        assert!(rules(&[], &[]).admits(None));
    }
}
