//! The body of a request as it comes: within the limit, and only as fast as it is taken.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::{Response, StatusCode};
use http_body::Body as _;
use hyper::body::Incoming;
use srv_common::Refusal;

use super::Handler;
use crate::serve::site::Body;

/// The body of a request. hyper reads no more from the client than one piece ahead.
pub struct RequestBody {
    handler: Handler,
    body: Incoming,
    bytes_max: u64,
    received: u64,
}

/// Why a body cannot be taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BodyFault {
    /// It is larger than the limit.
    TooLarge,
    /// It is malformed, or the client has gone.
    Malformed,
    /// It has to be kept until it ends, and there is no room for it now.
    NoRoom,
}

impl RequestBody {
    /// A body that may have so many bytes.
    pub(super) fn new(handler: Handler, body: Incoming, bytes_max: u64) -> Self {
        Self {
            handler,
            body,
            bytes_max,
            received: 0,
        }
    }

    /// Whether nothing of it is to come.
    pub fn is_complete(&self) -> bool {
        self.body.is_end_stream()
    }

    /// How long it is, bytes, if the client said that.
    pub fn length(&self) -> Option<u64> {
        self.body.size_hint().exact()
    }

    /// The next piece, which is not empty. `None`: that was all.
    pub fn poll_piece(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, BodyFault>>> {
        self.handler.exchange.awaits_client.set(true);
        let piece = ready!(self.poll_within_limit(cx));
        self.handler.exchange.awaits_client.set(false);
        Poll::Ready(piece)
    }

    fn poll_within_limit(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Bytes, BodyFault>>> {
        while let Some(frame) = ready!(Pin::new(&mut self.body).poll_frame(cx)) {
            self.handler.exchange.moves();
            let Ok(frame) = frame else {
                return Poll::Ready(Some(Err(BodyFault::Malformed)));
            };
            // Trailers are not passed on.
            let Ok(piece) = frame.into_data() else {
                continue;
            };
            if piece.is_empty() {
                continue;
            }
            self.received += piece.len() as u64;
            if self.received > self.bytes_max {
                return Poll::Ready(Some(Err(BodyFault::TooLarge)));
            }
            return Poll::Ready(Some(Ok(piece)));
        }
        Poll::Ready(None)
    }

    /// The answer that says so. The connection ends after it.
    pub fn refuse(&self, fault: BodyFault) -> Response<Body> {
        match fault {
            BodyFault::TooLarge => self.handler.too_large(),
            BodyFault::NoRoom => {
                let why = "this server has no room for a body of unknown length now\n";
                let status = StatusCode::SERVICE_UNAVAILABLE;
                self.handler.refuse(Refusal::BodyTooLarge, status, why)
            }
            BodyFault::Malformed => {
                let why = "the request's body is malformed or incomplete\n";
                self.handler
                    .refuse(Refusal::Malformed, StatusCode::BAD_REQUEST, why)
            }
        }
    }
}
