//! Orphaned listeners: they came from a server before this one, at addresses that this server was
//! not told to listen on. The kernel answers no SYN there from now on. A worker of its own answers
//! what waits there, and when that worker has ended, the address is free.

use rustix::process::Pid;

use super::Master;
use super::event::Event;
use super::worker::Worker;
use crate::serve::channel::{Start, ToMaster};
use crate::serve::config::{Serving, Settings};
use crate::serve::master::spawn;
use crate::serve::orders::{Orders, Task};
use crate::serve::systemd;
use srv_steer::AcceptMode;
use srv_steer::Group;
use srv_steer::ListenerGroup;
use srv_steer::program;

/// All orphaned listeners of this server.
pub(super) struct Orphans {
    /// They wait until this server serves.
    waiting: Vec<ListenerGroup>,
    /// A worker answers what waits there.
    draining: Vec<Draining>,
}

/// One address, and the worker that empties its accept queues.
struct Draining {
    group: Group,
    worker: Worker,
}

impl Draining {
    fn order(&mut self) {
        let orders = Orders {
            task: self.worker.task,
            in_ring: self.worker.is_registered(),
            ..self.worker.dispatch.orders().clone()
        };
        let group = std::slice::from_ref(&self.group);
        self.worker.dispatch.order(orders, group);
    }

    fn check_orders(&mut self) {
        if self.worker.dispatch.is_behind() {
            let group = std::slice::from_ref(&self.group);
            self.worker.dispatch.check(group);
        }
    }

    fn obeyed(&mut self, revision: u64) {
        let group = std::slice::from_ref(&self.group);
        self.worker.dispatch.obeyed(revision, group);
    }

    fn worker_says(&mut self, said: ToMaster) {
        match said {
            ToMaster::Registered(sandbox) => {
                self.worker.register(sandbox);
            }
            ToMaster::Ready => self.worker.give(Task::Drain),
            ToMaster::Obeyed(revision) => self.obeyed(revision),
            ToMaster::Refused { revision, why } => {
                if self.worker.dispatch.note_refusal(revision) {
                    tracing::error!("a worker cannot do what it was ordered: {why}");
                }
                self.obeyed(revision);
            }
            ToMaster::Failed(why) => tracing::error!("a worker failed: {why}"),
            ToMaster::Retiring => {}
        }
    }
}

impl Orphans {
    /// These are drained once the server serves.
    pub(super) fn new(waiting: Vec<ListenerGroup>) -> Self {
        Self {
            waiting,
            draining: Vec::new(),
        }
    }

    /// Those that are not drained yet.
    pub(super) fn waiting_mut(&mut self) -> impl Iterator<Item = &mut ListenerGroup> {
        self.waiting.iter_mut()
    }

    /// The workers that drain.
    pub(super) fn workers(&self) -> impl Iterator<Item = &Worker> {
        self.draining.iter().map(|draining| &draining.worker)
    }

    pub(super) fn workers_mut(&mut self) -> impl Iterator<Item = &mut Worker> {
        self.draining
            .iter_mut()
            .map(|draining| &mut draining.worker)
    }

    /// Gives each worker the orders that are due.
    pub(super) fn give_orders(&mut self) {
        self.draining.iter_mut().for_each(Draining::order);
    }

    /// Checks each worker that is behind with its orders.
    pub(super) fn check_orders(&mut self) {
        self.draining.iter_mut().for_each(Draining::check_orders);
    }

    /// Handles what one of these workers said. The event, if it is about something else.
    pub(super) fn handle(&mut self, event: Event) -> Option<Event> {
        let Event::FromWorker(pid, said) = event else {
            return Some(event);
        };
        let mut draining = self.draining.iter_mut();
        match draining.find(|draining| draining.worker.pid() == pid) {
            Some(draining) => {
                draining.worker_says(said);
                None
            }
            None => Some(Event::FromWorker(pid, said)),
        }
    }

    /// A process has ended. If it drained an address, that address is given up.
    pub(super) fn worker_ended(&mut self, pid: Pid) {
        let mut draining = self.draining.iter();
        let Some(nth) = draining.position(|draining| draining.worker.pid() == pid) else {
            return;
        };
        let mut listeners = self.draining.swap_remove(nth).group.listeners;
        systemd::store::forget(&mut listeners);
        // systemd may close its copy a moment later. Until then, the kernel is to go on dropping
        // SYNs there.
        listeners.is_closed = false;
        tracing::info!("{}: closed", listeners.address);
    }

    /// The master ends, and so has this worker.
    pub(super) fn forget_worker(&mut self, pid: Pid) {
        self.draining
            .retain(|draining| draining.worker.pid() != pid);
    }
}

impl Master {
    /// Starts to drain what was orphaned.
    pub(super) fn drain_orphans(&mut self) {
        for listeners in std::mem::take(&mut self.orphans.waiting) {
            let address = listeners.address;
            match self.start_draining(listeners) {
                Ok(draining) => self.orphans.draining.push(draining),
                Err(error) => tracing::error!("answer what waits at {address}: {error:#}"),
            }
        }
    }

    fn start_draining(&mut self, mut listeners: ListenerGroup) -> anyhow::Result<Draining> {
        tracing::info!(
            "{}: this server is not to listen on this address; it answers what waits there",
            listeners.address
        );
        for socket in &listeners.sockets {
            program::take_off(socket);
            // Whatever mode they were made for.
            socket.set_nonblocking(true)?;
        }
        listeners.stop_new_connections()?;
        let unsteered = Settings {
            bpf: false,
            ..self.settings.clone()
        };
        let group = Group::open(listeners, &unsteered.group())?;
        let groups = std::slice::from_ref(&group);
        let start = Start {
            slot: 0,
            beside: false,
            listeners: spawn::inherited(groups).listeners,
            groups: 1,
            user: self.launch.user,
            log_json: self.settings.log_json,
            serving: Serving {
                accept: AcceptMode::Ring,
                // No setting says whether clients speak TLS there.
                https: Vec::new(),
                ..self.settings.serving.clone()
            },
        };
        let ring = self.log_writer.ring()?;
        let worker = spawn::spawn(start, groups, ring, &self.events, Event::FromWorker)?;
        Ok(Draining { group, worker })
    }
}
