//! Checks that listeners are still as the master made them: they listen, with the flags and options
//! that they were given, and the program decides for their group. A system call filter prevents
//! workers from changing any of it. If the kernel has no such filter, or if the filter has a gap,
//! the master sees the change at its next look, and repairs it.

use std::collections::BTreeSet;
use std::io;
use std::os::fd::AsRawFd as _;

use rustix::fs::OFlags;
use socket2::Socket;

use super::{Group, reconciliation};
use crate::balance;
use crate::error::{ErrorKind, Result, Tried as _};
use crate::listeners::{ListenerGroup, accept_queue};
use crate::program::SelectProgram;

/// The flags of a listener that are checked, because something may depend on them.
const WATCHED: OFlags = OFlags::NONBLOCK.union(ASYNC);
/// With this flag, the kernel signals each event to the owner of the description (`F_SETOWN`).
const ASYNC: OFlags = OFlags::from_bits_retain(libc::O_ASYNC as _);
/// So many looks in a row must find that the program has not run, before the connections that came
/// are compared. If a handshake lasts for longer than the time between two looks, the only effect
/// is that the master compares in vain.
const IDLE_LOOKS: u32 = 2;

/// So many handshakes that have all lasted for longer than two seconds do not end in one second. If
/// so many connections came without a run, another program than srv's was attached.
const HANDSHAKES_LATE: u64 = 16;

/// What the looks have to remember.
pub(super) struct Inspection {
    /// The flags with which the listeners were made. `None` if they are another server's, which
    /// sets their flags and options itself: the group began without listeners.
    flags: Option<OFlags>,
    /// Listeners that cannot be repaired. The log names each once.
    given_up: BTreeSet<usize>,
    /// How often the program had run at the last look.
    runs: u64,
    /// Looks since then.
    idle_looks: u32,
    /// Established connections that had come by then.
    established: u64,
}

impl Inspection {
    pub(super) fn new(listeners: &ListenerGroup) -> Self {
        let flags_of = |socket| rustix::fs::fcntl_getfl(socket).unwrap_or(OFlags::NONBLOCK);
        let first = listeners.sockets.first();
        Self {
            flags: first.map(|socket| flags_of(socket) & WATCHED),
            given_up: BTreeSet::new(),
            runs: 0,
            idle_looks: 0,
            established: 0,
        }
    }

    /// How many connections were established since the last look without a run of the program: it
    /// has not run since then, nor between the looks before.
    fn strangers(&mut self, runs: u64, established: impl Fn() -> u64) -> u64 {
        if runs != self.runs {
            (self.runs, self.idle_looks) = (runs, 0);
            return 0;
        }
        self.idle_looks = self.idle_looks.saturating_add(1);
        if self.idle_looks < IDLE_LOOKS {
            return 0;
        }
        let before = std::mem::replace(&mut self.established, established());
        let more = self.established.wrapping_sub(before) as i64;
        match self.idle_looks > IDLE_LOOKS {
            true => u64::try_from(more).unwrap_or(0),
            false => 0,
        }
    }
}

impl Group {
    /// Looks at every listener and at the program, and repairs what is not as it was made. Returns
    /// what it found, for the log.
    pub fn inspect(&mut self) -> Vec<String> {
        if self.is_anothers() {
            return Vec::new();
        }
        let mut found = Vec::new();
        if let Some(flags) = self.inspection.flags {
            for nth in 0..self.listeners.sockets.len() {
                found.extend(self.inspect_listener(nth, flags));
            }
        }
        found.extend(self.inspect_program());
        let address = self.listeners.address;
        let with_place = |what: String| format!("{address}: {what}");
        found.into_iter().map(with_place).collect()
    }

    fn inspect_listener(&mut self, nth: usize, flags: OFlags) -> Vec<String> {
        if self.inspection.given_up.contains(&nth) {
            return Vec::new();
        }
        let Some(socket) = self.listeners.sockets.get(nth) else {
            return Vec::new();
        };
        let mut changes: Vec<(&str, Result<()>)> = Vec::new();
        let restored = restore(socket, flags, self.listeners.is_closed);
        let repair = |mended: io::Result<()>| mended.tried(ErrorKind::Socket, "restore it");
        changes.extend(restored.map(|(what, mended)| (what, repair(mended))));
        if !socket.is_listener().unwrap_or(true) {
            changes.push(("does not listen any more", self.listen_again(nth)));
        }
        let mut found = Vec::new();
        for (what, mended) in changes {
            found.push(match mended {
                Ok(()) => format!("listener {nth} {what}; this process has repaired it"),
                Err(error) => {
                    self.inspection.given_up.insert(nth);
                    format!(
                        "listener {nth} {what}, and this process cannot repair it: {error}; \
                         restart the server"
                    )
                }
            });
        }
        found
    }

    fn listen_again(&mut self, nth: usize) -> Result<()> {
        let socket = &self.listeners.sockets[nth];
        let backlog = i32::try_from(self.backlog).unwrap_or(i32::MAX);
        socket
            .listen(backlog)
            .tried(ErrorKind::Listen, "listen again")?;
        // The array does not hold the socket any more. If it was the only one, the program is
        // detached, too.
        if let Ok(program) = &mut self.program {
            program.set_listener(nth as u32, socket)?;
            program.attach_again()?;
        }
        Ok(())
    }

    /// The kernel does not say what is attached. But each established connection has had a run of
    /// the program, which the program counts, for its SYN or for the ACK that brought a cookie
    /// back. If some came without a run, the program is detached, which says whether it was there,
    /// and attached again. For the microsecond in between the kernel hashes.
    fn inspect_program(&mut self) -> Option<String> {
        let memory = &self.memory;
        let program = self.program.as_mut().ok();
        let Some(program) = program.filter(|program| SelectProgram::is_attached(program)) else {
            self.inspection.idle_looks = 0;
            return None;
        };
        let fallbacks = memory.program.fallbacks.iter().map(|count| count.get());
        let steered = memory.steering.iter().map(|slot| slot.steered.get());
        let runs = balance::sum(
            fallbacks
                .chain(steered)
                .chain([reconciliation::acks(memory)]),
        );
        let sockets = &self.listeners.sockets;
        let established = || {
            let queued = |socket| accept_queue(socket).map_or(0, |(queued, _)| queued.into());
            let slots = sockets.by_slot();
            slots.fold(0u64, |sum, (slot, socket)| {
                let here = memory.accepted(slot as usize).wrapping_add(queued(socket));
                sum.wrapping_add(here)
            })
        };
        let strangers = self.inspection.strangers(runs, established);
        if strangers == 0 {
            return None;
        }
        self.inspection.idle_looks = 0;
        match program.attach_again() {
            Ok(true) if strangers < HANDSHAKES_LATE => None,
            Ok(true) => Some(format!(
                "another program decided about {strangers} connections; this process has attached its own"
            )),
            Ok(false) => Some(
                "the program was not attached any more; this process has attached it again".into(),
            ),
            Err(error) => Some(format!("the program cannot be attached again: {error}")),
        }
    }
}

type Change = (&'static str, io::Result<()>);

/// Restores the flags and options with which a listener was made.
fn restore(socket: &Socket, flags: OFlags, drops_syns: bool) -> impl Iterator<Item = Change> {
    let now = rustix::fs::fcntl_getfl(socket).unwrap_or(flags);
    let has_flags = (now & WATCHED == flags).then_some(());
    let set_flags = || {
        let restored = rustix::fs::fcntl_setfl(socket, now & !WATCHED | flags);
        ("has other flags", restored.map_err(Into::into))
    };
    let has_owner = owner(socket) != 0;
    let lingers = socket.linger().is_ok_and(|linger| linger.is_some());
    let is_filtered = !drops_syns && has_filter(socket);
    [
        has_flags.is_none().then(set_flags),
        has_owner.then(|| ("sends signals to a process", disown(socket))),
        lingers.then(|| ("resets what it accepts", socket.set_linger(None))),
        is_filtered.then(|| ("has a filter", socket.detach_filter())),
    ]
    .into_iter()
    .flatten()
}

/// The process, or process group, that signals about the description are sent to.
fn owner(socket: &Socket) -> libc::c_int {
    // SAFETY: no memory is passed.
    unsafe { libc::fcntl(socket.as_raw_fd(), libc::F_GETOWN) }
}

fn disown(socket: &Socket) -> io::Result<()> {
    // SAFETY: no memory is passed.
    match unsafe { libc::fcntl(socket.as_raw_fd(), libc::F_SETOWN, 0) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Whether packets are filtered. (If the buffer has no room, the kernel says how long a classic
/// filter is, and refuses to show another kind: net/core/filter.c, `sk_get_filter`.)
fn has_filter(socket: &Socket) -> bool {
    let mut instructions: libc::socklen_t = 0;
    // SAFETY: a buffer of no bytes.
    let asked = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_GET_FILTER,
            std::ptr::null_mut(),
            &raw mut instructions,
        )
    };
    asked != 0 || instructions > 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_connections_without_a_run_are_strange() {
        let mut seen = Inspection::new(&ListenerGroup::empty(([127, 0, 0, 1], 0).into()));
        let mut look = |runs, established| seen.strangers(runs, || established);
        // Runs go on; then nothing comes.
        assert_eq!([look(5, 5), look(9, 9)], [0; 2]);
        assert_eq!([(); 4].map(|()| look(9, 9)), [0; 4]);
        // The next has its run.
        assert_eq!(look(10, 10), 0);
        // A late handshake, whose run was before.
        assert_eq!([(); 3].map(|()| look(10, 11)), [0; 3]);
        assert_eq!(look(10, 14), 3);
        // What a worker publishes about itself may be anything.
        assert_eq!(look(10, 0), 0);
    }

    #[test]
    fn a_listener_gets_back_what_it_was_made_with() {
        let socket = Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        socket.set_nonblocking(true).unwrap();
        let look = || restore(&socket, OFlags::NONBLOCK, false).collect::<Vec<_>>();
        assert!(look().is_empty());
        rustix::fs::fcntl_setfl(&socket, ASYNC).unwrap();
        let this = std::process::id() as libc::c_int;
        // SAFETY: no memory is passed.
        unsafe { libc::fcntl(socket.as_raw_fd(), libc::F_SETOWN, this) };
        socket.set_linger(Some(std::time::Duration::ZERO)).unwrap();
        crate::listeners::drop_syns(&socket).unwrap();
        let changes = look();
        assert_eq!(changes.len(), 4);
        assert!(
            changes.iter().all(|(_, mended)| mended.is_ok()),
            "{changes:?}"
        );
        assert!(look().is_empty());
        crate::listeners::drop_syns(&socket).unwrap();
        assert_eq!(restore(&socket, OFlags::NONBLOCK, true).count(), 0);
    }
}
