//! One agent for each group: a lock file in the runtime directory, which also records what was
//! attached. If a file exists and no process has locked it, a program may be attached without an
//! agent (after `--once`, or after the agent was killed).
//!
//! A record is never written into the file that other processes see. This module writes it to a
//! new file, locks that file, and renames it over the old one. Therefore a record is complete
//! whenever another process can read it, and the new file is locked from the beginning.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::net::SocketAddr;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use super::process::ProcessId;
use crate::control;
use crate::output::whole_file::{Readers, WholeFile};

/// What was attached, and which process attached it. Agents of other versions of srv read it, too.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// The group's address.
    pub address: SocketAddr,
    /// Inode number of its network namespace.
    pub namespace: u64,
    /// The process that wrote this record. It may have ended.
    #[serde(flatten)]
    pub process: ProcessId,
    /// The control socket of the agent; `None` if the process does not stay (`--once`, `detach`).
    pub control: Option<PathBuf>,
    /// The name of the policy. It may be one that this version does not know.
    pub policy: String,
    /// `SO_COOKIE` of the sockets that the program chooses between.
    pub cookies: Vec<u64>,
    /// The kernel's id of the program; 0 if there is none.
    pub program: u32,
}

/// Held while this process steers the group. Dropping it leaves the record in the file system.
/// [`Lock::remove`] removes the record.
#[derive(Debug)]
pub struct Lock {
    file: File,
    path: PathBuf,
    before: Option<Record>,
}

/// What one attempt to lock a file found.
enum Attempt {
    Locked(Lock),
    /// An agent that runs holds the lock.
    Agent(Record),
    /// The file at that path was replaced or removed during the attempt.
    Changed,
    /// Another process holds the lock; what is known of it.
    Busy(String),
}

/// How long a process that is no agent may hold the lock.
const LOCK_TIMEOUT: Duration = Duration::from_secs(5);
const CHECK_EVERY: Duration = Duration::from_millis(10);

impl Lock {
    /// Takes the lock of a group, or returns the record of the agent that holds it.
    ///
    /// # Errors
    /// The file cannot be locked, or a process that is no agent has held it for 5 s.
    pub fn acquire(namespace: u64, address: SocketAddr) -> anyhow::Result<Result<Self, Record>> {
        let first = Record {
            address,
            namespace,
            process: ProcessId::own()?,
            control: None,
            policy: "hash".to_owned(),
            cookies: Vec::new(),
            program: 0,
        };
        let path = path(namespace, address)?;
        Self::acquire_at(path, &first, LOCK_TIMEOUT)
    }

    /// As [`Self::acquire`]. If there is no record yet, `first` becomes the record.
    fn acquire_at(
        path: PathBuf,
        first: &Record,
        timeout: Duration,
    ) -> anyhow::Result<Result<Self, Record>> {
        let deadline = Instant::now() + timeout;
        loop {
            let attempt = Self::attempt(&path, first);
            let found = match attempt.with_context(|| format!("lock {}", path.display()))? {
                Attempt::Locked(lock) => return Ok(Ok(lock)),
                Attempt::Agent(record) => return Ok(Err(record)),
                Attempt::Changed => "other processes replace it again and again".to_owned(),
                Attempt::Busy(why) => why,
            };
            if Instant::now() >= deadline {
                bail!(
                    "lock {path}: another process has held it for {timeout:?}, and {found}; \
                     `fuser -v {path}` shows that process: end it, then try again",
                    path = path.display()
                );
            }
            std::thread::sleep(CHECK_EVERY);
        }
    }

    fn attempt(path: &Path, first: &Record) -> anyhow::Result<Attempt> {
        let file = match File::open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Self::create(path, first);
            }
            Err(error) => return Err(error.into()),
        };
        let record = read(&file);
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) if is_at(&file, path) => Ok(Attempt::Locked(Self {
                before: record.ok(),
                file,
                path: path.to_owned(),
            })),
            Ok(()) => Ok(Attempt::Changed),
            Err(Errno::WOULDBLOCK) => holder(record),
            Err(errno) => Err(errno.into()),
        }
    }

    fn create(path: &Path, first: &Record) -> anyhow::Result<Attempt> {
        match complete(path, first)?.create() {
            Ok(file) => Ok(Attempt::Locked(Self {
                file,
                path: path.to_owned(),
                before: None,
            })),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(Attempt::Changed),
            Err(error) => Err(error.into()),
        }
    }

    /// The record that the last holder left; `None` if it left none, or none that this version can
    /// read.
    pub fn record(&self) -> Option<Record> {
        self.before.clone()
    }

    /// Replaces the record by one of what is attached now.
    ///
    /// # Errors
    /// The file cannot be written, or another process has removed it.
    pub fn write(&mut self, record: &Record) -> anyhow::Result<()> {
        let mut write = || {
            ensure!(
                is_at(&self.file, &self.path),
                "another process has removed or replaced it"
            );
            self.file = complete(&self.path, record)?.replace()?;
            Ok(())
        };
        write().with_context(|| format!("write {}", self.path.display()))
    }

    /// Removes the record, because nothing is attached any more.
    ///
    /// # Errors
    /// The file cannot be removed.
    pub fn remove(self) -> anyhow::Result<()> {
        // A file of that name that another process has put there belongs to that process.
        if !is_at(&self.file, &self.path) {
            return Ok(());
        }
        fs::remove_file(&self.path).with_context(|| format!("remove {}", self.path.display()))
    }
}

/// A locked file with that record, which is not visible as `path` yet.
fn complete(path: &Path, record: &Record) -> anyhow::Result<WholeFile> {
    let mut whole = WholeFile::beside(path, Readers::Owner)?;
    whole.file().write_all(&serde_json::to_vec(record)?)?;
    flock(whole.file(), FlockOperation::NonBlockingLockExclusive)?;
    Ok(whole)
}

/// Which process holds a lock whose file has `record`. A process that has just locked the file of a
/// former agent has not replaced the record yet.
fn holder(record: anyhow::Result<Record>) -> anyhow::Result<Attempt> {
    let record = match record {
        Ok(record) => record,
        Err(error) => {
            return Ok(Attempt::Busy(format!(
                "its record cannot be read: {error:#}"
            )));
        }
    };
    let ProcessId { pid, .. } = record.process;
    Ok(match record.process.open()? {
        None => Attempt::Busy(format!("process {pid}, which its record names, has ended")),
        Some(_) if record.control.is_some() => Attempt::Agent(record),
        Some(_) => Attempt::Busy(format!("its record names process {pid}, which is no agent")),
    })
}

/// The records of all agents of this user, including agents that were killed, and the reason for
/// each file that cannot be read.
///
/// # Errors
/// The runtime directory cannot be listed.
pub fn records() -> anyhow::Result<(Vec<Record>, Vec<anyhow::Error>)> {
    let folder = control::runtime_folder()?;
    let entries = fs::read_dir(&folder).with_context(|| format!("list {}", folder.display()))?;
    let paths = entries.flatten().map(|entry| entry.path());
    let locks = paths.filter(|path| path.extension().is_some_and(|end| end == "lock"));
    let (mut records, mut unreadable) = (Vec::new(), Vec::new());
    for path in locks {
        // If the file cannot be opened, it was removed after the folder was listed.
        let Ok(file) = File::open(&path) else {
            continue;
        };
        match read(&file) {
            Ok(record) => records.push(record),
            Err(error) => {
                unreadable.push(error.context(format!("read the record {}", path.display())));
            }
        }
    }
    records.sort_by_key(|record: &Record| (record.namespace, record.address));
    Ok((records, unreadable))
}

/// The default control socket of the agent of a group.
///
/// # Errors
/// There is no runtime directory.
pub fn control_path(namespace: u64, address: SocketAddr) -> anyhow::Result<PathBuf> {
    Ok(path(namespace, address)?.with_extension("agent"))
}

fn path(namespace: u64, address: SocketAddr) -> anyhow::Result<PathBuf> {
    Ok(control::runtime_folder()?.join(format!("attach-{namespace}-{address}.lock")))
}

fn is_at(file: &File, path: &Path) -> bool {
    match (file.metadata(), fs::symlink_metadata(path)) {
        (Ok(held), Ok(there)) => (held.dev(), held.ino()) == (there.dev(), there.ino()),
        _ => false,
    }
}

fn read(file: &File) -> anyhow::Result<Record> {
    serde_json::from_reader(file).context("this version of srv does not understand it")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(cookies: usize) -> Record {
        Record {
            address: "127.0.0.1:80".parse().unwrap(),
            namespace: 1,
            process: ProcessId::own().unwrap(),
            control: Some("/run/agent".into()),
            policy: "least".into(),
            cookies: vec![u64::MAX; cookies],
            program: 7,
        }
    }

    fn acquire(path: &Path) -> Result<Lock, Box<Record>> {
        let acquired = Lock::acquire_at(path.to_owned(), &record(0), LOCK_TIMEOUT);
        acquired.unwrap().map_err(Box::new)
    }

    fn refusal(path: &Path) -> String {
        let refused = Lock::acquire_at(path.to_owned(), &record(0), Duration::ZERO);
        format!("{:#}", refused.unwrap_err())
    }

    #[test]
    fn the_holders_record_is_seen_until_the_next_holder_has_its_own() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lock");
        let mut lock = acquire(&path).unwrap();
        assert_eq!(*acquire(&path).unwrap_err(), record(0));
        lock.write(&record(3)).unwrap();
        assert_eq!(*acquire(&path).unwrap_err(), record(3));
        drop(lock);
        let next = acquire(&path).unwrap();
        assert_eq!(next.record(), Some(record(3)));
        next.remove().unwrap();
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }

    /// An earlier version wrote into the visible file, and a reader found it empty.
    #[test]
    fn a_record_is_complete_whenever_it_is_seen() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lock");
        let mut lock = acquire(&path).unwrap();
        std::thread::scope(|scope| {
            let writing = scope.spawn(|| {
                for cookies in 0..2000 {
                    lock.write(&record(cookies % 256)).unwrap();
                }
            });
            while !writing.is_finished() {
                acquire(&path).unwrap_err();
            }
        });
    }

    #[test]
    fn if_the_holder_is_not_the_recorded_agent_the_refusal_says_so() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lock");
        let mut lock = acquire(&path).unwrap();
        let mut former = record(0);
        former.process.start_ticks -= 1;
        lock.write(&former).unwrap();
        assert!(refusal(&path).contains("has ended"), "{}", refusal(&path));
        let passing = Record {
            control: None,
            ..record(0)
        };
        lock.write(&passing).unwrap();
        assert!(refusal(&path).contains("is no agent"), "{}", refusal(&path));
    }

    #[test]
    fn only_its_own_file_is_replaced_or_removed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lock");
        let mut lock = acquire(&path).unwrap();
        fs::remove_file(&path).unwrap();
        fs::write(&path, "another process's").unwrap();
        let refused = format!("{:#}", lock.write(&record(1)).unwrap_err());
        assert!(refused.contains("another process has removed"), "{refused}");
        lock.remove().unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "another process's");
    }
}
