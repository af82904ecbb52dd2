//! Why a group cannot be steered, each with what would mend it. Words only;
//! whoever finds out is elsewhere.

use std::fmt;
use std::net::SocketAddr;

use rustix::io::Errno;
use srv_common::attached::MAX_LISTENERS;

/// Why not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// There is no TCP listener on this address.
    NoListener {
        /// The address asked for.
        address: SocketAddr,
        /// On which addresses somebody listens with the same port.
        instead: Vec<SocketAddr>,
    },
    /// What is bound there is UDP.
    Udp(SocketAddr),
    /// Somebody listens there, in another network namespace.
    OtherNamespace {
        /// The address asked for.
        address: SocketAddr,
        /// A process of each such namespace, with its command name.
        processes: Vec<(u32, String)>,
    },
    /// No process has this id.
    NoProcess(u32),
    /// No address was asked for, and not one group but none or several have several
    /// workers: their addresses and command names.
    WhichGroup(Vec<(SocketAddr, String)>),
    /// That process listens nowhere, and neither do its descendants.
    ProcessListensNowhere(u32),
    /// That process listens on several addresses.
    SeveralGroups {
        /// The process asked for.
        pid: u32,
        /// Where it listens.
        addresses: Vec<SocketAddr>,
    },
    /// All workers share one socket: there is nothing to choose between.
    SharedSocket {
        /// Its address.
        address: SocketAddr,
        /// Command name of those who share it.
        command: String,
    },
    /// Groups of the same address on different network devices.
    SeveralDevices(SocketAddr),
    /// More sockets than the program can choose between.
    TooMany {
        /// The address.
        address: SocketAddr,
        /// How many there are.
        listeners: usize,
    },
    /// No process is seen that has the sockets.
    OwnersHidden(SocketAddr),
    /// The owner is seen, but its socket may not be taken.
    MayNotTake {
        /// The owner.
        pid: u32,
        /// Its command name.
        command: String,
    },
    /// The kernel does not load the program for this process.
    MayNotLoad {
        /// Capabilities that are missing.
        lacks: Vec<&'static str>,
        /// What the loader said.
        why: String,
    },
    /// The kernel does not load the program for anybody.
    DoesNotLoad {
        /// What the loader said.
        why: String,
        /// The kernel's release.
        release: String,
    },
    /// The kernel knows no such call, or no such option.
    KernelTooOld {
        /// What was tried.
        tried: String,
        /// What the kernel said.
        said: Errno,
        /// Since when kernels have it.
        since: &'static str,
    },
    /// A socket is in another socket array already (`EBUSY`).
    OtherProgram {
        /// The address.
        address: SocketAddr,
        /// Command name of the owners.
        command: String,
    },
    /// An agent steers this group already.
    AgentRuns {
        /// The address.
        address: SocketAddr,
        /// Its process id.
        pid: u32,
    },
    /// Something else, in the kernel's words.
    Kernel(String),
}

impl std::error::Error for Refusal {}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoListener { address, instead } => no_listener(f, *address, instead),
            Self::Udp(address) => write!(
                f,
                "{address} is UDP (QUIC, DNS …): srv steers TCP connections only; pass the --listen address of a TCP listener, `ss -ltn` shows them"
            ),
            Self::OtherNamespace { address, processes } => other_namespace(f, *address, processes),
            Self::NoProcess(pid) => write!(
                f,
                "there is no process {pid}: `ss -ltnp` shows which process listens where"
            ),
            Self::WhichGroup(found) => which_group(f, found),
            Self::ProcessListensNowhere(pid) => write!(
                f,
                "process {pid} has no listening TCP socket, and no process that it started has one: `ss -ltnp` shows which process listens where; pass the server's master or a worker"
            ),
            Self::SeveralGroups { pid, addresses } => write!(
                f,
                "process {pid} listens on several addresses, name one: --listen {}",
                list(addresses, " or --listen ")
            ),
            Self::SharedSocket { address, command } => write!(
                f,
                "{address} is one socket that all workers of {command} share: there is nothing to choose between; enable reuseport in your server: {}",
                how_to_own_sockets(command, *address)
            ),
            Self::SeveralDevices(address) => write!(
                f,
                "{address} is bound on several network devices (SO_BINDTODEVICE), each a group of its own: this is not supported; bind without a device"
            ),
            Self::TooMany { address, listeners } => write!(
                f,
                "{address} has {listeners} sockets, srv chooses between at most {MAX_LISTENERS}: start fewer workers"
            ),
            Self::OwnersHidden(address) => owners_hidden(f, *address),
            Self::MayNotTake { pid, command } => write!(
                f,
                "take a socket from process {pid} ({command}): not permitted; needs CAP_SYS_PTRACE (sudo, or AmbientCapabilities=CAP_SYS_PTRACE in the unit), or to be its user with kernel.yama.ptrace_scope=0"
            ),
            Self::MayNotLoad { lacks, why } => write!(
                f,
                "{why}; missing: {} (sudo, or AmbientCapabilities={} in the unit)",
                lacks.join(", "),
                lacks.join(" ")
            ),
            Self::DoesNotLoad { why, release } => write!(f, "{why}; this is Linux {release}"),
            Self::KernelTooOld { tried, said, since } => {
                write!(f, "{tried}: {said}: needs Linux {since} or newer")
            }
            Self::OtherProgram { address, command } => other_program(f, *address, command),
            Self::AgentRuns { address, pid } => write!(
                f,
                "an agent steers {address} already (process {pid}): --take-over replaces it, `srv detach --listen {address}` ends it"
            ),
            Self::Kernel(said) => f.write_str(said),
        }
    }
}

fn owners_hidden(f: &mut fmt::Formatter<'_>, address: SocketAddr) -> fmt::Result {
    write!(
        f,
        "nobody is seen who has the sockets on {address}: needs CAP_SYS_PTRACE to see other users' processes (sudo), and the server's own PID namespace or one above (docker run --pid=host)"
    )
}

/// `error`, which came of setting a socket's option, with its mend if the kernel has no
/// such option.
pub fn of_option(error: anyhow::Error, since: &'static str) -> anyhow::Error {
    match errno(&error) {
        Some(said @ Errno::NOPROTOOPT) => Refusal::KernelTooOld {
            tried: error.to_string(),
            said,
            since,
        }
        .into(),
        _ => error,
    }
}

/// What the kernel said, beneath what it was asked for.
pub fn errno(error: &anyhow::Error) -> Option<Errno> {
    let io = error
        .chain()
        .find_map(|cause| cause.downcast_ref::<std::io::Error>())?;
    Errno::from_io_error(io)
}

fn which_group(f: &mut fmt::Formatter<'_>, found: &[(SocketAddr, String)]) -> fmt::Result {
    if found.is_empty() {
        return f.write_str(
            "no server with several workers listens here: name one by --listen ADDR or --pid PID \
             (other users' processes are seen with CAP_SYS_PTRACE: sudo)",
        );
    }
    f.write_str("several servers listen here, name one:")?;
    for (address, command) in found {
        write!(f, " --listen {address} ({command})")?;
    }
    Ok(())
}

fn no_listener(
    f: &mut fmt::Formatter<'_>,
    address: SocketAddr,
    instead: &[SocketAddr],
) -> fmt::Result {
    write!(f, "nobody listens on {address}")?;
    if instead.is_empty() {
        return write!(
            f,
            ": start the server first; `ss -ltn` shows who listens where"
        );
    }
    write!(
        f,
        ", a group is one exact address: --listen {}",
        list(instead, " or --listen ")
    )
}

fn other_namespace(
    f: &mut fmt::Formatter<'_>,
    address: SocketAddr,
    processes: &[(u32, String)],
) -> fmt::Result {
    let named: Vec<String> = processes
        .iter()
        .map(|(pid, command)| format!("{pid} ({command})"))
        .collect();
    let pids: Vec<String> = processes.iter().map(|(pid, _)| pid.to_string()).collect();
    write!(
        f,
        "nobody listens on {address} in this network namespace, but in that of process {}: --netns {}",
        named.join(", "),
        pids.join(" or --netns ")
    )
}

fn other_program(f: &mut fmt::Formatter<'_>, address: SocketAddr, command: &str) -> fmt::Result {
    if command == "srv" {
        return write!(
            f,
            "{address} is srv's own server, which steers already: `srv policy` changes how"
        );
    }
    write!(
        f,
        "the sockets on {address} are in the array of another program already (EBUSY), so somebody else steers them; --take-over replaces it, and it cannot be put back"
    )
}

/// How to make a server give each worker its own socket, by command name.
const OWN_SOCKETS: [(&str, &str); 7] = [
    (
        "nginx",
        "nginx: `listen ADDR reuseport;`, then `nginx -s reload`",
    ),
    (
        "haproxy",
        "HAProxy: `bind ADDR shards by-thread` (2.5 or newer)",
    ),
    (
        "gunicorn",
        "gunicorn: `gunicorn --reuse-port --bind ADDR …` (27 or newer; before, one `gunicorn --reuse-port --workers 1` per worker)",
    ),
    (
        "granian",
        "granian: 2.8 or newer, whose workers have a socket each; before, one `granian --workers 1` per worker",
    ),
    ("envoy", "Envoy: `enable_reuse_port: true` in the listener"),
    ("apache2", "Apache: `ListenCoresBucketsRatio 1`"),
    ("httpd", "Apache: `ListenCoresBucketsRatio 1`"),
];

/// What gives each worker of this server a socket of its own.
pub fn how_to_own_sockets(command: &str, address: SocketAddr) -> String {
    let known = OWN_SOCKETS
        .iter()
        .find(|(name, _)| command.starts_with(name));
    match known {
        Some((_, how)) => how.replace("ADDR", &address.to_string()),
        None => format!(
            "give each worker a listening socket of its own on {address}, with SO_REUSEPORT set before bind"
        ),
    }
}

fn list(addresses: &[SocketAddr], between: &str) -> String {
    let words: Vec<String> = addresses.iter().map(SocketAddr::to_string).collect();
    words.join(between)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shared(command: &str) -> String {
        Refusal::SharedSocket {
            address: "0.0.0.0:8080".parse().unwrap(),
            command: command.into(),
        }
        .to_string()
    }

    #[test]
    fn a_shared_socket_is_mended_in_the_servers_own_words() {
        for (command, mend) in [
            ("nginx", "`listen 0.0.0.0:8080 reuseport;`"),
            ("haproxy", "shards by-thread"),
            ("gunicorn", "--reuse-port --workers 1"),
            ("gunicorn: worke", "--reuse-port --workers 1"),
            ("granian", "granian --workers 1"),
            ("envoy", "enable_reuse_port: true"),
            ("apache2", "ListenCoresBucketsRatio"),
            ("myserver", "SO_REUSEPORT set before bind"),
        ] {
            let said = shared(command);
            assert!(said.contains(mend), "{command}: {said}");
        }
    }

    #[test]
    fn missing_capabilities_are_named() {
        let refusal = Refusal::MayNotLoad {
            lacks: vec!["CAP_BPF", "CAP_PERFMON"],
            why: "load the select program: Operation not permitted".into(),
        };
        let said = refusal.to_string();
        assert!(said.contains("missing: CAP_BPF, CAP_PERFMON"), "{said}");
        assert!(
            said.contains("AmbientCapabilities=CAP_BPF CAP_PERFMON"),
            "{said}"
        );
    }

    #[test]
    fn srvs_own_group_is_told_apart() {
        let other = |command: &str| {
            Refusal::OtherProgram {
                address: "127.0.0.1:80".parse().unwrap(),
                command: command.into(),
            }
            .to_string()
        };
        assert!(other("srv").contains("srv policy"));
        assert!(other("nginx").contains("--take-over"));
    }
}
