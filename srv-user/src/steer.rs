//! All of aya: loading the select program, attaching it to a listener group
//! and taking it off again. Knows sockets and slots, no processes.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use aya::maps::{Map, MapError, ReusePortSockArray};
use aya::programs::SkReuseport;
use aya::{Ebpf, EbpfLoader};
use aya_log::EbpfLogger;
use socket2::Socket;
use srv_common::{Group, MAX_WORKERS};

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
    ebpf: Ebpf,
    memory: OwnedFd,
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
        let mut steering = Self {
            ebpf,
            memory,
            log,
            attached: None,
        };
        steering.program("select").context(NEEDS)?;
        Ok(steering)
    }

    /// The array that holds the [`Group`], to be mapped.
    pub fn memory(&self) -> BorrowedFd<'_> {
        self.memory.as_fd()
    }

    /// Makes `socket` the one that the program selects for `slot`.
    ///
    /// # Errors
    /// `EINVAL` if the socket does not listen or was bound without
    /// `SO_REUSEPORT`, `EBUSY` if another array has it already (one that was
    /// given up is freed a moment later: that is waited for).
    pub fn set_listener(&mut self, slot: u32, socket: &impl AsRawFd) -> anyhow::Result<()> {
        let map = self
            .ebpf
            .map_mut("LISTENERS")
            .context("find map LISTENERS")?;
        let mut listeners = ReusePortSockArray::try_from(map)?;
        let deadline = Instant::now() + FREED_WITHIN;
        while let Err(error) = listeners.set(slot, socket, 0) {
            if !is_busy(&error) || Instant::now() > deadline {
                let what = format!("insert the listener of slot {slot} into the socket array");
                return Err(error).context(what);
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    }

    /// Makes the socket array forget all sockets, so that another one may have them.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn clear_listeners(&mut self) -> anyhow::Result<()> {
        let map = self
            .ebpf
            .map_mut("LISTENERS")
            .context("find map LISTENERS")?;
        let mut listeners = ReusePortSockArray::try_from(map)?;
        for slot in 0..MAX_WORKERS as u32 {
            // Most are empty, which is an error to the kernel.
            let _ = listeners.clear_index(&slot);
        }
        Ok(())
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
        self.program("select")?
            .attach(socket)
            .context("attach the select program")?;
        self.attached = Some(member);
        Ok(())
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
        let program = self.ebpf.program_mut(name);
        let program = program.with_context(|| format!("find program {name} in the BPF object"))?;
        let program: &mut SkReuseport = program.try_into()?;
        if program.fd().is_err() {
            program.load()?;
        }
        Ok(program)
    }
}

/// Takes a program off the group of `socket` that another process has attached and
/// not lived to take off.
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
    let mut loader = EbpfLoader::new();
    let loader = loader.override_global(aya_log::LEVEL, &log_level, false);
    Ok(loader.load(OBJECT)?)
}

fn group_memory(ebpf: &mut Ebpf) -> anyhow::Result<OwnedFd> {
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
    fd.context("duplicate the fd of array GROUP")
}
