//! `fastcgi` as the file has it: an address, or a table.

use std::collections::BTreeMap;
use std::fmt;

use serde::Deserialize;
use serde::de::value::MapAccessDeserializer;
use serde::de::{self, Deserializer, MapAccess, Visitor};
use toml::Spanned;

use super::Text;
use crate::values::ApplicationAddr;

/// `fastcgi`: an address or a table.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct FastCgiArgs(pub(in crate::serve::config::sites) FastCgiTable);

/// The table.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct FastCgiTable {
    pub(in crate::serve::config::sites) to: Text,
    pub(in crate::serve::config::sites) suffix: Option<Text>,
    pub(in crate::serve::config::sites) index: Option<Text>,
    pub(in crate::serve::config::sites) script: Option<Text>,
    #[serde(default)]
    pub(in crate::serve::config::sites) files: bool,
    #[serde(default)]
    pub(in crate::serve::config::sites) params: BTreeMap<Text, Text>,
    pub(in crate::serve::config::sites) connect_timeout: Option<Text>,
    pub(in crate::serve::config::sites) send_timeout: Option<Text>,
    pub(in crate::serve::config::sites) read_timeout: Option<Text>,
}

impl<'de> Deserialize<'de> for FastCgiArgs {
    fn deserialize<D: Deserializer<'de>>(file: D) -> Result<Self, D::Error> {
        file.deserialize_any(AddressOrTable)
    }
}

struct AddressOrTable;

impl<'de> Visitor<'de> for AddressOrTable {
    type Value = FastCgiArgs;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the address of an application, or a table with it as `to`")
    }

    fn visit_str<E: de::Error>(self, address: &str) -> Result<FastCgiArgs, E> {
        if let Err(expected) = address.parse::<ApplicationAddr>() {
            return Err(E::custom(format!("found `{address}`, {expected}")));
        }
        Ok(FastCgiArgs(FastCgiTable {
            to: Spanned::new(0..0, address.to_owned()),
            suffix: None,
            index: None,
            script: None,
            files: false,
            params: BTreeMap::new(),
            connect_timeout: None,
            send_timeout: None,
            read_timeout: None,
        }))
    }

    fn visit_map<A: MapAccess<'de>>(self, table: A) -> Result<FastCgiArgs, A::Error> {
        FastCgiTable::deserialize(MapAccessDeserializer::new(table)).map(FastCgiArgs)
    }
}
