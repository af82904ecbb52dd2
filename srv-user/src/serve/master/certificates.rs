//! Following the files of certificates and keys. What renews a certificate replaces its files, and
//! need not tell srv: workers take over the new certificate for new connections, and go on.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::time::Duration;

use tokio::sync::mpsc::UnboundedSender;

use super::Master;
use super::event::Event;
use crate::serve::config::tls::Tls;

/// How often the files are looked at.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// A thread that looks at the files, since a file system may not answer. The thread ends when this
/// is dropped.
pub(super) struct CertificateWatch {
    _ends: Sender<()>,
}

/// What tells one state of a file from another: device, inode, size and time of the last change, and
/// nothing if the file is not there.
type Stamp = Option<(u64, u64, u64, i64, i64)>;

/// A certificate, and what its files looked like.
struct Followed {
    tls: Tls,
    /// When its files were read last.
    read: Vec<Stamp>,
    /// At the last look.
    seen: Vec<Stamp>,
}

impl CertificateWatch {
    fn start(list: Vec<Tls>, events: UnboundedSender<Event>) -> io::Result<Self> {
        let (ends, ended) = channel::<()>();
        let watch = move || {
            let mut followed: Vec<Followed> = list.into_iter().map(Followed::new).collect();
            while ended.recv_timeout(LOOK_EVERY) != Err(RecvTimeoutError::Disconnected) {
                for one in &mut followed {
                    let Some(new) = one.look() else { continue };
                    let old = std::mem::replace(&mut one.tls, new.clone());
                    let event = Event::CertificateChanged(Box::new(old), Box::new(new));
                    if events.send(event).is_err() {
                        return;
                    }
                }
            }
        };
        std::thread::Builder::new()
            .name("srv-certificates".into())
            .spawn(watch)?;
        Ok(Self { _ends: ends })
    }
}

impl Followed {
    fn new(tls: Tls) -> Self {
        // Whatever has changed since the settings were read, the first look finds.
        Self {
            tls,
            read: Vec::new(),
            seen: Vec::new(),
        }
    }

    /// What the files have now, if that is something else. While they change, they are left alone: a
    /// certificate is often there a moment before its key.
    fn look(&mut self) -> Option<Tls> {
        let now: Vec<Stamp> = self.tls.files().map(stamp).collect();
        let is_settled = now == self.seen;
        self.seen = now;
        if !is_settled || self.seen == self.read {
            return None;
        }
        self.read = self.seen.clone();
        match self.tls.read_again() {
            Ok(new) => (new != self.tls).then_some(new),
            Err(error) => {
                tracing::error!(
                    "certificate {} or its key has changed and cannot be used: {error:#}; the old \
                     one is still served",
                    self.tls.identity.certificate.display()
                );
                None
            }
        }
    }
}

fn stamp(path: &Path) -> Stamp {
    let metadata = fs::metadata(path).ok()?;
    let (mtime, nanoseconds) = (metadata.mtime(), metadata.mtime_nsec());
    Some((
        metadata.dev(),
        metadata.ino(),
        metadata.size(),
        mtime,
        nanoseconds,
    ))
}

impl Master {
    /// Follows the files of the certificates that are served now, and no others any more.
    pub(super) fn watch_certificates(&mut self) {
        self.certificate_watch = None;
        let list = self.settings.serving.certificates().list;
        let list: Vec<Tls> = list.into_iter().cloned().collect();
        if list.is_empty() {
            return;
        }
        match CertificateWatch::start(list, self.events.clone()) {
            Ok(watch) => self.certificate_watch = Some(watch),
            Err(error) => tracing::error!(
                "follow the files of certificates: start a thread: {error}; after a renewal, run \
                 `srv reload`"
            ),
        }
    }

    /// Has workers use `new` in place of `old`.
    pub(super) fn change_certificate(&mut self, old: &Tls, new: &Tls) {
        if self.settings.serving.replace_tls(old, new) {
            tracing::info!(
                "certificate {} has changed: new connections get the new one",
                new.identity.certificate.display()
            );
        }
    }
}
