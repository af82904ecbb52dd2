//! The TLS of a site, or of all sites that say nothing else.

use serde::{Deserialize, Serialize};

use super::identity::Identity;

/// The TLS of a site, or of all sites that say nothing else.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tls {
    /// The server's certificate.
    pub identity: Identity,
}
