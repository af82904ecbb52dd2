//! How the workers of a group come by connections.

use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::values::{Expected, by_name};

/// How workers come by connections.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum AcceptMode {
    /// A listener each; every worker waits on all, its own first.
    #[default]
    Ring,
    /// A listener each, and only that.
    Own,
    /// One listener, `EPOLLEXCLUSIVE` (nginx's default).
    Shared,
    /// One listener, every worker woken.
    SharedHerd,
    /// One listener, a blocking `accept` in each worker.
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

    /// Whether `accept` on its listener waits.
    pub fn is_blocking(self) -> bool {
        self == Self::Blocking
    }

    /// Whether each worker has a listener of its own, so that there is something to steer between.
    pub fn has_own_listeners(self) -> bool {
        matches!(self, Self::Ring | Self::Own)
    }
}

impl FromStr for AcceptMode {
    type Err = Expected;

    fn from_str(text: &str) -> Result<Self, Expected> {
        by_name(text, &Self::NAMED)
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
    }
}
