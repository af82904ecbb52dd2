//! Which clients a site or route answers: the settings, and how each is written. The rules
//! themselves are applied in `serve/router/access.rs`.

use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::str::FromStr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::users::User;
use crate::values::{Expected, expected};

/// The rules of a route, or of the rest of a site.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Access {
    /// If there is one, clients with other addresses are refused.
    pub allow: Vec<IpNet>,
    /// Clients with these addresses are refused.
    pub deny: Vec<IpNet>,
    /// Which clients may have an answer.
    pub auth: Option<Auth>,
    /// How many requests a client may make.
    pub rate: Option<Rate>,
    /// The most bytes of a request's body, if it is not what holds for the server.
    pub body_bytes: Option<u64>,
}

/// Users and their passwords.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Auth {
    /// What a browser shows beside the question for the password.
    pub realm: String,
    /// The file that the master has read.
    pub file: PathBuf,
    /// What it said.
    pub users: Vec<User>,
}

/// How many requests a client may make.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rate {
    /// In the long run.
    pub per_second: u32,
    /// At once, if it has made none for a while.
    pub burst: u32,
}

impl Access {
    /// Whether a rule asks for the address of the client.
    pub fn asks_for_address(&self) -> bool {
        self.has_networks() || self.auth.is_some() || self.rate.is_some()
    }

    /// Whether a rule is about the address itself.
    pub fn has_networks(&self) -> bool {
        !self.allow.is_empty() || !self.deny.is_empty()
    }
}

/// A network, or one address.
pub(super) struct Network(pub(super) IpNet);

impl FromStr for Network {
    type Err = Expected;

    fn from_str(text: &str) -> Result<Self, Expected> {
        if let Ok(address) = text.parse::<IpAddr>() {
            return Ok(Self(address.into()));
        }
        match text.parse::<IpNet>() {
            Ok(network) if network.trunc() == network => Ok(Self(network)),
            Ok(network) => expected(format!(
                "a network without bits behind its prefix, which would be {}",
                network.trunc()
            )),
            Err(_) => expected("an address or a network, such as 192.0.2.7 or 2001:db8::/32"),
        }
    }
}

/// A network as it is written: an address alone without its prefix.
pub(super) struct Written<'a>(pub(super) &'a IpNet);

impl fmt::Display for Written<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.prefix_len() == self.0.max_prefix_len() {
            true => self.0.addr().fmt(f),
            false => self.0.fmt(f),
        }
    }
}

/// The realm of passwords. It stands between quotes.
pub(super) struct Realm(pub(super) String);

impl FromStr for Realm {
    type Err = Expected;

    fn from_str(text: &str) -> Result<Self, Expected> {
        let is_plain = |byte: u8| (b' '..=b'~').contains(&byte) && !b"\"\\".contains(&byte);
        match !text.is_empty() && text.len() <= 200 && text.bytes().all(is_plain) {
            true => Ok(Self(text.to_owned())),
            false => expected("1 to 200 visible ASCII characters without \" and \\"),
        }
    }
}
