//! How the workers of a group get connections.

use std::fmt;
use std::str::FromStr;

/// How workers get connections.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "kebab-case"))]
pub enum AcceptMode {
    /// Each worker has a listener, and waits on all of them, on its own first.
    #[default]
    Ring,
    /// Each worker has a listener, and waits on no other.
    Own,
    /// All workers wait on one listener by `EPOLLEXCLUSIVE` (the default of nginx).
    Shared,
    /// All workers wait on one listener, and each connection wakes all that sleep.
    SharedHerd,
    /// All workers call a blocking `accept` on one listener.
    Blocking,
}

impl AcceptMode {
    /// All modes with the names that users give them.
    pub const NAMED: [(&'static str, Self); 5] = [
        ("ring", Self::Ring),
        ("own", Self::Own),
        ("shared", Self::Shared),
        ("shared-herd", Self::SharedHerd),
        ("blocking", Self::Blocking),
    ];

    /// The mode's name.
    pub fn name(self) -> &'static str {
        Self::NAMED[self as usize].0
    }

    /// Whether `accept` on the listener blocks.
    pub fn is_blocking(self) -> bool {
        self == Self::Blocking
    }

    /// Whether each worker has a listener of its own, so that there is something to steer between.
    pub fn has_own_listeners(self) -> bool {
        matches!(self, Self::Ring | Self::Own)
    }
}

/// A name that is no accept mode. Its text lists the names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnknownAcceptMode;

impl fmt::Display for UnknownAcceptMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = AcceptMode::NAMED.map(|(name, _)| name).join(", ");
        write!(f, "expected one of {names}")
    }
}

impl std::error::Error for UnknownAcceptMode {}

impl FromStr for AcceptMode {
    type Err = UnknownAcceptMode;

    fn from_str(text: &str) -> Result<Self, UnknownAcceptMode> {
        let mut named = Self::NAMED.into_iter();
        let found = named.find(|(name, _)| *name == text);
        found.map(|(_, mode)| mode).ok_or(UnknownAcceptMode)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_is_none_is_answered_with_all_names() {
        let refusal = "Ring".parse::<AcceptMode>().unwrap_err().to_string();
        let expected = "expected one of ring, own, shared, shared-herd, blocking";
        assert_eq!(refusal, expected);
        assert_eq!("shared-herd".parse(), Ok(AcceptMode::SharedHerd));
    }
}
