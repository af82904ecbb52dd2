//! A certificate with its private key: read from its files by the master alone, and handed to the
//! workers as text. This module knows no site and no connection.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, bail, ensure};
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use serde::{Deserialize, Serialize};

/// The longest file of a certificate or a key, bytes. They go to each worker in one message.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// What does the cryptography of a server.
pub fn provider() -> Arc<CryptoProvider> {
    Arc::new(ring::default_provider())
}

/// A certificate with those that lead to its authority, and its private key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// The file of the certificates.
    pub certificate: PathBuf,
    /// The file of the key.
    pub key: PathBuf,
    chain: String,
    secret: Secret,
}

/// A private key. No message shows it.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Secret(String);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(a private key)")
    }
}

impl Identity {
    /// Reads both files.
    ///
    /// # Errors
    /// A file cannot be read, or the two are not a certificate and its key.
    pub fn read(certificate: &Path, key: &Path) -> Result<Self> {
        let identity = Self {
            certificate: std::path::absolute(certificate).context("make this path absolute")?,
            key: std::path::absolute(key).context("make this path absolute")?,
            chain: text(certificate)?,
            secret: Secret(text(key)?),
        };
        identity.certified()?;
        Ok(identity)
    }

    /// The certificate and the key as rustls takes them.
    ///
    /// # Errors
    /// The two are not a certificate and its key.
    pub fn certified(&self) -> Result<CertifiedKey> {
        let place = self.certificate.display();
        let chain = self.certificates()?;
        let key = self.key.display();
        let secret = match PrivateKeyDer::from_pem_slice(self.secret.0.as_bytes()) {
            Ok(secret) => secret,
            Err(_) if self.secret.0.contains("ENCRYPTED PRIVATE KEY") => bail!(
                "read key {key}: it is encrypted, and srv asks for no password: decrypt it with \
                 `openssl pkey -in {key} -out NEW`, and let root alone read the new file"
            ),
            Err(error) => {
                return Err(error).with_context(|| {
                    format!(
                        "read key {key}: expected a private key in PEM, that is, a section \
                         `-----BEGIN PRIVATE KEY-----`"
                    )
                });
            }
        };
        CertifiedKey::from_der(chain, secret, &provider()).map_err(|error| match error {
            rustls::Error::InconsistentKeys(_) => anyhow::anyhow!(
                "use certificate {place} with key {key}: the key is another certificate's: name \
                 the key that the certificate was made for"
            ),
            error => anyhow::anyhow!(
                "use certificate {place} with key {key}: {error}: expected an RSA key of 2048 to \
                 8192 bits, an ECDSA key of P-256 or P-384, or Ed25519"
            ),
        })
    }

    /// The certificates, the server's own first.
    ///
    /// # Errors
    /// The file has none.
    pub fn certificates(&self) -> Result<Vec<CertificateDer<'static>>> {
        let place = self.certificate.display();
        let chain = CertificateDer::pem_slice_iter(self.chain.as_bytes());
        let chain: Vec<_> = chain
            .collect::<Result<_, _>>()
            .with_context(|| format!("read certificate {place}: expected certificates in PEM"))?;
        ensure!(
            !chain.is_empty(),
            "read certificate {place}: it has no section `-----BEGIN CERTIFICATE-----`: name a \
             file in PEM with the server's certificate first and those of its authorities behind it"
        );
        Ok(chain)
    }
}

/// The text of a file.
///
/// # Errors
/// It cannot be read, or is too long.
pub(super) fn text(path: &Path) -> Result<String> {
    let place = path.display();
    let length = fs::metadata(path)
        .with_context(|| format!("read {place}"))?
        .len();
    ensure!(
        length <= FILE_BYTES_MAX,
        "read {place}: it has {length} bytes, and a certificate or key has {FILE_BYTES_MAX} at most"
    );
    fs::read_to_string(path).with_context(|| format!("read {place}"))
}
