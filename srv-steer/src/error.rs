//! The error of this crate.

use std::borrow::Cow;
use std::{fmt, io};

/// What could not be done. Its text is one sentence: what was tried and on what, what the
/// kernel said, and the remedy, if there is one.
///
/// The text contains the kernel's error, so [`std::error::Error::source`] has nothing to add.
#[derive(Debug)]
#[non_exhaustive]
pub struct Error {
    kind: ErrorKind,
    tried: Cow<'static, str>,
    kernel: Option<io::Error>,
    remedy: Option<Cow<'static, str>>,
    could_share: bool,
}

/// What an [`Error`] is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ErrorKind {
    /// An address could not be bound, or a socket could not listen there.
    Listen,
    /// Another socket has the address. [`Error::is_shareable`] says whether the kernel would have
    /// let this one in.
    AddressInUse,
    /// A listener refused an option or a call.
    Socket,
    /// The memory that workers, the group and the BPF program share.
    Memory,
    /// The BPF program could not be loaded, attached or taken off.
    Program,
    /// The policy cannot choose between that many workers.
    Policy,
    /// The listeners were made for another accept mode.
    AcceptMode,
    /// A worker could not be handed to another process, or received from one.
    Handover,
    /// An epoll instance refused a listener.
    Epoll,
}

impl Error {
    pub(crate) fn new(kind: ErrorKind, tried: impl Into<Cow<'static, str>>) -> Self {
        Self {
            kind,
            tried: tried.into(),
            kernel: None,
            remedy: None,
            could_share: false,
        }
    }

    pub(crate) fn because(mut self, kernel: impl Into<io::Error>) -> Self {
        self.kernel = Some(kernel.into());
        self
    }

    pub(crate) fn remedy(mut self, remedy: impl Into<Cow<'static, str>>) -> Self {
        self.remedy = Some(remedy.into());
        self
    }

    /// See [`Self::is_shareable`].
    pub(crate) fn could_share(mut self) -> Self {
        self.could_share = true;
        self
    }

    /// Puts what was tried in the whole before what was tried in the part that failed.
    pub(crate) fn while_trying(mut self, whole: impl fmt::Display) -> Self {
        self.tried = format!("{whole}: {}", self.tried).into();
        self
    }

    /// What it is about.
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// Of an address that is in use: the kernel would have let this socket in, since the one that
    /// has the address belongs to the same user and set `SO_REUSEPORT`. The new one would get a
    /// share of its connections, and a program that steers those would not know of it.
    pub fn is_shareable(&self) -> bool {
        self.could_share
    }

    /// What the kernel said, if the kernel refused it.
    pub fn kernel(&self) -> Option<&io::Error> {
        self.kernel.as_ref()
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.tried)?;
        if let Some(kernel) = &self.kernel {
            write!(f, ": {kernel}")?;
        }
        if let Some(remedy) = &self.remedy {
            write!(f, "; {remedy}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Error {}

/// Of what this crate does.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Names what a system call was made for.
pub(crate) trait Tried<T> {
    /// The error says that `tried` failed.
    fn tried(self, kind: ErrorKind, tried: impl Into<Cow<'static, str>>) -> Result<T>;
}

impl<T, E: Into<io::Error>> Tried<T> for std::result::Result<T, E> {
    fn tried(self, kind: ErrorKind, tried: impl Into<Cow<'static, str>>) -> Result<T> {
        self.map_err(|error| Error::new(kind, tried).because(error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_says_what_was_tried_what_the_kernel_said_and_the_remedy() {
        let refused = io::Error::from_raw_os_error(libc::EACCES);
        let error = Error::new(ErrorKind::Listen, "listen on 127.0.0.1:80")
            .because(refused)
            .remedy("use a port from 1024 on");
        let expected =
            "listen on 127.0.0.1:80: Permission denied (os error 13); use a port from 1024 on";
        assert_eq!(error.to_string(), expected);
        assert_eq!(error.kernel().and_then(io::Error::raw_os_error), Some(13));
    }
}
