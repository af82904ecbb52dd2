//! The way of a request to a FastCGI application: its start, then its body as fast as the application
//! reads and the client sends. A body of known length is not kept. Any other comes as a whole first.

use std::future::poll_fn;
use std::io;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use http::Response;

use super::failure::Failure;
use super::report;
use crate::fastcgi::client::{put_body, put_end_of_body};
use crate::serve::config::sites::FastCgi;
use crate::serve::site::Body;
use crate::serve::worker::http::{BodyFault, RequestBody};
use crate::serve::worker::spool::{Spool, Spooled};
use crate::serve::worker::upstream::Upstream;

/// So many pieces of a body that was kept are sent at once: other connections have their turn then.
const PIECES_MAX: u32 = 4;

/// A body that the application has not got.
pub(super) enum Source {
    /// It comes from the client.
    Client(RequestBody),
    /// All of it is there.
    Kept(Spooled),
}

impl Source {
    /// How long it is, bytes, if that is known.
    pub(super) fn length(&self) -> Option<u64> {
        match self {
            Self::Client(body) => body.length(),
            Self::Kept(body) => Some(body.length()),
        }
    }
}

/// Takes all of a body, so that its length is known.
pub(super) async fn collect(
    body: &mut RequestBody,
    spool: Option<&Rc<Spool>>,
) -> Result<Spooled, BodyFault> {
    let mut kept = spool.ok_or(BodyFault::NoRoom)?.begin();
    while let Some(piece) = poll_fn(|cx| body.poll_piece(cx)).await {
        kept.push(&piece?).map_err(|fault| {
            report::not_kept(&fault);
            BodyFault::NoRoom
        })?;
    }
    Ok(kept)
}

/// A request of which the application may not have all.
pub(super) struct Sending {
    /// `None` once the application has all of it.
    body: Option<Source>,
    /// Records to send, and how much of them is sent.
    out: Vec<u8>,
    sent: usize,
    /// Whether the application takes no more of the request.
    is_sent: bool,
    send_timeout: Duration,
    read_timeout: Duration,
}

impl Sending {
    /// `start` is all of the request but its body.
    pub(super) fn new(fastcgi: &FastCgi, mut start: Vec<u8>, body: Option<Source>) -> Self {
        if body.is_none() {
            put_end_of_body(&mut start);
        }
        Self {
            body,
            out: start,
            sent: 0,
            is_sent: false,
            send_timeout: fastcgi.send_timeout,
            read_timeout: fastcgi.read_timeout,
        }
    }

    /// Sends what there is of the request.
    pub(super) fn poll(
        &mut self,
        upstream: &Upstream,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), Failure>> {
        let mut pieces = 0;
        while !self.is_sent {
            while self.sent < self.out.len() {
                upstream.wait_at_most(Some(self.send_timeout));
                match ready!(upstream.poll_write(cx, &self.out[self.sent..])) {
                    Ok(written) => self.sent += written,
                    Err(error) if error.kind() == io::ErrorKind::TimedOut => {
                        return Poll::Ready(Err(Failure::Io("write", error)));
                    }
                    // It wants no more of the request, and may have answered all the same.
                    Err(_) => return self.ends(upstream),
                }
            }
            self.out.clear();
            self.sent = 0;
            let Some(body) = &mut self.body else {
                return self.ends(upstream);
            };
            let piece = match body {
                Source::Client(body) => {
                    // The client may be as slow as its own deadline allows.
                    upstream.wait_at_most(None);
                    let piece = ready!(body.poll_piece(cx)).transpose();
                    piece.map_err(Failure::Body)?.unwrap_or_default()
                }
                Source::Kept(_) if pieces == PIECES_MAX => {
                    cx.waker().wake_by_ref();
                    return Poll::Pending;
                }
                Source::Kept(body) => {
                    pieces += 1;
                    let piece = body.read();
                    piece.map_err(|error| Failure::Io("read the body that was kept", error))?
                }
            };
            match piece.is_empty() {
                false => put_body(&mut self.out, &piece),
                true => {
                    put_end_of_body(&mut self.out);
                    self.body = None;
                }
            }
        }
        Poll::Ready(Ok(()))
    }

    fn ends(&mut self, upstream: &Upstream) -> Poll<Result<(), Failure>> {
        self.is_sent = true;
        upstream.wait_at_most(Some(self.read_timeout));
        Poll::Ready(Ok(()))
    }

    /// The answer to a request whose body is not what it must be.
    pub(super) fn refuse_body(&self, fault: BodyFault) -> Response<Body> {
        match &self.body {
            Some(Source::Client(body)) => body.refuse(fault),
            Some(Source::Kept(_)) | None => Response::new(Body::empty()),
        }
    }
}
