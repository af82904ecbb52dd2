//! What the log says of applications: why one gave no answer, and what it wrote to its error stream.
//! There is one line of each kind a second, with a count, and no control character in it.

use std::cell::RefCell;
use std::fmt;
use std::rc::Rc;

use http::StatusCode;
use srv_steer::monotonic_ns;

use crate::serve::config::sites::FastCgi;
use crate::serve::rate_limit::RateLimit;
use crate::serve::router::Script;
use crate::serve::worker::spool;
use crate::values::ApplicationAddr;

/// The most bytes of an error stream in one line.
const LINE_BYTES_MAX: usize = 2 << 10;

thread_local! {
    static FAILURES: RefCell<RateLimit> = RefCell::default();
    static STDERR: RefCell<RateLimit> = RefCell::default();
}

/// Says why an application gave no answer.
pub(super) fn failure(
    application: &ApplicationAddr,
    script: &Script,
    failure: &dyn fmt::Display,
    status: StatusCode,
) {
    let happened = FAILURES.with_borrow_mut(|limit| limit.happened(monotonic_ns()));
    if let Some(count) = happened {
        tracing::warn!(
            count,
            "ask the application at {application} for {}: {failure}; answered {}",
            script.file.escape_ascii(),
            status.as_u16()
        );
    }
}

/// Says why the body of a request could not be kept until its end.
pub(super) fn not_kept(fault: &spool::Fault) {
    let happened = FAILURES.with_borrow_mut(|limit| limit.happened(monotonic_ns()));
    if let Some(count) = happened {
        tracing::warn!(
            count,
            "keep the body of a request, whose length the client did not say: {fault}; answered 503"
        );
    }
}

/// The error stream of one request.
pub(super) struct Stderr {
    application: Rc<FastCgi>,
    text: Vec<u8>,
}

impl Stderr {
    pub(super) fn new(application: Rc<FastCgi>) -> Self {
        Self {
            application,
            text: Vec::new(),
        }
    }

    /// Takes a part of it. It comes in any pieces, so it is logged at the end of the request.
    pub(super) fn take(&mut self, bytes: &[u8]) {
        let room = LINE_BYTES_MAX.saturating_sub(self.text.len());
        self.text.extend_from_slice(&bytes[..bytes.len().min(room)]);
    }
}

impl Drop for Stderr {
    fn drop(&mut self) {
        let text = self.text.trim_ascii();
        if text.is_empty() {
            return;
        }
        let text = String::from_utf8_lossy(text);
        let happened = STDERR.with_borrow_mut(|limit| limit.happened(monotonic_ns()));
        if let Some(count) = happened {
            tracing::warn!(
                count,
                "the application at {} wrote to its error stream: {}",
                self.application.to,
                text.escape_debug()
            );
        }
    }
}
