//! Begins the TLS sessions of a worker, by the configuration of rustls that they have in common.

use std::rc::Rc;
use std::sync::Arc;

use anyhow::Context as _;
use rustls::ServerConfig;
use rustls::server::{NoServerSessionStorage, UnbufferedServerConnection};

use super::certificates::Certificates;
use super::clients::Clients;
use super::session::{HTTP2, Session};
use super::shared::Shared;
use super::tickets::{Keys, Tickets};
use crate::serve::config::Serving;
use crate::serve::config::identity::provider;
use crate::values::Http2;

/// The protocols that are spoken over TLS, the preferred one first (ALPN, RFC 7301).
const PROTOCOLS: [&[u8]; 3] = [HTTP2, b"http/1.1", b"http/1.0"];

/// Begins the TLS sessions of a listener.
pub struct Acceptor {
    config: Arc<ServerConfig>,
    shared: Rc<Shared>,
}

impl Acceptor {
    /// For each listener of `serving` whose clients speak TLS.
    ///
    /// # Errors
    /// A certificate cannot be used.
    pub fn all(serving: &Serving, keys: &Keys) -> anyhow::Result<Vec<Option<Rc<Self>>>> {
        if !serving.https.contains(&true) {
            return Ok(Vec::new());
        }
        let shared = Rc::new(Shared::default());
        let certificates = Certificates::new(serving, shared.choice.clone())?;
        let list = serving.certificates().list;
        let clients = Clients::new(&list, shared.choice.clone())?.map(Arc::new);
        let terms = list.iter().flat_map(|tls| &tls.clients);
        let terms: Vec<u8> = terms.flat_map(|clients| clients.terms()).collect();
        let tickets = Arc::new(Tickets::new(keys.clone(), &terms));
        let protocols = match serving.http2 {
            Http2::Never => &PROTOCOLS[1..],
            Http2::Tls | Http2::Always => &PROTOCOLS,
        };
        let acceptor = |listener| {
            let (clients, tickets) = (clients.clone(), tickets.clone());
            let certificates = certificates.at(listener);
            Self::new(certificates, clients, tickets, protocols, shared.clone()).map(Rc::new)
        };
        let listeners = serving.https.iter().enumerate();
        let acceptors = listeners.map(|(nth, has_tls)| has_tls.then(|| acceptor(nth)).transpose());
        acceptors.collect()
    }

    fn new(
        certificates: Certificates,
        clients: Option<Arc<Clients>>,
        tickets: Arc<Tickets>,
        protocols: &[&[u8]],
        shared: Rc<Shared>,
    ) -> anyhow::Result<Self> {
        let builder = ServerConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .context("configure TLS")?;
        let builder = match clients {
            None => builder.with_no_client_auth(),
            Some(clients) => builder.with_client_cert_verifier(clients),
        };
        let mut config = builder.with_cert_resolver(Arc::new(certificates));
        config.ticketer = tickets;
        config.alpn_protocols = protocols.iter().map(|name| name.to_vec()).collect();
        // A session could be resumed from here only at this worker, and tickets are for all.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        let config = Arc::new(config);
        UnbufferedServerConnection::new(config.clone()).context("prepare a TLS session")?;
        Ok(Self { config, shared })
    }

    /// A session for a new connection.
    pub fn session(&self) -> Session {
        let connection = UnbufferedServerConnection::new(self.config.clone());
        let connection = connection.expect("the configuration made a session at the start");
        Session::new(connection, self.shared.clone())
    }
}
