//! Shutdown: stop accepting or leave the listeners to the next server, drain the
//! workers, and kill those that miss the deadline. Nothing here waits for a process:
//! one that the kernel cannot end yet (its file system does not answer) would hold the
//! event loop with it.

use std::time::{Duration, Instant};

use anyhow::bail;

use rustix::process::{Pid, Signal, WaitOptions};
use srv_common::State;

use super::Master;
use crate::kernel::process::Process;
use crate::serve::orders::Task;
use crate::serve::systemd;

/// How long the end of a process that was killed may take. The kernel needs
/// milliseconds, unless the process waits for a disk or a server without an answer.
pub(super) const ENDS_WITHIN: Duration = Duration::from_secs(5);
/// How often a master that ends looks whether its workers have.
const BETWEEN_LOOKS: Duration = Duration::from_millis(1);

/// A second request to stop that comes this soon is the first one again: `timeout` signals
/// its command, and then all of the command's process group.
const SAME_REQUEST: Duration = Duration::from_millis(300);

pub(super) struct Stopping {
    pub(super) since: Instant,
    /// When workers that are not done are killed; once they were, when they are given up.
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
        if let Some(stopping) = &self.stopping
            && grace.is_some()
        {
            // After SIGQUIT, which sets no deadline, SIGTERM asks for something else.
            let is_same = stopping.deadline.is_some() && stopping.since.elapsed() < SAME_REQUEST;
            if !is_same {
                self.run_out_of_grace();
            }
            return;
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
            let address = group.listeners.address;
            match group.close() {
                Ok(()) => {}
                // A choice of the kernel's builder, not a fault: see `drop_the_rest`.
                Err(error) if is_not_permitted(&error) => tracing::info!(
                    "{address}: without CAP_NET_ADMIN this kernel goes on answering SYNs; \
                     clients that come while the queues are emptied are served, too"
                ),
                Err(error) => tracing::warn!("stop listening on {address}: {error}"),
            }
        }
        self.dismiss_all();
    }

    /// SIGUSR1: stops as for a restart by systemd. The listeners stay open there, and
    /// clients that come meanwhile wait for the next server. To other operators the
    /// signal means something else (nginx reopens its logs at it): without systemd
    /// nothing happens.
    pub(super) fn stop_for_the_next(&mut self) {
        if self.stopping.is_some() {
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
        if self.is_joined() || !are_kept {
            tracing::warn!(
                "systemd does not keep all listeners for the next server (FDSTORE): stopping \
                 closes them"
            );
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
            since: Instant::now(),
            deadline: grace.map(|grace| Instant::now() + grace),
            killed: false,
            leaves_listeners,
        }
    }

    pub(super) fn dismiss_all(&mut self) {
        let pids: Vec<_> = self.workers.keys().copied().collect();
        pids.into_iter().for_each(|pid| self.dismiss(pid));
    }

    /// Has a worker finish, and what waits with it, unless that is the next server's.
    pub(super) fn dismiss(&mut self, pid: Pid) {
        self.set_state(pid, State::Draining);
        let stopping = self.stopping.as_ref();
        let leaves = stopping.is_some_and(|stopping| stopping.leaves_listeners);
        if let Some(worker) = self.workers.get_mut(&pid) {
            worker.give(match leaves {
                true => Task::Retire,
                false => Task::Drain,
            });
        }
    }

    pub(super) fn run_out_of_grace(&mut self) {
        let left = self.workers.len() + self.sweeping.len();
        let is_killed = self.stopping.as_ref().is_some_and(|at| at.killed);
        if left == 0 || is_killed {
            return;
        }
        tracing::warn!("killing {left} workers that are not done");
        self.kill_workers();
        if let Some(stopping) = &mut self.stopping {
            stopping.deadline = Some(Instant::now() + ENDS_WITHIN);
            stopping.killed = true;
        }
    }

    /// Whether a stop is complete.
    ///
    /// # Errors
    /// Workers had to be killed.
    pub(super) fn has_stopped(&self, stopping: &Stopping) -> anyhow::Result<bool> {
        let numbers = self
            .processes()
            .map(|process| process.pid().as_raw_nonzero());
        let left: Vec<_> = numbers.collect();
        let is_over = || stopping.deadline.is_some_and(|at| at <= Instant::now());
        match (stopping.killed, left.is_empty()) {
            (false, is_done) => Ok(is_done),
            (true, true) => bail!("stopped, but requests were lost: workers had to be killed"),
            (true, false) if is_over() => bail!(
                "stopped, but requests were lost: workers had to be killed, and processes \
                 {left:?} have not ended {ENDS_WITHIN:?} later: they wait for a disk or a file \
                 system that does not answer"
            ),
            (true, false) => Ok(false),
        }
    }

    /// Of all workers.
    fn processes(&self) -> impl Iterator<Item = &Process> {
        let sweepers = self.sweeping.iter().map(|leftover| &leftover.worker);
        let workers = self.workers.values().chain(sweepers);
        workers.map(|worker| &worker.process)
    }

    /// Their ends are seen to when the kernel reports them.
    fn kill_workers(&self) {
        for process in self.processes() {
            // It may have ended by itself.
            let _ = process.signal(Signal::KILL);
        }
    }

    /// The last thing that a master does, after its event loop: the next server may want
    /// the addresses at once.
    pub(super) fn end_workers(&mut self) {
        self.kill_workers();
        let deadline = Instant::now() + ENDS_WITHIN;
        while self.processes().next().is_some() && Instant::now() < deadline {
            match rustix::process::wait(WaitOptions::NOHANG) {
                Ok(Some((pid, _))) => {
                    self.workers.remove(&pid);
                    self.sweeping
                        .retain(|leftover| leftover.worker.pid() != pid);
                }
                Ok(None) => std::thread::sleep(BETWEEN_LOOKS),
                Err(_) => return,
            }
        }
    }
}

fn is_not_permitted(error: &srv_steer::Error) -> bool {
    let error = error.kernel();
    error.is_some_and(|error| error.kind() == std::io::ErrorKind::PermissionDenied)
}
