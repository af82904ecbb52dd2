//! How a server ends: lets no more in, or leaves its listeners to the next, has its
//! workers finish what there is, and kills who does not in time.

use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, WaitOptions};
use srv_common::State;

use super::Master;
use crate::channel::ToWorker;
use crate::systemd;

pub(super) struct Stopping {
    pub(super) deadline: Option<Instant>,
    pub(super) killed: bool,
    /// Another server has the listeners, or will: they are left as they are.
    pub(super) leaves_listeners: bool,
}

impl Master {
    /// Stops steering and lets the workers finish, for `grace` at most
    /// (`None`: as long as they need). Asked a second time, it hurries.
    pub(super) fn stop(&mut self, grace: Option<Duration>) {
        self.abandon_upgrade();
        self.forget_listeners();
        if self.stopping.is_some() && grace.is_some() {
            return self.run_out_of_grace();
        }
        let stopping = self.begin_to_stop(grace, false);
        if self.first.is_some() {
            return self.leave_first(stopping);
        }
        self.stopping = Some(stopping);
        if !self.offer_everything() {
            self.close();
        }
    }

    /// Lets no new connection in, and has all workers finish what there is.
    pub(super) fn close(&mut self) {
        for group in &mut self.groups {
            if let Err(error) = group.close() {
                tracing::warn!("stop listening on {}: {error:#}", group.listeners.address);
            }
        }
        self.dismiss_all();
    }

    /// Stops as for a restart by systemd: the listeners stay open there, and who comes
    /// waits for the next server.
    pub(super) fn stop_for_the_next(&mut self) {
        if self.stopping.is_some() {
            return;
        }
        let mut groups = self.groups.iter();
        if self.is_joined() || !groups.all(|group| group.listeners.is_kept()) {
            tracing::warn!("nobody keeps the listeners for the next server (FDSTORE)");
            return self.stop(Some(self.settings.grace));
        }
        self.abandon_upgrade();
        self.stopping = Some(self.begin_to_stop(Some(self.settings.grace), true));
        for group in &mut self.groups {
            if let Err(error) = group.release() {
                tracing::warn!("stop steering: {error:#}");
            }
        }
        self.dismiss_all();
    }

    pub(super) fn begin_to_stop(
        &self,
        grace: Option<Duration>,
        leaves_listeners: bool,
    ) -> Stopping {
        tracing::info!("stopping: draining {} workers", self.workers.len());
        systemd::stopping();
        Stopping {
            deadline: grace.map(|grace| Instant::now() + grace),
            killed: false,
            leaves_listeners,
        }
    }

    pub(super) fn dismiss_all(&self) {
        self.workers.keys().for_each(|pid| self.dismiss(*pid));
    }

    /// Has a worker finish, and what waits with it, unless that is the next server's.
    pub(super) fn dismiss(&self, pid: Pid) {
        self.set_state(pid, State::Draining);
        let stopping = self.stopping.as_ref();
        let leaves = stopping.is_some_and(|stopping| stopping.leaves_listeners);
        if let Some(worker) = self.workers.get(&pid) {
            worker.tell(match leaves {
                true => &ToWorker::Retire,
                false => &ToWorker::Drain,
            });
        }
    }

    pub(super) fn run_out_of_grace(&mut self) {
        let left = self.workers.len() + self.sweeping.len();
        if left == 0 {
            return;
        }
        tracing::warn!("killing {left} workers that are not done");
        self.kill_workers();
        if let Some(stopping) = &mut self.stopping {
            stopping.deadline = None;
            stopping.killed = true;
        }
    }

    pub(super) fn kill_workers(&mut self) {
        let workers: Vec<_> = self.workers.drain().map(|(_, worker)| worker).collect();
        let sweepers = self.sweeping.iter().map(|leftover| &leftover.worker);
        for worker in workers.iter().chain(sweepers) {
            // It may have ended by itself.
            let _ = worker.process.signal(Signal::KILL);
            let _ = rustix::process::waitpid(Some(worker.pid()), WaitOptions::empty());
        }
    }
}
