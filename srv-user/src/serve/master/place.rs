//! What a thread of the master reads at the moment: a path whose file system may not answer.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

/// What a thread is reading, by which the thread is told from others.
#[derive(Clone, Default)]
pub struct Place(Arc<Mutex<PathBuf>>);

impl Place {
    pub(super) fn set(&self, path: PathBuf) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = path;
    }

    pub(super) fn get(&self) -> PathBuf {
        let place = self.0.lock();
        place.unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}
