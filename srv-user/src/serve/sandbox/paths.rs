//! Landlock: which files a process may reach, by path, and which applications, by port. `openat2` keeps requests
//! beneath the roots. If an attacker controls a worker, Landlock keeps it there, too.

use std::collections::BTreeSet;
use std::os::fd::BorrowedFd;

use landlock::{
    ABI, Access, AccessFs, AccessNet, CompatLevel, Compatible, LandlockStatus, NetPort,
    PathBeneath, Ruleset, RulesetAttr, RulesetCreatedAttr, RulesetError, Scope,
};

use crate::values::ApplicationAddr;

/// The newest ABI that this crate knows. If the kernel has an older one, srv asks for less.
const NEWEST: ABI = ABI::V6;

/// From now on this thread reads beneath `roots`, and opens, changes and runs no
/// other file. It binds no TCP socket and connects none, except to the ports of `applications`
/// (Landlock knows no addresses, and does not restrict sockets in the file system). It sends no signal to a process
/// outside of this restriction. Returns the ABI by which the kernel enforces this (1:
/// files only, 4: TCP, 6: signals), or 0 if the kernel has no Landlock.
///
/// # Errors
/// What the kernel says, other than that it has no Landlock.
pub fn reach(
    roots: &[BorrowedFd<'_>],
    applications: &BTreeSet<&ApplicationAddr>,
) -> Result<u32, RulesetError> {
    let mut rules = Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(NEWEST))?
        .handle_access(AccessNet::from_all(NEWEST))?
        .scope(Scope::from_all(NEWEST))?
        .create()?;
    for root in roots {
        let read = AccessFs::ReadFile | AccessFs::ReadDir;
        rules = rules.add_rule(PathBeneath::new(root, read))?;
    }
    for application in applications {
        if let ApplicationAddr::Tcp(address) = application {
            let connect = AccessNet::ConnectTcp;
            rules = rules.add_rule(NetPort::new(address.port(), connect))?;
        }
    }
    let status = rules.restrict_self()?;
    Ok(number(&status.landlock))
}

/// The ABI that this kernel has, or 0 if it has no Landlock. A thread restricts itself
/// to find out, and ends.
pub fn abi() -> u32 {
    let restricted = std::thread::spawn(|| reach(&[], &BTreeSet::new()));
    restricted.join().ok().and_then(Result::ok).unwrap_or(0)
}

fn number(status: &LandlockStatus) -> u32 {
    match status {
        LandlockStatus::Available {
            effective_abi,
            kernel_abi,
        } => kernel_abi.map_or(*effective_abi as u32, |abi| abi as u32),
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File};
    use std::io::ErrorKind;
    use std::net::TcpStream;
    use std::os::fd::AsFd;

    use super::*;
    use crate::gate;

    /// Only the thread that asks for it is restricted.
    #[test]
    fn nothing_but_reading_beneath_the_root_is_left() {
        let has_landlock = (abi() > 0).then_some(());
        let has_landlock = has_landlock.ok_or("this kernel has no Landlock".into());
        if !gate::can("confine by Landlock", has_landlock) {
            return;
        }
        let folder = tempfile::tempdir().unwrap();
        let [root, outside] = ["root", "outside"].map(|name| folder.path().join(name));
        fs::create_dir(&root).unwrap();
        fs::write(root.join("file"), "inside").unwrap();
        fs::write(&outside, "outside").unwrap();
        std::os::unix::fs::symlink(&outside, root.join("link")).unwrap();
        let confined = std::thread::spawn(move || {
            let opened = File::open(&root).unwrap();
            let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
            let application = listener.local_addr().unwrap();
            let allowed = ApplicationAddr::Tcp(application);
            reach(&[opened.as_fd()], &BTreeSet::from([&allowed])).unwrap();
            TcpStream::connect(application).unwrap();
            assert_eq!(fs::read(root.join("file")).unwrap(), b"inside");
            let denied = [
                fs::read(&outside).map(drop),
                fs::read(root.join("link")).map(drop),
                fs::write(root.join("file"), "changed"),
                fs::write(root.join("new"), ""),
                fs::remove_file(root.join("file")),
            ];
            for outcome in denied {
                assert_eq!(outcome.unwrap_err().kind(), ErrorKind::PermissionDenied);
            }
            if abi() >= 4 {
                let connected = TcpStream::connect("127.0.0.1:1").unwrap_err();
                assert_eq!(connected.kind(), ErrorKind::PermissionDenied);
            }
        });
        confined.join().unwrap();
    }
}
