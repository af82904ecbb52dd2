//! The folder that srv serves: what its names lead to ([`super::beneath`] keeps them inside the
//! folder), and how to distinguish one version of a file from the next. This module knows no HTTP.

use std::fs::{File, Metadata};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::MetadataExt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, ensure};
use bytes::Bytes;
use http::HeaderValue;
use rustix::buffer::spare_capacity;
use rustix::fs::{CWD, Mode, OFlags};
use rustix::io::Errno;

use crate::serve::config::Root;
use crate::serve::site::beneath::{Beneath, Opener};

/// On kernels before 6.13, timestamps advance by the kernel's tick, at most 10 ms. If a file changes
/// twice within one tick, the second change does not show. If a file is older than this when srv
/// reads it, every later change shows.
const SETTLING: Duration = Duration::from_millis(100);

/// The same for a time in whole seconds, as on file systems without finer times. The coarsest, FAT,
/// has steps of 2 s.
const COARSE: Duration = Duration::from_secs(2);

/// A folder that is kept open. It stays the same folder if it is renamed, or if another folder gets
/// its name.
#[derive(Debug)]
pub(in crate::serve) struct DocRoot {
    beneath: Beneath,
}

/// What a name led to.
#[derive(Debug)]
pub(super) enum Found {
    /// A regular file, open for reading.
    File(File, Stamp),
    /// A folder.
    Folder,
}

/// Why srv could not open a name.
#[derive(Debug)]
pub(super) enum Refusal {
    /// There is no regular file or folder by that name inside the root.
    Missing,
    /// There is one, but this process may not read it.
    Forbidden,
    /// The system could not answer, for example because there were no free descriptors.
    Failed(io::Error),
}

impl DocRoot {
    /// Opens the folder and makes sure that lookups in it work.
    pub(in crate::serve) fn new(root: &Root) -> anyhow::Result<Self> {
        Self::with(root, Opener::here())
    }

    /// As [`new`](Self::new), but with this system call.
    pub(super) fn with(root: &Root, opener: Opener) -> anyhow::Result<Self> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let name = root.path.display();
        let folder = rustix::fs::openat(CWD, &root.path, flags, Mode::empty());
        let folder = folder.with_context(|| {
            format!("open root {name} (it must be a folder that this user may enter)")
        })?;
        let metadata = File::from(folder.try_clone()?).metadata()?;
        ensure!(
            root.is(&metadata),
            "open root {name}: another folder has this name now: reload or start srv again"
        );
        let names = vec![root.path.clone(), root.asked.clone()];
        let beneath = Beneath::new(folder, names, opener);
        beneath.open(b".").with_context(|| {
            format!("look up files in root {name} (this user must be able to read and enter it)")
        })?;
        Ok(Self { beneath })
    }

    /// Opens `name`, relative to the root. It may wait for the disk, but never for a FIFO or a
    /// device.
    pub(super) fn open(&self, name: &[u8]) -> Result<Found, Refusal> {
        let file = File::from(self.beneath.open(name).map_err(Refusal::from)?);
        let metadata = file.metadata().map_err(Refusal::Failed)?;
        if metadata.is_dir() {
            Ok(Found::Folder)
        } else if metadata.is_file() {
            Ok(Found::File(file, Stamp::of(&metadata)))
        } else {
            Err(Refusal::Missing)
        }
    }
}

impl AsFd for DocRoot {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.beneath.as_fd()
    }
}

impl From<Errno> for Refusal {
    fn from(errno: Errno) -> Self {
        match errno {
            // XDEV: the name leads out of the root. LOOP: there are too many links, or it is a
            // link of /proc. NXIO: it is a socket. INVAL: this file system cannot have such a name.
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

/// Metadata by which srv distinguishes versions of a file without reading it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stamp {
    device: u64,
    inode: u64,
    size_bytes: u64,
    has_blocks: bool,
    modified_ns: i128,
    /// This also changes with the mode and the owner, so srv checks a file again after it became
    /// unreadable.
    changed_ns: i128,
}

impl Stamp {
    fn of(metadata: &Metadata) -> Self {
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            size_bytes: metadata.len(),
            has_blocks: metadata.blocks() > 0,
            modified_ns: nanoseconds(metadata.mtime(), metadata.mtime_nsec()),
            changed_ns: nanoseconds(metadata.ctime(), metadata.ctime_nsec()),
        }
    }

    /// The file's size as the file system reports it.
    pub(super) fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    /// Whether the size is certain without reading. A file of procfs or sysfs occupies no blocks,
    /// and its reported size is not that of its content. (A file that is one hole occupies none
    /// either.)
    pub(super) fn is_size_sure(&self) -> bool {
        self.has_blocks
    }

    /// Whether the last change was so long before `now` that any later change shows.
    pub(super) fn is_settled(&self, now: SystemTime) -> bool {
        has_settled(self.modified_ns.max(self.changed_ns), now)
    }

    /// A tag at `now` for a file that srv does not read. It consists of the time of modification
    /// and the size, which are the same on every replica, and of the file's coding, if it has one: a
    /// file and its coded forms may have the same time and size. If a change could leave both as
    /// they are, the tag is weak.
    pub(super) fn tag(&self, now: SystemTime, coding: Option<&HeaderValue>) -> HeaderValue {
        let weak = match has_settled(self.modified_ns, now) {
            true => "",
            false => "W/",
        };
        let coding = coding.and_then(|coding| coding.to_str().ok());
        let coding = coding.map_or(String::new(), |coding| format!("-{coding}"));
        let (modified_ns, size_bytes) = (self.modified_ns, self.size_bytes);
        let tag = format!("{weak}\"{modified_ns:x}-{size_bytes:x}{coding}\"");
        HeaderValue::try_from(tag).expect("hexadecimal digits and a token")
    }

    /// When the file was modified, seconds since 1970. It is `None` if that is after `now`, since
    /// RFC 9110, 8.8.2.1, forbids a date in the future, or before 1970, which srv does not write.
    pub(super) fn modified_s(&self, now: SystemTime) -> Option<u64> {
        let is_past = (0..=wall_ns(now)).contains(&self.modified_ns);
        is_past.then_some((self.modified_ns / 1_000_000_000) as u64)
    }
}

/// Whether every change after `now` changes this time.
fn has_settled(latest_ns: i128, now: SystemTime) -> bool {
    let tick = match latest_ns % 1_000_000_000 {
        0 => COARSE,
        _ => SETTLING,
    };
    wall_ns(now) - latest_ns > tick.as_nanos() as i128
}

/// The first bytes of a file.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Start {
    /// The whole content. The file did not change while srv read it.
    Whole(Bytes),
    /// The beginning; the file has more.
    More(Bytes),
    /// The file changed while srv read it, so the bytes may belong to no version of it.
    Changing,
}

/// Reads a file whose stamp is `stamp` to its end, or to more than `most_bytes`.
pub(super) fn read_start(file: &File, stamp: &Stamp, most_bytes: u64) -> io::Result<Start> {
    let most = most_bytes as usize + 1;
    let mut content = Vec::with_capacity(most.min(stamp.size_bytes as usize + 1));
    let has_ended = loop {
        if content.len() == most {
            break false;
        }
        // The size may not be that of the content: then the room grows with the content.
        content.reserve(1);
        let offset = content.len() as u64;
        let read = rustix::io::retry_on_intr(|| {
            rustix::io::pread(file, spare_capacity(&mut content), offset)
        })?;
        if read == 0 {
            break true;
        }
        content.truncate(most);
    };
    if Stamp::of(&file.metadata()?) != *stamp {
        return Ok(Start::Changing);
    }
    Ok(match has_ended {
        true => Start::Whole(content.into()),
        false => Start::More(content.into()),
    })
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
            has_blocks: true,
            modified_ns,
            changed_ns: modified_ns,
        }
    }

    fn wall(ns: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_nanos(ns)
    }

    #[test]
    fn tags_name_what_replicas_share() {
        let now = wall(3_100_000_000);
        assert_eq!(stamp_at(1_000_000_001).tag(now, None), "\"3b9aca01-10\"");
        let coding = HeaderValue::from_static("br");
        let coded = stamp_at(1_000_000_001).tag(now, Some(&coding));
        assert_eq!(coded, "\"3b9aca01-10-br\"");
        let replica = Stamp {
            inode: 0xcd,
            device: 2,
            changed_ns: 2,
            ..stamp_at(1_000_000_001)
        };
        assert_eq!(
            replica.tag(now, None),
            stamp_at(1_000_000_001).tag(now, None)
        );
    }

    #[test]
    fn tags_are_weak_where_a_change_might_not_show() {
        let is_weak = |modified_ns: i128, now_ns: u64| {
            let tag = stamp_at(modified_ns).tag(wall(now_ns), None);
            tag.as_bytes().starts_with(b"W/")
        };
        assert!(is_weak(1_000_000_001, 1_100_000_001));
        assert!(!is_weak(1_000_000_001, 1_100_000_002));
        assert!(is_weak(1_000_000_000, 3_000_000_000), "whole seconds");
        assert!(!is_weak(1_000_000_000, 3_000_000_001));
        assert!(is_weak(1_000_000_001, 0), "from the future");
    }

    #[test]
    fn dates_that_cannot_be_said_are_left_out() {
        let now = wall(5_000_000_000);
        assert_eq!(stamp_at(1_000_000_000).modified_s(now), Some(1));
        assert_eq!(stamp_at(5_000_000_001).modified_s(now), None);
        assert_eq!(stamp_at(-1).modified_s(now), None);
        let far = 300_000_000_000 * 1_000_000_000;
        assert_eq!(stamp_at(far).modified_s(now), None);
    }

    #[test]
    fn files_settle() {
        let stamp = stamp_at(1_000_000_001);
        assert!(!stamp.is_settled(wall(1_100_000_001)));
        assert!(stamp.is_settled(wall(1_100_000_002)));
        assert!(!stamp.is_settled(wall(0)), "the file is from the future");
    }

    fn file_in(root: &DocRoot, name: &[u8]) -> (File, Stamp) {
        match root.open(name).unwrap() {
            Found::File(file, stamp) => (file, stamp),
            Found::Folder => panic!("a regular file was written"),
        }
    }

    #[test]
    fn a_file_that_changes_while_it_is_read_is_no_version() {
        let root = TempDir::new().unwrap();
        let path = root.path().join("f");
        std::fs::write(&path, "long content").unwrap();
        let (file, stamp) = file_in(&opened(root.path()), b"f");
        let start = |most_bytes| read_start(&file, &stamp, most_bytes).unwrap();
        let whole = || Start::Whole(Bytes::from_static(b"long content"));
        assert_eq!(start(100), whole());
        assert_eq!(start(12), whole());
        assert_eq!(start(11), Start::More(Bytes::from_static(b"long content")));
        assert_eq!(start(3), Start::More(Bytes::from_static(b"long")));
        std::fs::write(&path, "short").unwrap();
        assert_eq!(start(100), Start::Changing);
        std::fs::write(&path, "longer than before").unwrap();
        assert_eq!(start(100), Start::Changing);
    }

    #[test]
    fn a_size_that_is_none_is_read_past() {
        let (file, stamp) = file_in(&opened(Path::new("/proc/sys/kernel")), b"ostype");
        assert_eq!((stamp.size_bytes(), stamp.is_size_sure()), (0, false));
        let start = read_start(&file, &stamp, 100).unwrap();
        assert_eq!(start, Start::Whole(Bytes::from_static(b"Linux\n")));
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

    /// Root may read every file, so this thread first drops that capability.
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
