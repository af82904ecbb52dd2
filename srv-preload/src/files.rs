//! What each file descriptor of the process is to this library: a byte for each number. To look
//! at it is all that a call costs which concerns neither a listener nor its connections.

use core::sync::atomic::{AtomicI32, AtomicU8, Ordering};

use srv_common::claim::CLAIMS_MAX;

/// Numbers from here on are not followed.
pub(crate) const FILES_MAX: usize = 1 << 20;

static FILES: [AtomicU8; FILES_MAX] = [const { AtomicU8::new(0) }; FILES_MAX];
/// No number above this was ever anything else than [`File::Other`].
static LAST: AtomicI32 = AtomicI32::new(-1);

/// What a file descriptor is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum File {
    /// Nothing that concerns this library.
    Other,
    /// A socket that listens, or has listened. `blocks` is what the application has made of it: the
    /// socket itself does not block any more when another process, which shares it, has claimed it.
    Listener { blocks: bool },
    /// A listener that stays as it is. `blocks`: likewise.
    Plain { blocks: bool },
    /// This library's own: the application must not close it.
    Private,
    /// An epoll instance of the application.
    Epoll,
    /// A listener that was claimed, by the number of the claim.
    Claimed(usize),
    /// A connection that was accepted from a claimed listener.
    Connection(usize),
}

const LISTENER: u8 = 1;
const BLOCKING_LISTENER: u8 = 5;
const PLAIN: u8 = 2;
const BLOCKING_PLAIN: u8 = 6;
const PRIVATE: u8 = 3;
const EPOLL: u8 = 4;
const CLAIMED: u8 = 64;
const CONNECTION: u8 = 128;

impl File {
    fn from_byte(byte: u8) -> Self {
        match byte {
            LISTENER => Self::Listener { blocks: false },
            BLOCKING_LISTENER => Self::Listener { blocks: true },
            PLAIN => Self::Plain { blocks: false },
            BLOCKING_PLAIN => Self::Plain { blocks: true },
            PRIVATE => Self::Private,
            EPOLL => Self::Epoll,
            CLAIMED..CONNECTION => Self::Claimed((byte - CLAIMED) as usize),
            CONNECTION.. => Self::Connection((byte - CONNECTION) as usize),
            _ => Self::Other,
        }
    }

    fn to_byte(self) -> u8 {
        match self {
            Self::Other => 0,
            Self::Listener { blocks: false } => LISTENER,
            Self::Listener { blocks: true } => BLOCKING_LISTENER,
            Self::Plain { blocks: false } => PLAIN,
            Self::Plain { blocks: true } => BLOCKING_PLAIN,
            Self::Private => PRIVATE,
            Self::Epoll => EPOLL,
            Self::Claimed(claim) => CLAIMED + claim as u8,
            Self::Connection(claim) => CONNECTION + claim as u8,
        }
    }
}

const _: () = assert!(CLAIMS_MAX <= (CONNECTION - CLAIMED) as usize);

/// What that file descriptor is.
#[inline(always)]
pub(crate) fn get(fd: i32) -> File {
    let byte = FILES
        .get(fd as usize)
        .map_or(0, |file| file.load(Ordering::Relaxed));
    match byte {
        0 => File::Other,
        byte => File::from_byte(byte),
    }
}

/// Says what a file descriptor is from now on.
pub(crate) fn set(fd: i32, file: File) {
    if let Some(entry) = FILES.get(fd as usize) {
        entry.store(file.to_byte(), Ordering::Relaxed);
        LAST.fetch_max(fd, Ordering::Relaxed);
    }
}

/// The last number that may be anything else than [`File::Other`].
pub(crate) fn last() -> i32 {
    LAST.load(Ordering::Relaxed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_set_comes_back_and_numbers_out_of_range_are_nothing() {
        let all = [
            File::Other,
            File::Listener { blocks: false },
            File::Listener { blocks: true },
            File::Plain { blocks: false },
            File::Plain { blocks: true },
            File::Private,
            File::Epoll,
            File::Claimed(0),
            File::Claimed(CLAIMS_MAX - 1),
            File::Connection(0),
            File::Connection(CLAIMS_MAX - 1),
        ];
        for file in all {
            set(FILES_MAX as i32 - 1, file);
            assert_eq!(get(FILES_MAX as i32 - 1), file);
        }
        set(FILES_MAX as i32, File::Private);
        set(-1, File::Private);
        assert_eq!((get(FILES_MAX as i32), get(-1)), (File::Other, File::Other));
    }
}
