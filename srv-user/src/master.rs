//! The master: opens the listener groups, keeps a worker process in every
//! slot, and sees them through start, death and stop. It never accepts a
//! connection and no worker ever waits for it.

mod answers;
mod back_off;
mod first;
mod hangs;
mod inspection;
mod joined;
mod leftover;
mod orders;
mod privilege;
mod reading;
mod reload;
mod root;
mod second;
mod shortfall;
mod starting;
mod stop;
mod upgrade;

use std::collections::HashMap;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use rustix::process::{Pid, WaitOptions, WaitStatus};
use srv_common::{Policy, State};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::sync::oneshot;
use tokio::time::{Interval, MissedTickBehavior};

use crate::between_masters::Peer;
use crate::channel::{Start, ToMaster};
use crate::cli::ServeArgs;
use crate::config::{Root, Settings};
use crate::confine::{Confinement, User};
use crate::control::{self, Question, Request};
use crate::group::Group;
use crate::hang::Looks;
use crate::join::{ToFirst, ToJoined};
use crate::listen::ListenerGroup;
use crate::overflow::Overflow;
use crate::slots::SlotTable;
use crate::spawn::{self, Worker};
use crate::takeover::{Takeover, ToPredecessor, ToSuccessor};
use crate::{binary, log, open_files, steer, systemd};
use back_off::BackOff;
use first::Second;
use inspection::Suspects;
use joined::First;
use leftover::Leftover;
use reading::{Place, Readings, Unsettled};
use root::RootWatch;
use stop::Stopping;
use upgrade::Upgrade;

/// Something for the master to deal with.
pub enum Event {
    /// A process said something; it is read on there once the sender is dropped ([`crate::hear`]).
    Said(Box<Event>, oneshot::Sender<()>),
    /// The process of that id said something.
    FromWorker(Pid, ToMaster),
    /// A slot's back-off is over.
    Respawn(u32),
    /// Somebody asks through the control socket.
    Asked(Question),
    /// The successor of that id says something, or (`None`) is gone.
    FromSuccessor(Pid, Option<ToPredecessor>),
    /// The old master says something, or (`None`) is gone.
    FromPredecessor(Option<ToSuccessor>),
    /// The server that has joined says something, or (`None`) is gone.
    FromSecond(Option<ToFirst>),
    /// The server that this one has joined says something, or (`None`) is gone.
    FromFirst(Option<ToJoined>),
    /// The root's name means another folder than workers serve, and why workers cannot
    /// serve that one.
    RootIs(Root, Option<String>),
    /// Open the control socket there; when to give up.
    AnswerAt(PathBuf, Instant),
    /// The configuration was read again, or cannot be used.
    Reread(Place, Box<anyhow::Result<Settings>>),
}

impl From<Question> for Event {
    fn from(question: Question) -> Self {
        Self::Asked(question)
    }
}

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
        raise_open_files(&settings)?;
        let user = privilege::workers_user(&settings)?;
        privilege::ensure_root_is_served(&settings, &flags, user)?;
        // A successor inherits, whatever its predecessor did.
        let (mut groups, first) = if settings.join && takeover.predecessor.is_none() {
            ensure!(
                takeover.is_empty(),
                "--join: systemd passed listeners, and a server that joins has the other's: \
                 leave out one of the two"
            );
            let (groups, first) = joined::join(&settings)?;
            (groups, Some(first))
        } else {
            (open_groups(&settings, &mut takeover)?, None)
        };
        shortfall::warn(&settings, groups[0].listeners.sockets.len());
        let left_over = takeover.leftovers()?;
        let first_slot = first.as_ref().map_or(0, |first| first.first_slot);
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
            None => first_policy(&settings, &groups)?,
        };
        let mut master = Self {
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
            first,
            first_slot,
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
        };
        master.slots.use_until(master.own_slots().end);
        if master.first.is_none() {
            let end = master.groups[0].listeners.sockets.len() as u32;
            master.leave_to_all(master.own_slots().end..end);
        }
        master.watch_first()?;
        if master.predecessor.is_none() && master.first.is_none() {
            for group in &mut master.groups {
                group.steer(policy)?;
            }
            master.open_control()?;
        }
        privilege::drop_the_rest(&master.settings, &master.flags, user, &master.binary)?;
        Ok(master)
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
        self.groups.iter_mut().for_each(Group::heal);
        self.inspect();
        self.give_up_late_starters();
        systemd::catch_up();
        log::catch_up();
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
        groups.for_each(|group| group.apply(&self.settings, slots_end));
    }

    fn start_worker(&self, slot: u32) -> anyhow::Result<Worker> {
        let start = Start {
            slot,
            listeners: spawn::inherited(&self.groups).listeners,
            groups: self.groups.len() as u32,
            user: self.user,
            beside: self.is_joined(),
            log_json: self.settings.log_json,
            serving: self.settings.serving.clone(),
        };
        let mut worker = spawn::spawn(start, &self.groups, &self.events)?;
        worker.generation = self.slots[slot].generation;
        let pid = worker.pid().as_raw_nonzero().get();
        tracing::debug!(slot, pid, "worker started");
        Ok(worker)
    }

    fn spawn(&mut self, slot: u32) -> anyhow::Result<()> {
        let worker = self.start_worker(slot)?;
        let pid = worker.pid();
        let number = pid.as_raw_nonzero().get() as u32;
        for group in &self.groups {
            group.worker_starts(slot, number);
        }
        self.tell_first(ToFirst::Starts { slot, pid: number });
        self.workers.insert(pid, worker);
        Ok(())
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

    /// Starts a worker in a slot that is to have one and has none, or beside one that is to be
    /// replaced. What cannot be started now is tried again.
    fn staff(&mut self, slot: u32) {
        if self.stopping.is_some() || !self.own_slots().contains(&slot) {
            return;
        }
        let started = match self.workers.values().any(|worker| worker.slot == slot) {
            false => self.spawn(slot),
            true if self.is_outdated(slot) => self.spawn_beside(slot),
            true => return,
        };
        if let Err(error) = started {
            tracing::error!("spawn worker {slot}: {error:#}");
            let wait = self.slots[slot].back_off.after_death(Duration::ZERO, false);
            self.respawn_in(slot, wait);
        }
    }

    /// A worker waits on its own listeners. At the start the ring is joined
    /// when all do, so that each is first in line at its own; later the
    /// others step back behind the newcomer.
    fn registered(&mut self, pid: Pid, confinement: Confinement) {
        let Some(worker) = self.workers.get_mut(&pid) else {
            return;
        };
        if std::mem::replace(&mut worker.registered, true) {
            return;
        }
        worker.confinement = Some(confinement);
        let slot = worker.slot;
        self.take_charge(pid);
        if self.workers.get(&pid).is_none_or(|worker| worker.leaves) {
            // Its listeners are others' by now, perhaps a later newcomer's: who stepped
            // back would leave them to nobody.
            return self.join_ring_if_whole();
        }
        self.tell_first(ToFirst::Registered(slot));
        self.tell_second(ToJoined::Registered(slot));
        self.step_back(slot);
        self.join_ring_if_whole();
        // It may have been started before its slot was to be replaced once more.
        self.staff(slot);
    }

    fn join_ring_if_whole(&mut self) {
        self.started |= self.workers.values().all(|worker| worker.registered);
    }

    fn ready(&mut self, pid: Pid) {
        let Some(worker) = self.workers.get_mut(&pid) else {
            return;
        };
        if std::mem::replace(&mut worker.ready, true) {
            return;
        }
        if worker.leaves {
            return;
        }
        self.set_state(pid, State::Ready);
        if self.stopping.is_some() {
            return self.dismiss(pid);
        }
        let first_time = !self.ever_ready && self.workers.values().all(|worker| worker.ready);
        if first_time {
            self.ever_ready = true;
            match &self.predecessor {
                Some(predecessor) => predecessor.tell(ToPredecessor::Ready),
                None => self.announce(),
            }
        }
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

    fn reap(&mut self) {
        // Any child: as PID 1 the master also inherits orphans.
        while let Ok(Some((pid, status))) = rustix::process::wait(WaitOptions::NOHANG) {
            if let Some(worker) = self.workers.remove(&pid) {
                self.bury(&worker, status);
            }
            self.swept(pid);
        }
        self.look_after_successor();
    }

    fn bury(&mut self, worker: &Worker, status: WaitStatus) {
        let slot = worker.slot;
        let then = if worker.leaves {
            State::Absent
        } else {
            State::Dead
        };
        if !worker.is_second && !worker.has_yielded {
            self.groups
                .iter()
                .for_each(|group| group.worker_died(slot, then));
            let has_left = worker.leaves;
            self.tell_first(ToFirst::Died { slot, has_left });
        }
        if self.stopping.is_some() {
            return;
        }
        if worker.has_yielded {
            return tracing::info!(slot, "worker has left its slot to another");
        }
        if worker.leaves {
            tracing::info!(slot, "worker has left");
            // Meanwhile its slot may be wanted again.
            return self.staff(slot);
        }
        let lived = worker.started.elapsed();
        let wait = self.slots[slot].back_off.after_death(lived, worker.ready);
        let pid = worker.pid().as_raw_nonzero().get();
        match status.exit_status() {
            // It drains and exits so at SIGTERM, which is not the master's alone to send.
            Some(0) => tracing::info!(
                slot,
                pid,
                "worker was told to end and has; the next starts in {wait:?}"
            ),
            _ => tracing::warn!(
                slot,
                pid,
                "worker died: {}; the next starts in {wait:?}",
                fate(status)
            ),
        }
        // The ring must not wait for one that cannot start.
        self.join_ring_if_whole();
        self.have_somebody_look_around();
        self.look_at_root();
        self.respawn_in(slot, wait);
    }

    /// A worker may have been woken for a connection and never come to accept
    /// it; the kernel woke nobody else. Who is awake finds it by itself.
    fn have_somebody_look_around(&mut self) {
        let workers = self.workers.values_mut();
        let ready =
            workers.filter(|worker| worker.is_in_charge() && self.groups[0].is_ready(worker.slot));
        match ready.min_by_key(|worker| self.groups[0].is_busy(worker.slot)) {
            Some(worker) => worker.looks = worker.looks.wrapping_add(1),
            None => self.tell_second(ToJoined::LookAround),
        }
    }

    fn respawn_in(&self, slot: u32, wait: Duration) {
        let events = self.events.clone();
        tokio::spawn(async move {
            tokio::time::sleep(wait).await;
            // The receiver lives as long as the master.
            let _ = events.send(Event::Respawn(slot));
        });
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

    fn set_state(&self, pid: Pid, state: State) {
        if let Some(worker) = self.workers.get(&pid) {
            self.set_slot_state(worker.slot, state);
        }
    }

    fn set_slot_state(&self, slot: u32, state: State) {
        let groups = self.groups.iter();
        groups.for_each(|group| group.set_state(slot, state));
        match state {
            State::Ready => self.tell_first(ToFirst::Ready(slot)),
            State::Draining => self.tell_first(ToFirst::Draining(slot)),
            _ => {}
        }
    }
}

fn open_groups(settings: &Settings, takeover: &mut Takeover) -> anyhow::Result<Vec<Group>> {
    let listeners = open_listeners(settings, takeover)?.into_iter();
    listeners
        .map(|listeners| Group::open(listeners, settings))
        .collect()
}

/// The listeners of all addresses that are asked for, as many at each: those that
/// `takeover` has, and new ones.
fn open_listeners(
    settings: &Settings,
    takeover: &mut Takeover,
) -> anyhow::Result<Vec<ListenerGroup>> {
    let mut groups = Vec::new();
    for address in &settings.listen {
        groups.push(match takeover.listeners(*address) {
            Some(listeners) if takeover.predecessor.is_some() => listeners.inherit(settings)?,
            Some(listeners) => take_back(listeners, settings)?,
            None => ListenerGroup::bind(*address, settings)?,
        });
    }
    if settings.serving.accept.has_own_listeners() {
        let most = groups.iter().map(|group| group.sockets.len()).max();
        for group in &mut groups {
            group.grow(most.unwrap_or(0) as u32, settings)?;
        }
    }
    Ok(groups)
}

/// Takes what systemd kept, as a server that may not have lived to leave it well did.
fn take_back(listeners: ListenerGroup, settings: &Settings) -> anyhow::Result<ListenerGroup> {
    // A new socket could not join a group with a program, nor a new program get these.
    listeners.sockets.iter().for_each(steer::take_off);
    let stored = systemd::store::names(&listeners);
    listeners.inherit(settings).inspect_err(|_| {
        // With these no start can succeed; the next makes new ones.
        stored.iter().for_each(|name| systemd::store::remove(name));
    })
}

/// The policy asked for, or the hash where a default cannot be had.
fn first_policy(settings: &Settings, groups: &[Group]) -> anyhow::Result<Policy> {
    let why = groups.iter().find_map(Group::why_unsteered);
    match why {
        Some(why) if settings.policy_is_explicit && settings.policy != Policy::Hash => {
            bail!("steer by {}: {why}", settings.policy.name())
        }
        Some(_) => Ok(Policy::Hash),
        None => Ok(settings.policy),
    }
}

/// Makes room for as many open files as these settings need.
fn raise_open_files(settings: &Settings) -> anyhow::Result<()> {
    let listeners = match settings.serving.accept.has_own_listeners() {
        true => settings.workers.into(),
        false => 1,
    };
    open_files::raise_for_master(settings.workers, settings.listen.len() as u64, listeners)
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

fn fate(status: WaitStatus) -> String {
    match (status.exit_status(), status.terminating_signal()) {
        (Some(code), _) => format!("exit code {code}"),
        (None, Some(signal)) => format!("signal {signal}"),
        (None, None) => format!("status {status:?}"),
    }
}
