//! `srv load` and https: python's server with a certificate that it signed itself.

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

use srv_tests::server::binary;
use tempfile::TempDir;

use crate::gate;
use crate::load::{figures, load, refusal};
use crate::load_shapes::curl;
use crate::serve::serve;

/// Answers in chunks, and a POST after a `100 Continue` if that is asked for.
const SERVER: &str = r#"
import http.server, ssl, sys

class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def do_GET(self):
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for part in [b"hello ", b"world" * 10000]:
            self.wfile.write(b"%x\r\n%s\r\n" % (len(part), part))
        self.wfile.write(b"0\r\n\r\n")

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(201 if body == b"x" * len(body) else 400)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *args):
        pass

server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(sys.argv[1], sys.argv[2])
if len(sys.argv) > 3:
    context.maximum_version = ssl.TLSVersion.TLSv1_2
# Clients that refuse the certificate are no errors of this server.
server.handle_error = lambda request, address: None
server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
print(server.server_port, flush=True)
server.serve_forever()
"#;

/// Not an authority, so that it can be a server's, and for `localhost` alone.
const CERTIFICATE: &str = "[req]
distinguished_name = name
x509_extensions = extensions
prompt = no
[name]
CN = localhost
[extensions]
basicConstraints = critical, CA:FALSE
subjectAltName = DNS:localhost
";

struct Https {
    process: Child,
    folder: TempDir,
    port: u16,
}

impl Drop for Https {
    fn drop(&mut self) {
        // It has no state; one that has ended already is as good.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Https {
    /// `None` if this machine has no openssl or python.
    fn start(more: &[&str]) -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        let made = make_certificate(folder.path());
        if !gate::can("make a certificate with openssl", made) {
            return None;
        }
        let script = folder.path().join("server.py");
        std::fs::write(&script, SERVER).unwrap();
        let mut command = Command::new("python3");
        command
            .arg(&script)
            .args(["cert.pem", "key.pem"])
            .args(more);
        command.current_dir(folder.path()).stdout(Stdio::piped());
        let started = command.spawn().map_err(|error| error.to_string());
        let can = started.as_ref().map(drop).map_err(Clone::clone);
        if !gate::can("start python3", can) {
            return None;
        }
        let mut process = started.unwrap();
        let mut port = String::new();
        let mut stdout = BufReader::new(process.stdout.take().unwrap());
        stdout.read_line(&mut port).unwrap();
        let port = port.trim().parse().expect("the server's port");
        Some(Self {
            process,
            folder,
            port,
        })
    }

    /// `srv load` that trusts the server's certificate, and nothing else.
    fn load_trusting(&self, url: &str, more: &[&str]) -> Output {
        let mut command = Command::new(binary().unwrap());
        command.env("SSL_CERT_FILE", self.folder.path().join("cert.pem"));
        command.env_remove("SSL_CERT_DIR");
        command.args(["load", url, "--clients", "2", "--requests", "6", "--json"]);
        command.args(more).output().unwrap()
    }
}

fn make_certificate(folder: &Path) -> Result<(), String> {
    std::fs::write(folder.join("config"), CERTIFICATE).unwrap();
    let mut command = Command::new("openssl");
    command.args("req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes".split(' '));
    command.args("-config config -keyout key.pem -out cert.pem -days 2".split(' '));
    let output = command.current_dir(folder).output();
    let output = output.map_err(|error| error.to_string())?;
    match output.status.success() {
        true => Ok(()),
        false => Err(String::from_utf8_lossy(&output.stderr).into_owned()),
    }
}

#[test]
fn a_certificate_is_verified_unless_that_is_not_wanted() {
    let Some(server) = Https::start(&[]) else {
        return;
    };
    let url = format!("https://localhost:{}/", server.port);
    let rule = format!("localhost::127.0.0.1:{}", server.port);
    let to = ["--connect-to", &*rule];
    for kept in [&[][..], &["--keep-alive", "2"]] {
        // Verified, against the certificate that is trusted.
        let output = server.load_trusting(&url, &[&to[..], kept].concat());
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        assert_eq!(figures(&output).answered, 6, "{output:?}");

        // Another name than the certificate's.
        let address = format!("https://127.0.0.1:{}/", server.port);
        let output = server.load_trusting(&address, kept);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(
            said.contains("TLS handshake") && said.contains("use --insecure"),
            "{said}"
        );

        // Anything goes.
        let any = [
            "--clients",
            "2",
            "--requests",
            "6",
            "--json",
            "--insecure",
            &*address,
        ];
        let output = load(any.iter().chain(kept));
        assert_eq!(figures(&output).answered, 6, "{output:?}");
    }
    let cert = server.folder.path().join("cert.pem");
    let cert = cert.to_str().unwrap();
    assert!(curl(&["--cacert", cert, to[0], to[1], &url]));
    assert!(!curl(&[to[0], to[1], &url]));
}

/// Python's server hands out tickets. What comes after the first connections resumes.
#[test]
fn sessions_are_resumed_if_that_is_asked_for() {
    let Some(server) = Https::start(&[]) else {
        return;
    };
    let url = format!("https://127.0.0.1:{}/", server.port);
    let one = [
        "--clients",
        "1",
        "--requests",
        "6",
        "--json",
        "--insecure",
        &*url,
    ];
    assert_eq!(figures(&load(one)).resumed, None);
    let told = figures(&load(one.iter().chain(&["--resume"])));
    assert_eq!((told.answered, told.resumed), (6, Some(5)), "{told:?}");
}

/// Bodies in both directions that fill the sockets' and the session's buffers.
#[test]
fn large_bodies_cross_the_session() {
    for more in [&[][..], &["tls12"]] {
        let Some(server) = Https::start(more) else {
            return;
        };
        let body = server.folder.path().join("body");
        std::fs::write(&body, vec![b'x'; 5_000_000]).unwrap();
        let url = format!("https://127.0.0.1:{}/", server.port);
        let flags = "--clients 2 --requests 6 --json --insecure --success 201".split(' ');
        let flags: Vec<&str> = flags.collect();
        let post = ["--body-file", body.to_str().unwrap(), &*url];
        for way in [
            &[][..],
            &["--keep-alive", "2"],
            &["-H", "Expect: 100-continue"],
        ] {
            let output = load(flags.iter().chain(&post).chain(way));
            let told = figures(&output);
            assert_eq!(told.answered, 6, "{way:?} {output:?}");
            assert_eq!(told.statuses, [(201, 6)].into(), "{told:?}");
        }
    }
}

/// A server that speaks no TLS, and a client that speaks none.
#[test]
fn a_peer_without_tls_is_a_connection_that_did_not_come_about() {
    let plain = serve().workers(1).start();
    let url = format!("https://{}/", plain.address());
    let output = load([
        &url,
        "--clients",
        "1",
        "--requests",
        "2",
        "--json",
        "--insecure",
    ]);
    let told = figures(&output);
    assert_eq!(told.lost.get("connect"), Some(&2), "{told:?}");
    let first = told.first_error.unwrap();
    assert!(first.starts_with("TLS handshake: "), "{first}");
    assert!(first.contains("does the server speak TLS"), "{first}");
}

/// A server that accepts and says nothing does not hold up a run that opens its
/// connections beforehand.
#[test]
fn a_silent_peer_is_given_up_in_time() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("https://{}/", listener.local_addr().unwrap());
    let flags = "--clients 1 --keep-alive 1 --timeout 300ms --insecure".split(' ');
    let said = refusal(flags.chain([&*url]));
    assert!(said.contains("TLS handshake: no answer in time"), "{said}");
}
