//! The log writer: a process that takes records from the rings of all workers and writes lines to the
//! logs. It opens the logs as the master's user, and then gives up everything but what it has open. If
//! it ends, in any way, the master starts another one, which goes on with the same rings; to open the
//! logs anew, it ends.

use std::collections::{BTreeMap, HashMap};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, bail};
use rustix::event::{PollFd, PollFlags};
use rustix::io::Errno;
use srv_steer::monotonic_ns;

use super::Tally;
use super::channel::{FromLogWriter, Start, ToLogWriter};
use super::line::{self, Clock};
use super::ring::{self, Taken, Taking};
use super::sink::Sink;
use crate::kernel::packets::{self, receive_with_fds};
use crate::kernel::reactor::Reactor;
use crate::kernel::sealed;
use crate::logging;
use crate::serve::channel::Inherited;
use crate::serve::sandbox;
use crate::values::LogId;

/// How long it waits between two looks at the rings while there are records. A ring has room for what
/// comes meanwhile; if one becomes half full, its worker says so.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// How long it waits at most. A worker wakes it for the first record.
const SLEEP_MAX: Duration = Duration::from_secs(1);
/// How long lines that a log has no room for may delay the end.
const END_WITHIN: Duration = Duration::from_secs(1);
/// When to try again if a log cannot be opened.
const AGAIN_AFTER: Duration = Duration::from_secs(10);
/// The most records of one worker before the lines are written, and others have their turn.
const RECORDS_AT_ONCE: usize = 4096;
/// So many rounds empty a full ring, and end although workers go on.
const ROUNDS_AT_END: u32 = 4;
/// The longest list of logs, bytes.
const START_BYTES_MAX: u64 = 16 << 20;

const CHANNEL_TOKEN: u64 = u64::MAX;

/// Runs the process to its end.
///
/// # Errors
/// It did not inherit what the master promises, or the kernel refuses something that it needs.
pub fn run() -> anyhow::Result<()> {
    let channel = packets::inherited(Inherited::CHANNEL).context(
        "`srv access-log` is what `srv serve` starts to write access logs, with a channel to the \
         master as file descriptor 3, and there is none: run `srv serve --access-log FILE`",
    )?;
    let result = Writer::start(channel).and_then(Writer::serve);
    logging::catch_up();
    result
}

struct Writer {
    channel: OwnedFd,
    reactor: Reactor,
    tally: Tally,
    sinks: HashMap<LogId, Sink>,
    rings: BTreeMap<u64, Ring>,
    clock: Clock,
    /// What a client has said, of the record that was taken last.
    room: Vec<u8>,
    began: Instant,
    /// Whether the master is there. Without one, this process ends with the last worker.
    has_master: bool,
    /// It was told to end.
    ends: bool,
}

/// A worker's ring.
struct Ring {
    taking: Taking,
    bell: OwnedFd,
    /// The worker has ended.
    is_last: bool,
}

impl Writer {
    fn start(channel: OwnedFd) -> anyhow::Result<Self> {
        close_the_rest();
        ignore_signals().context("ignore signals")?;
        let (tally, start) = receive_start(&channel)?;
        logging::start(start.log_json);
        let tally = Tally::new(tally)?;
        tally.begin();
        let sinks = start.logs.into_iter();
        let sinks = sinks.map(|log| (log.id(), Sink::open(log))).collect();
        let reactor = Reactor::new().context("create an epoll instance")?;
        reactor.watch_readable(&channel, CHANNEL_TOKEN)?;
        // The first reading of each clock looks up the vDSO.
        monotonic_ns();
        let _ = SystemTime::now();
        sandbox::become_user(start.user)?;
        sandbox::confine(&[], &Default::default())?;
        let writer = Self {
            channel,
            reactor,
            tally,
            sinks,
            rings: BTreeMap::new(),
            clock: Clock::default(),
            room: Vec::new(),
            began: Instant::now(),
            has_master: true,
            ends: false,
        };
        writer.tell(&FromLogWriter::Began);
        Ok(writer)
    }

    fn serve(mut self) -> anyhow::Result<()> {
        let mut timeout = Duration::ZERO;
        loop {
            self.reactor
                .wait(Some(timeout))
                .context("wait for records")?;
            self.hear()?;
            let is_busy = self.take_all();
            self.flush();
            self.forget_the_ended();
            logging::catch_up();
            if self.is_to_end() {
                self.finish();
                return Ok(());
            }
            timeout = match is_busy || self.has_lines() {
                true => LOOK_EVERY,
                // What came while it was about to sleep is taken at once.
                false if self.rings.values().all(|ring| ring.taking.sleep()) => SLEEP_MAX,
                false => Duration::ZERO,
            };
        }
    }

    fn is_to_end(&self) -> bool {
        let is_stale = self.sinks.values().any(Sink::is_stale);
        let again = is_stale && self.began.elapsed() > AGAIN_AFTER && self.has_master;
        let is_left = !self.has_master && self.rings.is_empty();
        self.ends || again || is_left
    }

    /// Reads the messages of the master and the bells of the workers.
    fn hear(&mut self) -> anyhow::Result<()> {
        let mut nth = 0;
        while let Some(ready) = self.reactor.ready(nth) {
            nth += 1;
            match ready.token {
                CHANNEL_TOKEN => self.hear_master()?,
                number => {
                    if let Some(ring) = self.rings.get_mut(&number)
                        && !ring::hear(&ring.bell)
                    {
                        ring.is_last = true;
                        self.reactor.forget(&ring.bell)?;
                    }
                }
            }
        }
        Ok(())
    }

    fn hear_master(&mut self) -> anyhow::Result<()> {
        loop {
            match receive_with_fds::<ToLogWriter>(&self.channel) {
                Ok(None) => return Ok(()),
                Ok(Some((ToLogWriter::Ring(number), fds))) => {
                    let [memory, bell] = <[OwnedFd; 2]>::try_from(fds)
                        .ok()
                        .context("a ring came without its descriptors")?;
                    self.reactor.watch_readable(&bell, number)?;
                    let ring = Ring {
                        taking: Taking::new(memory)?,
                        bell,
                        is_last: false,
                    };
                    self.rings.insert(number, ring);
                }
                Ok(Some((ToLogWriter::End, _))) => self.ends = true,
                Ok(Some((ToLogWriter::Start, _))) => {}
                // The master has ended.
                Err(_) => {
                    self.has_master = false;
                    return Ok(self.reactor.forget(&self.channel)?);
                }
            }
        }
    }

    /// Takes records from all rings. Whether a ring may have more, or had any.
    fn take_all(&mut self) -> bool {
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        let (now, now_ns) = (now.unwrap_or_default(), monotonic_ns());
        let (mut taken, mut lost) = (0, 0);
        for ring in self.rings.values_mut() {
            for _ in 0..RECORDS_AT_ONCE {
                let (facts, said) = match ring.taking.take(&mut self.room) {
                    Taken::None => break,
                    Taken::Corrupt => {
                        lost += 1;
                        continue;
                    }
                    Taken::Record(facts, said) => (facts, said),
                };
                let ago = Duration::from_nanos(now_ns.saturating_sub(facts.ended_ns));
                let ended = now.saturating_sub(ago);
                let clock = &mut self.clock;
                let was_added = self.sinks.get_mut(&facts.log).is_some_and(|sink| {
                    let format = sink.format();
                    sink.add(|lines| line::write(lines, format, clock, ended, (&facts, &said)))
                });
                match was_added {
                    true => taken += 1,
                    false => lost += 1,
                }
            }
        }
        // In this order: if this process is killed in between, a record counts as lost and is written,
        // and none is missing from both.
        self.tally.pending.bump(taken);
        self.tally.lost.bump(lost);
        self.rings.values().for_each(|ring| ring.taking.give_room());
        taken + lost > 0
    }

    fn flush(&mut self) {
        for sink in self.sinks.values_mut() {
            let outcome = sink.flush();
            self.tally.written.bump(outcome.written);
            self.tally.lost.bump(outcome.lost);
            let settled = outcome.written + outcome.lost;
            self.tally.pending.bump(settled.wrapping_neg());
        }
    }

    fn has_lines(&self) -> bool {
        self.sinks.values().any(Sink::has_lines)
    }

    /// Forgets the rings of workers that have ended. They are empty: all was taken after the bell had
    /// said the end, unless there was too much for one round.
    fn forget_the_ended(&mut self) {
        let is_drained = |ring: &Ring| ring.is_last && ring.taking.is_empty();
        let rings = self.rings.iter();
        let drained = rings.filter(|(_, ring)| is_drained(ring));
        let drained: Vec<_> = drained.map(|(number, _)| *number).collect();
        for number in drained {
            self.rings.remove(&number);
            self.tell(&FromLogWriter::Drained(number));
        }
    }

    /// Takes what there is, and writes it as far as it finds room in time. The rest is lost. What
    /// workers write from now on is for the next log writer.
    fn finish(&mut self) {
        for _ in 0..ROUNDS_AT_END {
            if !self.take_all() {
                break;
            }
            self.flush();
        }
        let deadline = Instant::now() + END_WITHIN;
        while self.has_lines() && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(10));
            self.flush();
        }
        for sink in self.sinks.values_mut() {
            let lost = sink.give_up();
            self.tally.lost.bump(lost);
            self.tally.pending.bump(lost.wrapping_neg());
        }
    }

    fn tell(&self, message: &FromLogWriter) {
        // If the master has ended, no process reads this.
        if let Ok(packet) = serde_json::to_vec(message) {
            let _ = packets::send_with_fds(&self.channel, &packet, &[]);
        }
    }
}

fn receive_start(channel: &OwnedFd) -> anyhow::Result<(OwnedFd, Start)> {
    let mut ready = [PollFd::new(channel, PollFlags::IN)];
    loop {
        match rustix::event::poll(&mut ready, None) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error).context("wait for the master's message"),
        }
        let received = receive_with_fds::<ToLogWriter>(channel);
        let Some((message, fds)) = received.context("read the master's message")? else {
            continue;
        };
        let [tally, start] = match (message, <[OwnedFd; 2]>::try_from(fds)) {
            (ToLogWriter::Start, Ok(fds)) => fds,
            (other, _) => bail!("read the master's message: expected Start, received {other:?}"),
        };
        let start = sealed::read(start, START_BYTES_MAX).context("read which logs to write")?;
        return Ok((
            tally,
            serde_json::from_slice(&start).context("read which logs to write")?,
        ));
    }
}

/// A terminal or an operator sends these to all processes of a server. The master alone acts on them,
/// and this process ends when the master says so, since workers may still have records.
fn ignore_signals() -> std::io::Result<()> {
    use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2};
    for signal in [SIGINT, SIGQUIT, SIGHUP, SIGTERM, SIGUSR1, SIGUSR2] {
        signal_hook::flag::register(signal, Arc::default())?;
    }
    Ok(())
}

/// Closes all descriptors but the standard ones and the channel.
fn close_the_rest() {
    let first = (Inherited::CHANNEL + 1) as libc::c_uint;
    // SAFETY: nothing in this process has opened, or owns, a descriptor from there on.
    unsafe { libc::syscall(libc::SYS_close_range, first, libc::c_uint::MAX, 0) };
}
