//! System calls, made directly: the library has no C library of its own, since a server may be
//! built against any. A call returns what the kernel returns: a negative number is an error.

use core::arch::asm;
use core::mem::MaybeUninit;
use core::ptr;

pub(crate) use linux_raw_sys::errno;
use linux_raw_sys::general as nr;
pub(crate) use linux_raw_sys::general::{epoll_event, pollfd};
use linux_raw_sys::net;

/// What a system call returns.
pub(crate) type Returned = isize;

/// The kernel's error as it is returned.
pub(crate) const fn failure(errno: u32) -> Returned {
    -(errno as Returned)
}

/// Makes a system call.
///
/// # Safety
/// As the kernel's documentation of that call says.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
pub(crate) unsafe fn call(number: u32, arguments: [usize; 6]) -> Returned {
    let [a, b, c, d, e, f] = arguments;
    let returned;
    // SAFETY: the caller vouches for the call. The instruction changes the registers named here.
    unsafe {
        asm!("syscall", inlateout("rax") number as usize => returned,
            in("rdi") a, in("rsi") b, in("rdx") c, in("r10") d, in("r8") e, in("r9") f,
            lateout("rcx") _, lateout("r11") _, options(nostack));
    }
    returned
}

/// Makes a system call.
///
/// # Safety
/// As the kernel's documentation of that call says.
#[cfg(target_arch = "aarch64")]
#[inline(always)]
pub(crate) unsafe fn call(number: u32, arguments: [usize; 6]) -> Returned {
    let [a, b, c, d, e, f] = arguments;
    let returned;
    // SAFETY: the caller vouches for the call. The instruction changes the registers named here.
    unsafe {
        asm!("svc 0", in("x8") number as usize, inlateout("x0") a => returned,
            in("x1") b, in("x2") c, in("x3") d, in("x4") e, in("x5") f, options(nostack));
    }
    returned
}

/// A call whose arguments are numbers, or pointers that the application has passed.
macro_rules! passed {
    ($number:ident $(, $argument:expr)*) => {{
        let mut all = [0_usize; 6];
        let given: &[usize] = &[$($argument as usize),*];
        all[..given.len()].copy_from_slice(given);
        // SAFETY: the kernel checks numbers and the application's pointers.
        unsafe { crate::sys::call(linux_raw_sys::general::$number, all) }
    }};
}
pub(crate) use passed;

pub(crate) fn close(fd: i32) -> Returned {
    passed!(__NR_close, fd)
}

pub(crate) fn getpid() -> u32 {
    passed!(__NR_getpid) as u32
}

/// What tells threads of this process apart: the address of the thread's own storage.
#[cfg(target_arch = "x86_64")]
pub(crate) fn thread() -> usize {
    let pointer;
    // SAFETY: the first word there is its own address (System V ABI, thread-local storage).
    unsafe { asm!("mov {}, fs:0", out(reg) pointer, options(nostack, preserves_flags, readonly)) };
    pointer
}

/// What tells threads of this process apart: the address of the thread's own storage.
#[cfg(target_arch = "aarch64")]
pub(crate) fn thread() -> usize {
    let pointer;
    // SAFETY: the register is readable by any program.
    unsafe {
        asm!("mrs {}, tpidr_el0", out(reg) pointer, options(nostack, preserves_flags, nomem))
    };
    pointer
}

pub(crate) fn fcntl(fd: i32, command: u32, argument: usize) -> Returned {
    passed!(__NR_fcntl, fd, command, argument)
}

/// The status flags of a file (`O_NONBLOCK` and others).
pub(crate) fn status_flags(fd: i32) -> Returned {
    fcntl(fd, nr::F_GETFL, 0)
}

/// Whether calls on that file wait.
pub(crate) fn is_blocking(fd: i32) -> bool {
    status_flags(fd) & nr::O_NONBLOCK as Returned == 0
}

pub(crate) fn set_status_flags(fd: i32, flags: u32) -> Returned {
    fcntl(fd, nr::F_SETFL, flags as usize)
}

/// The same file under another number, not below `from`, closed by exec.
pub(crate) fn duplicate_above(fd: i32, from: usize) -> Returned {
    fcntl(fd, nr::F_DUPFD_CLOEXEC, from)
}

pub(crate) fn dup3(old: i32, new: i32, flags: u32) -> Returned {
    passed!(__NR_dup3, old, new, flags)
}

/// What the C library makes of `dup2`, for two numbers that differ. (A process may have a filter
/// of system calls that knows those of the C library. arm64 has the newer ones alone.)
pub(crate) fn dup2(old: i32, new: i32) -> Returned {
    #[cfg(target_arch = "x86_64")]
    return passed!(__NR_dup2, old, new);
    #[cfg(not(target_arch = "x86_64"))]
    dup3(old, new, 0)
}

/// A whole integer as a socket option.
pub(crate) fn socket_option<T: Copy + Default>(fd: i32, option: u32) -> Option<T> {
    let mut value = T::default();
    let mut length = size_of::<T>() as u32;
    let at = &raw mut value;
    let returned = passed!(
        __NR_getsockopt,
        fd,
        net::SOL_SOCKET,
        option,
        at,
        &raw mut length
    );
    (returned == 0 && length as usize == size_of::<T>()).then_some(value)
}

/// Sets a whole integer as a socket option. What the kernel refuses stays as it is.
pub(crate) fn set_socket_option(fd: i32, option: u32, value: u32) {
    let length = size_of::<u32>();
    passed!(
        __NR_setsockopt,
        fd,
        net::SOL_SOCKET,
        option,
        &raw const value,
        length
    );
}

pub(crate) fn epoll_create() -> Returned {
    passed!(__NR_epoll_create1, nr::EPOLL_CLOEXEC)
}

pub(crate) fn epoll_ctl(epoll: i32, operation: u32, fd: i32, event: &mut epoll_event) -> Returned {
    passed!(__NR_epoll_ctl, epoll, operation, fd, ptr::from_mut(event))
}

pub(crate) fn epoll_add(epoll: i32, fd: i32, events: u32, data: u64) -> Returned {
    epoll_ctl(
        epoll,
        nr::EPOLL_CTL_ADD,
        fd,
        &mut epoll_event { events, data },
    )
}

pub(crate) fn epoll_delete(epoll: i32, fd: i32) -> Returned {
    epoll_ctl(
        epoll,
        nr::EPOLL_CTL_DEL,
        fd,
        &mut epoll_event { events: 0, data: 0 },
    )
}

/// A time span as the kernel takes it.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct Timespec {
    pub(crate) seconds: i64,
    pub(crate) nanoseconds: i64,
}

impl Timespec {
    pub(crate) fn from_ns(ns: u64) -> Self {
        Self {
            seconds: (ns / 1_000_000_000) as i64,
            nanoseconds: (ns % 1_000_000_000) as i64,
        }
    }

    pub(crate) fn ns(self) -> u64 {
        let ns = self.seconds.saturating_mul(1_000_000_000);
        u64::try_from(ns.saturating_add(self.nanoseconds)).unwrap_or(0)
    }
}

/// Polls for at most `timeout_ns` (`None`: without a limit).
pub(crate) fn poll(fds: &mut [pollfd], timeout_ns: Option<u64>) -> Returned {
    let mut timeout = timeout_ns.map(Timespec::from_ns);
    let timeout = timeout.as_mut().map_or(ptr::null_mut(), ptr::from_mut);
    passed!(__NR_ppoll, fds.as_mut_ptr(), fds.len(), timeout, 0, 8)
}

/// What the C library makes of `poll`; see [`dup2`].
pub(crate) fn poll_for_ms(fds: *mut pollfd, count: usize, timeout_ms: i32) -> Returned {
    #[cfg(target_arch = "x86_64")]
    return passed!(__NR_poll, fds, count, timeout_ms);
    #[cfg(not(target_arch = "x86_64"))]
    {
        let timeout = u64::try_from(timeout_ms).ok();
        let mut timeout = timeout.map(|ms| Timespec::from_ns(ms * 1_000_000));
        let timeout = timeout.as_mut().map_or(ptr::null_mut(), ptr::from_mut);
        passed!(__NR_ppoll, fds, count, timeout, 0, SIGNAL_SET_BYTES)
    }
}

/// Bytes of the kernel's signal set.
pub(crate) const SIGNAL_SET_BYTES: usize = 8;

/// Waits as `epoll_pwait` does, for at most `timeout_ms` (-1: without a limit). `mask` is the
/// application's signal set, or null.
pub(crate) fn epoll_wait(
    epoll: i32,
    events: *mut epoll_event,
    count: i32,
    timeout_ms: i32,
    mask: *const u8,
) -> Returned {
    // As the C library does it; see `dup2`.
    #[cfg(target_arch = "x86_64")]
    if mask.is_null() {
        return passed!(__NR_epoll_wait, epoll, events, count, timeout_ms);
    }
    passed!(
        __NR_epoll_pwait,
        epoll,
        events,
        count,
        timeout_ms,
        mask,
        SIGNAL_SET_BYTES
    )
}

/// Two ends of a new connection that keeps packets apart; both are closed by exec.
pub(crate) fn packet_pair() -> Option<[i32; 2]> {
    let mut ends = [-1_i32; 2];
    let kind = net::SOCK_SEQPACKET | nr::O_CLOEXEC;
    let returned = passed!(__NR_socketpair, net::AF_UNIX, kind, 0, ends.as_mut_ptr());
    (returned == 0).then_some(ends)
}

/// A connection to the abstract name.
pub(crate) fn connect_abstract(name: &[u8]) -> Option<i32> {
    const OFFSET: usize = 2;
    let mut address = [0_u8; 110];
    if name.len() > address.len() - OFFSET - 1 {
        return None;
    }
    address[..OFFSET].copy_from_slice(&(net::AF_UNIX as u16).to_ne_bytes());
    address[OFFSET + 1..][..name.len()].copy_from_slice(name);
    let length = OFFSET + 1 + name.len();
    let kind = net::SOCK_SEQPACKET | nr::O_CLOEXEC | nr::O_NONBLOCK;
    let fd = passed!(__NR_socket, net::AF_UNIX, kind, 0) as i32;
    if fd < 0 {
        return None;
    }
    if passed!(__NR_connect, fd, address.as_ptr(), length) == 0 {
        return Some(fd);
    }
    close(fd);
    None
}

/// Most descriptors that a packet brings.
pub(crate) const FDS_MAX: usize = 2;
const HEADER_BYTES: usize = size_of::<net::cmsghdr>();

#[repr(C, align(8))]
struct Rights([u8; HEADER_BYTES + 8]);

fn header(bytes: &mut [u8], vector: &mut [usize; 2], rights: &mut Rights) -> net::msghdr {
    *vector = [bytes.as_mut_ptr() as usize, bytes.len()];
    // SAFETY: all fields are pointers and integers, for which zero is valid.
    let mut header: net::msghdr = unsafe { MaybeUninit::zeroed().assume_init() };
    header.msg_iov = vector.as_mut_ptr().cast();
    header.msg_iovlen = 1;
    header.msg_control = rights.0.as_mut_ptr().cast();
    header.msg_controllen = rights.0.len() as _;
    header
}

/// Sends a packet with at most [`FDS_MAX`] descriptors, without waiting.
pub(crate) fn send(socket: i32, bytes: &mut [u8], fds: &[i32]) -> Returned {
    let mut rights = Rights([0; HEADER_BYTES + 8]);
    let mut vector = [0; 2];
    let mut header = header(bytes, &mut vector, &mut rights);
    let length = HEADER_BYTES + size_of_val(fds);
    rights.0[..8].copy_from_slice(&length.to_ne_bytes());
    rights.0[8..12].copy_from_slice(&(net::SOL_SOCKET).to_ne_bytes());
    rights.0[12..16].copy_from_slice(&(net::SCM_RIGHTS).to_ne_bytes());
    for (nth, fd) in fds.iter().enumerate() {
        rights.0[HEADER_BYTES + nth * 4..][..4].copy_from_slice(&fd.to_ne_bytes());
    }
    // The kernel reads whole words of it.
    header.msg_controllen = length.next_multiple_of(8) as _;
    if fds.is_empty() {
        header.msg_control = ptr::null_mut();
        header.msg_controllen = 0;
    }
    let flags = net::MSG_DONTWAIT | net::MSG_NOSIGNAL;
    passed!(__NR_sendmsg, socket, &raw mut header, flags)
}

/// Receives a packet and the descriptors that came with it, without waiting. The descriptors are
/// closed by exec.
pub(crate) fn receive(socket: i32, bytes: &mut [u8]) -> (Returned, [Option<i32>; FDS_MAX]) {
    let mut rights = Rights([0; HEADER_BYTES + 8]);
    let mut vector = [0; 2];
    let mut header = header(bytes, &mut vector, &mut rights);
    let flags = net::MSG_DONTWAIT | net::MSG_CMSG_CLOEXEC;
    let received = passed!(__NR_recvmsg, socket, &raw mut header, flags);
    let mut fds = [None; FDS_MAX];
    let word = |at: usize| {
        let mut word = [0; 4];
        word.copy_from_slice(&rights.0[at..at + 4]);
        u32::from_ne_bytes(word)
    };
    let is_rights = received >= 0
        && header.msg_controllen >= HEADER_BYTES + 4
        && [word(8), word(12)] == [net::SOL_SOCKET, net::SCM_RIGHTS];
    if is_rights {
        let count = (word(0) as usize - HEADER_BYTES) / size_of::<i32>();
        for (nth, fd) in fds.iter_mut().enumerate().take(count) {
            *fd = Some(word(HEADER_BYTES + nth * 4) as i32);
        }
    }
    (received, fds)
}

/// A counter that epoll can watch; it is closed by exec.
pub(crate) fn event_counter() -> Returned {
    passed!(__NR_eventfd2, 0, nr::O_CLOEXEC | nr::O_NONBLOCK)
}

/// Sets such a counter to zero. Returns whether it was another number.
pub(crate) fn reset_counter(fd: i32) -> bool {
    let mut count = 0_u64;
    passed!(__NR_read, fd, &raw mut count, size_of::<u64>()) > 0
}

/// A timer that epoll can watch; it is closed by exec.
pub(crate) fn timer() -> Returned {
    let flags = nr::TFD_CLOEXEC | nr::TFD_NONBLOCK;
    passed!(__NR_timerfd_create, nr::CLOCK_MONOTONIC, flags)
}

/// Has such a timer expire after `ns`, or, if that is 0, not at all. If it has expired, that is
/// forgotten.
pub(crate) fn set_timer(fd: i32, ns: u64) {
    // Once, and not periodically.
    let times = [Timespec::from_ns(0), Timespec::from_ns(ns)];
    passed!(__NR_timerfd_settime, fd, 0, times.as_ptr(), 0);
}

pub(crate) fn write(fd: i32, bytes: &[u8]) -> Returned {
    passed!(__NR_write, fd, bytes.as_ptr(), bytes.len())
}

/// Pages: private and zeroed, or, with a file, the file's from `offset` on, shared. With `at`,
/// they take the place of what is there.
pub(crate) fn map(
    at: Option<usize>,
    bytes: usize,
    is_writable: bool,
    file: Option<(i32, usize)>,
) -> Option<*mut u8> {
    let protection = nr::PROT_READ | if is_writable { nr::PROT_WRITE } else { 0 };
    let place = if at.is_some() { nr::MAP_FIXED } else { 0 };
    let (kind, fd, offset) = match file {
        Some((fd, offset)) => (nr::MAP_SHARED, fd, offset),
        None => (nr::MAP_PRIVATE | nr::MAP_ANONYMOUS, -1, 0),
    };
    let mapped = passed!(
        __NR_mmap,
        at.unwrap_or(0),
        bytes,
        protection,
        kind | place,
        fd,
        offset
    );
    const ERRORS: core::ops::RangeInclusive<Returned> = -4095..=0;
    (!ERRORS.contains(&mapped)).then_some(mapped as *mut u8)
}

/// Has the kernel fill these pages with zeros in a process that is forked.
pub(crate) fn wipe_on_fork(pages: *mut u8, bytes: usize) -> bool {
    passed!(__NR_madvise, pages, bytes, nr::MADV_WIPEONFORK) == 0
}

/// Inode number of an open file.
pub(crate) fn inode(fd: i32) -> Option<u64> {
    // More than the kernel's `struct stat` has on any machine.
    let mut stat = [0_u64; 32];
    let returned = passed!(__NR_fstat, fd, stat.as_mut_ptr());
    // st_dev and st_ino are its first two fields, of 64 bits each.
    (returned == 0).then_some(stat[1])
}
