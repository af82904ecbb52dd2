//! The clients: how many there are at once, and how long each may take. If one more comes than
//! there is room for, the oldest is closed that does not watch events.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::task::{AbortHandle, spawn_local};
use tokio::time::sleep;

use super::events::WATCHERS_MAX;
use super::listener::{Listener, Origin, Stream};
use super::router::{Site, answer};

/// Clients that are served at once.
const CLIENTS_MAX: usize = 64;
const _: () = assert!(WATCHERS_MAX < CLIENTS_MAX);
/// How long a request may take to arrive, and a kept connection may be silent.
const REQUEST_WITHIN: Duration = Duration::from_secs(75);
/// The longest request line and header together.
const HEADER_BYTES_MAX: usize = 16 << 10;
/// After a failure to accept, such as too many open files.
const ACCEPT_AGAIN: Duration = Duration::from_millis(100);

/// A client that is being served.
struct Client {
    task: AbortHandle,
    watches: Rc<Cell<bool>>,
}

/// All clients, the oldest first.
#[derive(Default)]
pub(super) struct Clients(Vec<Client>);

impl Clients {
    /// Makes room for one more.
    fn make_room(&mut self) {
        self.0.retain(|client| !client.task.is_finished());
        if self.0.len() < CLIENTS_MAX {
            return;
        }
        if let Some(nth) = self.0.iter().position(|client| !client.watches.get()) {
            self.0.remove(nth).task.abort();
        }
    }
}

/// Serves the clients of a listener for ever.
pub(super) async fn serve(
    listener: Listener,
    site: Rc<Site>,
    clients: Rc<std::cell::RefCell<Clients>>,
) {
    let origin = listener.origin();
    loop {
        match listener.accept().await {
            Ok(stream) => {
                let mut clients = clients.borrow_mut();
                clients.make_room();
                let watches = Rc::new(Cell::new(false));
                let serving = converse(stream, origin, site.clone(), watches.clone());
                let task = spawn_local(serving).abort_handle();
                clients.0.push(Client { task, watches });
            }
            Err(error) => {
                tracing::warn!("accept on the admin socket: {error}");
                sleep(ACCEPT_AGAIN).await;
            }
        }
    }
}

async fn converse(stream: Stream, origin: Origin, site: Rc<Site>, watches: Rc<Cell<bool>>) {
    let service = service_fn(|request| {
        let (site, watches) = (site.clone(), watches.clone());
        async move { answer(request, origin, &site, &watches).await }
    });
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(REQUEST_WITHIN)
        .max_buf_size(HEADER_BYTES_MAX)
        .serve_connection(TokioIo::new(stream), service)
        .await;
    if let Err(error) = served {
        tracing::debug!("answer an admin client: {error}");
    }
}
