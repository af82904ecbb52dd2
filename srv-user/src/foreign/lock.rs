//! One agent a group: a lock file in the runtime directory, which also says
//! what was attached. The file without its lock means that a program may be
//! attached with nobody to look after it (`--once`, or a killed agent).

use std::fs::{self, File, OpenOptions};
use std::io::{Read as _, Seek as _, Write as _};
use std::net::SocketAddr;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use crate::control;

/// What was attached, and by whom.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// The group's address.
    pub address: SocketAddr,
    /// Inode number of its network namespace.
    pub namespace: u64,
    /// The agent's process id; it may be gone.
    pub pid: u32,
    /// Where the agent answers; `None` if it was to leave (`--once`).
    pub control: Option<PathBuf>,
    /// The policy, by name.
    pub policy: String,
    /// `SO_COOKIE` of the sockets that the program chooses between.
    pub cookies: Vec<u64>,
}

/// Held while this process steers the group. Dropping it leaves the record
/// behind; [`Lock::remove`] does not.
#[derive(Debug)]
pub struct Lock {
    file: File,
    path: PathBuf,
}

impl Lock {
    /// The lock of a group, or what its holder has recorded.
    ///
    /// # Errors
    /// The file cannot be had.
    pub fn acquire(namespace: u64, address: SocketAddr) -> anyhow::Result<Result<Self, Record>> {
        let path = path(namespace, address)?;
        loop {
            let file = open(&path).with_context(|| format!("open {}", path.display()))?;
            match flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) if is_at(&file, &path) => return Ok(Ok(Self { file, path })),
                // Its last holder removed it meanwhile.
                Ok(()) => {}
                Err(Errno::WOULDBLOCK) => match read(&path) {
                    Some(record) => return Ok(Err(record)),
                    // The holder has not got to writing yet.
                    None => std::thread::sleep(std::time::Duration::from_millis(1)),
                },
                Err(errno) => {
                    return Err(errno).with_context(|| format!("lock {}", path.display()));
                }
            }
        }
    }

    /// What the last holder left.
    pub fn record(&self) -> Option<Record> {
        read(&self.path)
    }

    /// Says what is attached now.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn write(&mut self, record: &Record) -> anyhow::Result<()> {
        let mut write = || {
            let text = serde_json::to_vec(record)?;
            self.file.set_len(0)?;
            self.file.rewind()?;
            self.file.write_all(&text)
        };
        write().with_context(|| format!("write {}", self.path.display()))
    }

    /// Nothing is attached any more.
    ///
    /// # Errors
    /// The file cannot be removed.
    pub fn remove(self) -> anyhow::Result<()> {
        fs::remove_file(&self.path).with_context(|| format!("remove {}", self.path.display()))
    }
}

/// What all agents of this user have recorded, the killed ones' too.
///
/// # Errors
/// The runtime directory cannot be listed.
pub fn records() -> anyhow::Result<Vec<Record>> {
    let folder = control::runtime_folder()?;
    let entries = fs::read_dir(&folder).with_context(|| format!("list {}", folder.display()))?;
    let paths = entries.flatten().map(|entry| entry.path());
    let locks = paths.filter(|path| path.extension().is_some_and(|end| end == "lock"));
    let mut records: Vec<Record> = locks.filter_map(|path| read(&path)).collect();
    records.sort_by_key(|record| (record.namespace, record.address));
    Ok(records)
}

/// Where the agent of a group answers, if not told otherwise.
///
/// # Errors
/// There is no runtime directory.
pub fn control_path(namespace: u64, address: SocketAddr) -> anyhow::Result<PathBuf> {
    Ok(path(namespace, address)?.with_extension("agent"))
}

fn path(namespace: u64, address: SocketAddr) -> anyhow::Result<PathBuf> {
    Ok(control::runtime_folder()?.join(format!("attach-{namespace}-{address}.lock")))
}

fn open(path: &Path) -> std::io::Result<File> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(path)
}

fn is_at(file: &File, path: &Path) -> bool {
    match (file.metadata(), fs::metadata(path)) {
        (Ok(held), Ok(there)) => held.ino() == there.ino(),
        _ => false,
    }
}

fn read(path: &Path) -> Option<Record> {
    let mut text = String::new();
    File::open(path).ok()?.read_to_string(&mut text).ok()?;
    serde_json::from_str(&text).ok()
}
