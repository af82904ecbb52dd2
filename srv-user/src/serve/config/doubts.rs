//! What is wrong with a certificate that can be served all the same: its time, and hosts that it does
//! not name.

use std::time::{Duration, SystemTime};

use rustls::client::verify_server_name;
use rustls::pki_types::ServerName;
use rustls::server::ParsedCertificate;
use x509_cert::der::Decode as _;

use super::identity::Identity;
use super::sites::HostPattern;

/// If a certificate is valid for less than this, srv says so.
const SOON: Duration = Duration::from_secs(14 * DAY_S);
const DAY_S: u64 = 24 * 60 * 60;

/// Says if the certificate is not valid at `now`, or soon will not be.
pub(super) fn of_time(identity: &Identity, now: SystemTime) -> Option<String> {
    let place = identity.certificate.display();
    let chain = identity.certificates().ok()?;
    let certificate = x509_cert::Certificate::from_der(chain.first()?).ok()?;
    let validity = certificate.tbs_certificate.validity;
    let (begins, ends) = (
        validity.not_before.to_system_time(),
        validity.not_after.to_system_time(),
    );
    let remedy = "renew it: srv takes over the new files by itself";
    if now < begins {
        let begins = humantime::format_rfc3339_seconds(begins);
        return Some(format!(
            "certificate {place} is valid from {begins} on only: look at this machine's clock"
        ));
    }
    let until = humantime::format_rfc3339_seconds(ends);
    match ends.duration_since(now) {
        Err(_) => Some(format!(
            "certificate {place} has expired at {until}: {remedy}"
        )),
        Ok(left) if left < SOON => Some(format!(
            "certificate {place} expires at {until}, in {} days: {remedy}",
            left.as_secs() / DAY_S
        )),
        Ok(_) => None,
    }
}

/// Says which of these hosts the certificate is not for.
pub(super) fn of_hosts(identity: &Identity, hosts: &[HostPattern]) -> Option<String> {
    let place = identity.certificate.display();
    let chain = identity.certificates().ok()?;
    let certificate = ParsedCertificate::try_from(chain.first()?).ok()?;
    let is_missing = |host: &&HostPattern| {
        let name = match host {
            HostPattern::Exact(name) => name.trim_matches(['[', ']']).to_owned(),
            // The name of some host beneath it.
            HostPattern::Beneath(name) => format!("a.{name}"),
        };
        let name = ServerName::try_from(name);
        name.is_ok_and(|name| verify_server_name(&certificate, &name).is_err())
    };
    let missing: Vec<String> = hosts
        .iter()
        .filter(is_missing)
        .map(ToString::to_string)
        .collect();
    (!missing.is_empty()).then(|| {
        format!(
            "certificate {place} does not name {}: clients that ask for that refuse it; have \
             it made for all hosts of its site",
            missing.join(", ")
        )
    })
}
