//! Clients that send garbage, too little or nothing. Others are served meanwhile, and no worker ends.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::TcpStream;
use std::sync::Arc;

use rustls::ClientConnection;
use rustls::pki_types::ServerName;

use super::fixture::Https;
use crate::probe::group;

const ONE: &str = "listen = [{ address = \"127.0.0.1:0\", tls = true }]\nworkers = 1\n\
    [limits]\nheader-timeout = \"500ms\"\n\
    [[site]]\nroot = \"www\"\n[site.tls]\ncertificate = \"a.pem\"\nkey = \"a.key\"\n";

fn start() -> Https {
    let files = [("www/index.html", &b"<p>one"[..])];
    Https::start(ONE, &files, &[("a", &["localhost"])], &[])
}

/// The first message of a client.
fn hello(served: &Https) -> Vec<u8> {
    let name = ServerName::try_from("localhost").unwrap();
    let config = Arc::new(served.authority.client());
    let mut client = ClientConnection::new(config, name).unwrap();
    let mut hello = Vec::new();
    client.write_tls(&mut hello).unwrap();
    hello
}

/// All that the server sends until it ends the connection.
fn until_end(mut stream: &TcpStream) -> Vec<u8> {
    let mut received = Vec::new();
    match stream.read_to_end(&mut received) {
        Ok(_) => {}
        Err(error) => assert_eq!(error.kind(), ErrorKind::ConnectionReset, "{error}"),
    }
    received
}

#[test]
fn garbage_and_halves_harm_no_other_client() {
    let served = start();
    let hello = hello(&served);
    let config = Arc::new(served.authority.client());
    let mut twice = hello.clone();
    twice.extend_from_slice(&hello);
    let mut longer = hello.clone();
    longer[3] = 0xff;
    let half = &hello[..hello.len() / 2];
    let record_of_zero = [22, 3, 1, 0, 0];
    let of_two_parts = [&[22, 3, 1, 0, 4][..], &hello[5..9], &[23, 3, 3, 0, 1, 0]].concat();
    let sent: [&[u8]; 8] = [
        b"\x99 garbage",
        b"\x16\x03\x01\x00\x05garbage and more of it",
        b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
        &twice,
        &longer,
        half,
        &record_of_zero.repeat(100),
        &of_two_parts,
    ];
    for bytes in sent {
        for ends in [false, true] {
            let mut stream = TcpStream::connect(served.address()).unwrap();
            stream.write_all(bytes).unwrap();
            if ends {
                stream.shutdown(std::net::Shutdown::Write).unwrap();
            }
            // At the deadline at the latest.
            until_end(&stream);
            let answer = served.connect(&config, "localhost").get("localhost", "/");
            assert!(answer.unwrap().contains("<p>one"));
        }
    }
    let workers = group(&served.server).workers;
    assert!(
        workers.iter().all(|worker| worker.starts == 1),
        "{workers:?}"
    );
}

#[test]
fn a_client_that_dribbles_its_hello_is_ended_at_the_deadline() {
    let served = start();
    let hello = hello(&served);
    let mut stream = TcpStream::connect(served.address()).unwrap();
    stream.set_nodelay(true).unwrap();
    // One byte after another, as long as the server takes them.
    for byte in hello.iter().take(hello.len() - 1) {
        if stream.write_all(&[*byte]).is_err() {
            break;
        }
    }
    let received = until_end(&stream);
    assert_eq!(received, b"", "no answer without a handshake");
}

#[test]
fn a_hello_in_single_bytes_is_understood() {
    let served = start();
    let name = ServerName::try_from("localhost").unwrap();
    let config = Arc::new(served.authority.client());
    let mut client = ClientConnection::new(config, name).unwrap();
    let mut stream = TcpStream::connect(served.address()).unwrap();
    stream.set_nodelay(true).unwrap();
    let mut hello = Vec::new();
    client.write_tls(&mut hello).unwrap();
    for byte in hello {
        stream.write_all(&[byte]).unwrap();
    }
    let mut session = rustls::StreamOwned::new(client, stream);
    let request = "GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    session.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    session.read_to_string(&mut answer).unwrap();
    assert!(answer.ends_with("<p>one"), "{answer}");
}
