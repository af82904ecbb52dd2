//! The log writer as its master has it: it is there while a log is asked for, knows the ring of every
//! worker, and is started anew when it has ended. The master keeps the rings, so that what workers have
//! left there outlasts every log writer.

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::net::UnixDatagram;
use std::os::unix::process::CommandExt as _;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use command_fds::{CommandFdExt as _, FdMapping};
use rustix::process::{Pid, Signal, WaitStatus};
use tokio::sync::mpsc::UnboundedSender;
use tokio::sync::oneshot;

use super::Master;
use super::back_off::BackOff;
use super::event::Event;
use super::receive;
use crate::control::{AccessLogStatus, Reply};
use crate::kernel::process::{Process, cause_of_death};
use crate::kernel::{packets, sealed};
use crate::serve::access_log::channel::{FromLogWriter, Start, ToLogWriter};
use crate::serve::access_log::{Tally, ring};
use crate::serve::channel::Inherited;
use crate::serve::sandbox::User;
use crate::values::AccessLog;

/// How long a log writer may take to write what it has when it is told to end. After that it is killed,
/// and what it has not written is lost.
const ENDS_WITHIN: Duration = Duration::from_secs(3);
/// How often a master that ends checks whether its log writer has ended.
const CHECK_EVERY: Duration = Duration::from_millis(1);

/// The log writer, and what it works on.
pub(super) struct LogWriter {
    user: Option<User>,
    log_json: bool,
    events: UnboundedSender<Event>,
    tally: Tally,
    tally_memory: OwnedFd,
    /// The logs that the settings ask for.
    asked: BTreeSet<AccessLog>,
    /// Those that are open. Workers may still have records for some that are not asked for any more.
    open: BTreeSet<AccessLog>,
    rings: BTreeMap<u64, Ring>,
    next_number: u64,
    process: Option<Running>,
    back_off: BackOff,
    /// When to start the next one, if none runs.
    start_at: Option<Instant>,
    /// Commands that wait for the logs to be opened anew.
    askers: Vec<oneshot::Sender<Reply>>,
    loss: Loss,
}

/// A worker's ring.
struct Ring {
    memory: OwnedFd,
    bell: OwnedFd,
}

/// What a worker gets of its ring.
pub struct WorkersEnd {
    /// Its memory.
    pub memory: OwnedFd,
    /// The end of its bell to write.
    pub bell: OwnedFd,
}

/// A log writer that runs.
struct Running {
    process: Process,
    channel: UnixDatagram,
    started: Instant,
    has_begun: bool,
    /// When it is killed, once it was told to end.
    kill_at: Option<Instant>,
}

/// What the log says of records that came to no log.
#[derive(Default)]
struct Loss {
    /// Records that were lost, as of the last look. An old master's workers may have lost some before.
    seen: Option<u64>,
    /// Of these, those that need no line any more.
    said: u64,
    is_under_way: bool,
}

impl LogWriter {
    /// None runs yet.
    ///
    /// # Errors
    /// What the kernel says of shared memory.
    pub(super) fn new(
        user: Option<User>,
        log_json: bool,
        events: UnboundedSender<Event>,
    ) -> anyhow::Result<Self> {
        let tally_memory = Tally::memory()?;
        Ok(Self {
            user,
            log_json,
            events,
            tally: Tally::new(tally_memory.try_clone()?)?,
            tally_memory,
            asked: BTreeSet::new(),
            open: BTreeSet::new(),
            rings: BTreeMap::new(),
            next_number: 0,
            process: None,
            back_off: BackOff::default(),
            start_at: None,
            askers: Vec::new(),
            loss: Loss::default(),
        })
    }

    /// A ring for a worker that is about to start.
    ///
    /// # Errors
    /// The kernel is out of file descriptors.
    pub(super) fn ring(&mut self) -> anyhow::Result<WorkersEnd> {
        let memory = ring::memory()?;
        let (heard, bell) = ring::bell()?;
        let own = memory.try_clone().context("duplicate a ring")?;
        let ring = Ring {
            memory: own,
            bell: heard,
        };
        self.next_number += 1;
        self.rings.insert(self.next_number, ring);
        self.hand(self.next_number);
        Ok(WorkersEnd { memory, bell })
    }

    /// The settings ask for these logs from now on. Those of the settings before stay open.
    pub(super) fn ask_for(&mut self, logs: impl IntoIterator<Item = AccessLog>) {
        let before = std::mem::replace(&mut self.asked, logs.into_iter().collect());
        if !self.asked.is_subset(&self.open) {
            self.open = self.asked.union(&before).cloned().collect();
            self.begin_anew();
        }
    }

    /// Has the logs opened anew, and answers `asker` once they are.
    pub(super) fn reopen(&mut self, asker: oneshot::Sender<Reply>) {
        if self.asked.is_empty() {
            let why = "this server writes no access log: start it with --access-log FILE";
            // The process that asked may have ended.
            let _ = asker.send(Reply::Refused(why.into()));
            return;
        }
        self.askers.push(asker);
        self.open = self.asked.clone();
        self.begin_anew();
    }

    /// Has the log writer that runs, if one does, end, and starts the next one.
    fn begin_anew(&mut self) {
        match &mut self.process {
            None => self.start(),
            Some(running) => running.end(),
        }
    }

    fn start(&mut self) {
        self.start_at = None;
        match self.spawn() {
            Ok(running) => {
                self.process = Some(running);
                let numbers: Vec<_> = self.rings.keys().copied().collect();
                numbers.into_iter().for_each(|number| self.hand(number));
            }
            Err(error) => {
                tracing::error!("start the log writer: {error:#}");
                self.start_after(Duration::ZERO);
            }
        }
    }

    fn spawn(&self) -> anyhow::Result<Running> {
        let start = Start {
            logs: self.open.iter().cloned().collect(),
            user: self.user,
            log_json: self.log_json,
        };
        let start = sealed::sealed(&serde_json::to_vec(&start)?)
            .context("put the list of logs into a file in memory")?;
        let (mine, theirs) = packets::pair().context("create its channel")?;
        // Not the path: the binary may have been replaced since.
        let mut command = Command::new("/proc/self/exe");
        command.arg0("srv").arg("access-log").stdin(Stdio::null());
        command
            .fd_mappings(vec![FdMapping {
                parent_fd: theirs,
                child_fd: Inherited::CHANNEL,
            }])
            .context("number its file descriptors")?;
        let channel = UnixDatagram::from(mine);
        let incoming = channel.try_clone().context("duplicate its channel")?;
        let incoming = tokio::net::UnixDatagram::from_std(incoming).context("watch its channel")?;
        let child = command.spawn().context("spawn it")?;
        let process = Process::new(&child);
        let (pid, events) = (process.pid(), self.events.clone());
        tokio::spawn(async move {
            let event = |said| Event::FromLogWriter(pid, said);
            receive::forward(&incoming, &events, |_| false, event).await;
        });
        let running = Running {
            process,
            channel,
            started: Instant::now(),
            has_begun: false,
            kill_at: None,
        };
        running.send(
            &ToLogWriter::Start,
            &[self.tally_memory.as_fd(), start.as_fd()],
        );
        Ok(running)
    }

    /// Tells the log writer of a ring.
    fn hand(&self, number: u64) {
        if let (Some(running), Some(ring)) = (&self.process, self.rings.get(&number)) {
            running.send(
                &ToLogWriter::Ring(number),
                &[ring.memory.as_fd(), ring.bell.as_fd()],
            );
        }
    }

    /// The log writer of that id said something.
    pub(super) fn says(&mut self, pid: Pid, said: &FromLogWriter) {
        let Some(running) = self.process.as_mut().filter(|running| running.is(pid)) else {
            return;
        };
        match said {
            FromLogWriter::Began => {
                running.has_begun = true;
                if running.kill_at.is_none() {
                    self.answer("the access logs were opened anew");
                }
            }
            FromLogWriter::Drained(number) => {
                self.rings.remove(number);
            }
        }
    }

    /// A process of that id has ended.
    pub(super) fn process_ended(&mut self, pid: Pid, status: WaitStatus) {
        let Some(running) = self.process.take_if(|running| running.is(pid)) else {
            return self.forget_the_ended();
        };
        // It ends by itself to open a log again, and when it is told to.
        if status.exit_status() == Some(0) {
            if !self.asked.is_empty() || self.has_records() {
                self.start();
            }
            return;
        }
        let lived = running.started.elapsed();
        let wait = self.back_off.after_death(lived, running.has_begun);
        tracing::error!(
            "the log writer died: {}; the next one starts in {wait:?}, and until then records wait in \
             memory",
            cause_of_death(status)
        );
        match wait.is_zero() {
            true => self.start(),
            false => self.start_after(wait),
        }
    }

    fn start_after(&mut self, wait: Duration) {
        self.start_at = Some(Instant::now() + wait);
    }

    /// Without a log writer, nothing else notices that a worker has ended.
    fn forget_the_ended(&mut self) {
        if self.process.is_none() && self.asked.is_empty() {
            self.rings.retain(|_, ring| ring::hear(&ring.bell));
        }
    }

    fn has_records(&self) -> bool {
        self.tally.pending.get() > 0
    }

    /// Once a second: what is due. `dropped` is how many records found no room in their rings.
    pub(super) fn tick(&mut self, dropped: u64) {
        let now = Instant::now();
        if self.start_at.is_some_and(|at| at <= now) {
            self.start();
        }
        if let Some(running) = &mut self.process {
            running.kill_if_late(now);
        }
        self.loss
            .look(dropped.saturating_add(self.tally.lost.get()));
    }

    fn answer(&mut self, what: &str) {
        for asker in self.askers.drain(..) {
            // The process that asked may have ended.
            let _ = asker.send(Reply::Done(what.to_owned()));
        }
    }

    /// Its state, if there is a log.
    pub(super) fn status(&self) -> Option<AccessLogStatus> {
        let pid = self.process.as_ref().map(|running| running.process.pid());
        (!self.asked.is_empty()).then(|| AccessLogStatus {
            writer: pid.map(|pid| pid.as_raw_nonzero().get() as u32),
            written: self.tally.written.get(),
            waiting: self.tally.pending.get(),
            lost: self.tally.lost.get(),
        })
    }

    /// Has the log writer write what workers, which have all ended, have left. The master ends.
    pub(super) fn finish(&mut self) {
        let Some(running) = &mut self.process else {
            return;
        };
        running.end();
        let deadline = Instant::now() + ENDS_WITHIN;
        while running.process.is_alive() && Instant::now() < deadline {
            std::thread::sleep(CHECK_EVERY);
        }
        if running.process.is_alive() {
            tracing::error!(
                "the log writer has not ended within {ENDS_WITHIN:?}: lines of access logs are lost"
            );
            running.kill();
        }
    }
}

impl Running {
    fn is(&self, pid: Pid) -> bool {
        self.process.pid() == pid
    }

    fn send(&self, message: &ToLogWriter, fds: &[std::os::fd::BorrowedFd<'_>]) {
        let packet = serde_json::to_vec(message).unwrap_or_default();
        if let Err(error) = packets::send_with_fds(&self.channel, &packet, fds) {
            // It has ended, or does not read: then it is killed, and the next one is told.
            tracing::debug!("tell the log writer {message:?}: {error}");
            if error.kind() == std::io::ErrorKind::WouldBlock {
                self.kill();
            }
        }
    }

    fn end(&mut self) {
        if self.kill_at.is_none() {
            self.kill_at = Some(Instant::now() + ENDS_WITHIN);
            self.send(&ToLogWriter::End, &[]);
        }
    }

    fn kill_if_late(&mut self, now: Instant) {
        if self.kill_at.is_some_and(|at| at <= now) {
            tracing::error!(
                "the log writer was told to end and has not: killing it; lines of access logs are lost"
            );
            self.kill();
        }
    }

    fn kill(&self) {
        // It may have ended by itself.
        let _ = self.process.signal(Signal::KILL);
    }
}

impl Loss {
    /// Takes note of how many records were lost so far. The log says when that begins, and how many
    /// they were when it is over.
    fn look(&mut self, lost: u64) {
        let seen = self.seen.replace(lost).unwrap_or_else(|| {
            self.said = lost;
            lost
        });
        if lost > seen && !self.is_under_way {
            self.is_under_way = true;
            tracing::warn!(
                "records of the access log are lost, since the log writer has no room for them; no \
                 request waits or is lost"
            );
        } else if lost <= seen && self.is_under_way {
            self.is_under_way = false;
            tracing::warn!(
                "{} records of the access log were lost; none since a second",
                lost.saturating_sub(self.said)
            );
            self.said = lost;
        }
    }
}

impl Master {
    /// Has the log writer write the logs of the settings.
    pub(super) fn ask_for_logs(&mut self) {
        let logs = self.settings.serving.access_logs();
        self.log_writer.ask_for(logs.into_iter().cloned());
    }

    /// How many records own workers have dropped, because their rings were full.
    pub(super) fn unlogged(&self) -> u64 {
        let group = &self.groups[0];
        let of_slot = |slot: u32| group.figures().slots[slot as usize].figures.unlogged.get();
        self.staff
            .own_slots()
            .map(of_slot)
            .fold(0, u64::saturating_add)
    }
}
