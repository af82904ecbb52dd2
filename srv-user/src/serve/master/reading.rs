//! Reading the configuration again, on a thread of its own: the file, the root and its
//! parents may lie on a file system that does not answer, and the event loop waits for
//! nothing else than events. If a thread does not come back in time, its reload is refused,
//! and what it reads in the end is thrown away. The next reload has a thread of its own,
//! since the configuration may lie elsewhere by then.

use std::time::{Duration, Instant};

use anyhow::{Context as _, anyhow, bail, ensure};
use tokio::sync::oneshot;

use super::event::Event;
use super::place::Place;
use super::{Master, privilege};
use crate::control::Reply;
use crate::serve::config::args::ServeArgs;
use crate::serve::config::{self, Changes, Settings};
use crate::serve::sandbox::User;

/// How long reading may take. A healthy file system needs milliseconds.
const READ_WITHIN: Duration = Duration::from_secs(5);

/// So many threads may be late. Each keeps its stack, and one file system that does not
/// answer must not cost more and more.
const LATE_MAX: usize = 8;

/// Those that asked through the control socket and wait for the outcome.
type Askers = Vec<oneshot::Sender<Reply>>;

/// The threads that read.
#[derive(Default)]
pub(super) struct Readings {
    current: Option<Reading>,
    /// The reloads of these were refused, and they still read.
    late: Vec<Place>,
}

/// The configuration is being read.
struct Reading {
    begun: Instant,
    askers: Askers,
    /// Asked for after this began, which may have read an older file.
    again: Option<Askers>,
    place: Place,
}

impl Readings {
    /// When to give up.
    pub(super) fn deadline(&self) -> Option<Instant> {
        let current = self.current.as_ref();
        current.map(|reading| reading.begun + READ_WITHIN)
    }
}

impl Master {
    /// Reads the configuration again and changes to it. The outcome is logged and told
    /// to `asker`.
    pub(super) fn reload(&mut self, asker: Option<oneshot::Sender<Reply>>) {
        if self.stopping.is_none() && self.is_changing_hands() {
            return self.reload_later(asker.into_iter().collect());
        }
        match &mut self.readings.current {
            None => self.read(asker.into_iter().collect()),
            Some(reading) => reading.again.get_or_insert_default().extend(asker),
        }
    }

    /// While an upgrade is under way: its successor has read its configuration, and has the
    /// listeners that there were. A process that asks is refused; SIGHUP, which nothing
    /// answers, is for the server that serves afterwards.
    fn reload_later(&mut self, askers: Askers) {
        if askers.is_empty() {
            tracing::info!("reload: waits for the upgrade that is under way");
            self.is_reload_due = true;
        } else {
            let refusal = anyhow!("an upgrade is under way: reload when it is done");
            settle(askers, Err(refusal));
        }
    }

    /// An upgrade is over, and this server goes on: it reloads if it was told to meanwhile.
    pub(super) fn reload_if_due(&mut self) {
        if std::mem::take(&mut self.is_reload_due) {
            self.reload(None);
        }
    }

    fn read(&mut self, askers: Askers) {
        let place = Place::default();
        match self.start_to_read(place.clone()) {
            Ok(()) => {
                self.readings.current = Some(Reading {
                    begun: Instant::now(),
                    askers,
                    again: None,
                    place,
                });
            }
            Err(error) => settle(askers, Err(error)),
        }
    }

    fn start_to_read(&self, place: Place) -> anyhow::Result<()> {
        ensure!(self.stopping.is_none(), "the server is stopping");
        ensure!(
            self.flags.config.is_some() || self.flags.root.is_some(),
            "the server was started with neither --config nor --root: there is nothing to read \
             again"
        );
        if let [first, ..] = &self.readings.late[..]
            && self.readings.late.len() >= LATE_MAX
        {
            bail!(
                "{LATE_MAX} reloads before this one still read {}: its file system does not answer",
                first.get().display()
            );
        }
        let (flags, user, events) = (self.flags.clone(), self.user, self.events.clone());
        let now = self.settings.clone();
        // It inherits what capabilities this thread has left.
        let thread = std::thread::Builder::new().name("reload".into());
        let spawned = thread.spawn(move || {
            let next = read(&flags, user, &now, &place);
            // The receiver lives as long as the master.
            let _ = events.send(Event::Reread(place, Box::new(next)));
        });
        spawned
            .map(drop)
            .context("start a thread to read the configuration")
    }

    /// The thread is done, perhaps later than its reload could wait.
    pub(super) fn reread(&mut self, place: &Place, next: anyhow::Result<Settings>) {
        let is_its = |reading: &mut Reading| reading.place.is(place);
        let Some(reading) = self.readings.current.take_if(is_its) else {
            self.readings.late.retain(|late| !late.is(place));
            tracing::info!("reload: the file system answers again");
            return;
        };
        if self.is_changing_hands() {
            self.reload_later(reading.askers);
        } else {
            match self.change_to(next) {
                Ok(what) => self.settle_later(reading.askers, what),
                Err(error) => settle(reading.askers, Err(error)),
            }
        }
        if let Some(askers) = reading.again {
            self.read(askers);
        }
    }

    pub(super) fn read_too_long(&mut self) {
        let Some(reading) = self.readings.current.take() else {
            return;
        };
        let mut askers = reading.askers;
        askers.extend(reading.again.into_iter().flatten());
        let place = reading.place.get();
        self.readings.late.push(reading.place);
        let refusal = anyhow!(
            "reading {} took longer than {} s: its file system does not answer",
            place.display(),
            READ_WITHIN.as_secs()
        );
        settle(askers, Err(refusal));
    }
}

/// The configuration that the flags and their file ask for now.
fn read(
    flags: &ServeArgs,
    user: Option<User>,
    now: &Settings,
    place: &Place,
) -> anyhow::Result<Settings> {
    let next = config::settings_noting(flags, &|path| place.set(path.to_owned()))?;
    privilege::ensure_root_is_served(&next, user)?;
    if let Some(key) = Changes::between(now, &next).fixed.first() {
        bail!(
            "{}: a running server cannot change it; stop it and start it anew",
            next.place(key)
        );
    }
    Ok(next)
}

/// How long a process that asked for a reload waits for workers to take it over.
const TAKEN_OVER_WITHIN: Duration = Duration::from_secs(3);

/// A reload that the master has made and that workers take over.
pub(super) struct Unsettled {
    askers: Askers,
    what: String,
    deadline: Instant,
}

impl Unsettled {
    /// When to answer, whatever workers have done until then.
    pub(super) fn deadline(&self) -> Instant {
        self.deadline
    }
}

impl Master {
    fn settle_later(&mut self, askers: Askers, what: String) {
        tracing::info!("{what}");
        if !askers.is_empty() {
            self.unsettled.push(Unsettled {
                askers,
                what,
                deadline: Instant::now() + TAKEN_OVER_WITHIN,
            });
        }
    }

    /// Answers those that asked for reloads that all workers have taken over, or not in time.
    pub(super) fn settle_reloads(&mut self) {
        if self.unsettled.is_empty() {
            return;
        }
        let behind = self.slots_behind();
        let now = Instant::now();
        let is_due = |reload: &mut Unsettled| behind.is_empty() || reload.deadline <= now;
        for Unsettled { askers, what, .. } in self.unsettled.extract_if(.., is_due) {
            let reply = match behind.as_slice() {
                [] => what,
                [slot] => format!("{what}; worker {slot} has not taken it over yet"),
                slots => format!("{what}; workers {slots:?} have not taken it over yet"),
            };
            for asker in askers {
                // The process that asked may have ended.
                let _ = asker.send(Reply::Done(reply.clone()));
            }
        }
    }
}

/// Says what a reload came to.
fn settle(askers: Askers, outcome: anyhow::Result<String>) {
    match &outcome {
        Ok(what) => tracing::info!("{what}"),
        Err(error) => tracing::error!("reload: {error:#}; the old configuration goes on"),
    }
    for asker in askers {
        // The process that asked may have ended.
        let _ = asker.send(match &outcome {
            Ok(what) => Reply::Done(what.clone()),
            Err(error) => Reply::Refused(format!("{error:#}")),
        });
    }
}
