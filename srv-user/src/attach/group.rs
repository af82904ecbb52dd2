//! Finding a listener group by its address, by a process of the server, or because it is the only
//! one, and checking whether it can be steered. Changes nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::MetadataExt as _;

use anyhow::Context as _;
use rustix::process::Pid;
use socket2::SockRef;
use srv_common::attached::MAX_LISTENERS;

use super::refusal::Refusal;
use super::take::take;
use crate::kernel::owners::{self, Owners};
use crate::kernel::sock_diag::{Listener, SockDiag};

/// What identifies a group: its address and its network namespace.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// The exact address that all its sockets are bound to.
    pub address: SocketAddr,
    /// A process in its network namespace; `None` if it is the namespace of this process.
    pub netns: Option<Pid>,
    /// The inode number of that namespace.
    pub namespace: u64,
}

impl Target {
    /// The group on `address`, in the network namespace of process `netns`.
    ///
    /// # Errors
    /// There is no such process.
    pub fn new(address: SocketAddr, netns: Option<Pid>) -> anyhow::Result<Self> {
        let namespace = namespace_of(netns)?;
        let netns = netns.map(other_namespace).transpose()?.flatten();
        Ok(Self {
            address,
            netns,
            namespace,
        })
    }

    /// The group on `address` in the namespace with this inode number; `None` if no process is in
    /// that namespace any more.
    ///
    /// # Errors
    /// The namespace of this process cannot be read.
    pub fn in_namespace(address: SocketAddr, namespace: u64) -> anyhow::Result<Option<Self>> {
        let is_there = |pid: &Pid| namespace_of(Some(*pid)).is_ok_and(|its| its == namespace);
        let netns = match namespace_of(None)? == namespace {
            true => None,
            false => match owners::all_processes().into_iter().find(is_there) {
                None => return Ok(None),
                found => found,
            },
        };
        Ok(Some(Self {
            address,
            netns,
            namespace,
        }))
    }

    /// The only group of process `pid`, in the namespace of that process. If the process listens on
    /// no address, this is the group of its descendants: a master may leave the sockets to its
    /// workers (gunicorn with `--reuse-port`).
    ///
    /// # Errors
    /// There is no such process, this process may not read its files, or the process and its
    /// descendants have no group or several.
    pub fn of_process(pid: Pid) -> anyhow::Result<Self> {
        let netns = Some(pid);
        let number = pid.as_raw_nonzero().get() as u32;
        let own = owners::sockets_of(pid).map_err(|error| unseen(number, error))?;
        let listeners = SockDiag::open(other_namespace(pid)?)?.all_listeners(0)?;
        let addresses_of = |sockets: &BTreeSet<u64>| -> Vec<SocketAddr> {
            let its = listeners
                .iter()
                .filter(|listener| sockets.contains(&listener.inode));
            let addresses: BTreeSet<SocketAddr> = its.map(|listener| listener.address).collect();
            addresses.into_iter().collect()
        };
        let mut addresses = addresses_of(&own.into_keys().collect());
        if addresses.is_empty() {
            let children = owners::descendants(pid);
            let sockets = children
                .into_iter()
                .filter_map(|child| owners::sockets_of(child).ok());
            addresses = addresses_of(&sockets.flat_map(BTreeMap::into_keys).collect());
        }
        let pid = number;
        match addresses[..] {
            [] => Err(Refusal::ProcessListensNowhere(pid).into()),
            [address] => Self::new(address, netns),
            _ => Err(Refusal::SeveralGroups { pid, addresses }.into()),
        }
    }

    /// The only group in the namespace of process `netns` that has several sockets or several
    /// workers.
    ///
    /// # Errors
    /// There is no such group, or there are several.
    pub fn only(netns: Option<Pid>) -> anyhow::Result<Self> {
        let place = Self::new(SocketAddr::from(([0, 0, 0, 0], 0)), netns)?;
        let listeners = SockDiag::open(place.netns)?.all_listeners(0)?;
        let owners = Owners::of(&listeners.iter().map(|each| each.inode).collect());
        let mut groups = BTreeMap::<SocketAddr, Vec<&Listener>>::new();
        for listener in &listeners {
            groups.entry(listener.address).or_default().push(listener);
        }
        // If each thread of a process accepts by itself, the process has an epoll instance for each.
        let has_workers = |listener: &&Listener| {
            let owners: Vec<_> = owners.having(listener.inode).collect();
            owners.len() > 1 || owners.iter().any(|owner| owner.epolls > 1)
        };
        groups.retain(|_, group| group.len() > 1 || group.iter().any(has_workers));
        let found: Vec<(SocketAddr, String)> = groups
            .into_iter()
            .map(|(address, group)| {
                let owner = owners.having(group[0].inode).next();
                (
                    address,
                    owner.map_or("-".to_owned(), |owner| owner.command.clone()),
                )
            })
            .collect();
        match &found[..] {
            [(address, _)] => Ok(Self {
                address: *address,
                ..place
            }),
            _ => Err(Refusal::WhichGroup(found).into()),
        }
    }

    /// The sockets of the group, at least one.
    ///
    /// # Errors
    /// There is no socket; the error says why, as far as this process can see.
    pub fn listeners(&self, diag: &mut SockDiag) -> anyhow::Result<Vec<Listener>> {
        let found = diag.listeners_on(self.address)?;
        match found.is_empty() {
            true => Err(why_no_listener(self, diag)?.into()),
            false => Ok(found),
        }
    }
}

/// Checks that these sockets can be steered.
///
/// # Errors
/// The reason why they cannot be steered.
pub fn ensure_steerable(
    address: SocketAddr,
    listeners: &[Listener],
    owners: &Owners,
) -> anyhow::Result<()> {
    if listeners.len() > MAX_LISTENERS {
        let listeners = listeners.len();
        return Err(Refusal::TooMany { address, listeners }.into());
    }
    if listeners
        .iter()
        .any(|each| each.device != listeners[0].device)
    {
        return Err(Refusal::SeveralDevices(address).into());
    }
    if owners.owners.is_empty() {
        return Err(Refusal::OwnersHidden(address).into());
    }
    if let [only] = listeners {
        ensure_own_socket(only, owners)?;
    }
    Ok(())
}

/// Checks that the only socket of a group belongs to one worker. If one worker polls it, more
/// sockets may follow. If it was bound without SO_REUSEPORT, or if several workers poll it, the
/// workers share it.
fn ensure_own_socket(only: &Listener, owners: &Owners) -> anyhow::Result<()> {
    let Some(socket) = take(only, owners)? else {
        return Err(Refusal::OwnersHidden(only.address).into());
    };
    let is_reuseport = SockRef::from(&socket).reuse_port();
    drop(socket);
    let is_own = is_reuseport.context("read the option SO_REUSEPORT of the socket")?;
    if is_own && owners.workers(only.inode).len() < 2 {
        return Ok(());
    }
    let command = owners.command().unwrap_or("the server").to_owned();
    let address = only.address;
    Err(Refusal::SharedSocket { address, command }.into())
}

/// `pid`, if that process is in another network namespace. To enter a namespace takes
/// CAP_SYS_ADMIN, also if it is the own one, so srv does not enter its own.
fn other_namespace(pid: Pid) -> anyhow::Result<Option<Pid>> {
    Ok((namespace_of(Some(pid))? != namespace_of(None)?).then_some(pid))
}

fn namespace_of(process: Option<Pid>) -> anyhow::Result<u64> {
    let path = match process {
        Some(pid) => format!("/proc/{}/ns/net", pid.as_raw_nonzero()),
        // The thread's, which its netlink sockets are of.
        None => "/proc/thread-self/ns/net".to_owned(),
    };
    match (std::fs::metadata(&path), process) {
        (Ok(about), _) => Ok(about.ino()),
        (Err(error), Some(pid)) => Err(unseen(pid.as_raw_nonzero().get() as u32, error)),
        (Err(error), None) => Err(error).with_context(|| format!("read {path}")),
    }
}

/// The error if a process cannot be examined.
fn unseen(pid: u32, error: io::Error) -> anyhow::Error {
    match error.kind() {
        io::ErrorKind::NotFound => Refusal::NoProcess(pid).into(),
        _ => anyhow::Error::new(error).context(format!(
            "examine process {pid} (if another user owns it, this needs CAP_SYS_PTRACE: sudo)"
        )),
    }
}

fn why_no_listener(target: &Target, diag: &mut SockDiag) -> anyhow::Result<Refusal> {
    let address = target.address;
    // The kernel may be built without udp_diag.
    if diag.has_udp(address).unwrap_or(false) {
        return Ok(Refusal::Udp(address));
    }
    let of_port = diag.all_listeners(address.port())?;
    let instead: BTreeSet<SocketAddr> = of_port.iter().map(|each| each.address).collect();
    let processes = elsewhere(target);
    if instead.is_empty() && !processes.is_empty() {
        return Ok(Refusal::OtherNamespace { address, processes });
    }
    Ok(Refusal::NoListener {
        address,
        instead: instead.into_iter().collect(),
    })
}

/// The most network namespaces that srv searches for a listener.
const NAMESPACES_MAX: usize = 256;

/// A process of each other network namespace in which a process listens on the address, with its
/// command name: the owner of the listener, if this process can see it.
fn elsewhere(target: &Target) -> Vec<(u32, String)> {
    let mut namespaces = BTreeMap::<u64, Vec<Pid>>::new();
    for pid in owners::all_processes() {
        if let Ok(namespace) = namespace_of(Some(pid)) {
            namespaces.entry(namespace).or_default().push(pid);
        }
    }
    namespaces.remove(&target.namespace);
    let mut found = Vec::new();
    for pids in namespaces.values().take(NAMESPACES_MAX) {
        let listeners = SockDiag::open(Some(pids[0]))
            .and_then(|mut diag| diag.listeners_on(target.address))
            .unwrap_or_default();
        let Some(listener) = listeners.first() else {
            continue;
        };
        let has = |pid: &&Pid| {
            owners::sockets_of(**pid).is_ok_and(|sockets| sockets.contains_key(&listener.inode))
        };
        let pid = *pids.iter().find(has).unwrap_or(&pids[0]);
        found.push((pid.as_raw_nonzero().get() as u32, owners::command(pid)));
    }
    found
}
