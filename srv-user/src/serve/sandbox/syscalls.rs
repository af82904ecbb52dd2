//! seccomp: the system calls that a worker needs, and no others.
//!
//! The kernel answers any other call with `ENOSYS`, as if it had no such call. If a newer
//! release of the C library or of std tries a call that is not listed here, it then uses
//! an older one. If the filter killed the worker instead, each such call would end a
//! worker, and a call at the start would end every worker again and again. The kernel's
//! audit log names the refused calls (`type=1326 ... syscall=N`).
//!
//! Since Linux 5.11 the kernel remembers which calls are allowed with any arguments, and
//! does not run the filter for them. A request needs no others.

use std::collections::BTreeMap;

use anyhow::{Context, bail};
use rustix::io::Errno;
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule,
};

use crate::kernel::openat2::openat2_refusal;

/// Calls that are allowed with any arguments.
const ALLOWED: &[libc::c_long] = &[
    // Connections.
    libc::SYS_accept4,
    libc::SYS_epoll_ctl,
    libc::SYS_epoll_pwait,
    libc::SYS_epoll_pwait2,
    // The address of a client, for rules that depend on it.
    libc::SYS_getpeername,
    libc::SYS_getsockopt,
    libc::SYS_ppoll,
    libc::SYS_read,
    libc::SYS_recvfrom,
    libc::SYS_sendto,
    libc::SYS_write,
    libc::SYS_writev,
    // The channel, over which the master sends new listeners.
    libc::SYS_recvmsg,
    libc::SYS_sendmsg,
    // Files; Landlock decides which ones.
    libc::SYS_close,
    libc::SYS_fstat,
    libc::SYS_newfstatat,
    libc::SYS_openat2,
    libc::SYS_pread64,
    libc::SYS_readlinkat,
    libc::SYS_statx,
    // Memory. `conditional` has the calls that could make it executable.
    libc::SYS_brk,
    libc::SYS_madvise,
    libc::SYS_mremap,
    libc::SYS_munmap,
    // Time.
    libc::SYS_clock_getres,
    libc::SYS_clock_gettime,
    libc::SYS_clock_nanosleep,
    libc::SYS_gettimeofday,
    libc::SYS_nanosleep,
    libc::SYS_restart_syscall,
    // What C library and std do on their own.
    libc::SYS_futex,
    libc::SYS_getpid,
    libc::SYS_getrandom,
    libc::SYS_gettid,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_sched_getaffinity,
    libc::SYS_sched_yield,
    libc::SYS_sigaltstack,
    libc::SYS_exit,
    libc::SYS_exit_group,
];

/// Older forms of these calls, which newer architectures do not have.
#[cfg(target_arch = "x86_64")]
const ALLOWED_OLD: &[libc::c_long] = &[libc::SYS_epoll_wait, libc::SYS_poll];
#[cfg(not(target_arch = "x86_64"))]
const ALLOWED_OLD: &[libc::c_long] = &[];

const PROT_EXEC: u64 = libc::PROT_EXEC as u64;
const SET_TIMER_SLACK: u64 = libc::PR_SET_TIMERSLACK as u64;
const SHUT_WR: u64 = libc::SHUT_WR as u64;
const SOL_SOCKET: u64 = libc::SOL_SOCKET as u64;
const SO_LINGER: u64 = libc::SO_LINGER as u64;
const IPPROTO_TCP: u64 = libc::IPPROTO_TCP as u64;
const TCP_NODELAY: u64 = libc::TCP_NODELAY as u64;
/// The same number as `TIOCOUTQ` (include/uapi/linux/sockios.h).
const SIOCOUTQ: u64 = libc::TIOCOUTQ;

/// A condition on one argument: its number, and which bits of it must have which value.
type Argument = (u8, SeccompCmpOp, u64);

/// Calls that are allowed only if all of their conditions hold. A call may be listed more
/// than once.
///
/// A worker holds the listeners of all its siblings, and descriptors that it shares with
/// the master (standard error). It must not change the *description* behind a descriptor,
/// because that would change it for other processes. If a worker shuts a listener down
/// for reading, the listener ends for all. `SO_DETACH_REUSEPORT_BPF` and filters affect
/// the whole group. Flags (`F_SETFL`) and the receiver of signals (`F_SETOWN`, `F_SETSIG`)
/// affect every process that has the description.
fn conditional(this_process: u64) -> Vec<(libc::c_long, Vec<Argument>)> {
    let is = |argument, value| (argument, SeccompCmpOp::Eq, value);
    let without = |argument, bits| (argument, SeccompCmpOp::MaskedEq(bits), 0);
    vec![
        (libc::SYS_mmap, vec![without(2, PROT_EXEC)]),
        (libc::SYS_mprotect, vec![without(2, PROT_EXEC)]),
        // The worker may change its own limits, not those of another process.
        (libc::SYS_prlimit64, vec![is(0, 0)]),
        (libc::SYS_prctl, vec![is(0, SET_TIMER_SLACK)]),
        // `abort` sends a signal to its own process.
        (libc::SYS_tgkill, vec![is(0, this_process)]),
        (libc::SYS_tkill, vec![is(0, this_process)]),
        // A worker ends a connection by it. On a listener, shutting down this half has no
        // effect.
        (libc::SYS_shutdown, vec![is(1, SHUT_WR)]),
        // A worker resets a connection by it. Accepted sockets inherit the option from a
        // listener, so the master checks whether a listener has it.
        (
            libc::SYS_setsockopt,
            vec![is(1, SOL_SOCKET), is(2, SO_LINGER)],
        ),
        // In debug builds, std checks by F_GETFD that a descriptor is open before it closes it.
        // F_DUPFD_CLOEXEC duplicates one.
        (libc::SYS_fcntl, vec![is(1, libc::F_GETFD as u64)]),
        (libc::SYS_fcntl, vec![is(1, libc::F_GETFL as u64)]),
        (libc::SYS_fcntl, vec![is(1, libc::F_DUPFD_CLOEXEC as u64)]),
        // The log writer checks by it that memory which it maps cannot become smaller.
        (libc::SYS_fcntl, vec![is(1, libc::F_GET_SEALS as u64)]),
        // How many bytes the client has not acknowledged yet.
        (libc::SYS_ioctl, vec![is(1, SIOCOUTQ)]),
    ]
}

/// Calls that a worker makes if a route has `fastcgi`: for a connection to an application, to learn the
/// addresses that the application is told, and to keep a body until its length is known. The file for
/// that is open already; no call here opens one.
fn of_applications() -> Vec<(libc::c_long, Vec<Argument>)> {
    let is = |argument, value| (argument, SeccompCmpOp::Eq, value);
    let stream = (libc::SOCK_STREAM | libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC) as u64;
    let families = [libc::AF_UNIX, libc::AF_INET, libc::AF_INET6];
    let sockets =
        families.map(|family| (libc::SYS_socket, vec![is(0, family as u64), is(1, stream)]));
    let hole = (libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE) as u64;
    let mut calls = sockets.to_vec();
    calls.extend([
        // Landlock decides which ports. A socket in the file system has its own permissions.
        (libc::SYS_connect, Vec::new()),
        (libc::SYS_getpeername, Vec::new()),
        (libc::SYS_getsockname, Vec::new()),
        // A body is written at its place in the file, and becomes a hole when it is sent.
        (libc::SYS_pwrite64, Vec::new()),
        (libc::SYS_fallocate, vec![is(1, hole)]),
        // Records are written as they come, and must not wait for one another.
        (
            libc::SYS_setsockopt,
            vec![is(1, IPPROTO_TCP), is(2, TCP_NODELAY)],
        ),
    ]);
    calls
}

/// From now on this thread can make the listed system calls and no others. If it is to ask
/// applications, these include the ones of [`of_applications`]. Returns
/// whether the kernel can filter system calls.
///
/// # Errors
/// What the kernel says, other than that it cannot filter system calls.
pub fn allow_few(asks_applications: bool) -> anyhow::Result<bool> {
    let filter = filter(asks_applications)?;
    let program = libc::sock_fprog {
        len: filter.len() as u16,
        filter: filter.as_ptr().cast_mut().cast(),
    };
    // With the flag, the kernel logs refusals; seccompiler's own installer does not set it.
    // SAFETY: the kernel copies the program, which lives until then, and changes
    // nothing in this process's memory.
    let refused = unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            libc::SECCOMP_SET_MODE_FILTER,
            libc::SECCOMP_FILTER_FLAG_LOG,
            &raw const program,
        )
    };
    if refused == 0 {
        return Ok(true);
    }
    let error = std::io::Error::last_os_error();
    match Errno::from_io_error(&error) {
        // The kernel is built without seccomp filters, or is older than Linux 4.14.
        Some(Errno::INVAL | Errno::NOSYS) => Ok(false),
        _ => bail!(error),
    }
}

/// Whether [`allow_few`] works here. A thread restricts itself to find out, and ends.
pub fn can_filter() -> bool {
    let restricted = std::thread::spawn(|| {
        rustix::thread::set_no_new_privs(true)?;
        allow_few(false)
    });
    matches!(restricted.join(), Ok(Ok(true)))
}

fn filter(asks_applications: bool) -> anyhow::Result<BpfProgram> {
    let always = ALLOWED.iter().chain(ALLOWED_OLD);
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> =
        always.map(|call| (*call, Vec::new())).collect();
    let mut conditional = conditional(std::process::id().into());
    if asks_applications {
        conditional.extend(of_applications());
    }
    for (call, arguments) in conditional {
        if arguments.is_empty() {
            rules.insert(call, Vec::new());
            continue;
        }
        let conditions = arguments.into_iter().map(|(argument, operator, value)| {
            SeccompCondition::new(argument, SeccompCmpArgLen::Dword, operator, value)
        });
        let conditions = conditions.collect::<Result<_, _>>()?;
        rules
            .entry(call)
            .or_default()
            .push(SeccompRule::new(conditions)?);
    }
    if openat2_refusal().is_some() {
        // `openat` replaces `openat2`, for reading only.
        let changes = libc::O_ACCMODE | libc::O_CREAT | libc::O_TRUNC;
        let reads = SeccompCmpOp::MaskedEq(changes as u64);
        let reads = SeccompCondition::new(2, SeccompCmpArgLen::Dword, reads, 0)?;
        rules.insert(libc::SYS_openat, vec![SeccompRule::new(vec![reads])?]);
    }
    let otherwise = SeccompAction::Errno(libc::ENOSYS as u32);
    let architecture = std::env::consts::ARCH.try_into();
    let architecture = architecture.context("compile a filter for this architecture")?;
    let filter = SeccompFilter::new(rules, otherwise, SeccompAction::Allow, architecture)?;
    Ok(filter.try_into()?)
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::time::Duration;

    use rustix::mm::{MapFlags, ProtFlags, mmap_anonymous};
    use rustix::net::{
        AddressFamily, SocketAddrUnix, SocketFlags, SocketType, socket, socket_with,
    };

    use super::*;
    use crate::gate;

    /// Only the thread that asks for it is restricted.
    #[test]
    fn what_a_worker_does_goes_on_and_nothing_else() {
        let confined = std::thread::spawn(|| {
            rustix::thread::set_no_new_privs(true).unwrap();
            let is_confined = allow_few(false).unwrap().then_some(());
            let is_confined = is_confined.ok_or("this kernel has no seccomp filters".into());
            if !gate::can("filter system calls", is_confined) {
                return;
            }
            let large = vec![1u8; 1 << 20];
            assert_eq!(
                large.iter().map(|byte| usize::from(*byte)).sum::<usize>(),
                1 << 20
            );
            std::thread::sleep(Duration::from_millis(1));
            let no_such_call = [
                File::open("/etc/passwd").map(drop).unwrap_err(),
                std::process::Command::new("true")
                    .spawn()
                    .map(drop)
                    .unwrap_err(),
                socket(AddressFamily::INET, SocketType::STREAM, None)
                    .unwrap_err()
                    .into(),
                rustix::process::kill_process(
                    rustix::process::getpid(),
                    rustix::process::Signal::TERM,
                )
                .unwrap_err()
                .into(),
                executable().unwrap_err().into(),
            ];
            for error in no_such_call {
                assert_eq!(error.raw_os_error(), Some(libc::ENOSYS), "{error}");
            }
        });
        confined.join().unwrap();
    }

    /// Only the thread that asks for it is restricted.
    #[test]
    fn who_asks_applications_connects_and_does_not_listen() {
        let confined = std::thread::spawn(|| {
            rustix::thread::set_no_new_privs(true).unwrap();
            let is_confined = allow_few(true).unwrap().then_some(());
            let is_confined = is_confined.ok_or("this kernel has no seccomp filters".into());
            if !gate::can("filter system calls", is_confined) {
                return;
            }
            let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
            let of = |family, kind| socket_with(family, kind, flags, None);
            let nowhere = SocketAddrUnix::new("/nowhere/at/all").unwrap();
            let unix = of(AddressFamily::UNIX, SocketType::STREAM).unwrap();
            assert_eq!(rustix::net::connect(&unix, &nowhere), Err(Errno::NOENT));
            let tcp = of(AddressFamily::INET, SocketType::STREAM).unwrap();
            rustix::net::sockopt::set_tcp_nodelay(&tcp, true).unwrap();
            let refused = [
                of(AddressFamily::INET, SocketType::DGRAM).map(drop),
                of(AddressFamily::NETLINK, SocketType::STREAM).map(drop),
                rustix::net::bind(&unix, &nowhere),
                rustix::net::listen(&tcp, 1),
                rustix::net::sockopt::set_socket_reuseport(&tcp, true),
            ];
            assert_eq!(refused, [Err(Errno::NOSYS); 5]);
        });
        confined.join().unwrap();
    }

    /// A panic ends with an abort. A process of its own tries it.
    #[test]
    fn a_confined_process_can_abort() {
        use std::os::unix::process::ExitStatusExt;
        const MARK: &str = "SRV_TEST_ABORT";
        if std::env::var_os(MARK).is_some() {
            rustix::thread::set_no_new_privs(true).unwrap();
            allow_few(false).unwrap();
            std::process::abort();
        }
        let mut this = std::process::Command::new(std::env::current_exe().unwrap());
        let thread = std::thread::current();
        let name = thread.name().expect("named after the test");
        let output = this
            .args(["--exact", name])
            .env(MARK, "1")
            .output()
            .unwrap();
        assert_eq!(output.status.signal(), Some(libc::SIGABRT), "{output:?}");
    }

    fn executable() -> rustix::io::Result<()> {
        let rights = ProtFlags::READ | ProtFlags::EXEC;
        // SAFETY: this is a new mapping, and nothing uses it.
        unsafe { mmap_anonymous(std::ptr::null_mut(), 4096, rights, MapFlags::PRIVATE) }.map(drop)
    }
}
