//! The program that records when connections were established: what it has to know of the running
//! kernel, how it is loaded and attached, and which connections it records. Knows nothing of
//! steering.

use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd};
use std::{io, mem};

use aya::Btf;
use aya::programs::{BtfTracePoint, ProgramError};
use socket2::Socket;
use srv_common::established::{Recorded, SocketOffsets};

use super::SelectProgram;
use crate::btf;
use crate::error::{Error, ErrorKind, Result, Tried as _};

/// The name of the program's constant.
pub(super) const OFFSETS: &str = "SOCKET_OFFSETS";
/// The program.
const PROGRAM: &str = "record_established";
/// `include/trace/events/sock.h`.
const TRACEPOINT: &str = "inet_sock_set_state";

/// Where the running kernel keeps what the program reads.
///
/// # Errors
/// The kernel has no type information, or lacks a field; the error names it.
pub(super) fn offsets() -> Result<SocketOffsets> {
    let kernel = btf::Btf::of_kernel()?;
    let common = |field: &str| kernel.offset(&format!("sock.__sk_common.{field}"));
    Ok(SocketOffsets {
        family: common("skc_family")?,
        port: common("skc_num")?,
        client_port: common("skc_dport")?,
        address_v4: common("skc_rcv_saddr")?,
        client_v4: common("skc_daddr")?,
        address_v6: common("skc_v6_rcv_saddr")?,
        client_v6: common("skc_v6_daddr")?,
        namespace: common("skc_net.net")?,
        cookie: kernel.offset("net.net_cookie")?,
        socket: kernel.offset("sock.sk_socket")?,
    })
}

/// The recording program, as far as this process has it.
pub(super) enum Recorder {
    /// The kernel does not run it yet.
    Detached,
    /// The kernel runs it while any process has this link of it open.
    Attached(OwnedFd),
    /// There is none.
    Missing(Error),
}

impl Recorder {
    /// The one that another process has attached.
    pub(super) fn adopted(link: Option<OwnedFd>) -> Self {
        let why = "the server that this one follows had no program that records";
        link.map_or_else(
            || Self::Missing(Error::new(ErrorKind::Program, why)),
            Self::Attached,
        )
    }

    /// The link, if it is attached.
    pub(super) fn link(&self) -> Option<BorrowedFd<'_>> {
        match self {
            Self::Attached(link) => Some(link.as_fd()),
            Self::Detached | Self::Missing(_) => None,
        }
    }
}

impl SelectProgram {
    /// Has the kernel record when the connections of the listeners at `address` are established, of
    /// which `listener` is one: `recorded` is in the memory of this program. If that is not possible,
    /// steering goes on without it ([`Self::why_not_recording`]).
    pub fn start_recording(&mut self, recorded: &Recorded, address: SocketAddr, listener: &Socket) {
        if !matches!(self.recorder, Recorder::Detached) {
            return;
        }
        let started = record(recorded, address, listener).and_then(|()| {
            let program = self.recording_program(PROGRAM)?;
            let fd = program
                .fd()
                .map_err(|error| super::refused(PROGRAM, &error))?;
            let tried = format!("attach the program {PROGRAM} to the tracepoint {TRACEPOINT}");
            open_link(fd.as_fd()).tried(ErrorKind::Program, tried)
        });
        self.recorder = started.map_or_else(
            |error| {
                recorded.port.set(0);
                Recorder::Missing(error)
            },
            Recorder::Attached,
        );
    }

    /// Has the kernel record no more, unless another process has the program attached, too.
    pub fn stop_recording(&mut self, recorded: &Recorded) {
        recorded.port.set(0);
        if matches!(self.recorder, Recorder::Attached(_)) {
            self.recorder = Recorder::Detached;
        }
    }

    /// Why it is not recorded when connections are established, if it is not.
    pub fn why_not_recording(&self) -> Option<String> {
        match &self.recorder {
            Recorder::Detached => Some("it is not recorded for listeners that come and go".into()),
            Recorder::Attached(_) => None,
            Recorder::Missing(why) => Some(why.to_string()),
        }
    }

    /// The recording program, loaded: `record_established`, or `empty_established` for benches.
    ///
    /// # Errors
    /// If there is none, or the kernel refuses it.
    pub fn recording_program(&mut self, name: &str) -> Result<&mut BtfTracePoint> {
        let tried = format!("load the program {name} (needs CAP_BPF and CAP_PERFMON)");
        let missing = || Error::new(ErrorKind::Program, tried.clone());
        let refused = |error: &(dyn std::error::Error + 'static)| super::refused(&tried, error);
        let program = self.ebpf.as_mut().and_then(|ebpf| ebpf.program_mut(name));
        let program: &mut BtfTracePoint = { program.ok_or_else(missing)?.try_into() }
            .map_err(|error: ProgramError| refused(&error))?;
        if program.fd().is_err() {
            let kernel = Btf::from_sys_fs().map_err(|error| refused(&error))?;
            let loaded = program.load(TRACEPOINT, &kernel);
            loaded.map_err(|error| refused(&error))?;
        }
        Ok(program)
    }
}

/// Attaches a loaded program to its tracepoint. (aya attaches it, too, but gives no access to the
/// file descriptor of the link, which another process must have if this one ends.)
fn open_link(program: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    /// `BPF_RAW_TRACEPOINT_OPEN` (include/uapi/linux/bpf.h).
    const RAW_TRACEPOINT_OPEN: libc::c_long = 17;
    /// The part of `union bpf_attr` that the command reads. A program of this type has its
    /// tracepoint since it was loaded, and names none.
    #[repr(C)]
    struct Attributes {
        name: u64,
        program: u32,
        _pad: u32,
    }
    let attributes = Attributes {
        name: 0,
        program: program.as_raw_fd() as u32,
        _pad: 0,
    };
    // SAFETY: the kernel reads as many bytes as `attributes` has.
    let fd = unsafe {
        let (at, bytes) = (&raw const attributes, mem::size_of::<Attributes>());
        libc::syscall(libc::SYS_bpf, RAW_TRACEPOINT_OPEN, at, bytes)
    };
    match fd {
        0.. => {
            // SAFETY: the kernel has just opened it for this process.
            Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
        }
        _ => Err(io::Error::last_os_error()),
    }
}

/// Has the program record the connections of the listeners at `address`, of which `listener` is one.
///
/// # Errors
/// The kernel does not tell the listener's network namespace.
fn record(recorded: &Recorded, address: SocketAddr, listener: &Socket) -> Result<()> {
    let tried = "ask for a listener's network namespace (this needs Linux 5.14)";
    let namespace = network_namespace(listener).tried(ErrorKind::Socket, tried)?;
    let (family, words) = match address.ip() {
        IpAddr::V4(ip) => (libc::AF_INET, [u32::from_ne_bytes(ip.octets()).into(), 0]),
        IpAddr::V6(ip) => {
            let octets = ip.octets();
            let word = |at| u64::from_ne_bytes(std::array::from_fn(|nth| octets[at + nth]));
            (libc::AF_INET6, [word(0), word(8)])
        }
    };
    recorded.namespace.set(namespace);
    recorded.family.set(family as u32);
    recorded
        .any_address
        .set(address.ip().is_unspecified().into());
    recorded
        .address
        .iter()
        .zip(words)
        .for_each(|(to, word)| to.set(word));
    recorded.port.set(address.port().into());
    Ok(())
}

/// The number that the kernel gave to the network namespace of a socket.
fn network_namespace(socket: &Socket) -> io::Result<u64> {
    const SO_NETNS_COOKIE: libc::c_int = 71;
    let mut cookie = 0u64;
    let mut length = mem::size_of::<u64>() as libc::socklen_t;
    // SAFETY: the kernel writes at most `length` bytes to `cookie`.
    let failed = unsafe {
        let to = (&raw mut cookie).cast();
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            SO_NETNS_COOKIE,
            to,
            &raw mut length,
        )
    };
    match failed {
        0 => Ok(cookie),
        _ => Err(io::Error::last_os_error()),
    }
}
