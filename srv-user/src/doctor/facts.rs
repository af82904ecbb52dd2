//! The facts about this machine. This module reads them and judges nothing.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

use rustix::io::Errno;
use rustix::process::{PidfdFlags, PidfdGetfdFlags, Resource, getrlimit, pidfd_getfd, pidfd_open};
use rustix::thread::CapabilitySet;

use super::cgroup;
use crate::kernel::openat2::openat2_refusal;
use crate::serve::rehearsal;
use crate::serve::sandbox::{User, paths, syscalls};

/// The facts. An `Option` is `None` if the machine does not tell.
#[derive(Clone, Debug)]
pub struct Facts {
    /// Whether the BPF program loads.
    pub program: ProgramState,
    /// The kernel's release, as `uname -r` prints it.
    pub release: String,
    /// Its first two numbers; zeros if it has none.
    pub version: (u32, u32),
    /// Whether the kernel describes its types.
    pub has_btf: bool,
    /// Whether the kernel can copy a socket from another process (`pidfd_getfd`, Linux 5.6).
    pub has_pidfd_getfd: bool,
    /// `kernel.yama.ptrace_scope`.
    pub ptrace_scope: Option<u32>,
    /// Effective capabilities.
    pub capabilities: CapabilitySet,
    /// Whether this process is in the initial user namespace. In another one, capabilities do not
    /// count for BPF.
    pub is_initial_user_namespace: bool,
    /// `kernel.unprivileged_bpf_disabled`.
    pub unprivileged_bpf_disabled: Option<u32>,
    /// Soft `RLIMIT_MEMLOCK` in bytes; `None` is unlimited.
    pub memlock_bytes: Option<u64>,
    /// Soft `RLIMIT_NOFILE`; `None` is unlimited.
    pub open_files_soft: Option<u64>,
    /// Hard `RLIMIT_NOFILE`, to which srv raises the soft one; `None` is unlimited.
    pub open_files: Option<u64>,
    /// Why `openat2` cannot be called; `None` if it can be called.
    pub openat2_refusal: Option<String>,
    /// `net.core.somaxconn`.
    pub somaxconn: Option<u32>,
    /// `net.ipv4.tcp_max_syn_backlog`.
    pub tcp_max_syn_backlog: Option<u32>,
    /// `net.ipv4.tcp_syncookies`.
    pub tcp_syncookies: Option<u32>,
    /// `net.ipv4.tcp_abort_on_overflow`.
    pub tcp_abort_on_overflow: Option<u32>,
    /// `net.ipv4.tcp_migrate_req`.
    pub tcp_migrate_req: Option<u32>,
    /// `net.ipv4.tcp_fastopen`.
    pub tcp_fastopen: Option<u32>,
    /// `net.ipv4.ip_local_port_range`.
    pub ip_local_port_range: Option<(u16, u16)>,
    /// `net.ipv4.ip_unprivileged_port_start`.
    pub ip_unprivileged_port_start: Option<u32>,
    /// CPUs that are online.
    pub cpus_online: u32,
    /// CPUs that this process may run on (affinity, cpuset).
    pub cpus_allowed: u32,
    /// CPU time per time: the lowest quota of the cgroups of this process (`cpu.max`, or
    /// `cpu.cfs_quota_us` of cgroup v1).
    pub cpu_quota: Option<f64>,
    /// Workers that `srv serve` starts by default.
    pub default_workers: u32,
    /// The mount point of the cgroup v2 hierarchy.
    pub cgroup2: Option<PathBuf>,
    /// The kind of container in which this process runs, if it shows any sign of one.
    pub container: Option<String>,
    /// Whether this process has the process id 1 in its namespace.
    pub is_pid_1: bool,
    /// Whether this process is in the network namespace of process 1.
    pub is_network_of_pid_1: Option<bool>,
    /// Whether a seccomp filter restricts the system calls of this process.
    pub has_seccomp_filter: bool,
    /// The user id of the workers by default, or why they cannot run as the user `nobody`.
    pub worker_user: Result<u32, String>,
    /// Whether workers can be restricted to the system calls that they need.
    pub filters_system_calls: bool,
    /// The ABI of Landlock; 0 if the kernel has no Landlock.
    pub landlock_abi: u32,
}

/// Whether the BPF program loads on this machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ProgramState {
    /// The program loads.
    Loads,
    /// The program does not load; the error of the loader.
    Refused(String),
    /// The binary was built without the program.
    NotBuilt,
}

impl Facts {
    /// Reads all facts. A fact that cannot be read is `None`, never an error: `srv doctor`
    /// has to work on a machine that lacks something.
    pub fn gather(program: ProgramState) -> Self {
        let uname = rustix::system::uname();
        let release = uname.release().to_string_lossy().into_owned();
        let status = read("/proc/self/status").unwrap_or_default();
        let status = process_status(&status);
        let mounts = read("/proc/self/mounts").unwrap_or_default();
        let cgroups = read("/proc/self/cgroup").unwrap_or_default();
        let cpus_online = read("/sys/devices/system/cpu/online").map_or(1, |list| cpu_count(&list));
        Self {
            program,
            version: version(&release),
            release,
            has_btf: Path::new("/sys/kernel/btf/vmlinux").exists(),
            has_pidfd_getfd: has_pidfd_getfd(),
            ptrace_scope: sysctl("kernel/yama/ptrace_scope"),
            capabilities: rustix::thread::capabilities(None)
                .map_or(CapabilitySet::empty(), |sets| sets.effective),
            is_initial_user_namespace: read("/proc/self/uid_map")
                .is_none_or(|map| maps_every_user(&map)),
            unprivileged_bpf_disabled: sysctl("kernel/unprivileged_bpf_disabled"),
            memlock_bytes: getrlimit(Resource::Memlock).current,
            open_files_soft: getrlimit(Resource::Nofile).current,
            open_files: getrlimit(Resource::Nofile).maximum,
            openat2_refusal: openat2_refusal().map(|error| error.to_string()),
            somaxconn: sysctl("net/core/somaxconn"),
            tcp_max_syn_backlog: sysctl("net/ipv4/tcp_max_syn_backlog"),
            tcp_syncookies: sysctl("net/ipv4/tcp_syncookies"),
            tcp_abort_on_overflow: sysctl("net/ipv4/tcp_abort_on_overflow"),
            tcp_migrate_req: sysctl("net/ipv4/tcp_migrate_req"),
            tcp_fastopen: sysctl("net/ipv4/tcp_fastopen"),
            ip_local_port_range: read("/proc/sys/net/ipv4/ip_local_port_range")
                .and_then(|range| port_range(&range)),
            ip_unprivileged_port_start: sysctl("net/ipv4/ip_unprivileged_port_start"),
            cpus_online,
            cpus_allowed: status
                .get("Cpus_allowed_list")
                .map_or(cpus_online, |list| cpu_count(list)),
            cpu_quota: cgroup::cpu_quota(&mounts, &cgroups),
            default_workers: crate::serve::config::available_cpus(),
            cgroup2: cgroup::v2_mount(&mounts),
            container: container(),
            is_pid_1: std::process::id() == 1,
            is_network_of_pid_1: is_network_of_pid_1(),
            has_seccomp_filter: status.get("Seccomp").is_some_and(|mode| *mode == "2"),
            worker_user: worker_user(),
            filters_system_calls: syscalls::can_filter(),
            landlock_abi: paths::abi(),
        }
    }
}

fn worker_user() -> Result<u32, String> {
    let own = rustix::process::geteuid();
    if !own.is_root() {
        return Ok(own.as_raw());
    }
    let nobody = User::nobody();
    let possible = rehearsal::ensure_possible(nobody).map(|()| nobody.uid);
    possible.map_err(|error| format!("{error:#}"))
}

/// Calls `pidfd_getfd` for a descriptor that this process cannot have: the error tells whether the
/// kernel has the call.
fn has_pidfd_getfd() -> bool {
    let ask = || {
        let this = pidfd_open(rustix::process::getpid(), PidfdFlags::empty())?;
        pidfd_getfd(this, i32::MAX, PidfdGetfdFlags::empty())
    };
    ask().err() != Some(Errno::NOSYS)
}

fn read(path: impl AsRef<Path>) -> Option<String> {
    fs::read_to_string(path).ok()
}

fn sysctl(path: &str) -> Option<u32> {
    read(Path::new("/proc/sys").join(path))?.trim().parse().ok()
}

/// `6.1` of `6.1.0-13-amd64`.
fn version(release: &str) -> (u32, u32) {
    let mut numbers = release
        .split(|c: char| !c.is_ascii_digit())
        .map(|part| part.parse().ok());
    let mut next = || numbers.next().flatten().unwrap_or(0);
    (next(), next())
}

/// The lines of `/proc/PID/status`, by name.
fn process_status(text: &str) -> HashMap<&str, &str> {
    let fields = text.lines().filter_map(|line| line.split_once(':'));
    fields.map(|(name, value)| (name, value.trim())).collect()
}

/// CPUs in a list such as `0-3,8,10-11`.
fn cpu_count(list: &str) -> u32 {
    let ranges = list.trim().split(',').filter_map(|range| {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        Some(last.parse::<u32>().ok()?.checked_sub(first.parse().ok()?)? + 1)
    });
    ranges.sum::<u32>().max(1)
}

fn port_range(text: &str) -> Option<(u16, u16)> {
    let (first, last) = text.trim().split_once(char::is_whitespace)?;
    Some((first.parse().ok()?, last.trim().parse().ok()?))
}

/// The initial user namespace maps all 2³² - 1 user ids to themselves.
fn maps_every_user(uid_map: &str) -> bool {
    uid_map.split_whitespace().eq(["0", "0", "4294967295"])
}

/// podman and systemd-nspawn set the variable `container`; docker creates a file.
fn container() -> Option<String> {
    if let Some(kind) = std::env::var("container")
        .ok()
        .filter(|kind| !kind.is_empty())
    {
        return Some(kind);
    }
    if std::env::var_os("KUBERNETES_SERVICE_HOST").is_some() {
        return Some("kubernetes".into());
    }
    let marks = [("/.dockerenv", "docker"), ("/run/.containerenv", "podman")];
    marks
        .into_iter()
        .find(|(mark, _)| Path::new(mark).exists())
        .map(|(_, kind)| kind.into())
}

/// `None` if this process may not read the link of process 1, which needs the right to trace it.
fn is_network_of_pid_1() -> Option<bool> {
    let namespace = |pid: &str| fs::read_link(format!("/proc/{pid}/ns/net")).ok();
    Some(namespace("self")? == namespace("1")?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn releases_of_every_shape_have_a_version() {
        for (release, expected) in [
            ("6.18.44-fc-v445", (6, 18)),
            ("5.14.0-427.el9.x86_64", (5, 14)),
            ("6.1-rc3", (6, 1)),
            ("7", (7, 0)),
            ("custom", (0, 0)),
        ] {
            assert_eq!(version(release), expected, "{release}");
        }
    }

    #[test]
    fn cpu_lists_are_counted() {
        for (list, count) in [("0\n", 1), ("0-3", 4), ("0-3,8,10-11\n", 7), ("", 1)] {
            assert_eq!(cpu_count(list), count, "{list:?}");
        }
    }

    #[test]
    fn the_kernels_files_are_understood() {
        assert_eq!(port_range("32768\t60999\n"), Some((32768, 60999)));
        assert!(maps_every_user("         0          0 4294967295\n"));
        assert!(!maps_every_user("0 1000 1\n1 100000 65536\n"));
        assert_eq!(process_status("Seccomp:\t2\nThreads:\t1\n")["Seccomp"], "2");
    }

    #[test]
    fn this_machine_has_facts() {
        let facts = Facts::gather(ProgramState::NotBuilt);
        assert!(facts.version > (3, 0), "{}", facts.release);
        assert!(facts.cpus_allowed >= 1 && facts.cpus_allowed <= facts.cpus_online);
        assert!(facts.somaxconn.is_some());
    }
}
