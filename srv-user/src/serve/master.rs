//! The master: opens the listener groups, keeps a worker process in every
//! slot, and sees them through start, death and stop. It never accepts a
//! connection and no worker ever waits for it.

mod answers;
mod back_off;
pub mod between_masters;
pub mod binary;
pub mod dispatch;
pub mod event;
mod first;
mod hangs;
pub mod hear;
mod inspection;
pub mod join;
mod joined;
mod leftover;
mod opening;
mod orders;
mod place;
mod privilege;
mod reading;
mod reload;
mod root;
mod second;
mod shortfall;
pub mod spawn;
mod staff;
mod starting;
mod stop;
pub mod takeover;
mod upgrade;

use std::collections::HashMap;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use rustix::process::Pid;
use srv_common::{Policy, State};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::time::{Interval, MissedTickBehavior};

use crate::control::{self, Request};
use crate::logging;
use crate::serve::channel::ToMaster;
use crate::serve::config::Settings;
use crate::serve::config::args::ServeArgs;
use crate::serve::sandbox::User;
use crate::serve::systemd;
use back_off::BackOff;
use between_masters::Peer;
use event::Event;
use first::Second;
use inspection::Suspects;
use joined::First;
use leftover::Leftover;
use reading::{Readings, Unsettled};
use root::RootWatch;
use spawn::Worker;
use srv_steer::Group;
use srv_steer::ListenerGroup;
use srv_steer::Looks;
use srv_steer::Overflow;
use srv_steer::SlotTable;
use stop::Stopping;
use takeover::{Takeover, ToPredecessor, ToSuccessor};
use upgrade::Upgrade;

/// Runs a server until it is told to stop. `flags` are what `settings` were made
/// of, and will be again; `takeover` is what this process was started with.
///
/// # Errors
/// Whatever keeps it from starting, and a stop that had to kill workers.
pub fn run(settings: Settings, flags: ServeArgs, takeover: Takeover) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    runtime
        .context("start the master's event loop")?
        .block_on(async {
            let mut master = Master::open(settings, flags, takeover)?;
            master.begin()?;
            let result = master.serve().await;
            master.end_workers();
            systemd::finish();
            if let (Err(error), Some(predecessor)) = (&result, &master.predecessor) {
                predecessor.tell(ToPredecessor::Failed(format!("{error:#}")));
            }
            result
        })
}

/// How often the waiting counts are compared with the kernel's truth.
const HEAL_EVERY: Duration = Duration::from_secs(1);
/// However short `--hang-after` is: the master is to sleep.
const HANG_CHECK_EVERY_MIN: Duration = Duration::from_millis(10);
/// So many failed starts, with no worker ever ready, and the server gives up.
const FAILED_STARTS_MAX: u32 = 3;

/// What the master knows of one slot, whichever worker is there.
#[derive(Default)]
struct SlotRecord {
    back_off: BackOff,
    /// Workers killed because they hung.
    hang_kills: u32,
    /// Its worker is to be of this generation, or a later one: each time it is to be replaced
    /// is a new one.
    generation: u64,
    /// How many workers have come to wait on its listeners.
    newcomers: u32,
    /// Its listeners belong to no worker.
    is_orphan: bool,
}

struct Master {
    settings: Settings,
    flags: Arc<ServeArgs>,
    /// Whom workers run as; `None`: who runs this process.
    user: Option<User>,
    hang_check: Interval,
    hang_looks: Looks,
    policy: Policy,
    groups: Vec<Group>,
    workers: HashMap<Pid, Worker>,
    slots: SlotTable<SlotRecord>,
    overflow_before: Overflow,
    events: UnboundedSender<Event>,
    incoming: UnboundedReceiver<Event>,
    /// Its file goes when this goes.
    control: Option<control::Server>,
    /// The name of this process's binary when it started; what it names now is the next.
    binary: PathBuf,
    upgrade: Option<Upgrade>,
    /// The configuration is being read again.
    readings: Readings,
    /// Until everything is taken over from it.
    predecessor: Option<Peer<ToPredecessor>>,
    /// The server that has joined this one.
    second: Option<Second>,
    /// The server that this one has joined, while that serves.
    first: Option<First>,
    /// Workers are in the slots from this one on.
    first_slot: u32,
    /// Everything has been offered to the second server, which has not taken it yet.
    is_offering: bool,
    /// All slots have had a ready worker or a failed start: the ring is whole.
    started: bool,
    ever_ready: bool,
    stopping: Option<Stopping>,
    /// Of addresses that nobody asks for, until this server serves.
    left_over: Vec<ListenerGroup>,
    /// Of these, who is being emptied.
    sweeping: Vec<Leftover>,
    last_failure: Option<String>,
    root_watch: Option<RootWatch>,
    /// SIGHUP came while an upgrade was under way.
    is_reload_due: bool,
    suspects: Suspects,
    /// When to look at workers that are behind with their orders.
    orders_look: Option<Instant>,
    /// Reloads whose outcome depends on the workers.
    unsettled: Vec<Unsettled>,
}

impl Master {
    fn open(settings: Settings, flags: ServeArgs, mut takeover: Takeover) -> anyhow::Result<Self> {
        opening::raise_open_files(&settings)?;
        let user = privilege::workers_user(&settings)?;
        privilege::ensure_root_is_served(&settings, user)?;
        // A successor inherits, whatever its predecessor did.
        let joins = settings.join && takeover.predecessor.is_none();
        let (mut groups, first) = match joins {
            true => joined::join(&settings, &takeover)?,
            false => (opening::open_groups(&settings, &mut takeover)?, None),
        };
        shortfall::warn(&settings, groups[0].listeners.sockets.len());
        let left_over = takeover.leftovers()?;
        let (events, incoming) = unbounded_channel();
        let mut predecessor = takeover.predecessor;
        if let Some(predecessor) = &mut predecessor {
            predecessor
                .listen(events.clone(), Event::FromPredecessor)
                .context("watch the channel to the old master")?;
        } else if first.is_none() {
            groups.iter_mut().for_each(Group::insert_listeners);
        }
        let policy = match &first {
            Some(first) => first.policy(),
            None => opening::first_policy(&settings, &groups)?,
        };
        Ok(Self {
            binary: binary::name().context("find this process's binary")?,
            upgrade: None,
            readings: Readings::default(),
            predecessor,
            slots: SlotTable::default(),
            overflow_before: Overflow::read().unwrap_or_default(),
            policy,
            groups,
            workers: HashMap::new(),
            events,
            incoming,
            control: None,
            second: None,
            first_slot: first.as_ref().map_or(0, |first| first.first_slot),
            first,
            is_offering: false,
            started: false,
            ever_ready: false,
            stopping: None,
            left_over,
            sweeping: Vec::new(),
            last_failure: None,
            root_watch: None,
            is_reload_due: false,
            suspects: Suspects::default(),
            orders_look: None,
            unsettled: Vec::new(),
            hang_check: hang_check(&settings),
            hang_looks: Looks::default(),
            settings,
            flags: Arc::new(flags),
            user,
        })
    }

    /// Takes the slots and begins to steer, where this is not another master's yet.
    fn begin(&mut self) -> anyhow::Result<()> {
        self.slots.use_until(self.own_slots().end);
        if self.first.is_none() {
            let end = self.groups[0].listeners.sockets.len() as u32;
            self.leave_to_all(self.own_slots().end..end);
        }
        self.watch_first()?;
        if self.predecessor.is_none() && self.first.is_none() {
            for group in &mut self.groups {
                group.steer(self.policy)?;
            }
            self.open_control()?;
        }
        privilege::drop_the_rest(&self.settings, &self.flags, self.user, &self.binary)
    }

    async fn serve(&mut self) -> anyhow::Result<()> {
        let mut child = signal(SignalKind::child())?;
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut quit = signal(SignalKind::quit())?;
        let mut hangup = signal(SignalKind::hangup())?;
        let mut restart = signal(SignalKind::user_defined1())?;
        let mut upgrade = signal(SignalKind::user_defined2())?;
        let mut heal = tokio::time::interval(HEAL_EVERY);
        // A machine that stood still makes for one late look, not for many at once.
        heal.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut watchdog = systemd::alive_every().map(tokio::time::interval);
        self.watch_root();
        for slot in self.own_slots() {
            self.spawn(slot)?;
        }
        // As PID 1: orphans that ended before the handler was there.
        self.reap();
        loop {
            let deadline = self
                .stopping
                .as_ref()
                .and_then(|stopping| stopping.deadline);
            let give_up = self.upgrade.as_ref().map(|upgrade| upgrade.deadline);
            let look_at = self.orders_look.into_iter();
            let look_at = look_at
                .chain(self.unsettled.iter().map(Unsettled::deadline))
                .min();
            let read_by = self.readings.deadline();
            tokio::select! {
                // A stop before what comes of it, such as the ends of workers that were
                // told to stop in the same moment; events last, as there may always be one.
                biased;
                _ = terminate.recv() => self.stop(Some(self.settings.grace)),
                _ = interrupt.recv() => self.stop(Some(self.settings.grace)),
                _ = quit.recv() => self.stop(None),
                _ = restart.recv() => self.stop_for_the_next(),
                _ = hangup.recv() => self.reload(None),
                _ = upgrade.recv() => self.upgrade(None),
                _ = child.recv() => self.reap(),
                () = until(deadline) => self.run_out_of_grace(),
                () = until(give_up) => self.give_up_successor(),
                () = until(read_by) => self.read_too_long(),
                () = until(look_at) => self.look_after_orders(),
                () = tick(&mut watchdog) => systemd::alive(),
                _ = self.hang_check.tick() => self.spot_hangs(),
                _ = heal.tick() => self.tick(),
                Some(event) = self.incoming.recv() => self.handle(event)?,
            }
            self.give_orders();
            self.settle_reloads();
            if self.is_finished()? {
                return Ok(());
            }
        }
    }

    fn tick(&mut self) {
        self.groups.iter_mut().for_each(Group::reconcile);
        self.inspect();
        self.give_up_late_starters();
        systemd::catch_up();
        logging::catch_up();
    }

    fn is_finished(&self) -> anyhow::Result<bool> {
        if let Some(stopping) = &self.stopping {
            return self.has_stopped(stopping);
        }
        let failed: u32 = self.slots.iter().map(|at| at.back_off.early_deaths).sum();
        if !self.ever_ready && self.workers.is_empty() && failed >= FAILED_STARTS_MAX {
            let why = self
                .last_failure
                .as_deref()
                .unwrap_or("they died without a word");
            bail!("no worker could start: {why}");
        }
        Ok(false)
    }

    /// Those of this server's workers.
    fn own_slots(&self) -> Range<u32> {
        self.first_slot..self.first_slot + self.settings.workers
    }

    /// Behind the last slot that has a worker of this server or of the second.
    fn slots_end(&self) -> u32 {
        let second = self.second.as_ref().map_or(0, |second| second.slots.end);
        self.own_slots().end.max(second)
    }

    fn apply_settings(&mut self) {
        let slots_end = self.slots_end();
        self.slots.use_until(slots_end);
        let groups = self.groups.iter_mut();
        groups.for_each(|group| group.apply(&self.settings.group(), slots_end));
    }

    fn handle(&mut self, event: Event) -> anyhow::Result<()> {
        let Some(event) = self.sweeper_says(event) else {
            return Ok(());
        };
        match event {
            Event::FromWorker(pid, ToMaster::Registered(confinement)) => {
                self.registered(pid, confinement);
            }
            Event::FromWorker(pid, ToMaster::Ready) => self.ready(pid),
            Event::FromWorker(pid, ToMaster::Retiring) => self.set_state(pid, State::Draining),
            Event::FromWorker(pid, ToMaster::Obeyed(revision)) => self.obeyed(pid, revision),
            Event::FromWorker(pid, ToMaster::Refused { revision, why }) => {
                self.refused(pid, revision, &why);
            }
            Event::FromWorker(_, ToMaster::Failed(why)) => {
                tracing::error!("a worker failed: {why}");
                self.last_failure = Some(why);
            }
            Event::Said(event, _read_on) => self.handle(*event)?,
            Event::Respawn(slot) => self.staff(slot),
            Event::FromSuccessor(pid, said) if self.is_successor(pid) => self.successor_says(said),
            // Of an upgrade that has been given up.
            Event::FromSuccessor(..) => {}
            // Without it there is nobody to wait for.
            Event::FromPredecessor(Some(ToSuccessor::Take) | None) => self.take()?,
            Event::FromSecond(said) => self.second_says(said),
            Event::FromFirst(said) => self.first_says(said),
            Event::RootIs(root, why_not) => self.root_is(root, why_not),
            Event::AnswerAt(path, deadline) => self.answer_at(path, deadline),
            Event::Reread(place, next) => self.reread(&place, *next),
            Event::Asked(question) if matches!(question.request, Request::Reload) => {
                self.reload(Some(question.reply));
            }
            Event::Asked(question) if matches!(question.request, Request::Upgrade) => {
                self.upgrade(Some(question.reply));
            }
            Event::Asked(question) => {
                let reply = self.answer(&question.request);
                // Whoever asked may have gone again.
                let _ = question.reply.send(reply);
            }
        }
        Ok(())
    }

    fn announce(&mut self) {
        self.keep_listeners();
        systemd::ready();
        self.sweep();
        for group in &self.groups {
            let workers = self.settings.workers;
            match group.why_unsteered() {
                _ if self.first.is_some() => self.announce_joined(workers),
                None => tracing::info!(
                    workers,
                    policy = self.policy.name(),
                    "steering in the kernel"
                ),
                Some(why) if self.settings.steers() => {
                    tracing::warn!(workers, "not steering (the kernel hashes): {why}");
                }
                Some(why) => tracing::info!(workers, "not steering (the kernel hashes): {why}"),
            }
            tracing::info!("listening on {}", group.listeners.address);
        }
    }

    /// Whether two servers have the listeners, this one and another.
    fn is_joined(&self) -> bool {
        self.first.is_some() || self.second.is_some()
    }

    /// Has systemd keep what would be lost with this process. With two servers nothing
    /// is, and who started in place of this one must not take it from under the other.
    fn keep_listeners(&mut self) {
        if self.is_joined() {
            return;
        }
        let listeners = self.groups.iter_mut().map(|group| &mut group.listeners);
        systemd::store::keep(listeners.chain(&mut self.left_over));
    }

    fn forget_listeners(&mut self) {
        let listeners = self.groups.iter_mut().map(|group| &mut group.listeners);
        listeners
            .chain(&mut self.left_over)
            .for_each(systemd::store::forget);
    }
}

/// Often enough that a hang is seen a quarter late at most.
fn hang_check(settings: &Settings) -> Interval {
    let often = match settings.hang_after {
        Duration::ZERO => HEAL_EVERY,
        hang_after => hang_after / 4,
    };
    let mut check = tokio::time::interval(often.clamp(HANG_CHECK_EVERY_MIN, HEAL_EVERY));
    check.set_missed_tick_behavior(MissedTickBehavior::Delay);
    check
}

async fn tick(interval: &mut Option<Interval>) {
    match interval {
        Some(interval) => {
            interval.tick().await;
        }
        None => std::future::pending().await,
    }
}

async fn until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline.into()).await,
        None => std::future::pending().await,
    }
}
