//! The master: opens the listener groups, keeps a worker process in every slot, and handles the
//! start, the end and the replacement of each worker. It never accepts a connection, and no worker
//! ever waits for it.

mod admin;
mod answers;
mod back_off;
pub mod between_masters;
pub mod binary;
mod certificates;
pub mod current_path;
pub mod dispatch;
pub mod event;
mod event_loop;
mod inspection;
pub mod join;
mod late_starts;
mod leaving;
pub mod log_writer;
mod opening;
mod orders;
mod orphans;
mod phase;
mod primary;
mod privilege;
pub mod receive;
mod reload;
mod replacement;
mod role;
mod root;
mod secondary;
pub mod spawn;
mod staff;
mod stalls;
mod stop;
mod stopping;
mod supervision;
pub mod takeover;
mod tickets;
mod under_way;
mod unmet_settings;
mod upgrade;
pub mod worker;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use srv_common::Policy;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use crate::control;
use crate::control::admin::Inherited;
use crate::serve::config::Settings;
use crate::serve::config::args::ServeArgs;
use crate::serve::sandbox::User;
use crate::serve::systemd;
use crate::serve::tickets::TicketKeys;
use admin::Answering;
use between_masters::Peer;
use certificates::CertificateWatch;
use event::Event;
use inspection::Suspects;
use leaving::Leaving;
use log_writer::LogWriter;
use orphans::Orphans;
use phase::Phase;
use reload::reading::Reloads;
use role::Role;
use root::RootWatch;
use srv_steer::Group;
use srv_steer::Overflow;
use staff::Staff;
use stalls::StallWatch;
use takeover::{Takeover, ToPredecessor};

/// Runs a server until it is told to stop. `settings` were made of `flags`, and a reload makes
/// them of `flags` again. `takeover` is what this process was started with.
///
/// # Errors
/// The server cannot start, or its stop had to kill workers.
pub fn run(settings: Settings, flags: ServeArgs, takeover: Takeover) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    runtime
        .context("start the master's event loop")?
        .block_on(async {
            let mut takeover = takeover;
            let admin = std::mem::take(&mut takeover.admin);
            let mut master = Master::open(settings, flags, takeover)?;
            master.begin(admin)?;
            let result = master.serve().await;
            master.end_workers();
            master.log_writer.finish();
            systemd::finish();
            if let (Err(error), Some(predecessor)) = (&result, &master.predecessor) {
                predecessor.tell(ToPredecessor::Failed(format!("{error:#}")));
            }
            result
        })
}

/// How often the master compares its counts of waiting connections with the kernel's.
const RECONCILE_EVERY: Duration = Duration::from_secs(1);

/// What this process was started as. It never changes.
struct Launch {
    flags: Arc<ServeArgs>,
    /// User for the workers; `None`: the user of this process.
    user: Option<User>,
    /// The name of this process's binary at its start. An upgrade starts what has the name then.
    binary: PathBuf,
    /// The kernel's counts at the start.
    overflow: Overflow,
}

/// The master. Each part owns its state, and is described in the module of its type.
struct Master {
    launch: Launch,
    settings: Settings,
    groups: Vec<Group>,
    /// The policy in force.
    policy: Policy,
    phase: Phase,
    /// A stop that is announced and has not begun.
    leaving: Option<Leaving>,
    role: Role,
    staff: Staff,
    orphans: Orphans,
    stalls: StallWatch,
    suspects: Suspects,
    reloads: Reloads,
    root_watch: Option<RootWatch>,
    certificate_watch: Option<CertificateWatch>,
    tickets: TicketKeys,
    log_writer: LogWriter,
    /// When to check workers that are behind with their orders.
    orders_check: Option<Instant>,
    /// The old master, until this one has taken over everything.
    predecessor: Option<Peer<ToPredecessor>>,
    /// Its socket file is removed when this is dropped.
    control: Option<control::Server>,
    /// What answers HTTP about this server.
    admin: Answering,
    events: UnboundedSender<Event>,
    incoming: UnboundedReceiver<Event>,
}

impl Master {
    fn open(settings: Settings, flags: ServeArgs, mut takeover: Takeover) -> anyhow::Result<Self> {
        opening::raise_open_files(&settings)?;
        let user = privilege::workers_user(&settings)?;
        privilege::ensure_root_is_served(&settings, user)?;
        // A successor inherits, even if its predecessor had joined.
        let joins = settings.join && takeover.predecessor.is_none();
        let (mut groups, role) = match joins {
            true => secondary::join(&settings, &takeover)?,
            false => (opening::open_groups(&settings, &mut takeover)?, Role::Alone),
        };
        unmet_settings::warn(&settings, groups[0].listeners.sockets.len());
        let orphans = Orphans::new(takeover.orphaned()?);
        let (events, incoming) = unbounded_channel();
        let mut predecessor = takeover.predecessor;
        if let Some(predecessor) = &mut predecessor {
            predecessor
                .listen(events.clone(), Event::FromPredecessor)
                .context("watch the channel to the old master")?;
        } else if !role.is_secondary() {
            groups.iter_mut().for_each(Group::insert_listeners);
        }
        let policy = match role.primary() {
            Some(primary) => primary.policy,
            None => opening::initial_policy(&settings, &groups)?,
        };
        let first_slot = role.primary().map_or(0, |primary| primary.first_slot);
        Ok(Self {
            launch: Launch {
                flags: Arc::new(flags),
                user,
                binary: binary::name().context("find this process's binary")?,
                overflow: Overflow::read().unwrap_or_default(),
            },
            groups,
            policy,
            phase: Phase::Starting,
            leaving: None,
            role,
            staff: Staff::new(first_slot, settings.workers),
            orphans,
            stalls: StallWatch::new(&settings),
            suspects: Suspects::default(),
            reloads: Reloads::default(),
            root_watch: None,
            certificate_watch: None,
            tickets: TicketKeys::default(),
            log_writer: LogWriter::new(user, settings.log_json, events.clone())?,
            orders_check: None,
            predecessor,
            control: None,
            admin: Answering::No,
            events,
            incoming,
            settings,
        })
    }

    /// Takes the slots, and begins to steer unless another master does. `inherited` are the old
    /// master's admin sockets.
    fn begin(&mut self, inherited: Vec<Inherited>) -> anyhow::Result<()> {
        if !self.role.is_secondary() {
            let end = self.groups[0].listeners.sockets.len() as u32;
            self.staff.leave_to_all(self.staff.own_slots().end..end);
        }
        self.watch_primary()?;
        if self.predecessor.is_none() && !self.role.is_secondary() {
            for group in &mut self.groups {
                group.steer(self.policy)?;
            }
            self.open_control()?;
            self.open_admin(Vec::new())?;
            self.answer_admin();
        } else if !self.role.is_secondary() {
            self.open_admin(inherited)?;
        }
        let Launch {
            flags,
            user,
            binary,
            ..
        } = &self.launch;
        privilege::drop_the_rest(&self.settings, flags, *user, binary)
    }

    /// Tells the groups what workers need not know.
    fn apply_settings(&mut self) {
        let own_end = self.staff.own_slots().end;
        let slots_end = own_end.max(self.role.secondary_slots_end());
        self.staff.slots.use_until(slots_end);
        for (nth, group) in self.groups.iter_mut().enumerate() {
            group.apply(&self.settings.group_of(nth), slots_end);
        }
    }

    /// This server serves now: tells systemd and the log.
    fn announce(&mut self) {
        self.keep_listeners();
        systemd::ready();
        self.drain_orphans();
        let workers = self.settings.workers;
        for group in &self.groups {
            match (self.role.primary(), group.why_unsteered()) {
                (Some(primary), _) => {
                    tracing::info!(workers, "joined server {}, which steers", primary.pid);
                }
                (None, None) => tracing::info!(
                    workers,
                    policy = self.policy.name(),
                    "steering in the kernel"
                ),
                (None, Some(why)) if self.settings.steers() => {
                    tracing::warn!(workers, "not steering (the kernel hashes): {why}");
                }
                (None, Some(why)) => {
                    tracing::info!(workers, "not steering (the kernel hashes): {why}");
                }
            }
            tracing::info!("listening on {}", group.listeners.address);
        }
    }

    /// Has systemd keep what would be lost with this process. Of two servers, neither loses
    /// anything; and if systemd restarted one of them, the new one must not take the listeners
    /// from the other.
    fn keep_listeners(&mut self) {
        if self.role.is_joined() {
            return;
        }
        let listeners = self.groups.iter_mut().map(|group| &mut group.listeners);
        systemd::store::keep(listeners.chain(self.orphans.waiting_mut()));
    }

    fn forget_listeners(&mut self) {
        let listeners = self.groups.iter_mut().map(|group| &mut group.listeners);
        listeners
            .chain(self.orphans.waiting_mut())
            .for_each(systemd::store::forget);
    }
}
