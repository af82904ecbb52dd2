//! A session on a real socket with a client of rustls: any bytes of the client end in an answer or an
//! end, whatever their pieces, and an idle session keeps no buffer.

use std::io::{IoSlice, Read as _, Write as _};
use std::mem::MaybeUninit;
use std::os::unix::net::UnixStream;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;

use proptest::prelude::*;
use proptest::sample::Index;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection};
use srv_steer::Incoming;

use super::*;
use crate::mutation::config;
use crate::serve::config::Serving;
use crate::serve::config::identity::{Identity, provider};
use crate::serve::config::tls::Tls;
use crate::serve::worker::stream::Socket;

/// A server's acceptor, and a client's configuration that trusts it.
fn both() -> (Rc<Acceptor>, Arc<ClientConfig>) {
    let folder = tempfile::tempdir().unwrap();
    let [certificate, key] = ["a.pem", "a.key"].map(|name| folder.path().join(name));
    let pair = rcgen::KeyPair::generate().unwrap();
    let made = rcgen::CertificateParams::new(vec!["a.test".into()]).unwrap();
    let made = made.self_signed(&pair).unwrap();
    std::fs::write(&certificate, made.pem()).unwrap();
    std::fs::write(&key, pair.serialize_pem()).unwrap();
    let serving = Serving {
        https: vec![true],
        tls: Some(Tls {
            identity: Identity::read(&certificate, &key).unwrap(),
            clients: None,
        }),
        ..Serving::default()
    };
    let mut acceptors = Acceptor::all(&serving, &Keys::default()).unwrap();
    let mut roots = rustls::RootCertStore::empty();
    roots.add(made.der().clone()).unwrap();
    let client = ClientConfig::builder_with_provider(provider());
    let client = client.with_safe_default_protocol_versions().unwrap();
    let client = client.with_root_certificates(roots).with_no_client_auth();
    (acceptors.remove(0).unwrap(), Arc::new(client))
}

/// A socket with a session, and the client's end.
fn connect(acceptor: &Acceptor) -> (Socket, UnixStream) {
    let (client, server) = UnixStream::pair().unwrap();
    server.set_nonblocking(true).unwrap();
    client.set_nonblocking(true).unwrap();
    let incoming = Incoming {
        socket: server.into(),
        client: None,
        accept_delay_ns: None,
        group: 0,
    };
    (Socket::new(incoming, Some(acceptor.session())), client)
}

/// What the server does at an event: the handshake, then it sends back what it reads. False: the
/// session is over.
fn echo(socket: &Socket, unwritten: &mut Vec<u8>) -> bool {
    socket.readable.set(true);
    socket.turn.begin(u64::MAX / 2);
    let mut tls = socket.tls().unwrap().borrow_mut();
    match tls.poll_handshake(socket.tcp()) {
        Poll::Pending => return true,
        Poll::Ready(Err(_)) => return false,
        Poll::Ready(Ok(())) => drop(tls),
    }
    let mut room = [MaybeUninit::uninit(); 100];
    loop {
        // A turn is bounded; here each read has its own.
        socket.turn.begin(u64::MAX / 2);
        while !unwritten.is_empty() {
            match socket.poll_write(&[IoSlice::new(unwritten)]) {
                Poll::Pending => return true,
                Poll::Ready(Err(_)) => return false,
                Poll::Ready(Ok(written)) => drop(unwritten.drain(..written)),
            }
        }
        let bytes = match socket.poll_bytes(&mut room) {
            Poll::Pending => return true,
            Poll::Ready(Ok([]) | Err(_)) => return false,
            Poll::Ready(Ok(bytes)) => bytes,
        };
        unwritten.extend_from_slice(bytes);
    }
}

/// Exchanges what there is until nothing moves. `change` makes the bytes that the client sends.
fn exchange(
    socket: &Socket,
    end: &mut UnixStream,
    client: &mut ClientConnection,
    mut change: impl FnMut(&mut Vec<u8>),
) -> Vec<u8> {
    let (mut received, mut unwritten) = (Vec::new(), Vec::new());
    loop {
        let mut sent = Vec::new();
        while client.wants_write() {
            client.write_tls(&mut sent).unwrap();
        }
        change(&mut sent);
        let _ = end.write_all(&sent);
        let goes_on = echo(socket, &mut unwritten);
        let mut answer = Vec::new();
        let _ = end.read_to_end(&mut answer);
        let is_still = sent.is_empty() && answer.is_empty();
        let mut answer = &answer[..];
        while !answer.is_empty() && client.read_tls(&mut answer).is_ok() {
            if client.process_new_packets().is_err() {
                return received;
            }
            let _ = client.reader().read_to_end(&mut received);
        }
        if is_still || !goes_on {
            return received;
        }
    }
}

fn client(config: &Arc<ClientConfig>) -> ClientConnection {
    let name = ServerName::try_from("a.test").unwrap();
    ClientConnection::new(config.clone(), name).unwrap()
}

#[test]
fn an_idle_session_keeps_no_buffer() {
    let (acceptor, config) = both();
    let (socket, mut end) = connect(&acceptor);
    let mut client = client(&config);
    client.writer().write_all(b"ping").unwrap();
    for _ in 0..3 {
        let received = exchange(&socket, &mut end, &mut client, |_| {});
        assert_eq!(received, b"ping");
        assert_eq!(socket.tls().unwrap().borrow().kept_bytes(), 0);
        client.writer().write_all(b"ping").unwrap();
    }
}

#[test]
fn any_bytes_in_any_pieces_end_in_an_answer_or_an_end() {
    let (acceptor, client_config) = both();
    let pieces = prop::collection::vec((1..2000_usize, any::<Option<(Index, u8)>>()), 1..6);
    let input = (pieces, prop::collection::vec(any::<u8>(), 0..40_000));
    proptest!(config(), |((changes, said) in input)| {
        let (socket, mut end) = connect(&acceptor);
        let mut client = client(&client_config);
        let _ = client.writer().write_all(&said);
        let mut changes = changes.into_iter();
        let mut is_changed = false;
        let received = exchange(&socket, &mut end, &mut client, |sent| {
            let Some((_, Some((at, bits)))) = changes.next() else { return };
            if !sent.is_empty() && bits != 0 {
                let at = at.index(sent.len());
                sent[at] ^= bits;
                is_changed = true;
            }
        });
        if !is_changed {
            prop_assert_eq!(received.len(), said.len());
            prop_assert!(received == said);
        } else {
            prop_assert!(said.starts_with(&received));
        }
        // Whatever became of the session, its last calls are harmless.
        socket.send_last(b"the last answer");
        socket.announce_end();
    });
}
