//! Listeners that came from a server before this one, at addresses that nobody asks
//! for any more. No SYN is answered there from now on; what waits is answered by a
//! worker of its own, and when that one has ended the address is free.

use rustix::process::Pid;

use super::Master;
use super::event::Event;
use crate::serve::channel::{Start, ToMaster};
use crate::serve::config::{Serving, Settings};
use crate::serve::master::spawn::{self, Worker};
use crate::serve::orders::Task;
use crate::serve::systemd;
use srv_steer::AcceptMode;
use srv_steer::Group;
use srv_steer::ListenerGroup;
use srv_steer::program;

/// One address, and the worker that empties its queues.
pub(super) struct Leftover {
    pub(super) group: Group,
    pub(super) worker: Worker,
}

impl Leftover {
    fn is_obeyed(&mut self, revision: u64) {
        let group = std::slice::from_ref(&self.group);
        self.worker.dispatch.is_obeyed(revision, group);
    }
}

impl Master {
    /// Starts to empty what was left over.
    pub(super) fn sweep(&mut self) {
        for listeners in std::mem::take(&mut self.left_over) {
            let address = listeners.address;
            match self.start_sweeping(listeners) {
                Ok(leftover) => self.sweeping.push(leftover),
                Err(error) => tracing::error!("answer what waits at {address}: {error:#}"),
            }
        }
    }

    fn start_sweeping(&self, mut listeners: ListenerGroup) -> anyhow::Result<Leftover> {
        tracing::info!(
            "{}: nobody asks for this address any more; what waits there is answered",
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
            user: self.user,
            log_json: self.settings.log_json,
            serving: Serving {
                accept: AcceptMode::Ring,
                ..self.settings.serving.clone()
            },
        };
        let worker = spawn::spawn(start, groups, &self.events, Event::FromWorker)?;
        Ok(Leftover { group, worker })
    }

    /// What a worker of these said; the event, if it is another's.
    pub(super) fn sweeper_says(&mut self, event: Event) -> Option<Event> {
        let Event::FromWorker(pid, said) = &event else {
            return Some(event);
        };
        let mut sweeping = self.sweeping.iter_mut();
        let Some(leftover) = sweeping.find(|leftover| leftover.worker.pid() == *pid) else {
            return Some(event);
        };
        match said {
            ToMaster::Registered(_) => leftover.worker.registered = true,
            ToMaster::Ready => leftover.worker.give(Task::Drain),
            ToMaster::Obeyed(revision) => leftover.is_obeyed(*revision),
            ToMaster::Refused { revision, why } => {
                if leftover.worker.dispatch.note_refusal(*revision) {
                    tracing::error!("a worker cannot do what it was ordered: {why}");
                }
                leftover.is_obeyed(*revision);
            }
            ToMaster::Failed(why) => tracing::error!("a worker failed: {why}"),
            ToMaster::Retiring => {}
        }
        None
    }

    /// A process has ended; if it was one of these, its address is given up.
    pub(super) fn swept(&mut self, pid: Pid) {
        let mut sweeping = self.sweeping.iter();
        let Some(nth) = sweeping.position(|leftover| leftover.worker.pid() == pid) else {
            return;
        };
        let mut listeners = self.sweeping.swap_remove(nth).group.listeners;
        systemd::store::forget(&mut listeners);
        // systemd may close its copy a moment later: until then nobody is to be let in.
        listeners.is_closed = false;
        tracing::info!("{}: closed", listeners.address);
    }
}
