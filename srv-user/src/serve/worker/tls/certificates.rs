//! The certificate for the name that a client asks for (SNI). The names are those of the sites, and
//! they are found as the sites are.

use std::sync::Arc;

use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;

use super::shared::Choice;
use crate::serve::config::Serving;
use crate::serve::router::{Hosts, by_listener};

/// The certificates of a worker.
#[derive(Clone, Debug)]
pub(super) struct Certificates {
    /// By listener ([`by_listener`]).
    hosts: Arc<Vec<Hosts>>,
    /// The listener that these are for.
    listener: usize,
    /// For each site: the number of its certificate.
    of_sites: Vec<u32>,
    /// For a client that names no host, or one that no site has, where there is no default site.
    otherwise: u32,
    keys: Vec<Arc<CertifiedKey>>,
    choice: Arc<Choice>,
}

impl Certificates {
    /// The certificates of `serving`, for its first listener. Which one was chosen goes to `choice`.
    ///
    /// # Errors
    /// A certificate cannot be used.
    pub(super) fn new(serving: &Serving, choice: Arc<Choice>) -> anyhow::Result<Self> {
        let numbered = serving.certificates();
        let keys = numbered.list.iter().map(|tls| tls.identity.certified());
        let keys = keys.map(|key| key.map(Arc::new));
        Ok(Self {
            hosts: Arc::new(by_listener(serving.sites.list())),
            listener: 0,
            of_sites: numbered.of_sites,
            otherwise: numbered.otherwise,
            keys: keys.collect::<Result<_, _>>()?,
            choice,
        })
    }

    /// The same for another listener.
    pub(super) fn at(&self, listener: usize) -> Self {
        Self {
            listener,
            ..self.clone()
        }
    }
}

impl ResolvesServerCert for Certificates {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let name = hello.server_name();
        let hosts = self.hosts.get(self.listener).or(self.hosts.last())?;
        let site = hosts.find(name.unwrap_or_default().as_bytes());
        let number = site.map_or(self.otherwise, |site| self.of_sites[site]);
        self.choice.choose(number, name.unwrap_or_default());
        self.keys.get(number as usize).cloned()
    }
}
