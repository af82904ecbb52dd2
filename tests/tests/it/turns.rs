//! A connection that is always ready lets others have their turn. What is compared is
//! the order of answers, never a time: what others would have to wait for takes ten
//! seconds and more.

use std::io::{ErrorKind, Read as _};

use srv_tests::server::Server;

use crate::client::{Client, get};
use crate::serve::serve;

const PIPELINED: usize = 500;

fn start() -> Server {
    serve().workers(1).synthetic().start()
}

/// Sends so many requests at once, each of which blocks the worker for so long.
fn pipeline(server: &Server, requests: usize, sleep_us: u32) -> Client {
    let mut client = Client::connect(server.address());
    let request = format!("GET /work?sleep_us={sleep_us} HTTP/1.1\r\nHost: a\r\n\r\n");
    client.send(request.repeat(requests));
    client
}

/// How many answers of no body have arrived and were not read yet.
fn arrived(client: &Client) -> usize {
    let mut stream = client.stream();
    stream.set_nonblocking(true).unwrap();
    let mut bytes = Vec::new();
    match stream.read_to_end(&mut bytes) {
        Err(error) if error.kind() == ErrorKind::WouldBlock => {}
        ended => panic!("the connection goes on, not: {ended:?}"),
    }
    stream.set_nonblocking(false).unwrap();
    String::from_utf8_lossy(&bytes).matches("\r\n\r\n").count()
}

#[test]
fn who_pipelines_lets_others_in() {
    let server = start();
    let mut kept = Client::connect(server.address());
    kept.get("/");
    assert_eq!(kept.response().status(), 200);
    let mut greedy = pipeline(&server, PIPELINED, 20_000);
    assert_eq!(greedy.response().status(), 200, "it has begun");
    kept.get("/");
    assert_eq!(kept.response().status(), 200);
    assert_eq!(get(server.address(), "/").status(), 200, "a new connection");
    let answered = 1 + arrived(&greedy);
    assert!(
        answered < PIPELINED,
        "others were answered after all {PIPELINED}"
    );
}

#[test]
fn those_who_pipeline_share_the_worker() {
    let server = start();
    let mut greedy: Vec<_> = (0..3).map(|_| pipeline(&server, 300, 5_000)).collect();
    for _ in 0..40 {
        assert_eq!(greedy[0].response().status(), 200);
    }
    for other in &greedy[1..] {
        let answered = arrived(other);
        assert!(answered >= 20, "{answered} of another's while one had 40");
    }
}

/// All of them, in order, although each turn ends somewhere within.
#[test]
fn pipelined_responses_of_many_turns_arrive_as_they_are() {
    let server = start();
    let mut client = Client::connect(server.address());
    for _ in 0..40 {
        client.send("GET /work?bytes=300001 HTTP/1.1\r\nHost: a\r\n\r\n");
        client.send("POST /work?bytes=1 HTTP/1.1\r\nHost: a\r\nContent-Length: 300000\r\n\r\n");
        let body = vec![b'x'; 300_000];
        std::thread::scope(|scope| {
            let mut stream = client.stream();
            scope.spawn(move || std::io::Write::write_all(&mut stream, &body).unwrap());
        });
        assert_eq!(client.response().body.len(), 300_001);
        assert_eq!(client.response().body.len(), 1);
    }
}
