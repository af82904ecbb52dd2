//! Which certificate a client gets, and that a session is for the hosts of its certificate alone.

use std::process::Command;
use std::sync::Arc;

use srv_tests::server::binary;

use super::fixture::{Https, put};

const THREE: &str = "listen = [{ address = \"127.0.0.1:0\", tls = true }]\nworkers = 2\n\
    [[site]]\nhosts = [\"one.test\"]\nroot = \"one\"\n\
    [site.tls]\ncertificate = \"one.pem\"\nkey = \"one.key\"\n\
    [[site]]\nhosts = [\"*.two.test\"]\nroot = \"two\"\n\
    [site.tls]\ncertificate = \"two.pem\"\nkey = \"two.key\"\n\
    [[site]]\nhosts = [\"other.test\"]\ndefault = true\nroot = \"three\"\n\
    [site.tls]\ncertificate = \"three.pem\"\nkey = \"three.key\"\n";
const FILES: [(&str, &[u8]); 3] = [
    ("one/index.html", b"<p>one"),
    ("two/index.html", b"<p>two"),
    ("three/index.html", b"<p>three"),
];
const CERTIFICATES: [(&str, &[&str]); 3] = [
    ("one", &["one.test"]),
    ("two", &["*.two.test"]),
    ("three", &["other.test", "unknown.test", "127.0.0.1"]),
];

fn start() -> Https {
    Https::start(THREE, &FILES, &CERTIFICATES, &[])
}

#[test]
fn each_site_has_its_certificate() {
    let served = start();
    let config = Arc::new(served.authority.client());
    // The client verifies that the certificate is the name's. An address is no name of SNI.
    for (name, page) in [
        ("one.test", "<p>one"),
        ("a.two.test", "<p>two"),
        ("other.test", "<p>three"),
        ("unknown.test", "<p>three"),
        ("127.0.0.1", "<p>three"),
    ] {
        // The second is answered without hyper.
        for _ in 0..2 {
            let mut client = served.connect(&config, name);
            let answer = client.get(name, "/").unwrap();
            assert!(answer.contains(page), "{name}: {answer}");
        }
    }
    let mut other = served.connect(&config, "two.test");
    let error = other.get("two.test", "/").unwrap_err().to_string();
    assert!(error.contains("not valid for name"), "{error}");
}

#[test]
fn a_session_is_for_the_hosts_of_its_certificate_alone() {
    let served = start();
    let config = Arc::new(served.authority.client());
    for (name, host, status) in [
        ("one.test", "one.test", 200),
        ("one.test", "ONE.test:443", 200),
        ("a.two.test", "b.two.test", 200),
        ("one.test", "a.two.test", 421),
        ("a.two.test", "one.test", 421),
        ("one.test", "other.test", 421),
        ("127.0.0.1", "one.test", 421),
        ("127.0.0.1", "other.test", 200),
    ] {
        for _ in 0..3 {
            let answer = served.connect(&config, name).get(host, "/").unwrap();
            let expected = format!("HTTP/1.1 {status} ");
            assert!(answer.starts_with(&expected), "{name}, {host}: {answer}");
        }
    }
}

/// What is changed in the file and to what, what `srv check` says then, and whether it refuses the file.
const CHECKED: [(&str, &str, &str, bool); 12] = [
    ("one.key", "two.key", "7:15: use certificate", true),
    (
        "one.key",
        "two.key",
        "the key is another certificate's",
        true,
    ),
    (
        "\"one.key\"",
        "\"one.pem\"",
        "expected a private key in PEM",
        true,
    ),
    (
        "\"one.pem\"",
        "\"no.pem\"",
        "no section `-----BEGIN CERTIFICATE-----`",
        true,
    ),
    (
        "\"one.pem\"",
        "\"gone.pem\"",
        "gone.pem: No such file",
        true,
    ),
    ("tls = true", "tls = false", "and no address with TLS", true),
    (
        "key = \"one.key\"",
        "client-ca = \"no.pem\"",
        "missing field `key`",
        true,
    ),
    (
        "one.key\"",
        "one.key\"\nclient-ca = \"no.pem\"",
        "9:13: read client-ca",
        true,
    ),
    (
        "one.key\"",
        "one.key\"\nclient-certificate = \"required\"",
        "expected client-ca",
        true,
    ),
    (
        "hosts = [\"one.test\"]",
        "hosts = [\"one.test\", \"x.test\"]",
        "does not name x.test:",
        false,
    ),
    (
        "one.pem\"\nkey = \"one.key",
        "old.pem\"\nkey = \"old.key",
        "has expired at ",
        false,
    ),
    (
        "one.pem\"\nkey = \"one.key",
        "late.pem\"\nkey = \"late.key",
        ", in 2 days: renew",
        false,
    ),
];

#[test]
fn a_file_with_certificates_is_checked() {
    let served = start();
    let folder = served.path("");
    let check = |text: &str| {
        std::fs::write(folder.join("other.toml"), text).unwrap();
        let mut command = Command::new(binary().unwrap());
        command
            .args(["check", "--config"])
            .arg(folder.join("other.toml"));
        let output = command.output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        (said, output.status.success())
    };
    let (said, is_valid) = check(THREE);
    assert!(is_valid, "{said}");
    assert_eq!(said, "");
    std::fs::write(folder.join("no.pem"), "none").unwrap();
    put(
        &folder,
        "old",
        &served.authority.certify_until(&["one.test"], -1),
    );
    put(
        &folder,
        "late",
        &served.authority.certify_until(&["one.test"], 3),
    );
    for (from, to, expected, refused) in CHECKED {
        let (said, is_valid) = check(&THREE.replace(from, to));
        assert!(said.contains(expected), "{to}: {said}");
        assert_eq!(is_valid, !refused, "{to}: {said}");
    }
}
