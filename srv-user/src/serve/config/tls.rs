//! The TLS of a site, or of all sites that say nothing else.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use serde::{Deserialize, Serialize};

use super::identity::{Identity, text};

/// The TLS of a site, or of all sites that say nothing else.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tls {
    /// The server's certificate.
    pub identity: Identity,
    /// What is asked of clients.
    pub clients: Option<Clients>,
}

/// That a client is asked for a certificate.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Clients {
    /// The file with the authorities whose certificates are taken.
    pub file: PathBuf,
    pem: String,
    /// Whether a client without one is refused.
    pub is_required: bool,
}

impl Tls {
    /// The files that it is made of.
    pub fn files(&self) -> impl Iterator<Item = &Path> {
        let clients = self.clients.as_ref().map(|clients| clients.file.as_path());
        let own = [&*self.identity.certificate, &*self.identity.key];
        own.into_iter().chain(clients)
    }

    /// What its files have now.
    ///
    /// # Errors
    /// A file cannot be read, or cannot be used.
    pub fn read_again(&self) -> Result<Self> {
        let clients = self.clients.as_ref();
        let clients = clients.map(|clients| Clients::read(&clients.file, clients.is_required));
        Ok(Self {
            identity: Identity::read(&self.identity.certificate, &self.identity.key)?,
            clients: clients.transpose()?,
        })
    }
}

impl Clients {
    /// Reads the file.
    ///
    /// # Errors
    /// It cannot be read, or has no certificate.
    pub fn read(file: &Path, is_required: bool) -> Result<Self> {
        let clients = Self {
            file: std::path::absolute(file).context("make this path absolute")?,
            pem: text(file)?,
            is_required,
        };
        clients.authorities()?;
        Ok(clients)
    }

    /// The certificates of the authorities.
    ///
    /// # Errors
    /// There is none.
    pub fn authorities(&self) -> Result<Vec<CertificateDer<'static>>> {
        let place = self.file.display();
        let list = CertificateDer::pem_slice_iter(self.pem.as_bytes());
        let list: Vec<_> = list
            .collect::<Result<_, _>>()
            .with_context(|| format!("read client-ca {place}: expected certificates in PEM"))?;
        ensure!(
            !list.is_empty(),
            "read client-ca {place}: it has no section `-----BEGIN CERTIFICATE-----`"
        );
        Ok(list)
    }

    /// What a client has to prove, as bytes that are others if it has to prove something else.
    pub fn terms(&self) -> Vec<u8> {
        [&[u8::from(self.is_required)][..], self.pem.as_bytes()].concat()
    }
}
