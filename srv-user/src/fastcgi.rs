//! FastCGI 1.0 and what CGI/1.1 (RFC 3875) adds to it, as pure functions over bytes: records, name-value
//! pairs, both ends of a connection, a request's meta-variables, which part of a path is the script, and
//! the header of an answer. These modules know no sockets and no sites.
//!
//! A worker is a [`client`]. `srv cgi` is a [`server`]. Each connection carries one request at a time,
//! since no application in common use multiplexes (php-fpm and libfcgi refuse it).

pub mod client;
pub mod pairs;
pub mod record;
pub mod response;
pub mod script_path;
pub mod server;
pub mod variables;

use std::fmt;

/// Why the bytes of a peer are not FastCGI, or not what the peer may send now. The connection
/// cannot be used any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// A record of another version of the protocol.
    Version(u8),
    /// A record of a kind that this end does not receive.
    Kind(u8),
    /// A record of another request.
    RequestId(u16),
    /// Content of a stream that has ended.
    AfterEndOfStream,
    /// Bytes after the end of the request.
    AfterEnd,
    /// A record with a body of fixed size has another size.
    Size,
    /// The parameters exceed their bound.
    TooLarge,
    /// A name or value is longer than what is left of the pairs.
    Pairs,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Version(version) => write!(f, "a record of version {version}, expected 1"),
            Self::Kind(kind) => write!(f, "an unexpected record of type {kind}"),
            Self::RequestId(id) => write!(f, "a record of the unknown request {id}"),
            Self::AfterEndOfStream => f.write_str("content of a stream that had ended"),
            Self::AfterEnd => f.write_str("bytes after the end of the request"),
            Self::Size => f.write_str("a record of the wrong size"),
            Self::TooLarge => f.write_str("parameters that exceed their bound"),
            Self::Pairs => f.write_str("a name or value longer than the parameters"),
        }
    }
}

impl std::error::Error for Fault {}

/// What an application says of a request as a whole (FCGI_END_REQUEST).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProtocolStatus {
    /// FCGI_REQUEST_COMPLETE
    Complete,
    /// FCGI_CANT_MPX_CONN: the connection has a request already.
    CannotMultiplex,
    /// FCGI_OVERLOADED: the application has too many requests.
    Overloaded,
    /// FCGI_UNKNOWN_ROLE: the application is no responder.
    UnknownRole,
    /// None of the protocol's.
    Other(u8),
}

impl ProtocolStatus {
    const fn code(self) -> u8 {
        match self {
            Self::Complete => 0,
            Self::CannotMultiplex => 1,
            Self::Overloaded => 2,
            Self::UnknownRole => 3,
            Self::Other(code) => code,
        }
    }

    const fn of(code: u8) -> Self {
        match code {
            0 => Self::Complete,
            1 => Self::CannotMultiplex,
            2 => Self::Overloaded,
            3 => Self::UnknownRole,
            code => Self::Other(code),
        }
    }
}
