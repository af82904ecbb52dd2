//! Certificates change while clients come: by a reload, and by a change of their files.

use std::fs;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use rustls::ClientConfig;
use rustls::client::Resumption;

use super::fixture::{Https, Https1, put};
use crate::probe::{group, until};

const TWO: &str = "listen = [{ address = \"127.0.0.1:0\", tls = true }]\nworkers = 2\n\
    [[site]]\nhosts = [\"one.test\"]\nroot = \"one\"\n\
    [site.tls]\ncertificate = \"one.pem\"\nkey = \"one.key\"\n\
    [[site]]\nhosts = [\"two.test\"]\nroot = \"two\"\n\
    [site.tls]\ncertificate = \"two.pem\"\nkey = \"two.key\"\n";

fn start() -> Https {
    let files: [(&str, &[u8]); 2] = [("one/index.html", b"<p>one"), ("two/index.html", b"<p>two")];
    let certificates: [(&str, &[&str]); 2] = [("one", &["one.test"]), ("two", &["two.test"])];
    Https::start(TWO, &files, &certificates, &[])
}

/// A client that makes a whole handshake each time.
fn client(served: &Https) -> Arc<ClientConfig> {
    let mut config = served.authority.client();
    config.resumption = Resumption::disabled();
    Arc::new(config)
}

/// The certificate that a client gets, and whether its request was answered.
fn certificate(address: SocketAddr, config: &Arc<ClientConfig>, name: &str) -> Vec<u8> {
    let mut client = Https1::connect(address, config, name);
    let answer = client.get(name, "/").unwrap();
    let page = format!("<p>{}", name.trim_end_matches(".test"));
    assert!(answer.ends_with(&page), "{answer}");
    client.0.conn.peer_certificates().unwrap()[0].to_vec()
}

#[test]
fn certificates_change_under_load_without_loss() {
    let served = start();
    let (config, address) = (client(&served), served.address());
    let (is_over, answered) = (AtomicBool::new(false), AtomicU32::new(0));
    let before = group(&served.server).workers;
    std::thread::scope(|scope| {
        for name in ["one.test", "two.test"] {
            let (config, is_over, answered) = (&config, &is_over, &answered);
            scope.spawn(move || {
                while !is_over.load(Ordering::Relaxed) {
                    certificate(address, config, name);
                    answered.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        // By the files alone: the key and then the certificate, as a renewal may do it.
        let old = certificate(address, &config, "one.test");
        put(
            &served.path(""),
            "one",
            &served.authority.certify(&["one.test"]),
        );
        until("the new certificate is served", || {
            (certificate(address, &config, "one.test") != old).then_some(())
        });
        // By a reload, which is over when each worker has it.
        for _ in 0..3 {
            let old = certificate(address, &config, "two.test");
            put(
                &served.path(""),
                "two",
                &served.authority.certify(&["two.test"]),
            );
            let output = served.server.srv(&["reload"]).unwrap();
            assert!(output.status.success(), "{output:?}");
            for _ in 0..4 {
                assert_ne!(certificate(address, &config, "two.test"), old);
            }
        }
        is_over.store(true, Ordering::Relaxed);
    });
    assert!(answered.load(Ordering::Relaxed) > 10);
    // No worker was replaced for that.
    let pids = |workers: &[srv::control::status::WorkerStatus]| -> Vec<_> {
        workers.iter().map(|worker| worker.pid).collect()
    };
    assert_eq!(pids(&group(&served.server).workers), pids(&before));
}

#[test]
fn a_broken_certificate_changes_nothing_and_is_said() {
    let mut served = start();
    let (config, address) = (client(&served), served.address());
    let old = certificate(address, &config, "one.test");
    fs::write(served.path("one.pem"), "none").unwrap();
    let child = served.server.child();
    let line = child.await_line("cannot be used").unwrap();
    assert!(
        line.contains("one.pem") && line.contains("the old one is still served"),
        "{line}"
    );
    assert_eq!(certificate(address, &config, "one.test"), old);
    let output = served.server.srv(&["reload"]).unwrap();
    assert!(!output.status.success());
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains("srv.toml:7:15: read certificate "), "{said}");
    assert_eq!(certificate(address, &config, "one.test"), old);
    // The next one that is whole is taken.
    put(
        &served.path(""),
        "one",
        &served.authority.certify(&["one.test"]),
    );
    until("the new certificate is served", || {
        (certificate(address, &config, "one.test") != old).then_some(())
    });
}
