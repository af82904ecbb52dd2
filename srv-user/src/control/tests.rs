//! Each end of the control socket with a hostile process at the other end.

use std::io;
use std::os::unix::net::UnixListener;
use std::sync::Arc;

use proptest::prelude::*;
use srv_common::Policy;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::mpsc::unbounded_channel;

use super::server::answer;
use super::*;
use crate::attach::table;
use crate::control::status::{group_for_tests, worker_for_tests};
use crate::control::text;
use crate::mutation::{config, mutated};

fn packet(message: &impl Serialize) -> Vec<u8> {
    let mut packet = serde_json::to_vec(message).unwrap();
    packet.push(b'\n');
    packet
}

/// What the master's end replies to a process that sends `bytes`.
async fn said_to(bytes: &[u8]) -> Vec<u8> {
    let (mut mine, theirs) = tokio::net::UnixStream::pair().unwrap();
    let (events, mut questions) = unbounded_channel::<Question>();
    let asking = async {
        // It may have stopped reading: a request has a bound.
        let _ = mine.write_all(bytes).await;
        let _ = mine.shutdown().await;
        let mut said = Vec::new();
        match mine.read_to_end(&mut said).await {
            // It left something unread.
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => {}
            read => drop(read.unwrap()),
        }
        said
    };
    let master = async {
        while let Some(question) = questions.recv().await {
            let done = Reply::Done(format!("{:?}", question.request));
            question.reply.send(done).unwrap();
        }
    };
    let (said, answered, ()) = tokio::join!(asking, answer(theirs, events, Arc::default()), master);
    answered.unwrap();
    said
}

#[test]
fn a_hostile_request_gets_one_reply() {
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    let runtime = runtime.enable_all().build().unwrap();
    let long = Request::Policy(Reported::Unknown("x".repeat(20_000)));
    let seeds = [
        packet(&Request::Status),
        packet(&Request::Sockets),
        packet(&Request::Policy(Reported::Known(PolicyName(Policy::Least)))),
        packet(&Request::Upgrade),
        packet(&Request::Join(Joining::new(
            &crate::serve::config::settings(&crate::serve::config::args::ServeArgs::default())
                .unwrap(),
        ))),
        packet(&long),
    ];
    proptest!(config(), |(bytes in mutated(seeds))| {
        let said = runtime.block_on(said_to(&bytes));
        let reply: Reply = serde_json::from_slice(&said).unwrap();
        let line = bytes.split(|byte| *byte == b'\n').next().unwrap();
        let is_request = serde_json::from_slice::<Request>(line).is_ok() && line.len() <= 16 << 10;
        prop_assert_eq!(matches!(reply, Reply::Done(_)), is_request, "{:?}", reply);
    });
}

fn a_status() -> Status {
    let workers = (0..2).map(worker_for_tests).collect();
    Status {
        listen_drops: 3,
        ..status_for_tests(vec![group_for_tests(workers)])
    }
}

fn a_socket() -> SocketStatus {
    SocketStatus {
        listen: "127.0.0.1:80".parse().unwrap(),
        slot: Some(0),
        server: "nginx".into(),
        inode: 1,
        cookie: 2,
        pid: Some(3),
        fd: Some(4),
        recv_q: 5,
        backlog: 6,
    }
}

const ATTACHED: &str = r#"{"foreign":{"listen":"127.0.0.1:8080","namespace":1,"server":"nginx",
"agent":99,"policy":"least","program":{"attached":true,"why_not":null,"runs":801,"steered":800,
"fallbacks":{"not_syn":1}},"signals":{"live":"no BTF"},"half_open":2,"listeners":[{"slot":0,
"workers":[4712],"owners":3,"steered":800,"sleep":"busy","live":12,"queued":4,"backlog":511,
"connections":13,"inode":31415,"cookie":4097,"fd":5}],"balance":{"connections":{"sum":13,"cv":1.0,
"max_over_mean":2.0},"queued":4,"empty_while_others_queue":1}}}
"#;

/// Asks a server that replies with `bytes`.
fn ask_one_who_says(listener: &UnixListener, path: &Path, bytes: &[u8]) -> anyhow::Result<Reply> {
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let (mut stream, _) = listener.accept().unwrap();
            let mut question = String::new();
            BufReader::new(&stream).read_line(&mut question).unwrap();
            // The process that asked may have read enough and closed the connection.
            let _ = stream.write_all(bytes);
        });
        ask(Some(path), &Request::Status)
    })
}

#[test]
fn a_hostile_reply_is_refused_or_shown() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("control");
    let listener = UnixListener::bind(&path).unwrap();
    let seeds = [
        packet(&Reply::Status(a_status())),
        packet(&Reply::Sockets(vec![a_socket()])),
        packet(&Reply::Done("policy: least".into())),
        packet(&Reply::Refused("no".into())),
        packet(&serde_json::from_str::<Reply>(ATTACHED).unwrap()),
    ];
    // Digits to be spliced in.
    let seeds = seeds.into_iter().chain([u64::MAX.to_string().into_bytes()]);
    proptest!(config(), |(bytes in mutated(seeds))| {
        let reply = ask_one_who_says(&listener, &path, &bytes);
        if let Ok(reply) = reply {
            prop_assert!(bytes.contains(&b'\n'), "half a reply is none");
            match reply {
                Reply::Status(status) => drop(text::status(&status)),
                Reply::Attached(status) => drop(table::group(&status)),
                Reply::Sockets(sockets) => drop(text::sockets(&sockets)),
                Reply::Done(_) | Reply::Refused(_) | Reply::Joined(_) => {}
            }
        }
    });
}

#[test]
fn a_reply_without_end_is_given_up() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("control");
    let listener = UnixListener::bind(&path).unwrap();
    let endless = vec![b' '; 17 << 20];
    let error = ask_one_who_says(&listener, &path, &endless).unwrap_err();
    assert!(format!("{error:#}").contains("in the middle"), "{error:#}");
}

#[test]
fn a_server_that_does_not_answer_is_reported_as_that() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("control");
    let _listener = UnixListener::bind(&path).unwrap();
    let error = ask(Some(&path), &Request::Status).unwrap_err();
    assert!(
        format!("{error:#}").contains("has not answered within"),
        "{error:#}"
    );
}
