//! The service that hyper calls for each request of a connection. It decides which requests to
//! refuse, and lets [`Router`] answer the rest. This module knows no sockets.

use std::cell::Cell;
use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::header::{CONNECTION, HOST, TRANSFER_ENCODING};
use http::{HeaderValue, Request, Response, StatusCode, Version, request};
use http_body::{Body as _, Frame, SizeHint};
use hyper::body::Incoming;
use hyper::service::Service;
use srv_common::Refusal;

use crate::serve::config::Limits;
use crate::serve::router::{Client, Router};
use crate::serve::site::Body;
use srv_steer::Load;

pub mod at_once;
mod date;
mod host;
mod plain;

/// What all requests of a worker share.
pub struct Http {
    /// What answers the requests.
    pub router: Router,
    /// The limits for clients.
    pub limits: Limits,
    /// Where the worker's load is published.
    pub published: Rc<Load>,
    /// How many files unfinished responses keep open, also those that began under older settings.
    pub files: Rc<Cell<usize>>,
}

/// The state of a connection's requests.
#[derive(Default)]
pub struct Exchange {
    /// Whether hyper has read a request whose response is not complete yet.
    pub in_service: Cell<bool>,
    /// Whether the bytes that hyper writes answer a request. If they do not, they are hyper's own
    /// answer to a request that it could not read; `connection::unparsed` makes a better one.
    pub owes: Cell<bool>,
    /// How many requests have begun on this connection.
    pub requests: Cell<u64>,
    /// Whether srv has refused a request. The client then gets an answer, and the connection
    /// ends, although the client may still be sending.
    pub refused: Cell<bool>,
}

impl Exchange {
    /// The state of a connection whose first answer is on its way.
    pub fn answering() -> Self {
        let exchange = Self::default();
        exchange.owes.set(true);
        exchange.requests.set(1);
        exchange
    }

    /// Notes that hyper has written all that it had to write.
    pub fn flushed(&self) {
        if !self.in_service.get() {
            self.owes.set(false);
        }
    }
}

/// hyper's service for one connection.
pub struct Handler {
    http: Rc<Http>,
    exchange: Rc<Exchange>,
    client: Client,
}

impl Handler {
    /// The service for the connection of `client`, whose state is `exchange`.
    pub fn new(http: Rc<Http>, exchange: Rc<Exchange>, client: Client) -> Self {
        Self {
            http,
            exchange,
            client,
        }
    }

    fn refuse(&self, refusal: Refusal, status: StatusCode, why: &'static str) -> Response<Body> {
        self.http.published.refused(refusal);
        self.exchange.refused.set(true);
        let mut response = self.http.router.refuse(status, why);
        response
            .headers_mut()
            .insert(CONNECTION, HeaderValue::from_static("close"));
        response
    }

    fn too_large(&self) -> Response<Body> {
        let why = "the request's body is larger than this server accepts\n";
        self.refuse(Refusal::BodyTooLarge, StatusCode::PAYLOAD_TOO_LARGE, why)
    }
}

impl Service<Request<Incoming>> for Handler {
    type Response = Response<Reply>;
    type Error = Infallible;
    type Future = Serving;

    fn call(&self, request: Request<Incoming>) -> Serving {
        let in_service = InService::begin(&self.http, &self.exchange);
        let (head, body) = request.into_parts();
        let response = if !has_one_host(&head) {
            let why = "an HTTP/1.1 request has exactly one Host header, a host and maybe a port\n";
            self.refuse(Refusal::Malformed, StatusCode::BAD_REQUEST, why)
        } else if !is_coding_known(&head) {
            let why = "the only transfer coding that this server knows is one chunked\n";
            self.refuse(Refusal::Malformed, StatusCode::NOT_IMPLEMENTED, why)
        } else if body.is_end_stream() {
            self.http.router.respond(&head, self.client)
        } else if body.size_hint().lower() > self.http.limits.body_bytes {
            self.too_large()
        } else {
            let handler = Self::new(self.http.clone(), self.exchange.clone(), self.client);
            let receiving = Receiving {
                handler,
                head,
                body,
                received: 0,
                in_service,
            };
            return Serving::Receiving(Some(Box::new(receiving)));
        };
        Serving::Answered(Some(in_service.reply(response)))
    }
}

/// Whether the request has the `Host` header that RFC 9112, 3.2, demands.
fn has_one_host(head: &request::Parts) -> bool {
    let mut hosts = head.headers.get_all(HOST).iter();
    match (hosts.next(), hosts.next()) {
        (_, Some(_)) => false,
        (Some(one), None) => host::is_valid(one.as_bytes()),
        (None, None) => head.version < Version::HTTP_11,
    }
}

/// Whether srv knows the transfer codings (RFC 9112, 6.1). If the last coding is not chunked,
/// nothing says where the body ends (6.3); hyper itself refuses that with 400.
fn is_coding_known(head: &request::Parts) -> bool {
    let mut codings = head.headers.get_all(TRANSFER_ENCODING).iter();
    match (codings.next(), codings.next()) {
        (None, _) => true,
        (Some(one), None) => one.as_bytes().trim_ascii().eq_ignore_ascii_case(b"chunked"),
        (Some(_), Some(_)) => false,
    }
}

/// The future of a response: it is ready at once, or after the request's body.
pub enum Serving {
    /// The response, which needed no body.
    Answered(Option<Response<Reply>>),
    /// The request, whose body comes first.
    Receiving(Option<Box<Receiving>>),
}

/// A request whose body has not arrived completely. srv reads and counts the body, and does not
/// keep it.
pub struct Receiving {
    handler: Handler,
    head: request::Parts,
    body: Incoming,
    received: u64,
    in_service: InService,
}

impl Future for Serving {
    type Output = Result<Response<Reply>, Infallible>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        const DONE: &str = "polled after completion";
        match &mut *self {
            Self::Answered(response) => Poll::Ready(Ok(response.take().expect(DONE))),
            Self::Receiving(receiving) => {
                let response = ready!(receiving.as_mut().expect(DONE).poll_body(cx));
                let receiving = receiving.take().expect(DONE);
                Poll::Ready(Ok(receiving.in_service.reply(response)))
            }
        }
    }
}

impl Receiving {
    fn poll_body(&mut self, cx: &mut Context<'_>) -> Poll<Response<Body>> {
        let http = &self.handler.http;
        while let Some(frame) = ready!(Pin::new(&mut self.body).poll_frame(cx)) {
            let Ok(frame) = frame else {
                let why = "the request's body is malformed or incomplete\n";
                let refuse = self
                    .handler
                    .refuse(Refusal::Malformed, StatusCode::BAD_REQUEST, why);
                return Poll::Ready(refuse);
            };
            self.received += frame.data_ref().map_or(0, |data| data.len() as u64);
            if self.received > http.limits.body_bytes {
                return Poll::Ready(self.handler.too_large());
            }
        }
        Poll::Ready(http.router.respond(&self.head, self.handler.client))
    }
}

/// Counts a request as running until it is answered or abandoned.
struct InService {
    http: Rc<Http>,
    exchange: Rc<Exchange>,
    /// Whether its response keeps a file open.
    holds_file: bool,
}

impl InService {
    fn begin(http: &Rc<Http>, exchange: &Rc<Exchange>) -> Self {
        http.published.started();
        exchange.in_service.set(true);
        exchange.owes.set(true);
        exchange.requests.set(exchange.requests.get() + 1);
        Self {
            http: http.clone(),
            exchange: exchange.clone(),
            holds_file: false,
        }
    }

    fn reply(mut self, response: Response<Body>) -> Response<Reply> {
        self.holds_file = response.body().holds_file();
        if self.holds_file {
            self.http.files.set(self.http.files.get() + 1);
        }
        response.map(|body| Reply {
            body,
            _in_service: self,
        })
    }
}

impl Drop for InService {
    fn drop(&mut self) {
        if self.holds_file {
            self.http.files.set(self.http.files.get() - 1);
        }
        self.exchange.in_service.set(false);
        self.http.published.finished();
    }
}

/// A response's body. hyper drops it after it has taken the last byte.
pub struct Reply {
    body: Body,
    _in_service: InService,
}

impl http_body::Body for Reply {
    type Data = Bytes;
    type Error = std::io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, std::io::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
