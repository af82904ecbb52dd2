//! A connection's socket: non-blocking reads and writes within a turn, and a record of their
//! results. This module knows no TLS, no HTTP and no epoll.

use std::cell::{Cell, OnceCell};
use std::io::IoSlice;
use std::mem::MaybeUninit;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::fd::OwnedFd;
use std::task::Poll;

use rustix::io::Errno;
use rustix::ioctl;
use rustix::net::{RecvFlags, SendFlags, SocketAddrAny};

use crate::serve::worker::turn::Turn;
use srv_steer::Incoming;

/// A connection's non-blocking socket, with the results of reads and writes.
pub struct TcpSocket {
    /// The socket itself.
    pub fd: OwnedFd,
    /// The address at the other end, once it was asked for.
    client_address: OnceCell<Option<IpAddr>>,
    /// Both addresses, once an application was to be told.
    ends: OnceCell<Box<Ends>>,
    /// For how long it waited to be accepted, ns, if that is known.
    pub accept_delay_ns: Option<u64>,
    /// The listener that it was accepted from, by its number in the order of the addresses.
    pub listener: usize,
    /// The number by which the worker knows the connection.
    pub key: Cell<usize>,
    /// Whether there may be something to read. A read that reaches the end of what has arrived
    /// clears it; the reactor sets it again.
    pub readable: Cell<bool>,
    /// Whether the client has closed its side. Then a short read does not prove that nothing is
    /// left; only the end of file does.
    pub hung_up: Cell<bool>,
    /// Whether srv has read the end of file: nothing can come any more.
    pub ended: Cell<bool>,
    /// Whether the socket's buffer was full at the last write.
    pub write_blocked: Cell<bool>,
    /// Bytes read so far.
    pub bytes_in: Cell<u64>,
    /// Bytes written so far.
    pub bytes_out: Cell<u64>,
    /// What the connection may still do before others come first.
    pub turn: Turn,
}

/// The addresses of a connection; 0.0.0.0 with port 0 for what is none of TCP.
#[derive(Clone, Copy, Debug)]
pub struct Ends {
    /// The client's.
    pub remote: SocketAddr,
    /// That of this server.
    pub local: SocketAddr,
}

/// Up to so many bytes, parts of an answer are copied into one: the kernel takes longer for each part
/// than the copy does.
const JOINED_BYTES: usize = 2 << 10;

/// The request of `ioctl` that [`TcpSocket::unacknowledged_bytes`] makes: tcp(7).
const SIOCOUTQ: u32 = libc::TIOCOUTQ as u32;

impl TcpSocket {
    /// A socket that was just accepted.
    pub fn new(incoming: Incoming) -> Self {
        let client_address = match incoming.client {
            Some(client) => OnceCell::from(Some(client.ip().to_canonical())),
            None => OnceCell::new(),
        };
        Self {
            fd: incoming.socket,
            client_address,
            ends: OnceCell::new(),
            accept_delay_ns: incoming.accept_delay_ns,
            listener: incoming.group,
            key: Cell::new(usize::MAX),
            readable: Cell::new(true),
            hung_up: Cell::new(false),
            ended: Cell::new(false),
            write_blocked: Cell::new(false),
            bytes_in: Cell::new(0),
            bytes_out: Cell::new(0),
            turn: Turn::default(),
        }
    }

    /// The client's IP address, if it has one. An IPv4 address is one, also on an IPv6 socket.
    pub fn client_address(&self) -> Option<IpAddr> {
        *self.client_address.get_or_init(|| {
            let address = rustix::net::getpeername(&self.fd).ok()??;
            let address = SocketAddr::try_from(address).ok()?;
            Some(address.ip().to_canonical())
        })
    }

    /// The addresses of both ends. The kernel is asked once for each connection.
    pub fn ends(&self) -> &Ends {
        self.ends.get_or_init(|| {
            let unknown = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0);
            let known = |name: Option<SocketAddrAny>| {
                let name = name.and_then(|name| name.try_into().ok());
                name.unwrap_or(unknown)
            };
            Box::new(Ends {
                remote: known(rustix::net::getpeername(&self.fd).ok().flatten()),
                local: known(rustix::net::getsockname(&self.fd).ok()),
            })
        })
    }

    /// Whether bytes have arrived that srv has not read.
    pub fn has_unread(&self) -> bool {
        let flags = RecvFlags::PEEK | RecvFlags::DONTWAIT;
        matches!(rustix::net::recv(&self.fd, &mut [0u8], flags), Ok((1.., _)))
    }

    /// How many written bytes the client's kernel has not acknowledged, whether they were sent
    /// or not.
    pub fn unacknowledged_bytes(&self) -> u64 {
        // SAFETY: this request stores an int and nothing else.
        let queued = unsafe {
            let request = ioctl::Getter::<SIOCOUTQ, libc::c_int>::new();
            ioctl::ioctl(&self.fd, request)
        };
        // The call fails only if the socket is not a connection.
        queued.map_or(0, |bytes| bytes.max(0) as u64)
    }

    /// Fills `room` with the bytes that have arrived. It is pending if there are none, or if the
    /// connection's turn is over.
    pub fn poll_read(&self, room: &mut [MaybeUninit<u8>]) -> Poll<rustix::io::Result<usize>> {
        if !self.readable.get() || !self.turn.allows_call() {
            return Poll::Pending;
        }
        let room_bytes = room.len();
        let filled = retry(|| {
            let read = rustix::net::recv(&self.fd, &mut *room, RecvFlags::empty());
            read.map(|(_, filled)| filled)
        });
        match filled {
            Ok(filled) => {
                self.turn.spend(filled);
                self.bytes_in.set(self.bytes_in.get() + filled as u64);
                self.ended.set(filled == 0 && room_bytes > 0);
                // The registration is edge-triggered: the kernel reports bytes that arrive
                // after a short read, so there is no need to read until EAGAIN.
                if filled < room_bytes && !self.hung_up.get() {
                    self.readable.set(false);
                }
                Poll::Ready(Ok(filled))
            }
            Err(Errno::AGAIN) => {
                self.readable.set(false);
                Poll::Pending
            }
            Err(error) => Poll::Ready(Err(error)),
        }
    }

    /// Writes these parts as far as there is room in the socket's buffer. It is pending if there is
    /// none, or if the connection's turn is over.
    pub fn poll_write(&self, parts: &[IoSlice<'_>]) -> Poll<rustix::io::Result<usize>> {
        if !self.turn.allows_call() {
            self.write_blocked.set(false);
            return Poll::Pending;
        }
        let result = retry(|| match parts {
            // The shorter way through the kernel.
            [one] => rustix::net::send(&self.fd, one, SendFlags::NOSIGNAL),
            _ => match joined(parts, &mut [0; JOINED_BYTES]) {
                Some(all) => rustix::net::send(&self.fd, all, SendFlags::NOSIGNAL),
                None => rustix::io::writev(&self.fd, parts),
            },
        });
        self.write_blocked.set(result == Err(Errno::AGAIN));
        match result {
            Ok(written) => {
                self.turn.spend(written);
                self.bytes_out.set(self.bytes_out.get() + written as u64);
                Poll::Ready(Ok(written))
            }
            Err(Errno::AGAIN) => Poll::Pending,
            Err(error) => Poll::Ready(Err(error)),
        }
    }

    /// Sends these bytes as far as there is room in the socket's buffer. They are the connection's
    /// last, so that a turn does not matter.
    pub fn send_last(&self, bytes: &[u8]) {
        let _ = retry(|| rustix::net::send(&self.fd, bytes, SendFlags::NOSIGNAL));
    }
}

/// These parts as one, if there is room for them.
fn joined<'a>(parts: &[IoSlice<'_>], room: &'a mut [u8]) -> Option<&'a [u8]> {
    let mut filled = 0;
    for part in parts {
        let end = filled + part.len();
        room.get_mut(filled..end)?.copy_from_slice(part);
        filled = end;
    }
    Some(&room[..filled])
}

/// Repeats a call that a signal interrupted.
fn retry<T>(mut call: impl FnMut() -> rustix::io::Result<T>) -> rustix::io::Result<T> {
    loop {
        match call() {
            Err(Errno::INTR) => {}
            result => return result,
        }
    }
}
