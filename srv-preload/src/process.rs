//! Which process this is, and what `srv run` told it. A process that was forked has all of its
//! parent's memory, but is none of its workers; a page that the kernel fills with zeros at a fork
//! tells it so without a system call.

use core::cell::UnsafeCell;
use core::ffi::CStr;
use core::sync::atomic::{AtomicBool, AtomicPtr, AtomicU32, Ordering};

use srv_common::claim::{CAPACITY, SHARES_PORTS, VARIABLE};

use crate::{c_library, sys};

/// The environment entry of [`VARIABLE`].
const ENTRY_MAX: usize = 160;

/// What `srv run` has told this process.
pub(crate) struct Told {
    /// The inherited socket.
    pub(crate) inherited: i32,
    /// Its inode.
    pub(crate) inode: u64,
    /// The coordinator's abstract name.
    pub(crate) name: [u8; 64],
    pub(crate) name_bytes: usize,
    /// The proof that this process belongs to the server.
    pub(crate) token: [u8; 16],
    /// The process is a copy of a server, which shares its ports with the other copies.
    pub(crate) shares_ports: bool,
    /// Most requests in service of a process that accepts; 0: there is no limit.
    pub(crate) capacity: u32,
    /// `SRV_RUN=…`, for the programs that the process executes, with a zero byte at the end.
    pub(crate) entry: [u8; ENTRY_MAX],
    /// `LD_PRELOAD=…`, likewise.
    pub(crate) preload: [u8; PRELOAD_MAX],
}

const PRELOAD_MAX: usize = 4096;

impl Told {
    const NOTHING: Self = Self {
        inherited: -1,
        inode: 0,
        name: [0; 64],
        name_bytes: 0,
        token: [0; 16],
        shares_ports: false,
        capacity: 0,
        entry: [0; ENTRY_MAX],
        preload: [0; PRELOAD_MAX],
    };
}

struct Once(UnsafeCell<Told>);
// SAFETY: it is written once, by the constructor of the library, before the process has a second
// thread.
unsafe impl Sync for Once {}

static TOLD: Once = Once(UnsafeCell::new(Told::NOTHING));
static IS_TOLD: AtomicBool = AtomicBool::new(false);
static HAS_RETIRED: AtomicBool = AtomicBool::new(false);
static MARKER: AtomicPtr<AtomicU32> = AtomicPtr::new(core::ptr::null_mut());

/// What `srv run` has told this process; `None` if it was not started by it.
pub(crate) fn told() -> Option<&'static Told> {
    // SAFETY: it is not written any more after `IS_TOLD`.
    IS_TOLD
        .load(Ordering::Acquire)
        .then(|| unsafe { &*TOLD.0.get() })
}

/// From now on each function does what the C library's does.
pub(crate) fn retire() {
    HAS_RETIRED.store(true, Ordering::Relaxed);
    IS_TOLD.store(false, Ordering::Release);
}

/// Whether the process has retired, or the process that forked it.
pub(crate) fn has_retired() -> bool {
    HAS_RETIRED.load(Ordering::Relaxed)
}

/// Reads what `srv run` has told. The constructor calls this, once.
pub(crate) fn begin() {
    let (Some(entry), Some(preload)) = (variable(VARIABLE), variable("LD_PRELOAD")) else {
        return;
    };
    // SAFETY: the process has one thread, and no reference exists before `IS_TOLD`.
    let told = unsafe { &mut *TOLD.0.get() };
    if parse(entry, preload, told).is_none() || !mark() {
        return;
    }
    IS_TOLD.store(true, Ordering::Release);
}

/// The whole entry of a variable, `NAME=value`.
fn variable(name: &str) -> Option<&'static [u8]> {
    let mut entry = c_library::environment();
    if entry.is_null() {
        return None;
    }
    // SAFETY: the environment is an array of strings that ends with a null pointer. The
    // constructor runs before the application can change it.
    unsafe {
        while !(*entry).is_null() {
            let text = CStr::from_ptr(*entry).to_bytes();
            if text
                .strip_prefix(name.as_bytes())
                .is_some_and(|rest| rest.starts_with(b"="))
            {
                return Some(text);
            }
            entry = entry.add(1);
        }
    }
    None
}

fn parse(entry: &[u8], preload: &[u8], told: &mut Told) -> Option<()> {
    let room = |text: &[u8], room: usize| (text.len() < room).then_some(text.len());
    told.entry[..room(entry, ENTRY_MAX)?].copy_from_slice(entry);
    told.preload[..room(preload, PRELOAD_MAX)?].copy_from_slice(preload);
    let value = &entry[VARIABLE.len() + 1..];
    let mut parts = value.split(|byte| *byte == b':');
    told.inherited = i32::try_from(number(parts.next()?)?).ok()?;
    told.inode = number(parts.next()?)?;
    let name = parts.next()?;
    told.name_bytes = room(name, told.name.len())?;
    told.name[..name.len()].copy_from_slice(name);
    let token = parts.next()?;
    let (digits, rest) = token.as_chunks::<2>();
    if digits.len() != told.token.len() || !rest.is_empty() {
        return None;
    }
    for part in parts {
        if part == SHARES_PORTS.as_bytes() {
            told.shares_ports = true;
        } else {
            let capacity = number(part.strip_prefix(CAPACITY.as_bytes())?)?;
            told.capacity = u32::try_from(capacity).ok()?;
        }
    }
    for (byte, digits) in told.token.iter_mut().zip(digits) {
        let digits = core::str::from_utf8(digits).ok()?;
        *byte = u8::from_str_radix(digits, 16).ok()?;
    }
    Some(())
}

fn number(text: &[u8]) -> Option<u64> {
    core::str::from_utf8(text).ok()?.parse().ok()
}

/// Marks this process as the one that the library's state belongs to.
pub(crate) fn mark() -> bool {
    let mut page = MARKER.load(Ordering::Relaxed);
    if page.is_null() {
        const PAGE_BYTES: usize = 4096;
        let Some(pages) = sys::map(None, PAGE_BYTES, true, None) else {
            return false;
        };
        if !sys::wipe_on_fork(pages, PAGE_BYTES) {
            return false;
        }
        page = pages.cast();
        MARKER.store(page, Ordering::Relaxed);
    }
    // SAFETY: the page is mapped for the rest of the process's life, and zero is a valid value.
    unsafe { (*page).store(sys::getpid(), Ordering::Relaxed) };
    true
}

fn marked() -> u32 {
    let page = MARKER.load(Ordering::Relaxed);
    if page.is_null() {
        return 0;
    }
    // SAFETY: as in `mark`.
    unsafe { (*page).load(Ordering::Relaxed) }
}

/// Whether the library's state is this process's own, and not that of the process which forked
/// it.
#[inline(always)]
pub(crate) fn is_own() -> bool {
    marked() != 0
}

/// Whether this is a child that runs in its parent's memory (vfork) until it executes a program:
/// it must not change what it shares with its parent. (One system call.)
pub(crate) fn borrows_memory() -> bool {
    marked() != sys::getpid()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(entry: &str) -> Option<Told> {
        let mut told = Told::NOTHING;
        parse(entry.as_bytes(), b"LD_PRELOAD=x", &mut told).map(|()| told)
    }

    #[test]
    fn what_srv_run_tells_is_read_and_anything_else_is_not() {
        let entry = "SRV_RUN=1019:4711:srv-run-ab:000102030405060708090a0b0c0d0eff";
        let told = parsed(entry).expect("it is well formed");
        assert_eq!((told.inherited, told.inode), (1019, 4711));
        assert_eq!(&told.name[..told.name_bytes], b"srv-run-ab");
        assert_eq!((told.token[15], told.shares_ports), (0xff, false));
        let copy = parsed(&format!("{entry}:copy")).expect("it is well formed");
        assert_eq!((copy.shares_ports, copy.capacity), (true, 0));
        let limited = parsed(&format!("{entry}:capacity=4")).expect("it is well formed");
        assert_eq!((limited.shares_ports, limited.capacity), (false, 4));
        let both = parsed(&format!("{entry}:copy:capacity=4")).expect("it is well formed");
        assert_eq!((both.shares_ports, both.capacity), (true, 4));
        for other in [
            "SRV_RUN=",
            "SRV_RUN=x:4711:srv-run-ab:000102030405060708090a0b0c0d0eff",
            "SRV_RUN=3:4711:srv-run-ab:0001",
            "SRV_RUN=3:4711:srv-run-ab:000102030405060708090a0b0c0d0eff:1",
            "SRV_RUN=3:4711:srv-run-ab:0z0102030405060708090a0b0c0d0eff",
            "SRV_RUN=3:4711:srv-run-ab:000102030405060708090a0b0c0d0eff:capacity=",
        ] {
            assert!(parsed(other).is_none(), "{other}");
        }
    }
}
