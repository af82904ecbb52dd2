//! Why an application gave no answer, as the log says it and as the client sees it.

use std::borrow::Cow;
use std::fmt;
use std::io;

use http::StatusCode;

use crate::fastcgi::response::BadHead;
use crate::fastcgi::{Fault, ProtocolStatus};
use crate::serve::worker::http::BodyFault;

/// Why an application gave no answer, or only a part of one.
#[derive(Debug)]
pub(super) enum Failure {
    /// The kernel gives out no socket.
    NoSocket(io::Error),
    /// What was done, and what the kernel said.
    Io(&'static str, io::Error),
    /// It ended the connection before the answer was complete.
    BrokenOff,
    /// What it said is not FastCGI.
    Fault(Fault),
    /// The header of its answer is wrong.
    Head(BadHead),
    /// It refused the request.
    Refused(ProtocolStatus),
    /// Its answer cannot be followed.
    Answer(Cow<'static, str>),
    /// The body of the request is not what it must be.
    Body(BodyFault),
}

impl Failure {
    /// What the client gets.
    pub(super) fn status(&self) -> StatusCode {
        match self {
            Self::Io(_, error) if error.kind() == io::ErrorKind::TimedOut => {
                StatusCode::GATEWAY_TIMEOUT
            }
            Self::Refused(ProtocolStatus::Overloaded) | Self::NoSocket(_) => {
                StatusCode::SERVICE_UNAVAILABLE
            }
            _ => StatusCode::BAD_GATEWAY,
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io(what, error) if error.kind() == io::ErrorKind::TimedOut => {
                write!(f, "{what}: the application took too long")
            }
            Self::Io(what, error) => write!(f, "{what}: {error}"),
            Self::NoSocket(error) => write!(f, "open a socket: {error}"),
            Self::BrokenOff => f.write_str("read: the application closed the connection"),
            Self::Fault(fault) => write!(f, "read: the application sent {fault}"),
            Self::Head(bad) => write!(f, "read the header of the answer: {bad}"),
            Self::Refused(status) => write!(f, "the application refused it: {status:?}"),
            Self::Answer(what) => write!(f, "read the header of the answer: it {what}"),
            Self::Body(fault) => write!(f, "read the request's body: {fault:?}"),
        }
    }
}
