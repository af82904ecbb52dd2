//! Begins the TLS sessions of a worker, by the configuration of rustls that they have in common.

use std::rc::Rc;
use std::sync::Arc;

use anyhow::Context as _;
use rustls::ServerConfig;
use rustls::server::{NoServerSessionStorage, UnbufferedServerConnection};

use super::certificates::Certificates;
use super::session::Session;
use super::shared::Shared;
use crate::serve::config::Serving;
use crate::serve::config::identity::provider;

/// The protocols that are spoken over TLS, the preferred one first (ALPN, RFC 7301). HTTP/2 will be
/// another one.
const PROTOCOLS: [&[u8]; 2] = [b"http/1.1", b"http/1.0"];

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
    pub fn all(serving: &Serving) -> anyhow::Result<Vec<Option<Rc<Self>>>> {
        if !serving.https.contains(&true) {
            return Ok(Vec::new());
        }
        let shared = Rc::new(Shared::default());
        let certificates = Certificates::new(serving, shared.choice.clone())?;
        let acceptor = |listener| Self::new(certificates.at(listener), shared.clone()).map(Rc::new);
        let listeners = serving.https.iter().enumerate();
        let acceptors = listeners.map(|(nth, has_tls)| has_tls.then(|| acceptor(nth)).transpose());
        acceptors.collect()
    }

    fn new(certificates: Certificates, shared: Rc<Shared>) -> anyhow::Result<Self> {
        let mut config = ServerConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .context("configure TLS")?
            .with_no_client_auth()
            .with_cert_resolver(Arc::new(certificates));
        config.alpn_protocols = PROTOCOLS.map(<[u8]>::to_vec).to_vec();
        // A session could be resumed from here only at this worker.
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
