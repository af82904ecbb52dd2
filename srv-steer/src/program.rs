//! All use of aya: this module loads the select program, attaches it to a listener group and takes
//! it off again. Knows sockets and slots, and no processes. The program that records when
//! connections were established is in `recording`.

mod recording;

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use aya::maps::{Map, MapData, MapError, ReusePortSockArray};
use aya::programs::SkReuseport;
use aya::{Ebpf, EbpfLoader, VerifierLogLevel};
use socket2::Socket;
use srv_common::established::SocketOffsets;
use srv_common::{Group, MAX_WORKERS};

use crate::error::{Error, ErrorKind, Result, Tried as _};
use crate::log::ProgramLog;
use crate::memory::{Layout, SharedMemory};
use crate::socket_options::set_socket_option;
use recording::Recorder;

/// The BPF object that the build embedded; empty if there was none.
static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/srv-ebpf.o"));

/// Whether the build embedded a BPF object.
pub fn carries_program() -> bool {
    !OBJECT.is_empty()
}

const NEEDS: &str = "load the select program (needs Linux 5.12 or newer, CAP_BPF \
                     and CAP_PERFMON; `srv doctor` says what is missing)";

/// A loaded select program with its maps, for one listener group. When it is dropped, it is
/// taken off the group: aya itself would leave it attached.
pub struct SelectProgram {
    /// `None` if another process loaded it.
    ebpf: Option<Ebpf>,
    select: OwnedFd,
    listeners: ReusePortSockArray<MapData>,
    listeners_fd: OwnedFd,
    memory: SharedMemory<Group>,
    log: ProgramLog,
    recorder: Recorder,
    /// A socket of the group, while the program is attached.
    attached: Option<OwnedFd>,
}

impl SelectProgram {
    /// Loads the program; it steers nothing yet.
    ///
    /// # Errors
    /// If this build carries no program, or the kernel refuses it. The message names the
    /// remedy.
    pub fn load() -> Result<Self> {
        if !carries_program() {
            let why = "this binary carries no BPF program (built without the BPF toolchain): \
                       build it with `cargo xtask build`";
            return Err(Error::new(ErrorKind::Program, why));
        }
        let log_level = ProgramLog::level();
        let offsets = recording::offsets();
        let words = offsets
            .as_ref()
            .map_or([0; SocketOffsets::COUNT], SocketOffsets::words);
        let mut ebpf = loader()
            // A constant to the verifier: at zero it removes the logging calls.
            .override_global(LOG_LEVEL, &log_level, false)
            .override_global(recording::OFFSETS, &words[..], true)
            .load(OBJECT)
            .map_err(|error| refused(NEEDS, &error))?;
        let memory = shared_array::<Group>(&ebpf, "GROUP")?;
        let log = ProgramLog::open(&mut ebpf)?;
        let select = program(&mut ebpf, "select").map_err(|error| error.while_trying(NEEDS))?;
        let select = select.fd().map_err(|error| refused(NEEDS, &error))?;
        let select = select.as_fd().try_clone_to_owned();
        let select = select.tried(ErrorKind::Program, "duplicate a program's fd")?;
        let Some(Map::ReusePortSockArray(listeners)) = ebpf.take_map("LISTENERS") else {
            let tried = "find socket array LISTENERS in the BPF object";
            return Err(Error::new(ErrorKind::Program, tried));
        };
        let listeners_fd = listeners.fd().as_fd().try_clone_to_owned();
        Ok(Self {
            ebpf: Some(ebpf),
            select,
            listeners: socket_array(listeners)?,
            listeners_fd: listeners_fd.tried(ErrorKind::Program, "duplicate a map's fd")?,
            memory,
            log,
            recorder: offsets.map_or_else(Recorder::Missing, |_| Recorder::Detached),
            attached: None,
        })
    }

    /// Takes over what another process loaded, by its [`Self::handles`] and its
    /// memory. From Linux 5.18 on, that needs no `CAP_BPF`. If that process had no recording program
    /// (`recorder`), this one has none.
    ///
    /// # Errors
    /// If the kernel does not let this process use the socket array.
    pub fn adopt(
        select: OwnedFd,
        listeners: OwnedFd,
        recorder: Option<OwnedFd>,
        memory: SharedMemory<Group>,
    ) -> Result<Self> {
        let listeners_fd = listeners.try_clone();
        let adopted = MapData::from_fd(listeners);
        let adopted = adopted.map_err(|error| refused("adopt a socket array", &error))?;
        Ok(Self {
            ebpf: None,
            select,
            listeners_fd: listeners_fd.tried(ErrorKind::Program, "duplicate a map's fd")?,
            listeners: socket_array(adopted)?,
            memory,
            recorder: Recorder::adopted(recorder),
            log: ProgramLog::default(),
            attached: None,
        })
    }

    /// The program, its socket array and, if it is attached, the recording program.
    pub fn handles(&self) -> Vec<BorrowedFd<'_>> {
        let steering = [self.select.as_fd(), self.listeners_fd.as_fd()];
        steering.into_iter().chain(self.recorder.link()).collect()
    }

    /// The array that holds the [`Group`], to be mapped.
    pub fn memory(&self) -> &SharedMemory<Group> {
        &self.memory
    }

    /// Makes `socket` the one that the program selects for `slot`.
    ///
    /// # Errors
    /// `EINVAL` if the socket does not listen or was bound without `SO_REUSEPORT`, `EBUSY` if
    /// another array has it already. (The kernel frees an array that was given up a moment later;
    /// this call waits for that, for one second at most.)
    pub fn set_listener(&mut self, slot: u32, socket: &impl AsRawFd) -> Result<()> {
        let listeners = &mut self.listeners;
        let inserted = retry_while_busy(|| listeners.set(slot, socket, 0), is_busy);
        inserted.map_err(|error| not_inserted(slot, error))
    }

    /// As [`Self::set_listener`], if this array, and no other, may have the socket already.
    ///
    /// # Errors
    /// `EINVAL` as there.
    pub fn keep_listener(&mut self, slot: u32, socket: &impl AsRawFd) -> Result<()> {
        match self.listeners.set(slot, socket, 0) {
            Err(error) if !is_busy(&error) => Err(not_inserted(slot, error)),
            _ => Ok(()),
        }
    }

    /// Makes the socket array forget all sockets, so that another one may have them.
    pub fn clear_listeners(&mut self) {
        (0..MAX_WORKERS as u32).for_each(|slot| self.clear_listener(slot));
    }

    /// Makes the socket array forget the socket of `slot`, if it has one.
    pub fn clear_listener(&mut self, slot: u32) {
        // If the slot is empty, that is an error to the kernel.
        let _ = self.listeners.clear_index(&slot);
    }

    /// Keeps `member` open in place of the socket that the program was attached by, so that that
    /// one can be closed. Both must be in the same group. If no member is left, the program is
    /// attached to nothing.
    pub fn keep_by(&mut self, member: Option<&Socket>) {
        if self.attached.is_some() {
            let member = member.map(|socket| socket.as_fd().try_clone_to_owned());
            self.attached = member.and_then(io::Result::ok);
        }
    }

    /// Attaches the program to the group of `socket`, for which it decides from now on. All members
    /// must listen before, since a program that was attached earlier can make a later bind fail.
    ///
    /// # Errors
    /// What `SO_ATTACH_REUSEPORT_EBPF` says.
    pub fn attach(&mut self, socket: &Socket) -> Result<()> {
        let member = socket.as_fd().try_clone_to_owned();
        let member = member.tried(ErrorKind::Program, "duplicate a listener")?;
        attach(&self.select, socket)?;
        self.attached = Some(member);
        Ok(())
    }

    /// Takes the program off and attaches it again, if it was attached. Returns whether one was
    /// there until then.
    ///
    /// # Errors
    /// What the kernel says to either.
    pub fn attach_again(&mut self) -> Result<bool> {
        let Some(member) = &self.attached else {
            return Ok(true);
        };
        let off = set_socket_option(member, libc::SOL_SOCKET, libc::SO_DETACH_REUSEPORT_BPF, 0);
        let was_there = match off {
            Ok(()) => true,
            Err(error) if error.kind() == io::ErrorKind::NotFound => false,
            Err(error) => {
                return Err(error).tried(ErrorKind::Program, "take the select program off");
            }
        };
        attach(&self.select, member)?;
        Ok(was_there)
    }

    /// Leaves the program attached when this value is dropped: another process is responsible for
    /// it from now on.
    pub fn leave_attached(&mut self) {
        self.attached = None;
    }

    /// Leaves the choice to the kernel's hash again; does nothing if it is not attached.
    ///
    /// # Errors
    /// What `SO_DETACH_REUSEPORT_BPF` says.
    pub fn detach(&mut self) -> Result<()> {
        match self.attached.take() {
            Some(member) => SkReuseport::detach(member)
                .map_err(|error| refused("detach the select program", &error)),
            None => Ok(()),
        }
    }

    /// Passes on what the program has logged.
    pub fn flush_log(&mut self) {
        self.log.flush();
    }

    /// Whether the program decides now.
    pub fn is_attached(&self) -> bool {
        self.attached.is_some()
    }

    /// The program of that name, loaded: `select`, or `empty` and `first` for
    /// benches.
    ///
    /// # Errors
    /// If there is none, or the kernel refuses it.
    pub fn program(&mut self, name: &str) -> Result<&mut SkReuseport> {
        let elsewhere = || Error::new(ErrorKind::Program, "another process loaded the program");
        program(self.ebpf.as_mut().ok_or_else(elsewhere)?, name)
    }
}

/// Name of the program's variable that says what it logs.
#[cfg(feature = "tracing")]
const LOG_LEVEL: &str = aya_log::LEVEL;
#[cfg(not(feature = "tracing"))]
const LOG_LEVEL: &str = "AYA_LOG_LEVEL";

/// The program of that name in an object that was loaded by aya; the program is loaded, too.
///
/// # Errors
/// If the object has none, or the kernel refuses it.
pub fn program<'a>(ebpf: &'a mut Ebpf, name: &str) -> Result<&'a mut SkReuseport> {
    let tried = format!("find program {name} in the BPF object");
    let Some(program) = ebpf.program_mut(name) else {
        return Err(Error::new(ErrorKind::Program, tried));
    };
    let program: &mut SkReuseport = program
        .try_into()
        .map_err(|error: aya::programs::ProgramError| refused(&tried, &error))?;
    if program.fd().is_err() {
        let loaded = program.load();
        loaded.map_err(|error| refused(&format!("load program {name}"), &error))?;
    }
    Ok(program)
}

/// Does what aya does, but also for a program that another process loaded.
fn attach(program: &OwnedFd, socket: &impl AsRawFd) -> Result<()> {
    let (option, program) = (libc::SO_ATTACH_REUSEPORT_EBPF, program.as_raw_fd());
    set_socket_option(socket, libc::SOL_SOCKET, option, program)
        .tried(ErrorKind::Program, "attach the select program")
}

/// Leaves the group of `socket` to the kernel's hash. For a group to which a process attached a
/// program that did not live to take it off.
pub fn take_off(socket: &Socket) {
    // In most cases no program is attached.
    let _ = SkReuseport::detach(socket);
}

impl Drop for SelectProgram {
    fn drop(&mut self) {
        if let Err(error) = self.detach() {
            crate::log::error!("leave the listener group as it was found: {error}");
        }
    }
}

/// The kernel frees a program and its maps after a grace period of RCU.
const FREED_WITHIN: Duration = Duration::from_secs(1);
const BETWEEN_TRIES: Duration = Duration::from_millis(1);

/// Tries again for as long as the kernel says that something is busy which was given up a
/// moment ago: it frees a program and its maps only after a grace period of RCU.
///
/// # Errors
/// The error of the last attempt, after one second, or the first one for which `is_busy` is false.
pub fn retry_while_busy<T, E>(
    mut attempt: impl FnMut() -> Result<T, E>,
    is_busy: impl Fn(&E) -> bool,
) -> Result<T, E> {
    let deadline = Instant::now() + FREED_WITHIN;
    loop {
        match attempt() {
            Err(error) if is_busy(&error) && Instant::now() <= deadline => {
                std::thread::sleep(BETWEEN_TRIES);
            }
            ended => return ended,
        }
    }
}

fn not_inserted(slot: u32, error: MapError) -> Error {
    let tried = format!("insert the listener of slot {slot} into the socket array");
    match error {
        MapError::SyscallError(error) => {
            Error::new(ErrorKind::Program, tried).because(error.io_error)
        }
        error => refused(&tried, &error),
    }
}

fn is_busy(error: &MapError) -> bool {
    let MapError::SyscallError(error) = error else {
        return false;
    };
    error.io_error.kind() == io::ErrorKind::ResourceBusy
}

fn socket_array(map: MapData) -> Result<ReusePortSockArray<MapData>> {
    let array = Map::ReusePortSockArray(map).try_into();
    array.map_err(|error: MapError| refused("use a socket array", &error))
}

/// The array map `name` of an object that was loaded by aya, as memory that can be mapped. (The
/// map has one element, which is a `T`.)
///
/// # Errors
/// If the object has no such array, or one of another size: then object and binary were not
/// built together.
pub fn shared_array<T: Layout>(ebpf: &Ebpf, name: &str) -> Result<SharedMemory<T>> {
    let Some(Map::Array(map)) = ebpf.map(name) else {
        let tried = format!("find array {name} in the BPF object");
        return Err(Error::new(ErrorKind::Program, tried));
    };
    let info = map.info();
    let info = info.map_err(|error| refused("ask for the size of an array", &error))?;
    let (there, here) = (info.value_size(), size_of::<T>());
    if there as usize != here {
        let tried = format!(
            "the embedded BPF object has another layout ({there} bytes a group) than this binary \
             ({here}): build both with `cargo xtask build`"
        );
        return Err(Error::new(ErrorKind::Program, tried));
    }
    let fd = map.fd().as_fd().try_clone_to_owned();
    SharedMemory::checked(fd.tried(ErrorKind::Program, "duplicate the fd of an array")?)
}

/// Loads an object such that a refusal says the kernel's reason.
///
/// aya loads a refused program again with a log, and reports what the last attempt returned.
/// A log of each instruction can be longer than aya's largest buffer: the kernel then returns
/// ENOSPC in place of its reason. The log here has the verifier's messages and no instruction.
pub fn loader() -> EbpfLoader<'static> {
    let mut loader = EbpfLoader::new();
    loader.verifier_log_level(VerifierLogLevel::STATS);
    loader
}

fn refused(tried: &str, error: &(dyn std::error::Error + 'static)) -> Error {
    let chain = std::iter::successors(Some(error), |error| error.source());
    let why = on_one_line(chain.map(ToString::to_string));
    Error::new(ErrorKind::Program, format!("{tried}: {why}"))
}

/// Causes of a refusal by the kernel, the outermost first, on one line: with the verifier's
/// reason, and without what a cause says again.
pub fn on_one_line(causes: impl IntoIterator<Item = String>) -> String {
    let mut line = String::new();
    for cause in causes {
        let (cause, log) = cause.split_once(VERIFIER_SAYS).unwrap_or((&cause, ""));
        let cause = cause.lines().next().unwrap_or_default();
        for said in [Some(cause.to_owned()), reason(log)].into_iter().flatten() {
            if !line.contains(&said) {
                line += if line.is_empty() { "" } else { ": " };
                line += &said;
            }
        }
    }
    line
}

/// How aya's message goes on after what the kernel returned.
const VERIFIER_SAYS: &str = ". Verifier output:";

/// Why the verifier refused a program: the end of its log, less what it says of its own work.
fn reason(log: &str) -> Option<String> {
    const WORK: [&str; 4] = ["verification time ", "stack depth ", "processed ", "func#"];
    const LINES_MAX: usize = 3;
    let is_reason = |line: &&str| !line.is_empty() && !WORK.iter().any(|of| line.starts_with(of));
    let lines: Vec<&str> = log.lines().map(str::trim).filter(is_reason).collect();
    let last = &lines[lines.len().saturating_sub(LINES_MAX)..];
    (!last.is_empty()).then(|| format!("the verifier says: {}", last.join("; ")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gate;

    #[test]
    fn what_the_loader_says_fits_on_a_line() {
        let log = "The BPF_PROG_LOAD syscall returned Invalid argument (os error 22). \
                   Verifier output: ";
        let causes = ["load it", log, "Invalid argument (os error 22)"];
        let once = "load it: The BPF_PROG_LOAD syscall returned Invalid argument (os error 22)";
        assert_eq!(on_one_line(causes.map(String::from)), once);
    }

    #[test]
    fn the_verifiers_reason_is_said_without_its_statistics() {
        let log = "returned Permission denied (os error 13). Verifier output: \
                   invalid access to map value, value_size=8 off=8 size=8\n\
                   R2 min value is outside of the allowed memory range\n\
                   verification time 2936961 usec\nstack depth 136+0\n\
                   processed 551249 insns (limit 1000000) max_states_per_insn 4\n";
        let once = "load it: returned Permission denied (os error 13): the verifier says: \
                    invalid access to map value, value_size=8 off=8 size=8; \
                    R2 min value is outside of the allowed memory range";
        assert_eq!(on_one_line(["load it", log].map(String::from)), once);
    }

    /// A log with each instruction would have one line at least for each of those before.
    #[test]
    fn a_refusal_is_the_kernels_reason_and_no_log_of_instructions() {
        let loads = SelectProgram::load().map(drop);
        let loads = loads.map_err(|error| error.to_string());
        if !gate::can("load the select program", loads) {
            return;
        }
        let object = returning_what_is_not_set(OBJECT);
        let mut ebpf = loader()
            .load(&object)
            .expect("maps and symbols are as before");
        let said = program(&mut ebpf, "empty").expect_err("R5 is not set");
        let said = said.to_string();
        let reason = "Permission denied (os error 13): the verifier says: R5 !read_ok";
        assert!(said.ends_with(reason), "{said}");
    }

    /// With `w0 = 1` changed to `w0 = w5`.
    fn returning_what_is_not_set(object: &[u8]) -> Vec<u8> {
        let (from, to) = ([0xb4, 0, 0, 0, 1, 0, 0, 0], [0xbc, 0x50, 0, 0, 0, 0, 0, 0]);
        let mut object = object.to_vec();
        // Sections of instructions begin at multiples of eight bytes.
        for instruction in object.chunks_exact_mut(from.len()) {
            if instruction == from {
                instruction.copy_from_slice(&to);
            }
        }
        object
    }

    #[test]
    fn only_what_is_busy_is_tried_again() {
        let mut tries = 0;
        let freed = retry_while_busy(
            || {
                tries += 1;
                if tries < 3 { Err("busy") } else { Ok(tries) }
            },
            |error| *error == "busy",
        );
        assert_eq!(freed, Ok(3));
        let refused = retry_while_busy(|| Err::<(), _>("no"), |error| *error == "busy");
        assert_eq!(refused, Err("no"));
    }
}
