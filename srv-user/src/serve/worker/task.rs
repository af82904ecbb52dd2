//! A connection as a task. What it waits for beside its client (a socket to an application) wakes
//! it by a [`Waker`]; the worker then continues it. There is no executor: the worker's loop is the
//! only one, and it knows the connection by its key. This module knows no connections.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Wake, Waker};

/// The tasks of a worker that were woken.
#[derive(Default)]
pub struct Woken {
    /// Whether `tasks` has any. The worker looks at this in each iteration of its loop.
    any: AtomicBool,
    tasks: Mutex<Vec<Arc<Task>>>,
}

/// One connection for as long as hyper drives it. If the worker uses the key again for another
/// connection, that has a task of its own, and a late wake of this one wakes nothing.
pub struct Task {
    key: usize,
    /// Whether it is being polled. The poll then sees by itself that it was woken.
    is_polled: AtomicBool,
    is_woken: AtomicBool,
    woken: Arc<Woken>,
}

impl Woken {
    /// Whether there is a task that was woken.
    pub fn has_any(&self) -> bool {
        self.any.load(Ordering::Relaxed)
    }

    /// Takes all tasks that were woken, in their order.
    pub fn take(&self) -> Vec<Arc<Task>> {
        self.any.store(false, Ordering::Relaxed);
        let mut tasks = self.tasks.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::take(&mut *tasks)
    }

    fn add(&self, task: Arc<Task>) {
        let mut tasks = self.tasks.lock().unwrap_or_else(PoisonError::into_inner);
        tasks.push(task);
        self.any.store(true, Ordering::Relaxed);
    }
}

impl Task {
    /// The task of the connection with this key; `woken` is where it goes when it is woken.
    pub fn new(key: usize, woken: Arc<Woken>) -> Arc<Self> {
        Arc::new(Self {
            key,
            is_polled: AtomicBool::new(false),
            is_woken: AtomicBool::new(false),
            woken,
        })
    }

    /// The key by which the worker knows the connection.
    pub fn key(&self) -> usize {
        self.key
    }

    /// Whether it was woken and has not been polled since.
    pub fn is_woken(&self) -> bool {
        self.is_woken.load(Ordering::Relaxed)
    }

    /// Calls `poll`, and again if the task was woken meanwhile and `goes_on` allows it.
    pub fn poll<T>(
        &self,
        waker: &Waker,
        mut poll: impl FnMut(&mut Context<'_>) -> T,
        mut goes_on: impl FnMut(&T) -> bool,
    ) -> T {
        let mut cx = Context::from_waker(waker);
        self.is_polled.store(true, Ordering::Relaxed);
        self.is_woken.store(false, Ordering::Relaxed);
        loop {
            let result = poll(&mut cx);
            let was_woken = self.is_woken.swap(false, Ordering::Relaxed);
            if !was_woken || !goes_on(&result) {
                self.is_polled.store(false, Ordering::Relaxed);
                return result;
            }
        }
    }
}

impl Wake for Task {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        let was_woken = self.is_woken.swap(true, Ordering::Relaxed);
        if !was_woken && !self.is_polled.load(Ordering::Relaxed) {
            self.woken.add(self.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_task_is_in_line_once_until_it_is_polled() {
        let woken = Arc::new(Woken::default());
        let task = Task::new(7, woken.clone());
        let waker = Waker::from(task.clone());
        assert!(!woken.has_any());
        waker.wake_by_ref();
        waker.wake_by_ref();
        assert!(woken.has_any() && task.is_woken());
        let keys: Vec<_> = woken.take().iter().map(|task| task.key()).collect();
        assert_eq!(keys, [7]);
        assert!(!woken.has_any());
        task.poll(&waker, |_| (), |()| false);
        assert!(!task.is_woken());
        waker.wake_by_ref();
        assert_eq!(woken.take().len(), 1);
    }

    #[test]
    fn a_task_that_wakes_itself_is_polled_again_and_not_in_line() {
        let woken = Arc::new(Woken::default());
        let task = Task::new(7, woken.clone());
        let waker = Waker::from(task.clone());
        let mut polls = 0;
        task.poll(
            &waker,
            |cx| {
                polls += 1;
                if polls < 3 {
                    cx.waker().wake_by_ref();
                }
            },
            |()| true,
        );
        assert_eq!(polls, 3);
        assert!(!woken.has_any());
    }
}
