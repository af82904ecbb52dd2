//! Which certificate is asked of a client: what the site says that it has named (SNI). rustls has
//! one verifier for all sites; this one does what the site's would.

use std::sync::Arc;

use anyhow::Context as _;
use rustls::client::danger::HandshakeSignatureValid;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{DigitallySignedStruct, DistinguishedName, Error, RootCertStore, SignatureScheme};

use super::shared::Choice;
use crate::serve::config::identity::provider;
use crate::serve::config::tls::Tls;

/// What verifies the certificates of clients.
#[derive(Debug)]
pub(super) struct Clients {
    /// By the number of the server's certificate. `None`: none is asked for.
    verifiers: Vec<Option<Arc<dyn ClientCertVerifier>>>,
    choice: Arc<Choice>,
}

impl Clients {
    /// For the certificates of a server, by number; `None` if none is asked of any client.
    ///
    /// # Errors
    /// An authority's certificate cannot be used.
    pub(super) fn new(list: &[&Tls], choice: Arc<Choice>) -> anyhow::Result<Option<Self>> {
        let verifiers = list.iter().map(|tls| verifier(tls));
        let verifiers: Vec<_> = verifiers.collect::<Result<_, _>>()?;
        Ok(verifiers
            .iter()
            .any(Option::is_some)
            .then_some(Self { verifiers, choice }))
    }

    fn current(&self) -> Option<&dyn ClientCertVerifier> {
        let number = self.choice.certificate() as usize;
        self.verifiers.get(number)?.as_deref()
    }

    /// As [`Self::current`], after the client was asked.
    fn asked(&self) -> Result<&dyn ClientCertVerifier, Error> {
        let none = || Error::General("no certificate was asked of the client".into());
        self.current().ok_or_else(none)
    }
}

fn verifier(tls: &Tls) -> anyhow::Result<Option<Arc<dyn ClientCertVerifier>>> {
    let Some(clients) = &tls.clients else {
        return Ok(None);
    };
    let mut roots = RootCertStore::empty();
    for certificate in clients.authorities()? {
        roots
            .add(certificate)
            .with_context(|| format!("use client-ca {} as an authority", clients.file.display()))?;
    }
    let builder = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider());
    let builder = match clients.is_required {
        true => builder,
        false => builder.allow_unauthenticated(),
    };
    let verifier = builder.build();
    let verifier = verifier.with_context(|| format!("use client-ca {}", clients.file.display()))?;
    Ok(Some(verifier))
}

impl ClientCertVerifier for Clients {
    fn offer_client_auth(&self) -> bool {
        self.current().is_some()
    }

    fn client_auth_mandatory(&self) -> bool {
        self.current()
            .is_some_and(ClientCertVerifier::client_auth_mandatory)
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.current()
            .map_or(&[], ClientCertVerifier::root_hint_subjects)
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        self.asked()?
            .verify_client_cert(end_entity, intermediates, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.asked()?
            .verify_tls12_signature(message, certificate, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.asked()?
            .verify_tls13_signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        let supported = &provider().signature_verification_algorithms;
        supported.supported_schemes()
    }
}
