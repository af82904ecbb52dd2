//! Memory for the bookkeeping of the order of acceptance. It grows by a few kilobytes when a
//! listener is claimed and a sibling joins, and is not given back: a process claims few listeners,
//! and the application's own allocator is not to be called from inside its calls.

use core::alloc::{GlobalAlloc, Layout};
use core::ptr::null_mut;
use core::sync::atomic::{AtomicUsize, Ordering};

use crate::sys;

const PAGES_BYTES: usize = 64 << 10;

/// See the module.
pub(crate) struct Heap {
    /// The first free byte. The pages end at the next multiple of [`PAGES_BYTES`] after it.
    free: AtomicUsize,
    end: AtomicUsize,
}

#[cfg_attr(not(test), global_allocator)]
static HEAP: Heap = Heap {
    free: AtomicUsize::new(0),
    end: AtomicUsize::new(0),
};

// SAFETY: memory is taken from fresh pages and never handed out twice. The only caller is
// `state`, whose lock admits one thread at a time.
unsafe impl GlobalAlloc for Heap {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let start = self
            .free
            .load(Ordering::Relaxed)
            .next_multiple_of(layout.align());
        if start != 0 && start + layout.size() <= self.end.load(Ordering::Relaxed) {
            self.free.store(start + layout.size(), Ordering::Relaxed);
            return start as *mut u8;
        }
        let bytes = layout.size().next_multiple_of(PAGES_BYTES);
        let Some(pages) = sys::map(None, bytes, true, None) else {
            return null_mut();
        };
        self.free
            .store(pages as usize + layout.size(), Ordering::Relaxed);
        self.end.store(pages as usize + bytes, Ordering::Relaxed);
        pages
    }

    unsafe fn dealloc(&self, _: *mut u8, _: Layout) {}
}
