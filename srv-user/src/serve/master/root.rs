//! Following the name of each root to the folder that it means now. Workers serve the folder that they
//! opened, whatever its name means later, so another folder needs other workers
//! ([`super::replacement`]).

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::time::Duration;

use tokio::sync::mpsc::UnboundedSender;

use super::event::Event;
use super::{Master, privilege};
use crate::serve::config::Root;

/// How often the name is looked up.
const LOOK_UP_EVERY: Duration = Duration::from_secs(1);

/// A thread that looks up the roots' names: the file system may not answer, and the master must not
/// wait for it. The thread ends when this is dropped.
pub(super) struct RootWatch {
    look_up: Sender<()>,
    /// By name: why the newest folder is not served, as it was logged.
    refused: BTreeMap<PathBuf, String>,
}

impl RootWatch {
    fn start(
        roots: Vec<Root>,
        ensure_served: impl Fn(&Root) -> anyhow::Result<()> + Send + 'static,
        events: UnboundedSender<Event>,
    ) -> io::Result<Self> {
        let (look_up, asked) = channel();
        let watch = move || {
            while asked.recv_timeout(LOOK_UP_EVERY) != Err(RecvTimeoutError::Disconnected) {
                for root in &roots {
                    // If the name means nothing for the moment, a deployment is under way.
                    if matches!(root.is_still_there(), Ok(false))
                        && let Ok(now) = Root::find(&root.asked)
                    {
                        let why_not = ensure_served(&now).err();
                        let why_not = why_not.map(|error| format!("{error:#}"));
                        if events.send(Event::RootMoved(now, why_not)).is_err() {
                            return;
                        }
                    }
                }
            }
        };
        std::thread::Builder::new()
            .name("srv-root".into())
            .spawn(watch)?;
        Ok(Self {
            look_up,
            refused: BTreeMap::new(),
        })
    }
}

impl Master {
    /// Watches the roots that are served now, and no others any more.
    pub(super) fn watch_roots(&mut self) {
        self.root_watch = None;
        let roots = self.settings.serving.roots();
        let roots: Vec<Root> = roots.into_iter().cloned().collect();
        if roots.is_empty() {
            return;
        }
        let (settings, user) = (self.settings.clone(), self.launch.user);
        let ensure_served = move |root: &Root| {
            let mut next = settings.clone();
            next.serving.move_root(root);
            privilege::ensure_root_is_served(&next, user)
        };
        match RootWatch::start(roots, ensure_served, self.events.clone()) {
            Ok(watch) => self.root_watch = Some(watch),
            Err(error) => tracing::error!(
                "watch the root: start a thread: {error}; if another folder takes the root's name, \
                 reload to serve it (`srv reload`)"
            ),
        }
    }

    /// Has the roots' names looked up without waiting for the next tick. A worker that finds
    /// another folder there than it was told of ends.
    pub(super) fn check_root_now(&self) {
        if let Some(watch) = &self.root_watch {
            // A thread that has ended has said why.
            let _ = watch.look_up.send(());
        }
    }

    /// The root's name means this folder now: has new workers serve it, unless the watch found out
    /// why they cannot. The watch reports it again and again until they do.
    pub(super) fn root_moved(&mut self, now: Root, why_not: Option<String>) {
        let is_elsewhere = |root: &Root| root.asked == now.asked && *root != now;
        let is_new = self.settings.serving.roots().into_iter().any(is_elsewhere);
        if !is_new || self.is_changing_hands() || self.phase.is_stopping() {
            return;
        }
        if let Some(why) = why_not {
            return self.refuse_root(&now, why);
        }
        tracing::info!(
            "root {} is another folder now ({}): new workers serve it",
            now.asked.display(),
            now.path.display()
        );
        self.settings.serving.move_root(&now);
        self.watch_roots();
        self.replace_workers();
    }

    fn refuse_root(&mut self, now: &Root, why: String) {
        let Some(watch) = &mut self.root_watch else {
            return;
        };
        if watch.refused.get(&now.asked) != Some(&why) {
            tracing::error!(
                "root {} is another folder now: {why}; the old folder is still served",
                now.asked.display()
            );
            watch.refused.insert(now.asked.clone(), why);
        }
    }
}
