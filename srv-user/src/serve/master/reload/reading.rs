//! Reading the configuration again, on a thread of its own: the file, the root and the folders
//! above it may lie on a file system that does not answer, and the event loop waits for nothing but
//! events. If a thread does not finish in time, its reload is refused, and the master ignores what
//! the thread reads in the end. The next reload has a thread of its own, since by then the
//! configuration may lie on another file system.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, anyhow, bail, ensure};
use tokio::sync::oneshot;

use super::replies::{Askers, Unsettled, refuse, settle};
use crate::control::{ReloadStatus, Reply};
use crate::serve::config::args::ServeArgs;
use crate::serve::config::{self, Changes, Settings};
use crate::serve::master::current_path::CurrentPath;
use crate::serve::master::event::Event;
use crate::serve::master::{Master, privilege};
use crate::serve::sandbox::User;

/// How long reading may take. A healthy file system needs milliseconds.
const READ_WITHIN: Duration = Duration::from_secs(5);

/// So many threads may be late. Each keeps its stack, and one file system that does not answer
/// must not cost more and more.
const LATE_MAX: usize = 8;

/// The reloads of a server that are under way.
pub(in crate::serve::master) struct Reloads {
    last: ReloadStatus,
    current: Option<Reading>,
    /// Threads that still read, and whose reloads were refused.
    late: Vec<CurrentPath>,
    /// The master has made these, and workers take them over.
    pub(super) unsettled: Vec<Unsettled>,
    /// SIGHUP came while an upgrade was under way.
    is_due: bool,
}

/// The configuration is being read.
struct Reading {
    begun: Instant,
    askers: Askers,
    /// Requests that came after this began: it may have read an older file.
    again: Option<Askers>,
    path: CurrentPath,
}

impl Default for Reloads {
    /// The configuration was read at the start.
    fn default() -> Self {
        Self {
            last: ReloadStatus {
                succeeded: true,
                succeeded_at_s: now_s(),
            },
            current: None,
            late: Vec::new(),
            unsettled: Vec::new(),
            is_due: false,
        }
    }
}

fn now_s() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.unwrap_or_default().as_secs()
}

impl Reloads {
    /// How the last one ended.
    pub(in crate::serve::master) fn last(&self) -> ReloadStatus {
        self.last
    }

    fn note(&mut self, succeeded: bool) {
        self.last.succeeded = succeeded;
        if succeeded {
            self.last.succeeded_at_s = now_s();
        }
    }

    /// When to give up reading.
    pub(in crate::serve::master) fn read_by(&self) -> Option<Instant> {
        let current = self.current.as_ref();
        current.map(|reading| reading.begun + READ_WITHIN)
    }

    /// When to answer the requests that wait for workers, whatever the workers have done.
    pub(in crate::serve::master) fn settle_by(&self) -> Option<Instant> {
        self.unsettled.iter().map(Unsettled::deadline).min()
    }

    /// Whether SIGHUP came while an upgrade was under way. It counts once.
    pub(in crate::serve::master) fn take_due(&mut self) -> bool {
        std::mem::take(&mut self.is_due)
    }

    fn ensure_few_are_late(&self) -> anyhow::Result<()> {
        match &self.late[..] {
            [oldest, ..] if self.late.len() >= LATE_MAX => bail!(
                "{LATE_MAX} reloads before this one still read {}: its file system does not answer",
                oldest.get().display()
            ),
            _ => Ok(()),
        }
    }
}

impl Master {
    /// Reads the configuration again and changes to it. The outcome is logged and sent to
    /// `asker`.
    pub(in crate::serve::master) fn reload(&mut self, asker: Option<oneshot::Sender<Reply>>) {
        if !self.phase.is_stopping() && self.is_changing_hands() {
            return self.reload_later(asker.into_iter().collect());
        }
        match &mut self.reloads.current {
            None => self.read(asker.into_iter().collect()),
            Some(reading) => reading.again.get_or_insert_default().extend(asker),
        }
    }

    /// An upgrade is under way: its successor has read its configuration, and has the listeners
    /// that there were. A command that asks is refused. SIGHUP, which cannot be answered, is for
    /// the server that serves afterwards.
    fn reload_later(&mut self, askers: Askers) {
        if askers.is_empty() {
            tracing::info!("reload: waits for the upgrade that is under way");
            self.reloads.is_due = true;
        } else {
            let refusal = anyhow!("an upgrade is under way: reload when it is done");
            refuse(askers, &refusal);
        }
    }

    /// An upgrade is over, and this server goes on: it reloads if it was told to meanwhile.
    pub(in crate::serve::master) fn reload_if_due(&mut self) {
        if self.reloads.take_due() {
            self.reload(None);
        }
    }

    fn read(&mut self, askers: Askers) {
        let path = CurrentPath::default();
        match self.start_to_read(path.clone()) {
            Ok(()) => {
                self.reloads.current = Some(Reading {
                    begun: Instant::now(),
                    askers,
                    again: None,
                    path,
                });
            }
            Err(error) => refuse(askers, &error),
        }
    }

    fn start_to_read(&self, path: CurrentPath) -> anyhow::Result<()> {
        ensure!(!self.phase.is_stopping(), "the server is stopping");
        ensure!(
            self.launch.flags.config.is_some() || self.launch.flags.root.is_some(),
            "the server was started with neither --config nor --root: there is nothing to read \
             again"
        );
        self.reloads.ensure_few_are_late()?;
        let (flags, user) = (self.launch.flags.clone(), self.launch.user);
        let (events, now) = (self.events.clone(), self.settings.clone());
        // It inherits the capabilities that this thread has left.
        let thread = std::thread::Builder::new().name("reload".into());
        let spawned = thread.spawn(move || {
            let next = read(&flags, user, &now, &path);
            // The receiver lives as long as the master.
            let _ = events.send(Event::ConfigRead(path, Box::new(next)));
        });
        spawned
            .map(drop)
            .context("start a thread to read the configuration")
    }

    /// A thread has read the configuration, perhaps later than its reload could wait.
    pub(in crate::serve::master) fn config_read(
        &mut self,
        path: &CurrentPath,
        next: anyhow::Result<Settings>,
    ) {
        let is_its = |reading: &mut Reading| reading.path.is_same(path);
        let Some(reading) = self.reloads.current.take_if(is_its) else {
            self.reloads.late.retain(|late| !late.is_same(path));
            tracing::info!("reload: the file system answers again");
            return;
        };
        if self.is_changing_hands() {
            self.reload_later(reading.askers);
        } else {
            let changed = self.change_to(next);
            self.reloads.note(changed.is_ok());
            match changed {
                Ok(what) => settle(&mut self.reloads.unsettled, reading.askers, what),
                Err(error) => refuse(reading.askers, &error),
            }
        }
        if let Some(askers) = reading.again {
            self.read(askers);
        }
    }

    /// Reading has taken too long.
    pub(in crate::serve::master) fn give_up_reading(&mut self) {
        let Some(reading) = self.reloads.current.take() else {
            return;
        };
        let mut askers = reading.askers;
        askers.extend(reading.again.into_iter().flatten());
        let path = reading.path.get();
        self.reloads.note(false);
        self.reloads.late.push(reading.path);
        let refusal = anyhow!(
            "reading {} took longer than {} s: its file system does not answer",
            path.display(),
            READ_WITHIN.as_secs()
        );
        refuse(askers, &refusal);
    }
}

/// The configuration that the flags and their file ask for now.
fn read(
    flags: &ServeArgs,
    user: Option<User>,
    now: &Settings,
    path: &CurrentPath,
) -> anyhow::Result<Settings> {
    let next = config::settings_noting(flags, &|read| path.set(read.to_owned()))?;
    privilege::ensure_root_is_served(&next, user)?;
    if let Some(key) = Changes::between(now, &next).fixed.first() {
        bail!(
            "{}: a running server cannot change it; stop it and start it anew",
            next.place(key)
        );
    }
    Ok(next)
}
