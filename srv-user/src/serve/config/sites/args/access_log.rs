//! `access-log` of a site or route.

use std::fmt;
use std::path::Path;

use serde::Deserialize;
use serde::de::{self, Deserializer, Visitor};

use crate::values::AccessLogTo;

/// `access-log`.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum AccessLogSwitch {
    /// `false`: requests are not logged here.
    Off,
    /// Where they are logged.
    To(AccessLogTo),
}

impl AccessLogSwitch {
    /// Makes a relative path one below this folder.
    pub(in crate::serve::config::sites) fn relative_to(&mut self, folder: &Path) {
        if let Self::To(to) = self {
            to.relative_to(folder);
        }
    }
}

impl<'de> Deserialize<'de> for AccessLogSwitch {
    fn deserialize<D: Deserializer<'de>>(file: D) -> Result<Self, D::Error> {
        file.deserialize_any(SwitchVisitor)
    }
}

struct SwitchVisitor;

impl Visitor<'_> for SwitchVisitor {
    type Value = AccessLogSwitch;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("false, the path of a file, `-` or `syslog`")
    }

    fn visit_bool<E: de::Error>(self, is_on: bool) -> Result<AccessLogSwitch, E> {
        match is_on {
            false => Ok(AccessLogSwitch::Off),
            true => Err(E::invalid_value(de::Unexpected::Bool(true), &self)),
        }
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<AccessLogSwitch, E> {
        let to = text.parse();
        to.map(AccessLogSwitch::To)
            .map_err(|_| E::invalid_value(de::Unexpected::Str(text), &self))
    }
}
