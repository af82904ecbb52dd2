//! Events of this crate, and what the BPF program logs: both go to `tracing` if the feature of
//! that name is on, and nowhere else.

#[cfg(feature = "tracing")]
pub(crate) use tracing::{debug, error};

#[cfg(not(feature = "tracing"))]
macro_rules! discard {
    ($($event:tt)*) => {{
        // The values count as used.
        let _ = format_args!($($event)*);
    }};
}
#[cfg(not(feature = "tracing"))]
pub(crate) use {discard as debug, discard as error};

use aya::Ebpf;

use crate::error::Result;

/// What a program logs, if it was loaded to log.
#[derive(Default)]
pub(crate) struct ProgramLog {
    #[cfg(feature = "tracing")]
    logger: Option<aya_log::EbpfLogger<&'static dyn log::Log>>,
}

#[cfg(feature = "tracing")]
impl ProgramLog {
    fn is_wanted() -> bool {
        tracing::enabled!(target: "srv_ebpf", tracing::Level::DEBUG)
    }

    /// What the program is to log: the number of the level, 0 for nothing.
    pub(crate) fn level() -> u8 {
        match Self::is_wanted() {
            true => aya_log::Level::Debug as u8,
            false => 0,
        }
    }

    /// Opens the log of a program that was loaded with [`Self::level`].
    pub(crate) fn open(ebpf: &mut Ebpf) -> Result<Self> {
        use crate::error::{Error, ErrorKind};
        let logger = Self::is_wanted().then(|| aya_log::EbpfLogger::init(ebpf));
        let logger = logger.transpose().map_err(|error| {
            Error::new(
                ErrorKind::Program,
                format!("read the program's log: {error}"),
            )
        })?;
        Ok(Self { logger })
    }

    /// Passes on what the program has logged.
    pub(crate) fn flush(&mut self) {
        if let Some(logger) = &mut self.logger {
            logger.flush();
        }
    }
}

#[cfg(not(feature = "tracing"))]
impl ProgramLog {
    /// What the program is to log: nothing.
    pub(crate) fn level() -> u8 {
        0
    }

    /// Opens no log.
    #[expect(clippy::unnecessary_wraps, reason = "as with the feature tracing")]
    pub(crate) fn open(_: &mut Ebpf) -> Result<Self> {
        Ok(Self::default())
    }

    /// Does nothing.
    pub(crate) fn flush(&mut self) {}
}
