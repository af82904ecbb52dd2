//! The answers to the streams of one connection, which are polled together with it.

use std::cell::RefCell;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use futures_util::stream::{FuturesUnordered, Stream as _};
use hyper::rt::Executor;

type Answering = Pin<Box<dyn Future<Output = ()>>>;

/// Where hyper leaves the future of each stream's answer.
#[derive(Clone, Default)]
pub(crate) struct Streams(Rc<State>);

#[derive(Default)]
struct State {
    /// Those that hyper has left, and that were not polled yet.
    begun: RefCell<Vec<Answering>>,
    /// Those that wait.
    open: RefCell<FuturesUnordered<Answering>>,
}

impl<F: Future<Output = ()> + 'static> Executor<F> for Streams {
    fn execute(&self, answering: F) {
        self.0.begun.borrow_mut().push(Box::pin(answering));
    }
}

impl Streams {
    /// Gives up all streams. Each of them keeps this value alive, so that without this call none
    /// would ever end.
    pub(super) fn abandon(&self) {
        let begun = self.0.begun.take();
        let open = self.0.open.take();
        drop((begun, open));
    }

    /// Polls the streams that can continue.
    pub(super) fn poll(&self, cx: &mut Context<'_>) {
        let mut open = self.0.open.borrow_mut();
        open.extend(self.0.begun.borrow_mut().drain(..));
        while let Poll::Ready(Some(())) = Pin::new(&mut *open).poll_next(cx) {}
    }
}
