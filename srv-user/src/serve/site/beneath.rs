//! Opens names beneath one folder and nowhere else. A symbolic link may lead to another place in
//! the folder, by a relative or an absolute target, but never out of it. There is no time between
//! a check and its use in which a rename could change the result.
//!
//! The kernel does this in one call (`openat2` with `RESOLVE_BENEATH`), except for absolute
//! targets, which it always refuses. This module walks those itself, and all names if a sandbox
//! or an old kernel refuses `openat2`. It opens each component alone and never through a link
//! (`O_NOFOLLOW`). It reads a link's target and walks that instead. At `..`, it goes back to the
//! folder that the walk came from, so the walk cannot leave the folder where it began.

use std::ffi::OsStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use crate::kernel::openat2::openat2_refusal;

/// How often srv calls `openat2` for one name. The call fails with `EAGAIN` if a rename anywhere on
/// the machine races with a `..` in a symbolic link.
const ATTEMPTS: u32 = 16;
/// The most links in one name, as many as the kernel follows (`MAXSYMLINKS`,
/// include/linux/namei.h).
const LINKS_MAX: u32 = 40;

const READ: OFlags = OFlags::RDONLY
    .union(OFlags::NONBLOCK)
    .union(OFlags::NOCTTY)
    .union(OFlags::CLOEXEC);
const ENTER: OFlags = OFlags::PATH.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);

/// A folder that is kept open.
#[derive(Debug)]
pub(super) struct Beneath {
    folder: OwnedFd,
    /// The names that absolute links may use for the folder.
    names: Vec<PathBuf>,
    opener: Opener,
}

/// The system call that opens files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Opener {
    /// `openat2`, Linux 5.6.
    Openat2,
    /// `openat`, component by component.
    Openat,
}

impl Opener {
    /// `openat2`, if this process may call it; if not, `openat`.
    pub(super) fn here() -> Self {
        match openat2_refusal() {
            None => Self::Openat2,
            Some(_) => Self::Openat,
        }
    }
}

impl Beneath {
    /// Opens beneath `folder`. Absolute links may use one of `names` for it.
    pub(super) fn new(folder: OwnedFd, names: Vec<PathBuf>, opener: Opener) -> Self {
        Self {
            folder,
            names,
            opener,
        }
    }

    /// Opens for reading what `name`, relative to the folder, leads to. It may wait for the disk,
    /// but never for a FIFO.
    ///
    /// # Errors
    /// `EXDEV` if the name leads out of the folder; otherwise what the kernel says.
    pub(super) fn open(&self, name: &[u8]) -> Result<OwnedFd, Errno> {
        if self.opener == Opener::Openat {
            return self.walk(name);
        }
        let mut attempts = ATTEMPTS;
        loop {
            attempts -= 1;
            match self.openat2(self.folder.as_fd(), name, READ) {
                Err(Errno::AGAIN | Errno::INTR) if attempts > 0 => {}
                // The name leads out of the folder, or through an absolute link.
                Err(Errno::XDEV) => return self.walk(name),
                done => return done,
            }
        }
    }

    fn openat2(&self, at: BorrowedFd<'_>, name: &[u8], flags: OFlags) -> Result<OwnedFd, Errno> {
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
        rustix::fs::openat2(at, name, flags, Mode::empty(), resolve)
    }

    fn walk(&self, name: &[u8]) -> Result<OwnedFd, Errno> {
        let mut rest = Vec::new();
        put_before(&mut rest, name);
        // The folders from the start of the walk to where it is now.
        let mut folders: Vec<OwnedFd> = Vec::new();
        let mut links = 0;
        while let Some(component) = rest.pop() {
            if component == b".." {
                folders.pop().ok_or(Errno::XDEV)?;
                continue;
            }
            let here = folders.last().unwrap_or(&self.folder).as_fd();
            let flags = if rest.is_empty() { READ } else { ENTER };
            match self.open_one(here, &component, flags) {
                Ok(opened) if rest.is_empty() => return Ok(opened),
                Ok(entered) => folders.push(entered),
                // The component is a link, or not a folder.
                Err(error @ (Errno::LOOP | Errno::NOTDIR)) => {
                    let target = match rustix::fs::readlinkat(here, &*component, Vec::new()) {
                        Ok(target) => target.into_bytes(),
                        Err(Errno::INVAL) => return Err(error),
                        Err(other) => return Err(other),
                    };
                    links += 1;
                    if links > LINKS_MAX {
                        return Err(Errno::LOOP);
                    }
                    if target.starts_with(b"/") {
                        put_before(&mut rest, self.inside(&target).ok_or(Errno::XDEV)?);
                        folders.clear();
                    } else {
                        put_before(&mut rest, &target);
                    }
                }
                Err(other) => return Err(other),
            }
        }
        let here = folders.last().unwrap_or(&self.folder).as_fd();
        self.open_one(here, b".", READ)
    }

    /// Opens one component, if it is not a link.
    fn open_one(&self, at: BorrowedFd<'_>, name: &[u8], flags: OFlags) -> Result<OwnedFd, Errno> {
        let flags = flags | OFlags::NOFOLLOW;
        rustix::io::retry_on_intr(|| match self.opener {
            Opener::Openat2 => self.openat2(at, name, flags),
            Opener::Openat => rustix::fs::openat(at, name, flags, Mode::empty()),
        })
    }

    /// Makes an absolute target relative to the folder, if it names something in the folder.
    fn inside<'a>(&self, target: &'a [u8]) -> Option<&'a [u8]> {
        let target = Path::new(OsStr::from_bytes(target));
        let mut inside = self.names.iter().map(|name| target.strip_prefix(name));
        let inside = inside.find_map(Result::ok)?;
        Some(inside.as_os_str().as_bytes())
    }
}

impl AsFd for Beneath {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.folder.as_fd()
    }
}

/// Puts the components of `name` before those that are to come, which are in reverse order.
fn put_before(rest: &mut Vec<Vec<u8>>, name: &[u8]) {
    let components = name.split(|byte| *byte == b'/');
    let components = components.filter(|component| !matches!(*component, b"" | b"."));
    rest.extend(components.rev().map(<[u8]>::to_vec));
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File};
    use std::io::Read;
    use std::os::unix::fs::symlink;

    use rustix::fs::CWD;

    use super::*;

    /// A folder `root` beside a file `secret`.
    fn fixture() -> tempfile::TempDir {
        let outer = tempfile::tempdir().unwrap();
        let at = |name: &str| outer.path().join(name);
        fs::create_dir_all(at("root/a/b")).unwrap();
        fs::write(at("secret"), "secret").unwrap();
        fs::write(at("root/file"), "file").unwrap();
        fs::write(at("root/a/b/deep"), "deep").unwrap();
        outer
    }

    fn both(root: &Path) -> [Beneath; 2] {
        [Opener::Openat2, Opener::Openat].map(|opener| {
            let folder = rustix::fs::openat(CWD, root, ENTER, Mode::empty()).unwrap();
            Beneath::new(folder, vec![root.to_owned()], opener)
        })
    }

    fn read(beneath: &Beneath, name: &str) -> Result<String, Errno> {
        let mut text = String::new();
        let mut file = File::from(beneath.open(name.as_bytes())?);
        match file.read_to_string(&mut text) {
            Ok(_) => Ok(text),
            Err(error) => Err(Errno::from_io_error(&error).unwrap()),
        }
    }

    #[test]
    fn links_inside_are_followed() {
        let outer = fixture();
        let root = outer.path().join("root");
        let link = |target: &Path, name: &str| symlink(target, root.join(name)).unwrap();
        link("file".as_ref(), "relative");
        link("../../file".as_ref(), "a/b/up");
        link("a/./b//deep".as_ref(), "untidy");
        link("a".as_ref(), "folder");
        link("folder/../file".as_ref(), "through");
        link(&root.join("file"), "absolute");
        link(&root.join("a/b/../b/deep"), "a/absolute");
        link(&root, "itself");
        link("absolute".as_ref(), "chain");
        for beneath in both(&root) {
            for (name, text) in [
                ("file", "file"),
                ("relative", "file"),
                ("a/b/up", "file"),
                ("untidy", "deep"),
                ("folder/b/deep", "deep"),
                ("through", "file"),
                ("absolute", "file"),
                ("a/absolute", "deep"),
                ("itself/itself/file", "file"),
                ("chain", "file"),
            ] {
                assert_eq!(
                    read(&beneath, name).as_deref(),
                    Ok(text),
                    "{name}: {beneath:?}"
                );
            }
            assert_eq!(read(&beneath, "a"), Err(Errno::ISDIR));
            assert_eq!(read(&beneath, "itself"), Err(Errno::ISDIR));
            assert_eq!(read(&beneath, "."), Err(Errno::ISDIR));
        }
    }

    #[test]
    fn nothing_leads_out() {
        let outer = fixture();
        let root = outer.path().join("root");
        let link = |target: &Path, name: &str| symlink(target, root.join(name)).unwrap();
        link("../secret".as_ref(), "relative");
        link(&outer.path().join("secret"), "absolute");
        link(&root.join("../secret"), "roundabout");
        link("..".as_ref(), "parent");
        link(&root.join(".."), "absolute-parent");
        // This is not the folder, although its name begins like that of the folder.
        fs::create_dir(outer.path().join("root-2")).unwrap();
        fs::write(outer.path().join("root-2/secret"), "secret").unwrap();
        link(&outer.path().join("root-2/secret"), "namesake");
        for beneath in both(&root) {
            for name in [
                "..",
                "../secret",
                "a/../../secret",
                "relative",
                "absolute",
                "roundabout",
                "parent/secret",
                "absolute-parent/secret",
                "namesake",
            ] {
                assert_eq!(
                    read(&beneath, name),
                    Err(Errno::XDEV),
                    "{name}: {beneath:?}"
                );
            }
        }
    }

    #[test]
    fn what_is_not_there_is_told_as_the_kernel_tells_it() {
        let outer = fixture();
        let root = outer.path().join("root");
        symlink("loop", root.join("loop")).unwrap();
        symlink(root.join("circle"), root.join("circle")).unwrap();
        symlink("absent", root.join("dangling")).unwrap();
        let long = "x".repeat(300);
        for beneath in both(&root) {
            for (name, errno) in [
                ("absent", Errno::NOENT),
                ("absent/file", Errno::NOENT),
                ("dangling", Errno::NOENT),
                ("file/x", Errno::NOTDIR),
                ("loop", Errno::LOOP),
                ("loop/x", Errno::LOOP),
                ("circle", Errno::LOOP),
                (long.as_str(), Errno::NAMETOOLONG),
            ] {
                assert_eq!(read(&beneath, name), Err(errno), "{name}: {beneath:?}");
            }
        }
    }
}
