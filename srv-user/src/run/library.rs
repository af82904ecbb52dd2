//! The library that is loaded into the server's processes: the one that this binary carries, in a
//! file from which it can be loaded, by workers that become another user, too.

use std::collections::hash_map::DefaultHasher;
use std::fs::{self, File, Permissions};
use std::hash::Hasher as _;
use std::io::{self, Write as _};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail, ensure};
use rustix::fs::Mode;
use rustix::io::Errno;
use rustix::mm::{MapFlags, ProtFlags};

use crate::output::whole_file::{Readers, WholeFile};

/// The library that the build embedded; empty if there was none.
static LIBRARY: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/srv-preload.so"));

/// Where the package installs it.
const INSTALLED: &str = "/usr/lib/srv/srv-preload.so";
/// Every user can read it, since a worker may become another user and execute a program.
const MODE: u32 = 0o644;

/// A file with the library, which is written if there is none.
///
/// # Errors
/// If this binary carries none, or there is no folder from which a library can be loaded.
pub(super) fn place() -> anyhow::Result<PathBuf> {
    ensure!(
        !LIBRARY.is_empty(),
        "this srv carries no library (built without it): build it with `cargo xtask build`"
    );
    let installed = Path::new(INSTALLED);
    if is_loadable(installed) {
        return Ok(installed.to_owned());
    }
    let mut refusals = Vec::new();
    for folder in folders() {
        match place_in(&folder) {
            Ok(path) => return Ok(path),
            Err(error) => refusals.push(format!("{}: {error:#}", folder.display())),
        }
    }
    bail!(
        "there is no folder from which a library can be loaded: {}; install srv's package, or \
         mount one of these without noexec",
        refusals.join("; ")
    )
}

/// The folders that are tried. A service manager often mounts the first ones with noexec.
fn folders() -> Vec<PathBuf> {
    let uid = rustix::process::getuid();
    let runtime = std::env::var_os("XDG_RUNTIME_DIR").filter(|_| !uid.is_root());
    let runtime = match runtime {
        Some(folder) => PathBuf::from(folder).join("srv-preload"),
        None => "/run/srv-preload".into(),
    };
    let name = format!("srv-preload-{}", uid.as_raw());
    let shared = ["/dev/shm", "/tmp", "/var/tmp"].map(|folder| Path::new(folder).join(&name));
    std::iter::once(runtime).chain(shared).collect()
}

fn place_in(folder: &Path) -> anyhow::Result<PathBuf> {
    // LD_PRELOAD separates its entries by both.
    let name = folder.as_os_str().as_encoded_bytes();
    ensure!(
        !name.contains(&b' ') && !name.contains(&b':'),
        "its name has a space or a colon"
    );
    make_own(folder)?;
    let mut hash = DefaultHasher::new();
    hash.write(LIBRARY);
    let path = folder.join(format!("{:016x}.so", hash.finish()));
    if !is_loadable(&path) {
        write(&path).with_context(|| format!("write {}", path.display()))?;
        ensure!(
            is_loadable(&path),
            "a library cannot be loaded from it (noexec)"
        );
    }
    Ok(path)
}

/// Makes the folder, which other users can read and only this user can write to.
fn make_own(folder: &Path) -> anyhow::Result<()> {
    match rustix::fs::mkdir(folder, Mode::from_raw_mode(0o755)) {
        Ok(()) => {
            // The umask may have withheld something.
            fs::set_permissions(folder, Permissions::from_mode(0o755)).context("set its mode")?;
        }
        Err(Errno::EXIST) => {}
        Err(error) => return Err(error).context("create it"),
    }
    let found = fs::symlink_metadata(folder).context("stat it")?;
    ensure!(
        found.is_dir() && is_trusted(&found),
        "it belongs to another user, or other users can write to it"
    );
    Ok(())
}

/// Whether no other user but root can have written it.
fn is_trusted(found: &fs::Metadata) -> bool {
    let owner = found.uid();
    let is_own = owner == rustix::process::getuid().as_raw() || owner == 0;
    is_own && found.mode() & 0o022 == 0
}

fn write(path: &Path) -> io::Result<()> {
    let mut file = WholeFile::beside(path, Readers::Owner)?;
    file.file().write_all(LIBRARY)?;
    file.file().set_permissions(Permissions::from_mode(MODE))?;
    file.replace().map(drop)
}

/// Whether the file is the library, and a process can load it.
fn is_loadable(path: &Path) -> bool {
    let load = || -> io::Result<bool> {
        let file = File::open(path)?;
        let found = file.metadata()?;
        let is_whole = found.len() == LIBRARY.len() as u64 && is_trusted(&found);
        if !is_whole || fs::read(path)? != LIBRARY {
            return Ok(false);
        }
        let (nowhere, flags) = (std::ptr::null_mut(), MapFlags::PRIVATE);
        let protection = ProtFlags::READ | ProtFlags::EXEC;
        // SAFETY: a new mapping, which replaces nothing and to which nothing refers.
        unsafe {
            let at = rustix::mm::mmap(nowhere, LIBRARY.len(), protection, flags, &file, 0)?;
            rustix::mm::munmap(at, LIBRARY.len())?;
        }
        Ok(true)
    };
    load().unwrap_or(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_of_another_user_is_not_used() {
        let folder = tempfile::tempdir().unwrap();
        let own = folder.path().join("own");
        make_own(&own).unwrap();
        make_own(&own).unwrap();
        assert_eq!(fs::metadata(&own).unwrap().mode() & 0o777, 0o755);
        fs::set_permissions(&own, Permissions::from_mode(0o777)).unwrap();
        assert!(make_own(&own).is_err());
        let link = folder.path().join("link");
        std::os::unix::fs::symlink(folder.path(), &link).unwrap();
        assert!(make_own(&link).is_err());
        assert!(
            place_in(Path::new("/tmp/a b"))
                .unwrap_err()
                .to_string()
                .contains("space")
        );
    }

    #[test]
    fn the_library_is_placed_once_and_repaired_if_it_is_another() {
        if LIBRARY.is_empty() {
            assert!(
                place()
                    .unwrap_err()
                    .to_string()
                    .contains("carries no library")
            );
            return;
        }
        let folder = tempfile::tempdir_in("/dev/shm").unwrap();
        let folder = folder.path().join("own");
        let path = place_in(&folder).unwrap();
        let before = fs::metadata(&path).unwrap();
        assert_eq!(place_in(&folder).unwrap(), path);
        assert_eq!(fs::metadata(&path).unwrap().ino(), before.ino());
        assert_eq!(before.mode() & 0o777, MODE);
        fs::write(&path, b"another").unwrap();
        assert!(is_loadable(&place_in(&folder).unwrap()));
    }
}
