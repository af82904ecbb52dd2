//! Requests and responses over TLS: each byte arrives, whatever its client's version and pace.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::process::Command;
use std::sync::Arc;

use rustls::version::{TLS12, TLS13};

use super::fixture::Https;
use crate::gate;

const ONE: &str = "listen = [{ address = \"127.0.0.1:0\", tls = true }]\nworkers = 2\n\
    [limits]\nbody-bytes = \"8MiB\"\n\
    [[site]]\nroot = \"www\"\n[site.tls]\ncertificate = \"a.pem\"\nkey = \"a.key\"\n";

/// Bytes that no two places have in common.
fn large() -> Vec<u8> {
    let words = (0..3_000_000_u32).flat_map(|nth| nth.wrapping_mul(2_654_435_761).to_le_bytes());
    words.collect()
}

fn start(large: &[u8]) -> Https {
    let files = [("www/index.html", &b"<p>one"[..]), ("www/large.bin", large)];
    Https::start(ONE, &files, &[("a", &["localhost", "127.0.0.1"])], &[])
}

#[test]
fn curl_gets_and_puts_over_each_version() {
    let can = Command::new("curl").arg("--version").output();
    if !gate::can("run curl", can.map(drop).map_err(|error| error.to_string())) {
        return;
    }
    let large = large();
    let served = start(&large);
    let url = format!("https://localhost:{}/", served.address().port());
    let curl = |more: &[&str]| {
        let mut command = Command::new("curl");
        command.args(["-sS", "--max-time", "60", "--cacert"]);
        command.arg(served.path("ca.pem")).args(more);
        let output = command.output().unwrap();
        assert!(output.status.success(), "{more:?}: {output:?}");
        output.stdout
    };
    let upload = served.path("upload");
    std::fs::write(&upload, &large[..5 << 20]).unwrap();
    for version in ["1.2", "1.3"] {
        let only = ["--tls-max", version, &format!("--tlsv{version}")];
        let file = format!("{url}large.bin");
        assert_eq!(curl(&[&only[..], &[&file]].concat()), large, "{version}");
        let put = ["-T", upload.to_str().unwrap(), "-w", "%{http_code}", "-o"];
        let put = [&only[..], &put, &["/dev/null", &url]].concat();
        assert_eq!(curl(&put), b"405", "{version}");
    }
    // Without a second handshake.
    let kept = ["-w", "%{num_connects}\n", "-o", "/dev/null", &url];
    let kept = curl(&[&kept[..], &["-o", "/dev/null", &url]].concat());
    assert_eq!(kept, b"1\n0\n");
    let plain = url.replace("https", "http");
    let refused = curl(&["-w", "%{http_code}", &plain]);
    let refused = String::from_utf8(refused).unwrap();
    assert!(
        refused.contains("https URL") && refused.ends_with("400"),
        "{refused}"
    );
}

#[test]
fn pipelined_requests_and_the_end_arrive_whole_by_each_version() {
    let large = large();
    let served = start(&large);
    for version in [&TLS12, &TLS13] {
        let mut config = served.authority.client_of(&[version]);
        config.alpn_protocols = vec![b"unknown".to_vec(), b"http/1.1".to_vec()];
        let mut client = served.connect(&Arc::new(config), "localhost");
        let requests = "GET / HTTP/1.1\r\nHost: localhost\r\n\r\n".repeat(50);
        let answers = client.ask(&format!(
            "{requests}GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
        ));
        // A session that ends without a word, rustls reports as an error.
        let answers = answers.unwrap();
        assert_eq!(answers.matches("HTTP/1.1 200 OK").count(), 51);
        assert_eq!(client.0.conn.alpn_protocol(), Some(&b"http/1.1"[..]));
        assert_eq!(client.0.conn.protocol_version(), Some(version.version));
    }
}

#[test]
fn a_slow_reader_gets_each_byte_while_others_are_served() {
    let large = large();
    let served = start(&large);
    let config = Arc::new(served.authority.client());
    let mut client = served.connect(&config, "localhost");
    let request = "GET /large.bin HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    client.0.write_all(request.as_bytes()).unwrap();
    let mut reader = BufReader::with_capacity(5000, client.0);
    let mut line = String::new();
    while line != "\r\n" {
        line.clear();
        reader.read_line(&mut line).unwrap();
    }
    // Others are served while the socket's buffer is full.
    for _ in 0..20 {
        let mut other = served.connect(&config, "localhost");
        assert!(other.get("localhost", "/").unwrap().contains("<p>one"));
    }
    let mut body = Vec::new();
    reader.read_to_end(&mut body).unwrap();
    assert!(body == large, "{} bytes", body.len());
}

#[test]
fn a_client_that_leaves_without_a_word_has_its_answers() {
    let served = start(b"");
    let config = Arc::new(served.authority.client());
    let mut client = served.connect(&config, "localhost");
    client
        .0
        .write_all(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        .unwrap();
    // The end of the connection without close_notify.
    client.0.sock.shutdown(std::net::Shutdown::Write).unwrap();
    let mut answer = Vec::new();
    client.0.read_to_end(&mut answer).unwrap();
    assert!(answer.ends_with(b"<p>one"));
    let stray = TcpStream::connect(served.address()).unwrap();
    drop(stray);
    let mut next = served.connect(&config, "localhost");
    assert!(next.get("localhost", "/").unwrap().contains("<p>one"));
}
