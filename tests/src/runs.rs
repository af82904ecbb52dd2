//! What a run of a select program costs: the kernel's own account of it, over real
//! SYNs.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use aya::programs::SkReuseport;
use socket2::{Domain, Socket, Type};

/// Mean time of a run, ns, of an attached program over `syns` connections to
/// `address`; after each `settle` runs. The kernel has to count run times.
///
/// # Errors
/// A connection fails, or the program did not run for each.
pub fn mean_run_ns(
    program: &SkReuseport,
    address: SocketAddr,
    syns: u32,
    mut settle: impl FnMut(),
) -> Result<f64> {
    let counted = || counted(program.fd()?.as_fd());
    let before = counted()?;
    for _ in 0..syns {
        connect_and_reset(address)?;
        settle();
    }
    let after = counted()?;
    let runs = after.runs - before.runs;
    ensure!(
        runs >= u64::from(syns),
        "the program ran {runs} times only for {syns} connections"
    );
    Ok((after.ns - before.ns) as f64 / runs as f64)
}

/// What the kernel has counted of a program.
#[derive(Debug)]
pub struct Counted {
    /// The time of all its runs, ns.
    pub ns: u64,
    /// Its runs.
    pub runs: u64,
}

/// What the kernel has counted of the program with this file descriptor.
///
/// # Errors
/// It cannot be read.
pub fn counted(program: BorrowedFd<'_>) -> Result<Counted> {
    let fd = program.as_raw_fd();
    let info = std::fs::read_to_string(format!("/proc/self/fdinfo/{fd}"))?;
    let field = |name: &str| {
        let line = info.lines().find_map(|line| line.strip_prefix(name));
        let value = line.with_context(|| format!("no {name} in fdinfo"))?;
        value.trim().parse().context("read a counter")
    };
    Ok(Counted {
        ns: field("run_time_ns:")?,
        runs: field("run_cnt:")?,
    })
}

/// One SYN that the program sees; the reset takes the connection away again.
fn connect_and_reset(address: SocketAddr) -> Result<()> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    socket.set_linger(Some(Duration::ZERO))?;
    socket.set_nonblocking(true)?;
    match socket.connect(&address.into()) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(()),
        Err(error)
            if error.raw_os_error() == Some(rustix::io::Errno::INPROGRESS.raw_os_error()) =>
        {
            Ok(())
        }
        Err(error) => bail!("connect to {address}: {error}"),
    }
}
