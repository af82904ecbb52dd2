//! What the TLS sessions of a worker share: the buffers that a session needs only while it reads or
//! writes, and what is chosen for the client of the session that rustls processes.

use std::cell::RefCell;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// What all sessions share.
#[derive(Default)]
pub(super) struct Shared {
    /// What was just received.
    pub(super) incoming: RefCell<Vec<u8>>,
    /// What is to be sent next.
    pub(super) outgoing: RefCell<Vec<u8>>,
    /// The certificate of the session that rustls processes.
    pub(super) choice: Arc<Choice>,
}

/// What a client has named, and the number of the certificate that was chosen for it. rustls asks for
/// a certificate in the middle of its work, and does not say for which session. A worker has one
/// thread, so it is that of the session whose records are processed.
#[derive(Debug, Default)]
pub(super) struct Choice {
    certificate: AtomicU32,
    server_name: Mutex<String>,
}

impl Choice {
    pub(super) fn certificate(&self) -> u32 {
        self.certificate.load(Ordering::Relaxed)
    }

    /// Comes back to a session for which that certificate was chosen.
    pub(super) fn return_to(&self, certificate: u32) {
        self.certificate.store(certificate, Ordering::Relaxed);
    }

    /// Chooses a certificate for the client that has named this host; empty: none.
    pub(super) fn choose(&self, certificate: u32, server_name: &str) {
        self.return_to(certificate);
        let mut name = self.lock();
        name.clear();
        name.push_str(server_name);
    }

    /// What the client has named for which a certificate was chosen last.
    pub(super) fn take_server_name(&self) -> String {
        std::mem::take(&mut *self.lock())
    }

    fn lock(&self) -> MutexGuard<'_, String> {
        self.server_name
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}
