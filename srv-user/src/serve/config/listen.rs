//! The addresses to listen on, each with the socket options that are its own: as a text, or in the
//! file as a table `[[listen]]`. An address is there once, and so are its options.

use std::fmt;
use std::net::SocketAddr;
use std::str::FromStr;

use serde::Deserialize;
use serde::de::value::MapAccessDeserializer;
use serde::de::{self, Deserializer, MapAccess, SeqAccess, Visitor};

use crate::values::{Count, Expected, ListenAddr, expected, scalar};

/// An address to listen on. `None`: what holds for all addresses holds for this one.
#[derive(Clone, Debug, PartialEq)]
pub struct Listen {
    /// The address.
    pub address: SocketAddr,
    /// How sites refer to it, beside its address.
    pub name: Option<String>,
    /// See [`super::args::ServeArgs::backlog`].
    pub backlog: Option<u32>,
    /// See [`super::args::ServeArgs::fast_open`].
    pub fast_open: Option<u32>,
    /// See [`super::args::ServeArgs::v6_only`].
    pub v6_only: Option<bool>,
    /// Whether its clients speak TLS.
    pub tls: Option<bool>,
}

/// The socket options of an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SocketOptions {
    /// The limit of the accept queue.
    pub backlog: u32,
    /// The limit of the TCP Fast Open queue.
    pub fast_open: u32,
    /// Whether IPv6 sockets accept no IPv4 clients.
    pub v6_only: bool,
}

impl Listen {
    /// An address without options of its own.
    pub(super) fn on(address: SocketAddr) -> Self {
        Self {
            address,
            name: None,
            backlog: None,
            fast_open: None,
            v6_only: None,
            tls: None,
        }
    }

    /// Its options, where `all` holds for all addresses.
    pub(super) fn options(&self, all: SocketOptions) -> SocketOptions {
        SocketOptions {
            backlog: self.backlog.unwrap_or(all.backlog),
            fast_open: self.fast_open.unwrap_or(all.fast_open),
            v6_only: self.v6_only.unwrap_or(all.v6_only),
        }
    }
}

impl FromStr for Listen {
    type Err = Expected;

    fn from_str(text: &str) -> Result<Self, Expected> {
        let ListenAddr(address) = text.parse()?;
        Ok(Self::on(address))
    }
}

/// The name of a listener. It is no address, so that sites can refer to listeners by both.
struct ListenerName(String);

impl FromStr for ListenerName {
    type Err = Expected;

    fn from_str(text: &str) -> Result<Self, Expected> {
        let is_known = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
        match text.starts_with(|first: char| first.is_ascii_alphabetic())
            && text.bytes().all(is_known)
        {
            true => Ok(Self(text.to_owned())),
            false => expected("a name such as public: a letter, then letters, digits, -, _ and ."),
        }
    }
}

/// `[[listen]]`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct ListenTable {
    #[serde(deserialize_with = "scalar")]
    address: Option<ListenAddr>,
    #[serde(default, deserialize_with = "scalar")]
    name: Option<ListenerName>,
    #[serde(default, deserialize_with = "scalar")]
    backlog: Option<Count<1, { i32::MAX as u32 }>>,
    #[serde(default, deserialize_with = "scalar")]
    fast_open: Option<Count<0, { i32::MAX as u32 }>>,
    #[serde(default)]
    v6_only: Option<bool>,
    #[serde(default)]
    tls: Option<bool>,
}

/// For serde: an address, or an array of addresses and tables.
///
/// # Errors
/// What was found and what was expected.
pub(super) fn listens<'de, D: Deserializer<'de>>(file: D) -> Result<Option<Vec<Listen>>, D::Error> {
    file.deserialize_any(Listens).map(Some)
}

struct Listens;

impl<'de> Visitor<'de> for Listens {
    type Value = Vec<Listen>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an address, an array of addresses, or tables [[listen]]")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Vec<Listen>, E> {
        One.visit_str(text).map(|one| vec![one])
    }

    fn visit_i64<E: de::Error>(self, number: i64) -> Result<Vec<Listen>, E> {
        self.visit_str(&number.to_string())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut array: A) -> Result<Vec<Listen>, A::Error> {
        let mut values = Vec::new();
        while let Some(value) = array.next_element_seed(One)? {
            values.push(value);
        }
        Ok(values)
    }
}

struct One;

impl<'de> de::DeserializeSeed<'de> for One {
    type Value = Listen;

    fn deserialize<D: Deserializer<'de>>(self, file: D) -> Result<Listen, D::Error> {
        file.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for One {
    type Value = Listen;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an address, or a table with the key address")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Listen, E> {
        text.parse()
            .map_err(|expected| E::custom(format!("found `{text}`, {expected}")))
    }

    fn visit_i64<E: de::Error>(self, number: i64) -> Result<Listen, E> {
        self.visit_str(&number.to_string())
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Listen, A::Error> {
        let table = ListenTable::deserialize(MapAccessDeserializer::new(map))?;
        let Some(ListenAddr(address)) = table.address else {
            return Err(de::Error::missing_field("address"));
        };
        Ok(Listen {
            address,
            name: table.name.map(|ListenerName(name)| name),
            backlog: table.backlog.map(Into::into),
            fast_open: table.fast_open.map(Into::into),
            v6_only: table.v6_only,
            tls: table.tls,
        })
    }
}
