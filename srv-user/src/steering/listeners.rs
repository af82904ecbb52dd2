//! The listener group of one address: its sockets, bound and listening. Knows
//! nothing of who accepts from them.

use std::io;
use std::mem::MaybeUninit;
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::MetadataExt;
use std::time::Duration;

use anyhow::{Context, anyhow, ensure};
use rustix::process::Pid;
use socket2::{Domain, Protocol, SockFilter, Socket, Type};

use crate::kernel::owners::Owners;
use crate::kernel::sock_diag::SockDiag;
use crate::steering::accept_mode::AcceptMode;
use crate::steering::options::GroupOptions;

/// Sockets bound to one address.
pub struct ListenerGroup {
    /// The address, with the port that the kernel chose if 0 was asked for.
    pub address: SocketAddr,
    /// One socket per worker, or one for all ([`AcceptMode::has_own_listeners`]).
    /// None is closed while the server serves: what waits there would be reset.
    pub sockets: Vec<Socket>,
    /// New SYNs are dropped.
    pub is_closed: bool,
    /// The first so many are a socket unit's: systemd keeps them by itself.
    pub activated: usize,
    /// The first so many outlive this process: the socket unit's, and those in
    /// systemd's store.
    pub kept: usize,
}

/// Somebody else may have the sockets, too: a successor, systemd.
impl Drop for ListenerGroup {
    fn drop(&mut self) {
        if self.is_closed {
            self.readmit();
        }
    }
}

/// How long a worker may sit in a blocking `accept` before it looks at its channel.
const BLOCKING_ACCEPT_PATIENCE: Duration = Duration::from_millis(100);

/// The kernel waits this long for a connection's first bytes before it hands
/// the connection over without them (rounded to SYN-ACK retransmissions).
const DEFER_ACCEPT_SECONDS: i32 = 1;

impl ListenerGroup {
    /// No listener yet.
    pub fn empty(address: SocketAddr) -> Self {
        Self {
            address,
            sockets: Vec::new(),
            is_closed: false,
            activated: 0,
            kept: 0,
        }
    }

    /// Whether all of it outlives this process.
    pub fn is_kept(&self) -> bool {
        self.kept == self.sockets.len()
    }

    /// Binds `address` and listens.
    ///
    /// # Errors
    /// If the address is taken (by anybody, one's own uid included: the kernel
    /// would let a second server join the group and take a share of its
    /// connections), not local, or forbidden.
    pub fn bind(address: SocketAddr, options: &GroupOptions) -> anyhow::Result<Self> {
        let own = options.accept.has_own_listeners();
        let count = if own { options.workers } else { 1 };
        refuse_if_taken(address, options)?;
        let mut group = Self::empty(address);
        group.grow(count, options)?;
        Ok(group)
    }

    /// Checks listeners that were inherited, and makes them enough.
    ///
    /// # Errors
    /// If they were made for another accept mode.
    pub fn inherit(mut self, options: &GroupOptions) -> anyhow::Result<Self> {
        let own = options.accept.has_own_listeners();
        let shared = self
            .sockets
            .iter()
            .any(|socket| !socket.reuse_port().unwrap_or(false));
        ensure!(
            own != shared,
            "the listeners of {} were made for another accept mode than {}: stop and start anew \
             (a systemd socket unit needs ReusePort=yes for ring and own, and ReusePort=no else)",
            self.address,
            options.accept.name()
        );
        for socket in &self.sockets {
            configure(socket, options)?;
        }
        // Whoever had them may have been killed while it stopped.
        self.readmit();
        if own {
            self.grow(options.workers, options)?;
        }
        Ok(self)
    }

    fn readmit(&self) {
        for socket in &self.sockets {
            // Most have no filter.
            let _ = socket.detach_filter();
        }
    }

    /// Binds more sockets to the address, up to `count`.
    ///
    /// # Errors
    /// As [`Self::bind`]; there are then as many as before.
    pub fn grow(&mut self, count: u32, options: &GroupOptions) -> anyhow::Result<()> {
        let own = options.accept.has_own_listeners();
        let mut more = Vec::new();
        for _ in self.sockets.len()..count as usize {
            let socket = new_socket(self.address, options)?;
            // Before bind: only then is it part of a group.
            socket.set_reuse_port(own).context("set SO_REUSEPORT")?;
            bind_and_listen(&socket, self.address, options.backlog)?;
            self.address = local_address(&socket)?;
            more.push(socket);
        }
        self.sockets.append(&mut more);
        Ok(())
    }

    /// From now on new SYNs are dropped unanswered, while handshakes that have
    /// begun complete and the accept queues stay: a client's retransmission a
    /// second later meets the successor, or a refusal.
    ///
    /// # Errors
    /// What `SO_ATTACH_FILTER` says.
    pub fn stop_new_connections(&mut self) -> io::Result<()> {
        self.is_closed = true;
        self.sockets.iter().try_for_each(drop_syns)
    }
}

/// Has the kernel drop SYNs that come to `socket`.
///
/// # Errors
/// What `SO_ATTACH_FILTER` says.
pub fn drop_syns(socket: &Socket) -> io::Result<()> {
    // Classic BPF over the TCP header: a SYN without ACK gets 0 bytes.
    const LOAD_FLAGS: SockFilter = SockFilter::new(0x30, 0, 0, 13);
    const KEEP_SYN_AND_ACK: SockFilter = SockFilter::new(0x54, 0, 0, 0x12);
    const IF_SYN_ONLY: SockFilter = SockFilter::new(0x15, 0, 1, 0x02);
    const DROP: SockFilter = SockFilter::new(0x06, 0, 0, 0);
    const PASS: SockFilter = SockFilter::new(0x06, 0, 0, u32::MAX);
    socket.attach_filter(&[LOAD_FLAGS, KEEP_SYN_AND_ACK, IF_SYN_ONLY, DROP, PASS])
}

fn new_socket(address: SocketAddr, options: &GroupOptions) -> anyhow::Result<Socket> {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::STREAM,
        Some(Protocol::TCP),
    )
    .with_context(|| format!("create a socket for {address}"))?;
    socket.set_reuse_address(true).context("set SO_REUSEADDR")?;
    if address.is_ipv6() {
        socket
            .set_only_v6(options.v6_only)
            .context("set IPV6_V6ONLY")?;
    }
    configure(&socket, options)?;
    Ok(socket)
}

/// Everything that can be set on a socket that listens already.
fn configure(socket: &Socket, options: &GroupOptions) -> anyhow::Result<()> {
    // Accepted connections inherit it: no setsockopt for each of them.
    socket.set_tcp_nodelay(true).context("set TCP_NODELAY")?;
    set_tcp_option(socket, libc::TCP_DEFER_ACCEPT, DEFER_ACCEPT_SECONDS)
        .context("set TCP_DEFER_ACCEPT")?;
    if options.fast_open > 0 {
        set_tcp_option(socket, libc::TCP_FASTOPEN, options.fast_open as i32)
            .context("set TCP_FASTOPEN")?;
    }
    if options.accept == AcceptMode::Blocking {
        let patience = Some(BLOCKING_ACCEPT_PATIENCE);
        socket
            .set_read_timeout(patience)
            .context("set SO_RCVTIMEO")?;
    } else {
        socket
            .set_nonblocking(true)
            .context("make a listener non-blocking")?;
    }
    Ok(())
}

fn bind_and_listen(socket: &Socket, address: SocketAddr, backlog: u32) -> anyhow::Result<()> {
    socket
        .bind(&address.into())
        .map_err(|error| explain_bind(address, error))?;
    let backlog = i32::try_from(backlog).unwrap_or(i32::MAX);
    socket
        .listen(backlog)
        .map_err(|error| explain_bind(address, error))
}

/// Without SO_REUSEPORT a bind fails wherever somebody else listens.
fn refuse_if_taken(address: SocketAddr, options: &GroupOptions) -> anyhow::Result<()> {
    if address.port() == 0 {
        return Ok(());
    }
    let probe = new_socket(address, options)?;
    bind_and_listen(&probe, address, 1).map_err(|error| match could_join(address, options) {
        true => anyhow!(
            "{error:#}; the kernel would have let this server in, since what listens there has \
             the same user and set SO_REUSEPORT as this one would: it would get a share of the \
             other's connections, and the other's program would not know of it; {}",
            way_in(address)
        ),
        false => error,
    })
}

/// How to share the address with the server that has it.
fn way_in(address: SocketAddr) -> String {
    let holder = holder(address);
    let name = holder.as_ref().map(|(name, _)| name.as_str());
    match (name, &holder) {
        (Some("srv"), _) => "with --join it adds its workers to the other's".into(),
        (_, Some((name, pid))) => format!(
            "it is {name}, process {pid}: `srv attach --listen {address}` steers that server \
             from outside"
        ),
        (_, None) => "if it is srv, --join adds this one's workers to the other's".into(),
    }
}

/// Name and number of a process that has a listener on the address, if it can be seen.
fn holder(address: SocketAddr) -> Option<(String, Pid)> {
    let listeners = SockDiag::open(None).ok()?.listeners_on(address).ok()?;
    let inodes = listeners.iter().map(|listener| listener.inode).collect();
    let owners = Owners::of(&inodes).owners;
    let owner = owners.into_iter().next()?;
    Some((owner.command, owner.pid))
}

/// Whether a bind succeeds with SO_REUSEPORT; without a listen that takes nothing.
fn could_join(address: SocketAddr, options: &GroupOptions) -> bool {
    let own = options.accept.has_own_listeners();
    new_socket(address, options).is_ok_and(|socket| {
        own && socket.set_reuse_port(true).is_ok() && socket.bind(&address.into()).is_ok()
    })
}

fn explain_bind(address: SocketAddr, error: io::Error) -> anyhow::Error {
    let mend = match error.kind() {
        io::ErrorKind::AddrInUse => {
            let port = address.port();
            format!(
                "; `ss -ltnp 'sport = :{port}'` shows who listens there: stop it, or pass another --listen"
            )
        }
        io::ErrorKind::AddrNotAvailable => {
            "; `ip address` lists the addresses of this machine".to_string()
        }
        io::ErrorKind::PermissionDenied => {
            "; ports below net.ipv4.ip_unprivileged_port_start need CAP_NET_BIND_SERVICE"
                .to_string()
        }
        _ => String::new(),
    };
    anyhow!("listen on {address}: {error}{mend}")
}

fn local_address(socket: &Socket) -> anyhow::Result<SocketAddr> {
    let address = socket
        .local_addr()
        .context("ask for a listener's address")?;
    address.as_socket().context("a listener has no IP address")
}

/// A listening socket as the kernel sees it.
pub struct ListenerInfo {
    /// Inode number.
    pub inode: u64,
    /// `SO_COOKIE`.
    pub cookie: u64,
    /// Connections in the accept queue.
    pub queued: u32,
    /// Limit of the accept queue.
    pub backlog: u32,
}

impl ListenerInfo {
    /// Asks the kernel.
    ///
    /// # Errors
    /// If `socket` is no socket.
    pub fn of(socket: &Socket) -> anyhow::Result<Self> {
        let file = std::fs::File::from(socket.as_fd().try_clone_to_owned()?);
        let (queued, backlog) = accept_queue(socket).context("read TCP_INFO of a listener")?;
        Ok(Self {
            inode: file.metadata().context("stat a listener")?.ino(),
            cookie: socket.cookie().context("read SO_COOKIE of a listener")?,
            queued,
            backlog,
        })
    }
}

/// Length and limit of a listener's accept queue. (For a listener TCP_INFO
/// reports them as tcpi_unacked and tcpi_sacked: tcp_get_info, net/ipv4/tcp.c.)
///
/// # Errors
/// What `getsockopt` says.
pub fn accept_queue(socket: impl AsFd) -> io::Result<(u32, u32)> {
    let mut info = MaybeUninit::<libc::tcp_info>::zeroed();
    let mut length = size_of::<libc::tcp_info>() as libc::socklen_t;
    // SAFETY: the buffer is as long as `length` says, and zero is a valid
    // value of each field that an older kernel leaves out.
    let info = unsafe {
        let buffer = info.as_mut_ptr().cast();
        let (level, option) = (libc::IPPROTO_TCP, libc::TCP_INFO);
        if libc::getsockopt(
            socket.as_fd().as_raw_fd(),
            level,
            option,
            buffer,
            &mut length,
        ) != 0
        {
            return Err(io::Error::last_os_error());
        }
        info.assume_init()
    };
    Ok((info.tcpi_unacked, info.tcpi_sacked))
}

/// For the TCP options that socket2 does not know.
fn set_tcp_option(socket: &Socket, option: i32, value: i32) -> io::Result<()> {
    let length = size_of_val(&value) as libc::socklen_t;
    let value = std::ptr::from_ref(&value).cast();
    // SAFETY: `value` points to an int of `length` bytes.
    match unsafe { libc::setsockopt(socket.as_raw_fd(), libc::IPPROTO_TCP, option, value, length) }
    {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
