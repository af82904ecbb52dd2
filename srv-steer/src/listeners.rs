//! The listeners of one address: sockets that are bound and listen. Knows nothing of the
//! processes that accept from them.

mod by_slot;

use std::io;
use std::mem::MaybeUninit;
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::MetadataExt;
use std::time::Duration;

use socket2::{Domain, Protocol, SockFilter, Socket, Type};

use crate::accept_mode::AcceptMode;
use crate::error::{Error, ErrorKind, Result, Tried as _};
use crate::options::GroupOptions;
use crate::socket_options::set_socket_option;
pub use by_slot::Sockets;

/// Sockets bound to one address.
pub struct ListenerGroup {
    /// The address, with the port that the kernel chose if 0 was asked for.
    pub address: SocketAddr,
    /// One socket per worker, or one for all ([`AcceptMode::has_own_listeners`]).
    /// While the server serves, none is closed, because that would reset what waits there.
    pub sockets: Sockets,
    /// Whether new SYNs are dropped.
    pub is_closed: bool,
    /// So many of the sockets, from the first on, were passed by a service manager, which keeps
    /// them by itself.
    pub activated: usize,
    /// So many of the sockets, from the first on, outlive this process, because a service manager
    /// has them, too.
    pub kept: usize,
}

/// Other processes, such as a successor or systemd, may have the sockets, too.
impl Drop for ListenerGroup {
    fn drop(&mut self) {
        if self.is_closed {
            self.readmit();
        }
    }
}

/// How long a worker waits in a blocking `accept` on a shared listener, so that it can look at
/// other things.
const BLOCKING_ACCEPT_TIMEOUT: Duration = Duration::from_millis(100);

/// The kernel waits this long for a connection's first bytes before it hands
/// the connection over without them (rounded to SYN-ACK retransmissions).
const DEFER_ACCEPT_SECONDS: i32 = 1;

impl ListenerGroup {
    /// No listener yet.
    pub fn empty(address: SocketAddr) -> Self {
        Self {
            address,
            sockets: Sockets::default(),
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
    /// If the address is not local or forbidden, or if another socket has it, even one of the same
    /// user: the kernel would let a second server join the group, and that server would get a share
    /// of the first one's connections.
    pub fn bind(address: SocketAddr, options: &GroupOptions) -> Result<Self> {
        let own = options.accept.has_own_listeners();
        let count = if own { options.workers } else { 1 };
        refuse_if_taken(address, options)?;
        let mut group = Self::empty(address);
        group.grow(count, options)?;
        Ok(group)
    }

    /// Listeners of one address that exist already, as they are.
    ///
    /// # Errors
    /// If there is none, or they have no IP address, or not the same.
    pub fn of_existing(sockets: Vec<Socket>) -> Result<Self> {
        let tried = "form a group of existing listeners";
        let Some(first) = sockets.first() else {
            let error = Error::new(ErrorKind::Socket, format!("{tried}: there is none"));
            return Err(error.remedy("pass one listener for each worker"));
        };
        let address = local_address(first)?;
        for socket in &sockets {
            let other = local_address(socket)?;
            if other != address {
                let why = format!("{tried}: they listen on {address} and on {other}");
                let error = Error::new(ErrorKind::Socket, why);
                return Err(error.remedy("make a group of each address"));
            }
        }
        let mut group = Self::empty(address);
        group.sockets = sockets.into_iter().collect();
        Ok(group)
    }

    /// Checks listeners that were inherited, and adds those that are missing.
    ///
    /// # Errors
    /// If they were made for another accept mode.
    pub fn inherit(mut self, options: &GroupOptions) -> Result<Self> {
        let own = options.accept.has_own_listeners();
        let shared = self
            .sockets
            .iter()
            .any(|socket| !socket.reuse_port().unwrap_or(false));
        if own == shared {
            let tried = format!(
                "the listeners of {} were made for another accept mode than {}: stop and start \
                 anew (a systemd socket unit needs ReusePort=yes for ring and own, and \
                 ReusePort=no else)",
                self.address,
                options.accept.name()
            );
            return Err(Error::new(ErrorKind::AcceptMode, tried));
        }
        for socket in &self.sockets {
            configure(socket, options)?;
        }
        // The process that had them may have been killed while it stopped.
        self.readmit();
        if own {
            self.grow(options.workers, options)?;
        }
        Ok(self)
    }

    fn readmit(&self) {
        for socket in &self.sockets {
            // Most sockets have no filter, which is an error to the kernel.
            let _ = socket.detach_filter();
        }
    }

    /// Binds more sockets to the address, up to `count`.
    ///
    /// # Errors
    /// As [`Self::bind`]. In that case there are as many listeners as before.
    pub fn grow(&mut self, count: u32, options: &GroupOptions) -> Result<()> {
        let own = options.accept.has_own_listeners();
        let mut more = Vec::new();
        for _ in self.sockets.len()..count as usize {
            let socket = new_socket(self.address, options)?;
            // This must come before bind. Only then is the socket part of a group.
            socket
                .set_reuse_port(own)
                .tried(ErrorKind::Socket, "set SO_REUSEPORT")?;
            bind_and_listen(&socket, self.address, options.backlog)?;
            self.address = local_address(&socket)?;
            more.push(socket);
        }
        more.into_iter()
            .for_each(|socket| self.sockets.push(socket));
        Ok(())
    }

    /// Has the kernel drop new SYNs without an answer from now on. Handshakes that have begun
    /// complete, and the accept queues stay. When the client sends its SYN again a second later,
    /// the successor answers, or the kernel refuses it.
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

fn new_socket(address: SocketAddr, options: &GroupOptions) -> Result<Socket> {
    let kind = ErrorKind::Socket;
    let domain = Domain::for_address(address);
    let socket = Socket::new(domain, Type::STREAM, Some(Protocol::TCP)).map_err(|error| {
        Error::new(kind, format!("create a socket for {address}")).because(error)
    })?;
    socket
        .set_reuse_address(true)
        .tried(kind, "set SO_REUSEADDR")?;
    if address.is_ipv6() {
        socket
            .set_only_v6(options.v6_only)
            .tried(kind, "set IPV6_V6ONLY")?;
    }
    configure(&socket, options)?;
    Ok(socket)
}

/// Everything that can be set on a socket that listens already.
fn configure(socket: &Socket, options: &GroupOptions) -> Result<()> {
    let kind = ErrorKind::Socket;
    let set_tcp = |option, value| set_socket_option(socket, libc::IPPROTO_TCP, option, value);
    if options.no_delay {
        // Accepted connections inherit it: no setsockopt for each of them.
        socket
            .set_tcp_nodelay(true)
            .tried(kind, "set TCP_NODELAY")?;
    }
    if options.defer_accept {
        set_tcp(libc::TCP_DEFER_ACCEPT, DEFER_ACCEPT_SECONDS)
            .tried(kind, "set TCP_DEFER_ACCEPT")?;
    }
    if options.fast_open > 0 {
        let length = i32::try_from(options.fast_open).unwrap_or(i32::MAX);
        set_tcp(libc::TCP_FASTOPEN, length).tried(kind, "set TCP_FASTOPEN")?;
    }
    if options.accept == AcceptMode::Blocking {
        socket
            .set_read_timeout(Some(BLOCKING_ACCEPT_TIMEOUT))
            .tried(kind, "set SO_RCVTIMEO")?;
    } else if options.nonblocking {
        socket
            .set_nonblocking(true)
            .tried(kind, "make a listener non-blocking")?;
    }
    Ok(())
}

fn bind_and_listen(socket: &Socket, address: SocketAddr, backlog: u32) -> Result<()> {
    let backlog = i32::try_from(backlog).unwrap_or(i32::MAX);
    socket
        .bind(&address.into())
        .and_then(|()| socket.listen(backlog))
        .map_err(|error| explain_bind(address, error))
}

/// Without SO_REUSEPORT, a bind fails if any other socket listens there.
fn refuse_if_taken(address: SocketAddr, options: &GroupOptions) -> Result<()> {
    if address.port() == 0 {
        return Ok(());
    }
    let probe = new_socket(address, options)?;
    bind_and_listen(&probe, address, 1).map_err(|error| match could_join(address, options) {
        true => error.could_share(),
        false => error,
    })
}

/// Whether a bind succeeds with SO_REUSEPORT; without a listen it takes nothing.
fn could_join(address: SocketAddr, options: &GroupOptions) -> bool {
    let own = options.accept.has_own_listeners();
    new_socket(address, options).is_ok_and(|socket| {
        own && socket.set_reuse_port(true).is_ok() && socket.bind(&address.into()).is_ok()
    })
}

fn explain_bind(address: SocketAddr, error: io::Error) -> Error {
    let reason = error.kind();
    let kind = match reason {
        io::ErrorKind::AddrInUse => ErrorKind::AddressInUse,
        _ => ErrorKind::Listen,
    };
    let port = address.port();
    let remedy = match reason {
        io::ErrorKind::AddrInUse => {
            format!("`ss -ltnp 'sport = :{port}'` shows which process listens there: stop it")
        }
        io::ErrorKind::AddrNotAvailable => {
            "`ip address` lists the addresses of this machine".to_string()
        }
        io::ErrorKind::PermissionDenied => {
            "ports below net.ipv4.ip_unprivileged_port_start need CAP_NET_BIND_SERVICE".to_string()
        }
        _ => return Error::new(kind, format!("listen on {address}")).because(error),
    };
    let refused = Error::new(kind, format!("listen on {address}")).because(error);
    refused.remedy(remedy)
}

fn local_address(socket: &Socket) -> Result<SocketAddr> {
    let address = socket
        .local_addr()
        .tried(ErrorKind::Socket, "ask for a listener's address")?;
    let no_ip = || Error::new(ErrorKind::Socket, "a listener has no IP address");
    address.as_socket().ok_or_else(no_ip)
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
    pub fn of(socket: &Socket) -> Result<Self> {
        let kind = ErrorKind::Socket;
        let file = socket.as_fd().try_clone_to_owned();
        let file = std::fs::File::from(file.tried(kind, "duplicate a listener")?);
        let (queued, backlog) = accept_queue(socket).tried(kind, "read TCP_INFO of a listener")?;
        Ok(Self {
            inode: file.metadata().tried(kind, "stat a listener")?.ino(),
            cookie: socket
                .cookie()
                .tried(kind, "read SO_COOKIE of a listener")?,
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
            &raw mut length,
        ) != 0
        {
            return Err(io::Error::last_os_error());
        }
        info.assume_init()
    };
    Ok((info.tcpi_unacked, info.tcpi_sacked))
}
