//! Which certificate is for which site, and that addresses and certificates go together.

use std::time::SystemTime;

use anyhow::{Result, bail};

use super::tls::Tls;
use super::{Serving, Settings, doubts};

/// All that differ, each once.
#[derive(Debug)]
pub struct Numbered<'a> {
    /// By number.
    pub list: Vec<&'a Tls>,
    /// The number of each site.
    pub of_sites: Vec<u32>,
    /// The number for hosts that no site has, and for clients that name none.
    pub otherwise: u32,
}

impl Serving {
    /// Has sites and server with `old` have `new` in its place. Returns whether there is one.
    pub fn replace_tls(&mut self, old: &Tls, new: &Tls) -> bool {
        let is_of_server = self.tls.as_ref() == Some(old);
        if is_of_server {
            self.tls = Some(new.clone());
        }
        self.sites.replace_tls(old, new) || is_of_server
    }

    /// The certificates, and which one is whose. A site without one has that of the server, then
    /// that of the default site, then the first.
    pub fn certificates(&self) -> Numbered<'_> {
        let sites = self.sites.list();
        let default = sites.iter().find(|site| site.is_default);
        let default = default.and_then(|site| site.tls.as_ref());
        let first = sites.iter().find_map(|site| site.tls.as_ref());
        let mut list: Vec<&Tls> = Vec::new();
        let Some(otherwise) = self.tls.as_ref().or(default).or(first) else {
            return Numbered {
                list,
                of_sites: Vec::new(),
                otherwise: 0,
            };
        };
        let mut number = |tls| {
            let known = list.iter().position(|known| *known == tls);
            known.unwrap_or_else(|| {
                list.push(tls);
                list.len() - 1
            }) as u32
        };
        let otherwise_number = number(otherwise);
        let sites = sites.iter().map(|site| site.tls.as_ref());
        Numbered {
            of_sites: sites.map(|tls| number(tls.unwrap_or(otherwise))).collect(),
            otherwise: otherwise_number,
            list,
        }
    }
}

impl Settings {
    /// What is wrong with certificates and still can be served: hosts that a certificate does not
    /// name, and times.
    pub fn doubts_of_certificates(&self) -> Vec<String> {
        let serving = &self.serving;
        let numbered = serving.certificates();
        let mut found = Vec::new();
        for tls in &numbered.list {
            found.extend(doubts::of_time(&tls.identity, SystemTime::now()));
        }
        for (site, number) in serving.sites.list().iter().zip(&numbered.of_sites) {
            let identity = &numbered.list[*number as usize].identity;
            let is_reached =
                |listener: &usize| serving.https[*listener] && site.answers_at(*listener);
            if (0..serving.https.len()).any(|listener| is_reached(&listener)) {
                found.extend(doubts::of_hosts(identity, &site.hosts));
            }
        }
        found
    }

    /// Logs what is wrong with certificates.
    pub fn warn_of_certificates(&self) {
        for doubt in self.doubts_of_certificates() {
            tracing::warn!("{doubt}");
        }
    }
}

/// Checks that addresses and certificates go together.
///
/// # Errors
/// One is there without the other.
pub(super) fn check(settings: &Settings) -> Result<()> {
    let serving = &settings.serving;
    let has_address = serving.https.contains(&true);
    let has_certificate = !serving.certificates().list.is_empty();
    if has_address && !has_certificate {
        bail!(
            "{}: found an address with TLS, and no certificate: name one in [site.tls], or for all              sites by tls-certificate and tls-key",
            settings.place("listen")
        );
    }
    // The addresses of a server that was joined are that server's.
    if has_certificate && !has_address && !settings.join {
        bail!(
            "{}: found a certificate, and no address with TLS: write an address as a table \
             [[listen]] with `tls = true`, or leave the certificate out",
            settings.place(match serving.tls {
                Some(_) => "tls-certificate",
                None => "site",
            })
        );
    }
    Ok(())
}
