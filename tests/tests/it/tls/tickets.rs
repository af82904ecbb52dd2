//! A client resumes its session at whichever worker its next connection comes to.

use std::collections::BTreeSet;
use std::sync::Arc;

use rustls::HandshakeKind;
use rustls::version::{TLS12, TLS13};

use super::fixture::Https;

const EIGHT: &str = "listen = [{ address = \"127.0.0.1:0\", tls = true }]\nworkers = 8\n\
    worker-header = true\n[[site]]\nroot = \"www\"\n\
    [site.tls]\ncertificate = \"a.pem\"\nkey = \"a.key\"\n";

/// How the handshake went, and which worker answered.
fn connect(served: &Https, config: &Arc<rustls::ClientConfig>) -> (HandshakeKind, String) {
    let mut client = served.connect(config, "localhost");
    let answer = client.get("localhost", "/").unwrap();
    let worker = answer
        .lines()
        .find_map(|line| line.strip_prefix("x-worker: "));
    let kind = client.0.conn.handshake_kind().unwrap();
    (kind, worker.expect("an answer names its worker").to_owned())
}

#[test]
fn sessions_are_resumed_at_every_worker_and_after_a_reload() {
    let files = [("www/index.html", &b"<p>one"[..])];
    // Without steering, the kernel's hash spreads one client's connections.
    let served = Https::start(EIGHT, &files, &[("a", &["localhost"])], &["--no-bpf"]);
    for version in [&TLS12, &TLS13] {
        let config = Arc::new(served.authority.client_of(&[version]));
        assert_eq!(connect(&served, &config).0, HandshakeKind::Full);
        let mut workers = BTreeSet::new();
        for nth in 0..20 {
            let (kind, worker) = connect(&served, &config);
            assert_eq!(kind, HandshakeKind::Resumed, "{nth} of {version:?}");
            workers.insert(worker);
        }
        // That all 21 came to one of eight is as good as impossible.
        assert!(workers.len() > 1, "{workers:?}");
        let output = served.server.srv(&["reload"]).unwrap();
        assert!(output.status.success(), "{output:?}");
        assert_eq!(connect(&served, &config).0, HandshakeKind::Resumed);
    }
}
