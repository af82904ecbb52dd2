//! The path that a thread of the master reads at the moment: its file system may not answer.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

/// The path that a thread reads at the moment. It also tells that thread from others.
#[derive(Clone, Default)]
pub struct CurrentPath(Arc<Mutex<PathBuf>>);

impl CurrentPath {
    pub(super) fn set(&self, path: PathBuf) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = path;
    }

    pub(super) fn get(&self) -> PathBuf {
        let path = self.0.lock();
        path.unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Whether this is of the same thread.
    pub(super) fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}
