//! The way of a request to a FastCGI application: its start, then its body as fast as the application
//! reads and the client sends. None of it is kept.

use std::io;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use http::Response;

use super::conversation::Failure;
use crate::fastcgi::client::{put_body, put_end_of_body};
use crate::serve::config::sites::FastCgi;
use crate::serve::site::Body;
use crate::serve::worker::http::{BodyFault, RequestBody};
use crate::serve::worker::upstream::Upstream;

/// A request of which the application may not have all.
pub(super) struct Sending {
    /// `None` once the application has all of it.
    body: Option<RequestBody>,
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
    pub(super) fn new(fastcgi: &FastCgi, mut start: Vec<u8>, body: Option<RequestBody>) -> Self {
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
            // The client may be as slow as its own deadline allows.
            upstream.wait_at_most(None);
            match ready!(body.poll_piece(cx)) {
                Some(Ok(piece)) => put_body(&mut self.out, &piece),
                Some(Err(fault)) => return Poll::Ready(Err(Failure::Body(fault))),
                None => {
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
            Some(body) => body.refuse(fault),
            None => Response::new(Body::empty()),
        }
    }
}
