//! The event loop of the master: it waits for signals, deadlines and events, and calls what handles
//! them. After each of them it gives the orders that are due.

use std::time::Instant;

use anyhow::bail;
use srv_common::State;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::{Interval, MissedTickBehavior};

use super::event::Event;
use super::phase::Phase;
use super::takeover::ToSuccessor;
use super::{Master, RECONCILE_EVERY};
use crate::control::{Question, Request};
use crate::logging;
use crate::serve::channel::ToMaster;
use crate::serve::systemd;
use srv_steer::Group;

/// If so many starts have failed and no worker was ever ready, the server gives up.
const FAILED_STARTS_MAX: u32 = 3;

/// The signals that the master handles.
struct Signals {
    child: Signal,
    terminate: Signal,
    interrupt: Signal,
    quit: Signal,
    hangup: Signal,
    restart: Signal,
    upgrade: Signal,
}

impl Signals {
    fn catch() -> std::io::Result<Self> {
        Ok(Self {
            child: signal(SignalKind::child())?,
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            quit: signal(SignalKind::quit())?,
            hangup: signal(SignalKind::hangup())?,
            restart: signal(SignalKind::user_defined1())?,
            upgrade: signal(SignalKind::user_defined2())?,
        })
    }
}

impl Master {
    /// Starts the workers and handles events until the server has stopped.
    ///
    /// # Errors
    /// No worker can start, or workers had to be killed.
    pub(super) async fn serve(&mut self) -> anyhow::Result<()> {
        let mut signals = Signals::catch()?;
        let mut reconcile = tokio::time::interval(RECONCILE_EVERY);
        // If the machine stood still, one tick is late, and the missed ones do not follow.
        reconcile.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut watchdog = systemd::alive_every().map(tokio::time::interval);
        self.watch_roots();
        self.watch_certificates();
        self.settings.warn_of_certificates();
        self.renew_tickets();
        self.ask_for_logs();
        for slot in self.staff.own_slots() {
            self.spawn(slot)?;
        }
        // As process 1: orphaned processes that ended before the handler was there.
        self.reap();
        loop {
            let grace = self.settings.grace;
            let phase_ends = self.phase.deadline();
            let leaves_at = self.leaves_at();
            let checks = [self.orders_check, self.reloads.settle_by()];
            let check_at = checks.into_iter().flatten().min();
            let read_by = self.reloads.read_by();
            tokio::select! {
                // A stop comes before what follows from it, such as the ends of workers that were
                // told to stop at the same moment. Events come last: there may always be one.
                biased;
                _ = signals.terminate.recv() => self.asked_to_stop(Some(grace)),
                _ = signals.interrupt.recv() => self.asked_to_stop(Some(grace)),
                _ = signals.quit.recv() => self.asked_to_stop(None),
                _ = signals.restart.recv() => self.stop_for_the_next(),
                _ = signals.hangup.recv() => self.reload(None),
                _ = signals.upgrade.recv() => self.upgrade(None),
                _ = signals.child.recv() => self.reap(),
                () = until(phase_ends) => self.end_phase(),
                () = until(leaves_at) => self.leave(),
                () = until(read_by) => self.give_up_reading(),
                () = until(check_at) => self.check_orders(),
                () = next(&mut watchdog) => systemd::alive(),
                () = self.stalls.due() => self.check_for_stalls(),
                _ = reconcile.tick() => self.tick(),
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
        self.renew_tickets();
        self.give_up_late_starters();
        self.log_writer.tick(self.unlogged());
        systemd::catch_up();
        logging::catch_up();
    }

    /// The time of a phase has run out.
    fn end_phase(&mut self) {
        match self.phase {
            Phase::Starting | Phase::Serving => {}
            Phase::HandingOver { .. } => self.give_up_successor(),
            Phase::Stopping(_) => self.end_grace(),
        }
    }

    fn is_finished(&self) -> anyhow::Result<bool> {
        if let Some(stopping) = self.phase.stopping() {
            return self.has_stopped(stopping);
        }
        let has_none = self.staff.workers.is_empty() && !self.phase.has_started();
        if has_none && self.staff.early_deaths() >= FAILED_STARTS_MAX {
            let why = self
                .staff
                .last_failure
                .as_deref()
                .unwrap_or("they ended and gave no reason");
            bail!("no worker could start: {why}");
        }
        Ok(false)
    }

    fn handle(&mut self, event: Event) -> anyhow::Result<()> {
        let Some(event) = self.orphans.handle(event) else {
            return Ok(());
        };
        match event {
            Event::FromWorker(pid, said) => self.worker_says(pid, said),
            Event::OneAtATime(event, _read_on) => self.handle(*event)?,
            Event::FromLogWriter(pid, said) => self.log_writer.says(pid, &said),
            Event::FillSlot(slot) => self.fill_slot(slot),
            Event::FromSuccessor(pid, said) if self.is_successor(pid) => self.successor_says(said),
            // It belongs to an upgrade that has been given up.
            Event::FromSuccessor(..) => {}
            Event::FromPredecessor(Some(ToSuccessor::Tickets(keys))) => self.take_tickets(keys),
            // If the predecessor is gone, there is nothing to wait for.
            Event::FromPredecessor(Some(ToSuccessor::Take) | None) => self.take()?,
            Event::FromSecondary(said) => self.secondary_says(said),
            Event::FromPrimary(said) => self.primary_says(said),
            Event::RootMoved(root, why_not) => self.root_moved(root, why_not),
            Event::CertificateChanged(old, new) => self.change_certificate(&old, &new),
            Event::AnswerAt(path, deadline) => self.answer_at(path, deadline),
            Event::ConfigRead(path, next) => self.config_read(&path, *next),
            Event::Asked(question) => self.handle_question(question),
        }
        Ok(())
    }

    fn worker_says(&mut self, pid: rustix::process::Pid, said: ToMaster) {
        match said {
            ToMaster::Registered(sandbox) => self.worker_registered(pid, sandbox),
            ToMaster::Ready => self.worker_ready(pid),
            ToMaster::Retiring => self.set_state(pid, State::Draining),
            ToMaster::Obeyed(revision) => self.worker_obeyed(pid, revision),
            ToMaster::Refused { revision, why } => self.worker_refused(pid, revision, &why),
            ToMaster::Failed(why) => {
                tracing::error!("a worker failed: {why}");
                self.staff.last_failure = Some(why);
            }
        }
    }

    fn handle_question(&mut self, question: Question) {
        match question.request {
            Request::Reload => self.reload(Some(question.reply)),
            Request::Reopen => self.log_writer.reopen(question.reply),
            Request::Upgrade => self.upgrade(Some(question.reply)),
            request => {
                let reply = self.answer(&request);
                // The process that asked may have ended.
                let _ = question.reply.send(reply);
            }
        }
    }
}

async fn next(interval: &mut Option<Interval>) {
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
