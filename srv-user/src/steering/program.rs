//! All of aya: loading the select program, attaching it to a listener group
//! and taking it off again. Knows sockets and slots, no processes.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use aya::maps::{Map, MapData, MapError, ReusePortSockArray};
use aya::programs::SkReuseport;
use aya::{Ebpf, EbpfLoader, VerifierLogLevel};
use aya_log::EbpfLogger;
use socket2::Socket;
use srv_common::{Group, MAX_WORKERS};

use crate::steering::memory::SharedMemory;

/// The BPF object that the build embedded; empty if there was none.
static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/srv-ebpf.o"));

/// Whether the build embedded a BPF object.
pub fn carries_program() -> bool {
    !OBJECT.is_empty()
}

const NEEDS: &str = "load the select program (needs Linux 5.12 or newer, CAP_BPF \
                     and CAP_PERFMON; `srv doctor` says what is missing)";

/// A loaded select program with its maps, for one listener group. Taken off
/// the group when dropped: aya itself would leave it attached.
pub struct Steering {
    /// `None` if another process loaded it.
    ebpf: Option<Ebpf>,
    select: OwnedFd,
    listeners: ReusePortSockArray<MapData>,
    listeners_fd: OwnedFd,
    memory: SharedMemory<Group>,
    /// What the program logs, if it was loaded to log.
    log: Option<EbpfLogger<&'static dyn log::Log>>,
    /// A socket of the group, while the program is attached.
    attached: Option<OwnedFd>,
}

impl Steering {
    /// Loads the program; it steers nothing yet.
    ///
    /// # Errors
    /// If this build carries no program, or the kernel refuses it (the message
    /// says what would mend that).
    pub fn load() -> anyhow::Result<Self> {
        ensure!(
            carries_program(),
            "this binary carries no BPF program (built without the BPF toolchain): build it with `cargo xtask build`"
        );
        let is_logging = tracing::enabled!(target: "srv_ebpf", tracing::Level::DEBUG);
        let mut ebpf = load_object(is_logging).context(NEEDS)?;
        let memory = group_memory(&mut ebpf)?;
        let log = is_logging.then(|| EbpfLogger::init(&mut ebpf));
        let log = log.transpose().context("read the program's log")?;
        let select = program(&mut ebpf, "select").context(NEEDS)?.fd()?;
        let select = select.as_fd().try_clone_to_owned();
        let select = select.context("duplicate a program's fd")?;
        let Some(Map::ReusePortSockArray(listeners)) = ebpf.take_map("LISTENERS") else {
            bail!("find socket array LISTENERS in the BPF object");
        };
        let listeners_fd = listeners.fd().as_fd().try_clone_to_owned();
        Ok(Self {
            ebpf: Some(ebpf),
            select,
            listeners: Map::ReusePortSockArray(listeners).try_into()?,
            listeners_fd: listeners_fd.context("duplicate a map's fd")?,
            memory,
            log,
            attached: None,
        })
    }

    /// Takes over what another process loaded, by its [`Self::handles`] and its
    /// memory. Without `CAP_BPF` too (from Linux 5.18 on).
    ///
    /// # Errors
    /// If the kernel does not let this process use the socket array.
    pub fn adopt(
        select: OwnedFd,
        listeners: OwnedFd,
        memory: SharedMemory<Group>,
    ) -> anyhow::Result<Self> {
        let listeners_fd = listeners.try_clone().context("duplicate a map's fd")?;
        let listeners = MapData::from_fd(listeners).context("adopt a socket array")?;
        Ok(Self {
            ebpf: None,
            select,
            listeners_fd,
            listeners: Map::ReusePortSockArray(listeners).try_into()?,
            memory,
            log: None,
            attached: None,
        })
    }

    /// The program and its socket array.
    pub fn handles(&self) -> [BorrowedFd<'_>; 2] {
        [self.select.as_fd(), self.listeners_fd.as_fd()]
    }

    /// The array that holds the [`Group`], to be mapped.
    pub fn memory(&self) -> &SharedMemory<Group> {
        &self.memory
    }

    /// Makes `socket` the one that the program selects for `slot`.
    ///
    /// # Errors
    /// `EINVAL` if the socket does not listen or was bound without
    /// `SO_REUSEPORT`, `EBUSY` if another array has it already (one that was
    /// given up is freed a moment later: that is waited for).
    pub fn set_listener(&mut self, slot: u32, socket: &impl AsRawFd) -> anyhow::Result<()> {
        let deadline = Instant::now() + FREED_WITHIN;
        while let Err(error) = self.listeners.set(slot, socket, 0) {
            if !is_busy(&error) || Instant::now() > deadline {
                let what = format!("insert the listener of slot {slot} into the socket array");
                return Err(error).context(what);
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    }

    /// Makes the socket array forget all sockets, so that another one may have them.
    pub fn clear_listeners(&mut self) {
        for slot in 0..MAX_WORKERS as u32 {
            // Most are empty, which is an error to the kernel.
            let _ = self.listeners.clear_index(&slot);
        }
    }

    /// From now on the program decides for the group of `socket`. Only after
    /// all its members listen: a program attached earlier can make a later
    /// bind fail.
    ///
    /// # Errors
    /// What `SO_ATTACH_REUSEPORT_EBPF` says.
    pub fn attach(&mut self, socket: &Socket) -> anyhow::Result<()> {
        let member = socket
            .as_fd()
            .try_clone_to_owned()
            .context("duplicate a listener")?;
        attach(&self.select, socket).context("attach the select program")?;
        self.attached = Some(member);
        Ok(())
    }

    /// Takes the program off and attaches it again, if it was attached. Whether one was
    /// there until then.
    ///
    /// # Errors
    /// What the kernel says to either.
    pub fn attach_again(&mut self) -> anyhow::Result<bool> {
        let Some(member) = &self.attached else {
            return Ok(true);
        };
        let was_there = match set_option(member, libc::SO_DETACH_REUSEPORT_BPF, 0) {
            Ok(()) => true,
            Err(error) if error.kind() == io::ErrorKind::NotFound => false,
            Err(error) => return Err(error).context("take the select program off"),
        };
        attach(&self.select, member).context("attach the select program")?;
        Ok(was_there)
    }

    /// Another process sees to the program from now on: it stays attached.
    pub fn let_go(&mut self) {
        self.attached = None;
    }

    /// Leaves the choice to the kernel's hash again; no-op if not attached.
    ///
    /// # Errors
    /// What `SO_DETACH_REUSEPORT_BPF` says.
    pub fn detach(&mut self) -> anyhow::Result<()> {
        match self.attached.take() {
            Some(member) => SkReuseport::detach(member).context("detach the select program"),
            None => Ok(()),
        }
    }

    /// Passes on what the program has logged.
    pub fn flush_log(&mut self) {
        if let Some(log) = &mut self.log {
            log.flush();
        }
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
    pub fn program(&mut self, name: &str) -> anyhow::Result<&mut SkReuseport> {
        let ebpf = self.ebpf.as_mut().context("another process loaded it")?;
        program(ebpf, name)
    }
}

/// The program of that name, loaded.
///
/// # Errors
/// The object has none, or the kernel refuses it.
pub fn program<'a>(ebpf: &'a mut Ebpf, name: &str) -> anyhow::Result<&'a mut SkReuseport> {
    let program = ebpf.program_mut(name);
    let program = program.with_context(|| format!("find program {name} in the BPF object"))?;
    let program: &mut SkReuseport = program.try_into()?;
    if program.fd().is_err() {
        program.load()?;
    }
    Ok(program)
}

/// As aya does, which has it for programs of this process only.
fn attach(program: &OwnedFd, socket: &impl AsRawFd) -> io::Result<()> {
    set_option(socket, libc::SO_ATTACH_REUSEPORT_EBPF, program.as_raw_fd())
}

fn set_option(socket: &impl AsRawFd, option: i32, value: i32) -> io::Result<()> {
    let length = size_of_val(&value) as libc::socklen_t;
    let value = std::ptr::from_ref(&value).cast();
    let level = libc::SOL_SOCKET;
    // SAFETY: `value` points to an int of `length` bytes.
    match unsafe { libc::setsockopt(socket.as_raw_fd(), level, option, value, length) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Leaves the group of `socket` to the kernel's hash, whoever attached a program and did
/// not live to take it off.
pub fn take_off(socket: &Socket) {
    // Mostly there is none.
    let _ = SkReuseport::detach(socket);
}

impl Drop for Steering {
    fn drop(&mut self) {
        if let Err(error) = self.detach() {
            tracing::error!("leave the listener group as it was found: {error:#}");
        }
    }
}

/// The kernel frees a program and its maps after a grace period of RCU.
const FREED_WITHIN: Duration = Duration::from_secs(1);

fn is_busy(error: &MapError) -> bool {
    let MapError::SyscallError(error) = error else {
        return false;
    };
    error.io_error.kind() == io::ErrorKind::ResourceBusy
}

fn load_object(is_logging: bool) -> anyhow::Result<Ebpf> {
    // A constant to the verifier: at zero it removes the logging calls.
    let log_level = if is_logging {
        aya_log::Level::Debug as u8
    } else {
        0
    };
    let mut loader = loader();
    let loader = loader.override_global(aya_log::LEVEL, &log_level, false);
    Ok(loader.load(OBJECT)?)
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

fn group_memory(ebpf: &mut Ebpf) -> anyhow::Result<SharedMemory<Group>> {
    let Some(Map::Array(map)) = ebpf.map("GROUP") else {
        bail!("find array GROUP in the BPF object");
    };
    let info = map.info().context("ask for the size of array GROUP")?;
    ensure!(
        info.value_size() as usize == size_of::<Group>(),
        "the embedded BPF object has another layout ({} bytes a group) than this binary ({}): build both with `cargo xtask build`",
        info.value_size(),
        size_of::<Group>()
    );
    let fd = map.fd().as_fd().try_clone_to_owned();
    SharedMemory::checked(fd.context("duplicate the fd of array GROUP")?)
}

/// What refused a program, on one line: with the verifier's reason, and without what a cause
/// says again.
pub fn on_one_line(error: &anyhow::Error) -> String {
    let mut line = String::new();
    for cause in error.chain().map(ToString::to_string) {
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
    use rustix::io::Errno;

    use super::*;
    use crate::gate;

    #[test]
    fn what_the_loader_says_fits_on_a_line() {
        let said = std::io::Error::from(Errno::INVAL);
        let log = "The BPF_PROG_LOAD syscall returned Invalid argument (os error 22). \
                   Verifier output: ";
        let error = anyhow::Error::new(said).context(log).context("load it");
        let once = "load it: The BPF_PROG_LOAD syscall returned Invalid argument (os error 22)";
        assert_eq!(on_one_line(&error), once);
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
        assert_eq!(on_one_line(&anyhow::anyhow!(log).context("load it")), once);
    }

    /// A log with each instruction would have one line at least for each of those before.
    #[test]
    fn a_refusal_is_the_kernels_reason_and_no_log_of_instructions() {
        let loads = Steering::load().map(drop);
        let loads = loads.map_err(|error| on_one_line(&error));
        if !gate::can("load the select program", loads) {
            return;
        }
        let object = returning_what_is_not_set(OBJECT);
        let mut ebpf = loader()
            .load(&object)
            .expect("maps and symbols are as before");
        let error = program(&mut ebpf, "empty").expect_err("R5 is not set");
        let said = on_one_line(&error);
        let reason = "Permission denied (os error 13): the verifier says: R5 !read_ok";
        assert!(said.ends_with(reason), "{said}");
        assert!(!format!("{error:#}").contains("0: (bc)"), "{error:#}");
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
}
