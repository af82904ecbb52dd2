//! The reasons why a group cannot be steered, each with its remedy. This module owns the texts.
//! Other modules find the reasons.

use std::fmt;
use std::net::SocketAddr;

use rustix::io::Errno;
use srv_common::attached::MAX_LISTENERS;

/// Why a group cannot be steered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// No process listens on this address by TCP.
    NoListener {
        /// The address that the user named.
        address: SocketAddr,
        /// The addresses with the same port on which a process listens.
        instead: Vec<SocketAddr>,
    },
    /// The socket on this address is a UDP socket.
    Udp(SocketAddr),
    /// A process listens on this address in another network namespace.
    OtherNamespace {
        /// The address that the user named.
        address: SocketAddr,
        /// A process in each such namespace, with its command name.
        processes: Vec<(u32, String)>,
    },
    /// No process has this id.
    NoProcess(u32),
    /// The user named no address, and no group or several groups have several workers: their
    /// addresses and command names.
    WhichGroup(Vec<(SocketAddr, String)>),
    /// This process listens on no address, and its descendants do not either.
    ProcessListensNowhere(u32),
    /// This process listens on several addresses.
    SeveralGroups {
        /// The process that the user named.
        pid: u32,
        /// The addresses on which it listens.
        addresses: Vec<SocketAddr>,
    },
    /// All workers share one socket, so there is nothing to choose between.
    SharedSocket {
        /// Its address.
        address: SocketAddr,
        /// The command name of the processes that share it.
        command: String,
    },
    /// The sockets on this address are bound to different network devices.
    SeveralDevices(SocketAddr),
    /// The group has more sockets than the program can choose between.
    TooMany {
        /// The address.
        address: SocketAddr,
        /// How many there are.
        listeners: usize,
    },
    /// This process does not see the owner of the sockets.
    OwnersHidden(SocketAddr),
    /// This process may not take the socket from its owner.
    MayNotTake {
        /// The owner.
        pid: u32,
        /// Its command name.
        command: String,
    },
    /// The kernel does not load the program, because this process lacks capabilities.
    MayNotLoad {
        /// Capabilities that are missing.
        lacks: Vec<&'static str>,
        /// What the loader said.
        why: String,
    },
    /// The kernel does not load the program, although this process has all capabilities for it.
    DoesNotLoad {
        /// What the loader said.
        why: String,
        /// The kernel's release.
        release: String,
    },
    /// The kernel does not have a system call or a socket option.
    KernelTooOld {
        /// What was tried.
        tried: String,
        /// What the kernel said.
        said: Errno,
        /// The first version of Linux that has it.
        since: &'static str,
    },
    /// A socket is in the socket array of another program (`EBUSY`).
    OtherProgram {
        /// The address.
        address: SocketAddr,
        /// The command name of the owners.
        command: String,
    },
    /// An agent steers this group already.
    AgentRuns {
        /// The address.
        address: SocketAddr,
        /// The process id of the agent.
        pid: u32,
    },
    /// Another error, in the words of the kernel.
    Kernel(String),
}

impl std::error::Error for Refusal {}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoListener { address, instead } => no_listener(f, *address, instead),
            Self::Udp(address) => write!(
                f,
                "{address} is a UDP socket (QUIC, DNS), and srv steers TCP connections only: name the address of a TCP listener with --listen (`ss -ltn` lists them)"
            ),
            Self::OtherNamespace { address, processes } => other_namespace(f, *address, processes),
            Self::NoProcess(pid) => write!(
                f,
                "there is no process {pid}: `ss -ltnp` shows which process listens on which address"
            ),
            Self::WhichGroup(found) => which_group(f, found),
            Self::ProcessListensNowhere(pid) => write!(
                f,
                "process {pid} has no listening TCP socket, and no process that it started has one: name the master or a worker of the server (`ss -ltnp` shows which process listens on which address)"
            ),
            Self::SeveralGroups { pid, addresses } => write!(
                f,
                "process {pid} listens on several addresses: name one, --listen {}",
                list(addresses, " or --listen ")
            ),
            Self::SharedSocket { address, command } => write!(
                f,
                "all workers of {command} share one socket on {address}, so there is nothing to choose between: give each worker a socket of its own; {}",
                how_to_own_sockets(command, *address)
            ),
            Self::SeveralDevices(address) => write!(
                f,
                "the sockets on {address} are bound to several network devices (SO_BINDTODEVICE), and srv does not support that: bind them without a device"
            ),
            Self::TooMany { address, listeners } => write!(
                f,
                "{address} has {listeners} sockets, and srv chooses between at most {MAX_LISTENERS}: start fewer workers"
            ),
            Self::OwnersHidden(address) => owners_hidden(f, *address),
            Self::MayNotTake { pid, command } => write!(
                f,
                "take a socket from process {pid} ({command}): not permitted; this needs CAP_SYS_PTRACE (sudo, or AmbientCapabilities=CAP_SYS_PTRACE in the unit), or the user of that process together with kernel.yama.ptrace_scope=0"
            ),
            Self::MayNotLoad { lacks, why } => write!(
                f,
                "{why}; missing: {} (sudo, or AmbientCapabilities={} in the unit)",
                lacks.join(", "),
                lacks.join(" ")
            ),
            Self::DoesNotLoad { why, release } => write!(f, "{why}; this is Linux {release}"),
            Self::KernelTooOld { tried, said, since } => {
                write!(f, "{tried}: {said}; this needs Linux {since} or newer")
            }
            Self::OtherProgram { address, command } => other_program(f, *address, command),
            Self::AgentRuns { address, pid } => write!(
                f,
                "an agent (process {pid}) steers {address} already: --take-over replaces it, and `srv detach --listen {address}` ends it"
            ),
            Self::Kernel(said) => f.write_str(said),
        }
    }
}

fn owners_hidden(f: &mut fmt::Formatter<'_>, address: SocketAddr) -> fmt::Result {
    write!(
        f,
        "find the owner of the sockets on {address}: this process sees none; if another user owns the server, this needs CAP_SYS_PTRACE (sudo), and in a container the PID namespace of the server or one above it (docker run --pid=host)"
    )
}

/// `error`, which is of setting a socket option. If the kernel does not have the option, the error
/// says since when kernels have it.
pub(crate) fn of_option(error: anyhow::Error, since: &'static str) -> anyhow::Error {
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

/// The kernel's error at the root of `error`.
pub(crate) fn errno(error: &anyhow::Error) -> Option<Errno> {
    let io = error
        .chain()
        .find_map(|cause| cause.downcast_ref::<std::io::Error>())?;
    Errno::from_io_error(io)
}

fn which_group(f: &mut fmt::Formatter<'_>, found: &[(SocketAddr, String)]) -> fmt::Result {
    if found.is_empty() {
        return f.write_str(
            "this process sees no server with several workers: name one by --listen ADDR or --pid PID \
             (to see the processes of other users, it needs CAP_SYS_PTRACE: sudo)",
        );
    }
    f.write_str("several servers listen on this machine: name one,")?;
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
    write!(f, "no process listens on {address}")?;
    if instead.is_empty() {
        return write!(
            f,
            ": start the server first (`ss -ltn` lists all listeners)"
        );
    }
    write!(
        f,
        " exactly: name the address to which the sockets are bound, --listen {}",
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
        "no process listens on {address} in this network namespace, but one does in the namespace of process {}: name it, --netns {}",
        named.join(", "),
        pids.join(" or --netns ")
    )
}

fn other_program(f: &mut fmt::Formatter<'_>, address: SocketAddr, command: &str) -> fmt::Result {
    if command == "srv" {
        return write!(
            f,
            "the server on {address} is srv itself, which steers already: `srv policy` changes its policy"
        );
    }
    write!(
        f,
        "the sockets on {address} are in the socket array of another program (EBUSY), which steers them: --take-over replaces that program; srv cannot restore it"
    )
}

/// How to configure a server so that each worker has a socket of its own, by command name.
const OWN_SOCKETS: [(&str, &str); 7] = [
    (
        "nginx",
        "nginx: `listen ADDR reuseport;`, then `nginx -s reload`",
    ),
    (
        "haproxy",
        "HAProxy 2.5 or newer: `bind ADDR shards by-thread`",
    ),
    (
        "gunicorn",
        "gunicorn 27 or newer: `gunicorn --reuse-port --bind ADDR`; an older one: one `gunicorn --reuse-port --workers 1` for each worker",
    ),
    (
        "granian",
        "granian 2.8 or newer: nothing to change, its workers have a socket each; an older one: one `granian --workers 1` for each worker",
    ),
    ("envoy", "Envoy: `enable_reuse_port: true` in the listener"),
    ("apache2", "Apache: `ListenCoresBucketsRatio 1`"),
    ("httpd", "Apache: `ListenCoresBucketsRatio 1`"),
];

/// How to configure this server so that each worker has a socket of its own.
pub(crate) fn how_to_own_sockets(command: &str, address: SocketAddr) -> String {
    let known = OWN_SOCKETS
        .iter()
        .find(|(name, _)| command.starts_with(name));
    match known {
        Some((_, how)) => how.replace("ADDR", &address.to_string()),
        None => format!(
            "each worker opens a listening socket of its own on {address}, with SO_REUSEPORT set before bind"
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
    fn a_shared_socket_is_answered_with_the_setting_of_the_server() {
        for (command, remedy) in [
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
            assert!(said.contains(remedy), "{command}: {said}");
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
    fn the_refusal_says_whether_the_server_is_srv_itself() {
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
