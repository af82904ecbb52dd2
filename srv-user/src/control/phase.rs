//! How far a server is, as it reports it.

use serde::{Deserialize, Serialize};

/// How far a server is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ServerPhase {
    /// Its first workers are not ready yet.
    Starting,
    /// It serves.
    Serving,
    /// It serves until a successor has taken over.
    HandingOver,
    /// Its workers finish what they have.
    Stopping,
    /// A later version of srv knows it.
    #[serde(other)]
    Unknown,
}

impl ServerPhase {
    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Serving => "serving",
            Self::HandingOver => "handing-over",
            Self::Stopping => "stopping",
            Self::Unknown => "unknown",
        }
    }
}
