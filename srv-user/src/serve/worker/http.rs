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
use crate::serve::router::{Client, Router, Target};
use crate::serve::site::Body;
use crate::serve::worker::spool::Spool;
use crate::serve::worker::tcp::TcpSocket;
use crate::serve::worker::upstream::Upstreams;
use crate::values::Http2;
use srv_steer::Load;

pub mod at_once;
mod date;
mod ended;
mod exchange;
mod host;
mod logged;
mod plain;
mod request_body;

pub use ended::Ended;
pub use exchange::Exchange;
pub use logged::{Entry, Log};
pub use request_body::{BodyFault, RequestBody};

/// What all requests of a worker share.
pub struct Http {
    /// What answers the requests.
    pub router: Router,
    /// The limits for clients.
    pub limits: Limits,
    /// Which connections may speak HTTP/2.
    pub http2: Http2,
    /// Where the worker's load is published.
    pub published: Rc<Load>,
    /// How many files unfinished responses keep open, also those that began under older settings.
    pub files: Rc<Cell<usize>>,
    /// Where records for the access log are left.
    pub log: Rc<Log>,
    /// The worker's connections to applications.
    pub upstreams: Rc<Upstreams>,
    /// Where bodies of unknown length are kept for applications; `None` if no route has one.
    pub spool: Option<Rc<Spool>>,
    /// Which application answers a request, if one does.
    pub application: fn(&Rc<Http>, &request::Parts, Client) -> Option<Application>,
}

/// An application that is to answer one request.
pub struct Application {
    /// The site and route that it belongs to, whose rules for clients hold. `None`: none do.
    pub target: Option<Target>,
    /// Asks it.
    pub ask: Box<dyn FnOnce(Asked) -> Answering>,
}

/// A request whose body has not come yet.
pub struct Asked {
    /// Method, target and headers.
    pub head: request::Parts,
    /// What the client sends behind them.
    pub body: RequestBody,
    /// The connection that it came by.
    pub client: Client,
    /// Its socket.
    pub peer: Peer,
}

/// The socket of a connection, whose addresses an application is told.
pub type Peer = Rc<dyn AsRef<TcpSocket>>;

/// An application's answer, when it comes. If this is dropped, the client has gone.
pub type Answering = Pin<Box<dyn Future<Output = Response<Body>>>>;

/// hyper's service for one connection.
pub struct Handler {
    http: Rc<Http>,
    exchange: Rc<Exchange>,
    client: Client,
    peer: Peer,
}

impl Handler {
    /// The service for the connection of `client`, whose state is `exchange`.
    pub fn new(http: Rc<Http>, exchange: Rc<Exchange>, client: Client, peer: Peer) -> Self {
        Self {
            http,
            exchange,
            client,
            peer,
        }
    }

    fn refuse(&self, refusal: Refusal, status: StatusCode, why: &'static str) -> Response<Body> {
        self.http.published.refused(refusal);
        self.exchange.refused.set(true);
        let mut response = self.http.router.refuse(status, why);
        if !self.exchange.is_streamed {
            let close = HeaderValue::from_static("close");
            response.headers_mut().insert(CONNECTION, close);
        }
        response
    }

    /// The answer to a request that is refused for what its header says.
    fn refusal(&self, head: &request::Parts, body: &Incoming) -> Option<Response<Body>> {
        let (status, why) = if head.version == Version::HTTP_2 && !has_one_authority(head) {
            let why = "an HTTP/2 request names one host: by :authority, or by one Host header\n";
            (StatusCode::BAD_REQUEST, why)
        } else if head.version != Version::HTTP_2 && !has_one_host(head) {
            let why = "an HTTP/1.1 request has exactly one Host header, a host and maybe a port\n";
            (StatusCode::BAD_REQUEST, why)
        } else if !is_coding_known(head) {
            let why = "the only transfer coding that this server knows is one chunked\n";
            (StatusCode::NOT_IMPLEMENTED, why)
        } else {
            let is_too_large = body.size_hint().lower() > self.body_bytes_max(head, body);
            return is_too_large.then(|| self.too_large());
        };
        Some(self.refuse(Refusal::Malformed, status, why))
    }

    /// The most bytes that the body of a request may have.
    fn body_bytes_max(&self, head: &request::Parts, body: &Incoming) -> u64 {
        // Most requests have none.
        let of_site = match body.is_end_stream() {
            true => None,
            false => self.http.router.body_bytes_max(head, self.client),
        };
        of_site.unwrap_or(self.http.limits.body_bytes)
    }

    /// The answer to a client that may not have another one from an application. If its body has
    /// not come, the connection ends.
    fn kept_out(
        &self,
        target: Target,
        head: &request::Parts,
        body: &RequestBody,
    ) -> Option<Response<Body>> {
        let mut response = self.http.router.refusal(target, head, self.client)?;
        if !body.is_complete() {
            self.exchange.refused.set(true);
            let close = HeaderValue::from_static("close");
            response.headers_mut().insert(CONNECTION, close);
        }
        Some(response)
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
        let exchange = self.exchange.next();
        let mut in_service = InService::begin(&self.http, &exchange);
        let (head, body) = request.into_parts();
        let log = self.http.router.log_of(&head, self.client);
        in_service.entry = log.map(|log| Box::new(Entry::of(log, self.client, &head)));
        if let Some(response) = self.refusal(&head, &body) {
            return Serving::Answered(Some(in_service.reply(response)));
        }
        let (http, peer) = (&self.http, &self.peer);
        let handler = Self::new(http.clone(), exchange.clone(), self.client, peer.clone());
        let body_bytes_max = self.body_bytes_max(&head, &body);
        let body = RequestBody::new(handler, body, body_bytes_max);
        if let Some(application) = (self.http.application)(&self.http, &head, self.client) {
            let target = application.target;
            if let Some(response) = target.and_then(|target| self.kept_out(target, &head, &body)) {
                return Serving::Answered(Some(in_service.reply(response)));
            }
            exchange.asks.set(true);
            let answering = (application.ask)(Asked {
                head,
                body,
                client: self.client,
                peer: self.peer.clone(),
            });
            return Serving::Asking(answering, Some(in_service));
        }
        if body.is_complete() {
            let response = self.http.router.respond(&head, self.client);
            return Serving::Answered(Some(in_service.reply(response)));
        }
        Serving::Receiving(Some(Box::new(Receiving {
            http: self.http.clone(),
            client: self.client,
            head,
            body,
            in_service,
        })))
    }
}

/// Whether the request has the `Host` header that RFC 9112, 3.2, demands, and its target, if it
/// names a host, names it as a header may: without a user (RFC 9110, 4.2.4).
fn has_one_host(head: &request::Parts) -> bool {
    let target = head.uri.authority();
    if target.is_some_and(|host| !host::is_valid(host.as_str().as_bytes())) {
        return false;
    }
    let mut hosts = head.headers.get_all(HOST).iter();
    match (hosts.next(), hosts.next()) {
        (_, Some(_)) => false,
        (Some(one), None) => host::is_valid(one.as_bytes()),
        (None, None) => head.version < Version::HTTP_11,
    }
}

/// Whether an HTTP/2 request names its host once (RFC 9113, 8.3.1).
fn has_one_authority(head: &request::Parts) -> bool {
    let mut hosts = head.headers.get_all(HOST).iter();
    match (head.uri.authority(), hosts.next(), hosts.next()) {
        (_, _, Some(_)) | (None, None, None) => false,
        (Some(authority), None, None) => host::is_valid(authority.as_str().as_bytes()),
        (None, Some(one), None) => host::is_valid(one.as_bytes()),
        (Some(authority), Some(one), None) => {
            host::is_valid(one.as_bytes())
                && authority
                    .as_str()
                    .as_bytes()
                    .eq_ignore_ascii_case(one.as_bytes())
        }
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

/// The future of a response.
pub enum Serving {
    /// The response, which needed no body.
    Answered(Option<Response<Reply>>),
    /// The request, whose body comes first.
    Receiving(Option<Box<Receiving>>),
    /// The response comes from an application.
    Asking(Answering, Option<InService>),
}

/// A request whose body has not arrived completely. srv reads and counts the body, and does not
/// keep it.
pub struct Receiving {
    http: Rc<Http>,
    client: Client,
    head: request::Parts,
    body: RequestBody,
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
            Self::Asking(answering, in_service) => {
                let response = answering.as_mut().poll(cx);
                if let Some(InService { exchange, .. }) = in_service {
                    exchange.waits(response.is_pending() && !exchange.awaits_client.get());
                }
                let response = ready!(response);
                let in_service = in_service.take().expect(DONE);
                in_service.exchange.answers.set(true);
                Poll::Ready(Ok(in_service.reply(response)))
            }
        }
    }
}

impl Receiving {
    fn poll_body(&mut self, cx: &mut Context<'_>) -> Poll<Response<Body>> {
        let body = &mut self.body;
        while let Some(piece) = ready!(body.poll_piece(cx)) {
            if let Err(fault) = piece {
                return Poll::Ready(body.refuse(fault));
            }
        }
        Poll::Ready(self.http.router.respond(&self.head, self.client))
    }
}

/// Counts a request as running until it is answered or abandoned.
pub struct InService {
    http: Rc<Http>,
    exchange: Rc<Exchange>,
    /// Whether its response keeps a file open.
    holds_file: bool,
    /// The status of its response; 0: there is none yet.
    status: u16,
    /// When the request began, ns.
    begun_ns: u64,
    /// How many bytes of its response's body hyper has taken.
    body_bytes: u64,
    /// What it leaves for the access log, if it is to be logged.
    entry: Option<Box<Entry<'static>>>,
}

impl InService {
    fn begin(http: &Rc<Http>, exchange: &Rc<Exchange>) -> Self {
        http.published.started();
        Self {
            http: http.clone(),
            begun_ns: exchange.begin(),
            exchange: exchange.clone(),
            holds_file: false,
            status: 0,
            body_bytes: 0,
            entry: None,
        }
    }

    fn reply(mut self, response: Response<Body>) -> Response<Reply> {
        self.status = response.status().as_u16();
        self.holds_file = response.body().holds_file();
        if self.holds_file {
            self.http.files.set(self.http.files.get() + 1);
        }
        response.map(|body| Reply {
            body,
            in_service: self,
        })
    }
}

impl Drop for InService {
    fn drop(&mut self) {
        if self.holds_file {
            self.http.files.set(self.http.files.get() - 1);
        }
        let status = match self.status {
            0 => self.exchange.answered_beside.take(),
            status => status,
        };
        let ended = Ended {
            status,
            begun_ns: self.begun_ns,
            body_bytes: self.body_bytes,
        };
        self.http.ended(ended, self.entry.as_deref());
        self.exchange.end();
        self.http.published.finished();
    }
}

/// A response's body. hyper drops it after it has taken the last byte.
pub struct Reply {
    body: Body,
    in_service: InService,
}

impl http_body::Body for Reply {
    type Data = Bytes;
    type Error = std::io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, std::io::Error>>> {
        let frame = Pin::new(&mut self.body).poll_frame(cx);
        if let Poll::Ready(Some(Ok(frame))) = &frame {
            let bytes = frame.data_ref().map_or(0, Bytes::len);
            self.in_service.body_bytes += bytes as u64;
        }
        let exchange = &self.in_service.exchange;
        exchange.moves();
        // hyper asks for the next part when the client has room for it.
        exchange.waits(frame.is_pending());
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
