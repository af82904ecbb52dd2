//! Connections whose request waits for an application, on real sockets and a real epoll instance.
//! The application of these tests gets the body of a request as it is; what it sends is the body of
//! the answer.

use std::future::poll_fn;
use std::io;
use std::os::unix::net::UnixListener;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use http::request::Parts;
use http::{Response, StatusCode};
use http_body::Frame;
use tempfile::TempDir;

use super::*;
use crate::serve::router;
use crate::serve::site::Body;
use crate::serve::worker::http::{Application, Asked, RequestBody};
use crate::serve::worker::upstream::Upstream;
use crate::values::ApplicationAddr;

const TIMEOUT: Duration = Duration::from_secs(60);
/// More than any buffers on the way have room for.
const LARGE_BYTES: usize = 16 << 20;

/// Relays a request to the socket that its query names.
pub(super) fn relay(http: &Rc<Http>, head: &Parts, _: router::Client) -> Option<Application> {
    let path = head.uri.query().filter(|path| path.starts_with('/'))?;
    let address = ApplicationAddr::Unix(path.into());
    let upstream = Upstream::new(&http.upstreams, &address).unwrap();
    upstream.wait_at_most(Some(TIMEOUT));
    Some(Application {
        target: None,
        ask: Box::new(|asked| Box::pin(answer(upstream, address, asked))),
    })
}

async fn answer(upstream: Upstream, address: ApplicationAddr, asked: Asked) -> Response<Body> {
    let mut relay = Relay {
        upstream,
        address,
        body: asked.body,
        unsent: Bytes::new(),
        first: None,
    };
    match poll_fn(|cx| relay.poll_first(cx)).await {
        Ok(()) => Response::new(Body::stream(relay)),
        Err(error) => {
            let mut response = Response::new(Body::empty());
            *response.status_mut() = match error.kind() {
                ErrorKind::TimedOut => StatusCode::GATEWAY_TIMEOUT,
                _ => StatusCode::BAD_GATEWAY,
            };
            response
        }
    }
}

struct Relay {
    upstream: Upstream,
    address: ApplicationAddr,
    body: RequestBody,
    unsent: Bytes,
    first: Option<Bytes>,
}

impl Relay {
    fn poll_first(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.upstream.poll_connected(cx, &self.address))?;
        self.first = Some(ready!(self.poll_piece(cx))?);
        Poll::Ready(Ok(()))
    }

    fn poll_piece(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Bytes>> {
        if let Poll::Ready(Err(error)) = self.poll_send(cx) {
            return Poll::Ready(Err(error));
        }
        self.upstream.poll_read(cx)
    }

    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            while !self.unsent.is_empty() {
                let written = ready!(self.upstream.poll_write(cx, &self.unsent))?;
                self.unsent.advance(written);
            }
            match ready!(self.body.poll_piece(cx)) {
                Some(piece) => self.unsent = piece.unwrap(),
                None => return Poll::Ready(Ok(())),
            }
        }
    }
}

impl http_body::Body for Relay {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        let piece = match self.first.take() {
            Some(first) => first,
            None => ready!(self.poll_piece(cx))?,
        };
        Poll::Ready((!piece.is_empty()).then(|| Ok(Frame::data(piece))))
    }
}

/// An application with the loop of a worker that asks it.
struct Bench {
    reactor: Reactor,
    driver: Driver,
    listener: UnixListener,
    folder: TempDir,
}

impl Bench {
    fn new() -> Self {
        let reactor = Reactor::new().unwrap();
        let folder = tempfile::tempdir().unwrap();
        let mut driver = driver_on(&reactor, &Serving::default(), None);
        let http = Rc::get_mut(&mut driver.http).unwrap();
        http.limits.body_bytes = LARGE_BYTES as u64;
        // The welcome page is no application.
        driver.answers_at_once = false;
        Self {
            driver,
            listener: UnixListener::bind(folder.path().join("app")).unwrap(),
            reactor,
            folder,
        }
    }

    fn client(&self, key: usize) -> Client<'_> {
        let client = Client::connect(&self.driver);
        let connection = client.connection.as_ref().unwrap();
        connection.socket.key.set(key);
        client
    }

    fn request(&self, method: &str, headers: &str) -> String {
        let socket = self.folder.path().join("app");
        let socket = socket.display();
        format!("{method} /app?{socket} HTTP/1.1\r\nHost: a\r\n{headers}\r\n")
    }

    /// A client whose request the application has accepted.
    fn asks(&self, key: usize) -> (Client<'_>, UnixStream) {
        let mut client = self.client(key);
        client.send(self.request("GET", "").as_bytes());
        let (application, _) = self.listener.accept().unwrap();
        (client, application)
    }

    /// What has happened at the applications' sockets, without waiting for more.
    fn look(&self) {
        // A copy of the reactor's epoll instance would have its own events.
        let mut events = Vec::with_capacity(64);
        let buffer = rustix::buffer::spare_capacity(&mut events);
        let at_once = rustix::time::Timespec::default();
        rustix::event::epoll::wait(&self.reactor, buffer, Some(&at_once)).unwrap();
        for event in &events {
            let (token, flags) = (event.data.u64(), { event.flags });
            let has = |flag| flags.intersects(flag);
            use rustix::event::epoll::EventFlags as Flags;
            self.driver.http.upstreams.ready(Readiness {
                token,
                readable: has(Flags::IN | Flags::RDHUP | Flags::HUP),
                writable: has(Flags::OUT | Flags::HUP),
                hung_up: has(Flags::RDHUP | Flags::HUP),
                failed: has(Flags::HUP),
            });
        }
    }

    /// Continues the clients that were woken. Returns their keys.
    fn wake(&self, clients: &mut [Client<'_>]) -> Vec<usize> {
        self.look();
        let tasks = self.driver.woken().take();
        for task in &tasks {
            clients[task.key()]
                .let_it(|connection, driver, now_ns| connection.wake(task, driver, now_ns));
        }
        tasks.iter().map(|task| task.key()).collect()
    }
}

fn is_open(client: &Client<'_>) -> bool {
    client.connection.is_some()
}

#[test]
fn many_connections_wait_while_others_are_served() {
    let bench = Bench::new();
    let (mut clients, mut applications): (Vec<_>, Vec<_>) =
        (0..50).map(|key| bench.asks(key)).unzip();
    assert_eq!(bench.driver.published().running(), 50);
    assert_eq!(bench.driver.http.upstreams.count(), 50);
    bench.wake(&mut clients);
    let mut other = bench.client(50);
    other.send(REQUESTS[0].0.as_bytes());
    assert_eq!(other.answers()[0].0, 200);
    for key in (0..50).rev() {
        applications[key]
            .write_all(format!("answer {key}").as_bytes())
            .unwrap();
        drop(applications.pop());
        bench.wake(&mut clients);
        assert_eq!(bench.driver.published().running(), key as u32);
    }
    for (key, client) in clients.iter().enumerate() {
        let text = String::from_utf8_lossy(&client.received);
        assert!(
            text.contains(&format!("\r\nanswer {key}\r\n0\r\n")),
            "{text}"
        );
        assert!(is_open(client), "it is kept alive");
    }
    assert_eq!(bench.driver.http.upstreams.count(), 0);
}

#[test]
fn a_wake_after_the_connection_has_closed_does_no_harm() {
    let bench = Bench::new();
    let (client, mut application) = bench.asks(0);
    application.write_all(b"too late").unwrap();
    bench.look();
    drop(client);
    let tasks = bench.driver.woken().take();
    assert_eq!(tasks.len(), 1);
    // Another connection has the key, and waits for the application, too.
    let (mut next, mut application) = bench.asks(0);
    let before = next.connection.as_mut().unwrap();
    assert_eq!(before.wake(&tasks[0], &bench.driver, 2), Progress::Open);
    // The first one's events, if there were any, are not the second one's.
    bench.look();
    assert!(!bench.driver.woken().has_any());
    application.write_all(b"in time").unwrap();
    drop(application);
    assert_eq!(bench.wake(std::slice::from_mut(&mut next)), [0]);
    assert!(String::from_utf8_lossy(&next.received).contains("in time"));
}

#[test]
fn a_client_that_leaves_cancels() {
    let bench = Bench::new();
    let (mut client, mut application) = bench.asks(0);
    client.let_it(|connection, driver, now_ns| connection.drive(driver, readable(true), now_ns));
    assert!(!is_open(&client));
    assert_eq!(
        application.read(&mut [0; 16]).unwrap(),
        0,
        "it sees the end"
    );
    assert_eq!(bench.driver.published().running(), 0);
    assert_eq!(bench.driver.http.upstreams.count(), 0);
}

#[test]
fn a_client_has_no_deadline_while_the_application_has_its_own() {
    let bench = Bench::new();
    let (mut client, _application) = bench.asks(0);
    client.now_ns += as_ns(Duration::from_secs(3600));
    client.let_it(Connection::expire);
    assert!(is_open(&client) && client.received.is_empty());
    assert_eq!(client.connection.as_ref().unwrap().dispensable(), None);
    bench.driver.http.upstreams.sweep(0);
    assert!(!bench.driver.woken().has_any());
    bench.driver.http.upstreams.sweep(u64::MAX);
    assert_eq!(bench.wake(std::slice::from_mut(&mut client)), [0]);
    assert_eq!(client.answers(), [(504, 0)]);
}

#[test]
fn a_drain_waits_for_the_answer() {
    let bench = Bench::new();
    let (mut client, mut application) = bench.asks(0);
    client.let_it(Connection::drain);
    assert!(is_open(&client));
    application.write_all(b"done").unwrap();
    drop(application);
    bench.wake(std::slice::from_mut(&mut client));
    assert!(!is_open(&client));
    let text = String::from_utf8_lossy(&client.received);
    assert!(
        text.contains("connection: close") && text.contains("done"),
        "{text}"
    );
}

#[test]
fn an_application_whose_queue_is_full_is_asked_again() {
    let bench = Bench::new();
    rustix::net::listen(&bench.listener, 0).unwrap();
    let mut clients: Vec<_> = (0..3).map(|key| bench.client(key)).collect();
    for client in &mut clients {
        client.send(bench.request("GET", "").as_bytes());
    }
    bench.listener.set_nonblocking(true).unwrap();
    let mut answered = 0;
    while answered < clients.len() {
        while let Ok((mut application, _)) = bench.listener.accept() {
            application.write_all(b"yes").unwrap();
            answered += 1;
        }
        bench.driver.http.upstreams.sweep(0);
        bench.wake(&mut clients);
    }
    bench.wake(&mut clients);
    for client in &clients {
        assert!(String::from_utf8_lossy(&client.received).contains("yes"));
    }
}

#[test]
fn an_absent_application_is_an_answer() {
    let bench = Bench::new();
    std::fs::remove_file(bench.folder.path().join("app")).unwrap();
    let mut client = bench.client(0);
    client.send(bench.request("GET", "").as_bytes());
    assert_eq!(client.answers(), [(502, 0)]);
}

/// Writes to `stream` until it takes no more, while `goes_on` moves what there is.
fn fill(stream: &mut UnixStream, mut goes_on: impl FnMut()) -> usize {
    stream.set_nonblocking(true).unwrap();
    let mut bytes = 0;
    let mut refusals = 0;
    while bytes < LARGE_BYTES && refusals < 3 {
        match stream.write(&[b'x'; 4096]) {
            Ok(written) => (bytes, refusals) = (bytes + written, 0),
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                refusals += 1;
                goes_on();
            }
            Err(error) => panic!("write: {error}"),
        }
    }
    bytes
}

#[test]
fn a_slow_client_slows_the_application_down() {
    let bench = Bench::new();
    let (mut client, mut application) = bench.asks(0);
    let bytes = fill(&mut application, || {
        bench.look();
        for task in bench.driver.woken().take() {
            let connection = client.connection.as_mut().unwrap();
            let mut progress = connection.wake(&task, &bench.driver, 1);
            while progress == Progress::Yielded {
                progress = connection.resume(&bench.driver, 1);
            }
        }
    });
    assert!(bytes < LARGE_BYTES / 2, "{bytes} bytes are on the way");
    client.receive();
    assert!(!client.received.is_empty());
}

#[test]
fn a_slow_application_slows_the_client_down() {
    let bench = Bench::new();
    let mut client = bench.client(0);
    let length = format!("Content-Length: {LARGE_BYTES}\r\n");
    client.send(bench.request("POST", &length).as_bytes());
    let (mut application, _) = bench.listener.accept().unwrap();
    let mut stream = client.stream.try_clone().unwrap();
    let mut goes_on = || {
        client
            .let_it(|connection, driver, now_ns| connection.drive(driver, readable(false), now_ns));
    };
    let bytes = fill(&mut stream, &mut goes_on);
    assert!(bytes < LARGE_BYTES / 2, "{bytes} bytes are on the way");
    // It is no fault of the client.
    client.now_ns += as_ns(Duration::from_secs(3600));
    client.let_it(Connection::expire);
    assert!(is_open(&client) && client.received.is_empty());
    assert_ne!(application.read(&mut [0; 16]).unwrap(), 0);
}
