//! The served folder: opens files beneath it and nowhere else. Knows no HTTP. The kernel does the
//! confining (`openat2` with `RESOLVE_BENEATH`), so a symbolic link may lead about inside the
//! folder but not out of it, and no rename can slip in between a check and its use.

use std::fs::{File, Metadata};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, ensure};
use bytes::Bytes;
use http::HeaderValue;
use rustix::buffer::spare_capacity;
use rustix::fs::{CWD, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use crate::config::Root;
use crate::site::conditional::Validators;

/// Timestamps advance by the kernel's tick, at most 10 ms, on kernels before 6.13; a change within
/// the tick of another does not show. Files older than this when read are safe from that.
const SETTLING: Duration = Duration::from_millis(100);

/// `openat2` gives up with `EAGAIN` where a rename somewhere on the machine races with a `..` in a
/// symbolic link.
const ATTEMPTS: u32 = 16;

/// A folder, held open: it stays the same one if it is renamed or another takes its name.
#[derive(Debug)]
pub struct DocRoot {
    folder: OwnedFd,
}

/// What a name led to.
#[derive(Debug)]
pub enum Found {
    /// A regular file, open for reading.
    File(File, Stamp),
    /// A folder.
    Folder,
}

/// Why nothing was opened.
#[derive(Debug)]
pub enum Refusal {
    /// There is no regular file or folder by that name inside the root.
    Missing,
    /// There is one and this process may not read it.
    Forbidden,
    /// The system could not say, for lack of descriptors for example.
    Failed(io::Error),
}

impl DocRoot {
    /// Opens the folder and makes sure that the kernel can confine lookups to it.
    pub fn new(root: &Root) -> anyhow::Result<Self> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let name = root.path.display();
        let folder = rustix::fs::openat(CWD, &root.path, flags, Mode::empty());
        let folder = folder.with_context(|| {
            format!("open root {name}: it must be a folder that this user may enter")
        })?;
        let metadata = File::from(folder.try_clone()?).metadata()?;
        ensure!(
            root.is(&metadata),
            "root {name} is another folder by now than the one to serve"
        );
        let docroot = Self { folder };
        docroot.open_beneath(b".").with_context(|| {
            format!(
                "look up files in root {name} with openat2: it takes Linux 5.6 or newer, a container \
                 runtime that lets openat2 through, and a folder that this user may read and enter"
            )
        })?;
        Ok(docroot)
    }

    /// The same folder once more.
    ///
    /// # Errors
    /// If the process is out of file descriptors.
    pub fn try_clone(&self) -> io::Result<Self> {
        let folder = self.folder.try_clone()?;
        Ok(Self { folder })
    }

    /// Opens `name`, relative to the root. Blocks on the disk, never on a FIFO or a device.
    pub fn open(&self, name: &[u8]) -> Result<Found, Refusal> {
        let file = File::from(self.open_beneath(name).map_err(Refusal::from)?);
        let metadata = file.metadata().map_err(Refusal::Failed)?;
        if metadata.is_dir() {
            Ok(Found::Folder)
        } else if metadata.is_file() {
            Ok(Found::File(file, Stamp::of(&metadata)))
        } else {
            Err(Refusal::Missing)
        }
    }

    fn open_beneath(&self, name: &[u8]) -> Result<OwnedFd, Errno> {
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
        let mut attempts = ATTEMPTS;
        loop {
            let opened = rustix::fs::openat2(&self.folder, name, flags, Mode::empty(), resolve);
            attempts -= 1;
            match opened {
                Err(Errno::AGAIN | Errno::INTR) if attempts > 0 => {}
                done => return done,
            }
        }
    }
}

impl AsFd for DocRoot {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.folder.as_fd()
    }
}

impl From<Errno> for Refusal {
    fn from(errno: Errno) -> Self {
        match errno {
            // XDEV: out of the root. LOOP: also a link of /proc. NXIO: a socket. INVAL: a name
            // that this file system cannot hold.
            Errno::NOENT
            | Errno::NOTDIR
            | Errno::XDEV
            | Errno::LOOP
            | Errno::NAMETOOLONG
            | Errno::NXIO
            | Errno::NODEV
            | Errno::INVAL => Self::Missing,
            Errno::ACCESS | Errno::PERM => Self::Forbidden,
            other => Self::Failed(other.into()),
        }
    }
}

/// What tells one version of a file from another without reading it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    device: u64,
    inode: u64,
    size_bytes: u64,
    modified_ns: i128,
    /// Moves with the mode and the owner too, so that a file made unreadable is looked at again.
    changed_ns: i128,
}

impl Stamp {
    fn of(metadata: &Metadata) -> Self {
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            size_bytes: metadata.len(),
            modified_ns: nanoseconds(metadata.mtime(), metadata.mtime_nsec()),
            changed_ns: nanoseconds(metadata.ctime(), metadata.ctime_nsec()),
        }
    }

    /// Size of the file.
    pub fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    /// Whether the file had been left alone for long enough at `now` that any later change shows.
    pub fn is_settled(&self, now: SystemTime) -> bool {
        let latest_ns = self.modified_ns.max(self.changed_ns);
        wall_ns(now) - latest_ns > SETTLING.as_nanos() as i128
    }

    /// The validators at `now`. A date in the future would be a lie (RFC 9110, 8.8.2.1), one
    /// before 1970 cannot be written: without either, the tag has to do.
    pub fn validators(&self, now: SystemTime) -> Validators {
        let tag = format!(
            "\"{:x}-{:x}-{:x}\"",
            self.modified_ns, self.size_bytes, self.inode
        );
        let is_past = (0..=wall_ns(now)).contains(&self.modified_ns);
        Validators {
            etag: HeaderValue::try_from(tag).expect("hexadecimal digits"),
            modified_s: is_past.then_some((self.modified_ns / 1_000_000_000) as u64),
        }
    }
}

/// The whole content of a file whose stamp is `stamp`; `None` if it changes under the reader's
/// hands, so that what was read may be no version of it at all.
pub fn read_whole(file: &File, stamp: &Stamp) -> io::Result<Option<Bytes>> {
    let size = stamp.size_bytes as usize;
    let mut content = Vec::with_capacity(size);
    while content.len() < size {
        let offset = content.len() as u64;
        let read = rustix::io::retry_on_intr(|| {
            rustix::io::pread(file, spare_capacity(&mut content), offset)
        })?;
        if read == 0 {
            return Ok(None);
        }
    }
    let unchanged = Stamp::of(&file.metadata()?) == *stamp;
    Ok(unchanged.then(|| content.into()))
}

fn nanoseconds(seconds: i64, nanoseconds: i64) -> i128 {
    i128::from(seconds) * 1_000_000_000 + i128::from(nanoseconds)
}

fn wall_ns(now: SystemTime) -> i128 {
    match now.duration_since(UNIX_EPOCH) {
        Ok(since) => since.as_nanos() as i128,
        Err(before) => -(before.duration().as_nanos() as i128),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::thread::{CapabilitySet, capabilities, set_capabilities};
    use std::os::unix::fs::{PermissionsExt, symlink};
    use std::path::Path;
    use tempfile::TempDir;

    fn opened(path: &Path) -> DocRoot {
        DocRoot::new(&Root::find(path).unwrap()).unwrap()
    }

    #[test]
    fn a_folder_that_took_the_name_meanwhile_is_refused() {
        let outer = TempDir::new().unwrap();
        let [name, aside] = ["dist", "aside"].map(|name| outer.path().join(name));
        std::fs::create_dir(&name).unwrap();
        let root = Root::find(&name).unwrap();
        std::fs::rename(&name, &aside).unwrap();
        let gone = DocRoot::new(&root).unwrap_err().to_string();
        std::fs::create_dir(&name).unwrap();
        let other = DocRoot::new(&root).unwrap_err().to_string();
        let name = name.to_str().unwrap();
        assert!(gone.contains("open root") && gone.contains(name), "{gone}");
        assert!(
            other.contains("another folder") && other.contains(name),
            "{other}"
        );
    }

    fn stamp_at(modified_ns: i128) -> Stamp {
        Stamp {
            device: 1,
            inode: 0xab,
            size_bytes: 16,
            modified_ns,
            changed_ns: modified_ns,
        }
    }

    fn wall(ns: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_nanos(ns)
    }

    #[test]
    fn validators_name_the_version() {
        let validators = stamp_at(1_000_000_000).validators(wall(1_000_000_001));
        assert_eq!(validators.etag, "\"3b9aca00-10-ab\"");
        assert_eq!(validators.modified_s, Some(1));
    }

    #[test]
    fn dates_that_cannot_be_said_are_left_out() {
        let now = wall(5_000_000_000);
        assert_eq!(stamp_at(5_000_000_001).validators(now).modified_s, None);
        assert_eq!(stamp_at(-1).validators(now).modified_s, None);
        let far = 300_000_000_000 * 1_000_000_000;
        assert_eq!(stamp_at(far).validators(now).modified_s, None);
    }

    #[test]
    fn files_settle() {
        let stamp = stamp_at(1_000_000_000);
        assert!(!stamp.is_settled(wall(1_100_000_000)));
        assert!(stamp.is_settled(wall(1_100_000_001)));
        assert!(!stamp.is_settled(wall(0)), "the file is from the future");
    }

    #[test]
    fn a_file_that_changes_while_it_is_read_is_no_version() {
        let root = TempDir::new().unwrap();
        let path = root.path().join("f");
        std::fs::write(&path, "long content").unwrap();
        let Found::File(file, stamp) = opened(root.path()).open(b"f").unwrap() else {
            panic!("a regular file was written");
        };
        let whole = read_whole(&file, &stamp).unwrap();
        assert_eq!(whole.as_deref(), Some(&b"long content"[..]));
        std::fs::write(&path, "short").unwrap();
        assert_eq!(read_whole(&file, &stamp).unwrap(), None);
        std::fs::write(&path, "longer than before").unwrap();
        assert_eq!(read_whole(&file, &stamp).unwrap(), None);
    }

    #[test]
    fn the_root_must_be_a_folder() {
        let root = TempDir::new().unwrap();
        let file = root.path().join("f");
        std::fs::write(&file, "").unwrap();
        for path in [file, root.path().join("absent")] {
            Root::find(&path).unwrap_err();
        }
    }

    #[test]
    fn the_root_stays_the_same_folder() {
        let outer = TempDir::new().unwrap();
        let [one, two] = ["one", "two"].map(|name| outer.path().join(name));
        std::fs::create_dir(&one).unwrap();
        std::fs::write(one.join("f"), "").unwrap();
        let root = opened(&one);
        std::fs::rename(&one, &two).unwrap();
        std::fs::create_dir(&one).unwrap();
        assert!(matches!(root.open(b"f"), Ok(Found::File(..))));
    }

    /// Root reads everything, so this thread gives that up first.
    #[test]
    fn unreadable_files_and_folders_are_forbidden() {
        let mut sets = capabilities(None).unwrap();
        sets.effective -= CapabilitySet::DAC_OVERRIDE | CapabilitySet::DAC_READ_SEARCH;
        set_capabilities(None, sets).unwrap();
        let root = TempDir::new().unwrap();
        let lock = |name: &str| {
            let locked = std::fs::Permissions::from_mode(0o000);
            std::fs::set_permissions(root.path().join(name), locked).unwrap();
        };
        std::fs::write(root.path().join("file"), "").unwrap();
        std::fs::create_dir(root.path().join("folder")).unwrap();
        lock("file");
        lock("folder");
        let docroot = opened(root.path());
        for name in ["file", "folder", "folder/file"] {
            let opened = docroot.open(name.as_bytes());
            assert!(matches!(opened, Err(Refusal::Forbidden)), "{name}");
        }
    }

    #[test]
    fn only_files_and_folders_are_found() {
        let root = TempDir::new().unwrap();
        let at = |name: &str| root.path().join(name);
        rustix::fs::mknodat(
            CWD,
            at("fifo"),
            rustix::fs::FileType::Fifo,
            Mode::RUSR | Mode::WUSR,
            0,
        )
        .unwrap();
        let _socket = std::os::unix::net::UnixListener::bind(at("socket")).unwrap();
        symlink("loop", at("loop")).unwrap();
        symlink("absent", at("dangling")).unwrap();
        let docroot = opened(root.path());
        let long = "x".repeat(300);
        let deep = "x/".repeat(5000);
        for name in ["fifo", "socket", "loop", "dangling", "absent", &long, &deep] {
            let opened = docroot.open(name.as_bytes());
            assert!(
                matches!(opened, Err(Refusal::Missing)),
                "{name}: {opened:?}"
            );
        }
    }

    #[test]
    fn devices_are_not_found() {
        let docroot = opened(Path::new("/dev"));
        let opened = docroot.open(b"null");
        assert!(matches!(opened, Err(Refusal::Missing)), "{opened:?}");
    }

    #[test]
    fn lack_of_descriptors_is_not_absence() {
        for errno in [
            Errno::MFILE,
            Errno::NFILE,
            Errno::NOMEM,
            Errno::IO,
            Errno::AGAIN,
        ] {
            assert!(
                matches!(Refusal::from(errno), Refusal::Failed(_)),
                "{errno}"
            );
        }
    }
}
