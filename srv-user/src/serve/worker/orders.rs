//! Handles the master's messages, and follows its orders. If this worker cannot follow them, it
//! refuses them and gives the reason; the master then replaces it.

use std::io;
use std::os::fd::OwnedFd;

use anyhow::{Context as _, anyhow, bail, ensure};

use super::{Kept, Membership, Worker, driver, named, room};
use crate::serve::channel::{Start, ToMaster, ToWorker};
use crate::serve::config::Serving;
use crate::serve::orders::{Orders, Task};

impl Worker {
    /// Handles all messages that have arrived.
    pub(super) fn read_channel(&mut self, now_ns: u64) -> anyhow::Result<()> {
        while let Some(channel) = &self.channel {
            match channel.receive() {
                Ok(None) => break,
                Ok(Some((message, fds))) => self.handle(message, fds, now_ns)?,
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                    tracing::warn!(
                        slot = self.start.slot,
                        "the master has ended: this worker drains"
                    );
                    self.channel = None;
                    match self.orders.beside {
                        true => self.yield_slot(now_ns),
                        false => self.drain(now_ns),
                    }
                    self.mode.orphan(now_ns);
                }
                Err(error) => return Err(anyhow!(error).context("read from the channel")),
            }
        }
        Ok(())
    }

    fn handle(&mut self, message: ToWorker, fds: Vec<OwnedFd>, now_ns: u64) -> anyhow::Result<()> {
        match message {
            ToWorker::Start(_) => bail!("handle a message: the master sent a second Start"),
            ToWorker::Probe => {}
            ToWorker::Sealed => bail!("handle a message: a sealed file has another in it"),
            ToWorker::Listeners { slot, first_group } => {
                self.ring.add(slot, first_group as usize, fds);
            }
            ToWorker::Orders(orders) => {
                let revision = orders.revision;
                let answer = match self.follow(orders, now_ns) {
                    Ok(()) => ToMaster::Obeyed(revision),
                    Err(error) => ToMaster::Refused {
                        revision,
                        why: format!("{error:#}"),
                    },
                };
                // If the answer is lost, the master sends the orders again.
                let _ = self.tell(&answer);
            }
        }
        Ok(())
    }

    /// Follows what is new in these orders.
    fn follow(&mut self, orders: Orders, now_ns: u64) -> anyhow::Result<()> {
        if orders.revision <= self.orders.revision {
            return Ok(());
        }
        if orders.serving != self.orders.serving {
            self.take_over_settings(orders.serving.clone())
                .context("take over new settings")?;
        }
        if orders.tickets != self.orders.tickets {
            self.driver.tickets().replace(&orders.tickets);
        }
        // If this worker leaves, it has no listeners any more.
        if orders.task == Task::Serve && !self.ring.is_empty() {
            self.listen_as(&orders, now_ns)?;
        }
        let before = std::mem::replace(&mut self.orders, orders);
        if self.orders.task != before.task {
            match self.orders.task {
                Task::Serve => {}
                Task::Drain => self.drain(now_ns),
                Task::Retire => self.resign(now_ns),
                Task::Yield => self.yield_slot(now_ns),
            }
        }
        Ok(())
    }

    fn listen_as(&mut self, orders: &Orders, now_ns: u64) -> anyhow::Result<()> {
        let (reactor, before, own) = (&self.reactor, &self.orders, self.start.slot);
        let slots = self.ring.slots();
        ensure!(
            orders.listeners <= slots,
            "wait on listeners of {} slots: this worker has received those of {slots}",
            orders.listeners
        );
        let known = |slot: &u32| *slot < slots && *slot != own;
        if self.membership == Membership::Ring {
            let mut more = (before.listeners..orders.listeners).filter(known);
            more.try_for_each(|slot| self.ring.adopt(reactor, slot))?;
            let mut newcomers = orders.newcomers_since(before).filter(known);
            newcomers.try_for_each(|slot| self.ring.rejoin(reactor, slot))?;
        } else if orders.in_ring {
            self.ring.join(reactor)?;
            self.membership = Membership::Ring;
            self.tell(&ToMaster::Ready)?;
        }
        let more = orders.adopted.iter().filter(|slot| known(slot));
        for slot in more.filter(|slot| !before.adopted.contains(slot)) {
            self.ring.adopt(reactor, *slot)?;
        }
        if orders.rescans != before.rescans {
            self.ring.rescan(reactor)?;
        }
        let released = before.adopted.iter().filter(|slot| known(slot));
        let released = released.filter(|slot| !orders.adopted.contains(slot));
        let published = self.driver.published();
        let given_up: Vec<_> = released
            .flat_map(|slot| self.ring.give_up(reactor, published, *slot))
            .collect();
        for connection in given_up {
            self.open(connection, now_ns);
        }
        Ok(())
    }

    pub(super) fn tell(&self, message: &ToMaster) -> anyhow::Result<()> {
        self.channel
            .as_ref()
            .map_or(Ok(()), |channel| channel.send(message))
    }

    /// Uses new settings from the next request on, also on connections that are open. The roots
    /// stay the same.
    fn take_over_settings(&mut self, serving: Serving) -> anyhow::Result<()> {
        let start = Start {
            serving,
            ..self.start.clone()
        };
        let router = &self.driver.http().router;
        let router = router.again(&start.serving, named(&start))?;
        self.driver = driver(router, &start, Kept::of(&self.driver))?;
        self.room = room(&start).unwrap_or(self.room);
        self.start = start;
        Ok(())
    }
}
