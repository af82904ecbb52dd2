//! The TLS configuration of a run, by rustls. ring does the cryptography: it
//! needs nothing but a C compiler to build. Certificates are verified against
//! what this machine trusts, as curl does, so that a company's own authority works.

use std::sync::Arc;

use anyhow::{Context as _, Result, ensure};
use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{
    CryptoProvider, WebPkiSupportedAlgorithms, ring, verify_tls12_signature, verify_tls13_signature,
};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{
    ClientConfig, ClientConnection, DigitallySignedStruct, Error, RootCertStore, SignatureScheme,
};

use super::Tls;

/// How many sessions a run remembers. Each of TLS 1.3 is used once.
const SESSIONS: usize = 1024;

/// The configuration for all sessions of a run.
///
/// # Errors
/// There is no certificate of an authority on this machine, and `is_insecure` is not set.
pub(super) fn config(is_insecure: bool, resumes: bool) -> Result<Arc<ClientConfig>> {
    let provider = Arc::new(ring::default_provider());
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .context("configure TLS")?;
    let mut config = if is_insecure {
        builder
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Unverified(provider)))
            .with_no_client_auth()
    } else {
        builder
            .with_root_certificates(roots()?)
            .with_no_client_auth()
    };
    // HTTP/1.1 is all that is sent.
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    config.resumption = match resumes {
        true => Resumption::in_memory_sessions(SESSIONS),
        // Each new connection stands for a new client, which has no session to resume.
        false => Resumption::disabled(),
    };
    Ok(Arc::new(config))
}

/// What a session with the server `name` needs.
///
/// # Errors
/// `name` cannot be a certificate's.
pub(super) fn to(name: &str, config: &Arc<ClientConfig>) -> Result<Tls> {
    let tls = Tls {
        config: Arc::clone(config),
        name: ServerName::try_from(name.to_owned())
            .with_context(|| format!("`{name}` cannot be a certificate's name"))?,
    };
    // A configuration that cannot make a session is to be known before the run.
    ClientConnection::new(Arc::clone(config), tls.name.clone())
        .with_context(|| format!("prepare a TLS session with {name}"))?;
    Ok(tls)
}

fn roots() -> Result<RootCertStore> {
    let found = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(found.certs);
    let errors: Vec<String> = found.errors.iter().map(ToString::to_string).collect();
    ensure!(
        !roots.is_empty(),
        "verify certificates: this machine has none of an authority{}{}; install \
         ca-certificates, name a PEM file in SSL_CERT_FILE, or use --insecure",
        if errors.is_empty() { "" } else { ": " },
        errors.join(", ")
    );
    Ok(roots)
}

/// `--insecure`: takes any certificate. That the server has its key is verified all the same.
#[derive(Debug)]
struct Unverified(Arc<CryptoProvider>);

/// How one version of TLS verifies a signature.
type Verify = fn(
    &[u8],
    &CertificateDer<'_>,
    &DigitallySignedStruct,
    &WebPkiSupportedAlgorithms,
) -> Result<HandshakeSignatureValid, Error>;

impl Unverified {
    fn verify(
        &self,
        verify: Verify,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        verify(message, certificate, signed, algorithms)
    }
}

impl ServerCertVerifier for Unverified {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.verify(verify_tls12_signature, message, certificate, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.verify(verify_tls13_signature, message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
