//! Certificates of clients.

use std::sync::Arc;

use super::fixture::{Authority, Https};

const TWO: &str = "listen = [{ address = \"127.0.0.1:0\", tls = true }]\nworkers = 2\n\
    [[site]]\nhosts = [\"open.test\"]\nroot = \"www\"\n\
    [site.tls]\ncertificate = \"open.pem\"\nkey = \"open.key\"\n\
    [[site]]\nhosts = [\"asks.test\"]\nroot = \"www\"\n\
    [site.tls]\ncertificate = \"asks.pem\"\nkey = \"asks.key\"\n\
    client-ca = \"ca.pem\"\nclient-certificate = \"optional\"\n\
    [[site]]\nhosts = [\"closed.test\"]\nroot = \"www\"\n\
    [site.tls]\ncertificate = \"closed.pem\"\nkey = \"closed.key\"\nclient-ca = \"ca.pem\"\n";

#[test]
fn a_site_takes_the_clients_of_its_authority() {
    let files = [("www/index.html", &b"<p>in"[..])];
    let certificates: [(&str, &[&str]); 3] = [
        ("open", &["open.test"]),
        ("asks", &["asks.test"]),
        ("closed", &["closed.test"]),
    ];
    let served = Https::start(TWO, &files, &certificates, &[]);
    let without = Arc::new(served.authority.client());
    let known = Arc::new(
        served
            .authority
            .client_with(&served.authority.certify(&["me"])),
    );
    let stranger = Authority::new().certify(&["me"]);
    let stranger = Arc::new(served.authority.client_with(&stranger));
    for (name, config, is_let_in) in [
        ("open.test", &without, true),
        ("open.test", &stranger, true),
        ("asks.test", &without, true),
        ("asks.test", &known, true),
        ("asks.test", &stranger, false),
        ("closed.test", &known, true),
        ("closed.test", &without, false),
        ("closed.test", &stranger, false),
    ] {
        // The second time, a session that came about is resumed.
        for _ in 0..2 {
            let answer = served.connect(config, name).get(name, "/");
            let is_in = answer.as_ref().is_ok_and(|answer| answer.contains("<p>in"));
            assert_eq!(is_in, is_let_in, "{name}: {answer:?}");
        }
    }
    // A session of a site that is open leads to no other.
    let answer = served
        .connect(&without, "open.test")
        .get("closed.test", "/");
    assert!(answer.unwrap().starts_with("HTTP/1.1 421 "));
}
