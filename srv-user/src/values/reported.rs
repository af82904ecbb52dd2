//! Names that one process of srv reports to another, perhaps of another version. A name that this
//! version does not know is kept as it is, so that the rest of the message can be used.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A value that users know by its name.
pub trait Named {
    /// Its name.
    fn name(&self) -> &str;
}

/// A value by its name, as another process reports it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reported<T> {
    /// A value that this version of srv knows.
    Known(T),
    /// The name of a value that only the other version knows.
    Unknown(String),
}

impl<T: Named> Reported<T> {
    /// The name.
    pub fn name(&self) -> &str {
        match self {
            Self::Known(value) => value.name(),
            Self::Unknown(name) => name,
        }
    }
}

impl<T> Reported<T> {
    /// The value, if this version of srv knows it.
    pub fn known(self) -> Option<T> {
        match self {
            Self::Known(value) => Some(value),
            Self::Unknown(_) => None,
        }
    }
}

impl<T: Named> fmt::Display for Reported<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl<T: Named> PartialEq<&str> for Reported<T> {
    fn eq(&self, name: &&str) -> bool {
        self.name() == *name
    }
}

impl<T: FromStr> From<&str> for Reported<T> {
    fn from(name: &str) -> Self {
        name.parse()
            .map_or_else(|_| Self::Unknown(name.to_owned()), Self::Known)
    }
}

impl<T: Named> Serialize for Reported<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}

impl<'de, T: FromStr> Deserialize<'de> for Reported<T> {
    fn deserialize<D: Deserializer<'de>>(message: D) -> Result<Self, D::Error> {
        String::deserialize(message).map(|name| Self::from(name.as_str()))
    }
}

#[cfg(test)]
mod tests {
    use srv_common::Policy;

    use super::*;
    use crate::values::PolicyName;

    #[test]
    fn a_name_is_a_string_in_json_also_if_it_is_unknown() {
        for (json, policy) in [
            (r#""p2c""#, Reported::Known(PolicyName(Policy::P2c))),
            (r#""fastest""#, Reported::Unknown("fastest".into())),
        ] {
            let read: Reported<PolicyName> = serde_json::from_str(json).unwrap();
            assert_eq!(read, policy);
            assert_eq!(serde_json::to_string(&policy).unwrap(), json);
        }
        assert!(serde_json::from_str::<Reported<PolicyName>>("5").is_err());
    }
}
