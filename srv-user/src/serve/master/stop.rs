//! Shutdown: stop accepting or leave the listeners to another server, drain the workers, and kill
//! those that miss the deadline. Nothing here waits for a process: a process that the kernel cannot
//! end yet, since its file system does not answer, would block the event loop.

use std::time::{Duration, Instant};

use anyhow::bail;
use rustix::process::{Pid, WaitOptions};
use srv_common::State;

use super::Master;
use super::phase::Phase;
use super::stopping::{Drain, ENDS_WITHIN, Listeners, Stopping};
use super::worker::Worker;
use crate::serve::orders::Task;
use crate::serve::systemd;

/// How often a master that ends checks whether its workers have ended.
const CHECK_EVERY: Duration = Duration::from_millis(1);

impl Master {
    /// Stops steering and lets the workers finish, for `grace` at most
    /// (`None`: as long as they need). A second request kills them.
    pub(super) fn stop(&mut self, grace: Option<Duration>) {
        self.abandon_upgrade();
        self.forget_listeners();
        if let Some(stopping) = self.phase.stopping_mut() {
            match grace {
                None => stopping.lift_deadline(),
                Some(_) if stopping.is_same_request() => {}
                Some(_) => self.end_grace(),
            }
            return;
        }
        if self.role.is_secondary() {
            self.begin_to_stop(grace, Listeners::Leave);
            return self.leave_to_primary();
        }
        self.begin_to_stop(grace, Listeners::Close);
        if !self.offer_everything() {
            self.close();
        }
    }

    /// Lets no new connection in, and has all workers finish what there is.
    pub(super) fn close(&mut self) {
        for group in &mut self.groups {
            let address = group.listeners.address;
            match group.close() {
                Ok(()) => {}
                // Some kernels are built so that this needs CAP_NET_ADMIN: see `drop_the_rest`.
                Err(error) if is_not_permitted(&error) => tracing::info!(
                    "{address}: without CAP_NET_ADMIN this kernel goes on answering SYNs; \
                     clients that connect while the accept queues are emptied are served, too"
                ),
                Err(error) => tracing::warn!("stop listening on {address}: {error}"),
            }
        }
        self.dismiss_all();
    }

    /// SIGUSR1: stops as for a restart by systemd. The listeners stay open there, and
    /// clients that connect meanwhile wait for the next server. Operators of other servers know
    /// another meaning of the signal (nginx reopens its logs), so without systemd nothing happens.
    pub(super) fn stop_for_the_next(&mut self) {
        if self.phase.is_stopping() {
            return;
        }
        if !systemd::is_there() {
            return tracing::info!(
                "SIGUSR1 has no effect: it stops a server for a restart by systemd, and this \
                 one was not started by systemd"
            );
        }
        let mut groups = self.groups.iter();
        let are_kept = systemd::is_idle() && groups.all(|group| group.listeners.is_kept());
        if self.role.is_joined() || !are_kept {
            tracing::warn!(
                "systemd does not keep all listeners for the next server (FDSTORE): stopping \
                 closes them"
            );
            return self.stop(Some(self.settings.grace));
        }
        self.abandon_upgrade();
        self.begin_to_stop(Some(self.settings.grace), Listeners::Leave);
        for group in &mut self.groups {
            if let Err(error) = group.release() {
                tracing::warn!("stop steering: {error:#}");
            }
        }
        self.dismiss_all();
    }

    fn begin_to_stop(&mut self, grace: Option<Duration>, listeners: Listeners) {
        tracing::info!("stopping: draining {} workers", self.staff.workers.len());
        systemd::stopping();
        self.phase = Phase::Stopping(Stopping::new(grace, listeners));
    }

    fn dismiss_all(&mut self) {
        let pids: Vec<_> = self.staff.workers.keys().copied().collect();
        pids.into_iter().for_each(|pid| self.dismiss(pid));
    }

    /// The server stops: has a worker finish what it has, and also what waits in the accept
    /// queues unless that is another server's.
    pub(super) fn dismiss(&mut self, pid: Pid) {
        self.set_state(pid, State::Draining);
        let listeners = self.phase.stopping().map(|stopping| stopping.listeners);
        if let Some(worker) = self.staff.workers.get_mut(&pid) {
            worker.give(match listeners {
                Some(Listeners::Leave) => Task::Retire,
                Some(Listeners::Close | Listeners::Offer) | None => Task::Drain,
            });
        }
    }

    /// Kills the workers that have not finished in time.
    pub(super) fn end_grace(&mut self) {
        let left = self.processes().count();
        let Some(stopping) = self.phase.stopping_mut() else {
            return;
        };
        if left == 0 || stopping.has_killed() {
            return;
        }
        stopping.drain = Drain::Killed {
            give_up: Instant::now() + ENDS_WITHIN,
        };
        tracing::warn!("killing {left} workers that have not finished");
        self.processes().for_each(Worker::kill);
    }

    /// Whether a stop is complete.
    ///
    /// # Errors
    /// Workers had to be killed.
    pub(super) fn has_stopped(&self, stopping: &Stopping) -> anyhow::Result<bool> {
        let numbers = self.processes().map(|worker| worker.pid().as_raw_nonzero());
        let left: Vec<_> = numbers.collect();
        match (&stopping.drain, left.is_empty()) {
            (Drain::UnderWay { .. }, is_done) => Ok(is_done),
            (Drain::Killed { .. }, true) => {
                bail!("stopped, but requests were lost: workers had to be killed")
            }
            (Drain::Killed { give_up }, false) if *give_up <= Instant::now() => bail!(
                "stopped, but requests were lost: workers had to be killed, and processes \
                 {left:?} have not ended {ENDS_WITHIN:?} later: they wait for a disk or a file \
                 system that does not answer"
            ),
            (Drain::Killed { .. }, false) => Ok(false),
        }
    }

    /// All workers, also those that drain orphaned listeners.
    fn processes(&self) -> impl Iterator<Item = &Worker> {
        let workers = self.staff.workers.values();
        workers.chain(self.orphans.workers())
    }

    /// Ends what is left of the workers after the event loop, since the next server may want the
    /// addresses at once.
    pub(super) fn end_workers(&mut self) {
        self.processes().for_each(Worker::kill);
        let deadline = Instant::now() + ENDS_WITHIN;
        while self.processes().next().is_some() && Instant::now() < deadline {
            match rustix::process::wait(WaitOptions::NOHANG) {
                Ok(Some((pid, _))) => {
                    self.staff.workers.remove(&pid);
                    self.orphans.forget_worker(pid);
                }
                Ok(None) => std::thread::sleep(CHECK_EVERY),
                Err(_) => return,
            }
        }
    }
}

fn is_not_permitted(error: &srv_steer::Error) -> bool {
    let error = error.kernel();
    error.is_some_and(|error| error.kind() == std::io::ErrorKind::PermissionDenied)
}
