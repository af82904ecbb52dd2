//! Responses of every shape: what curl accepts is a success for `srv load`, and
//! what curl refuses is none. A server of the test's own answers both.

use std::io::{ErrorKind, Write as _};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::process::{Command, Output};
use std::sync::Arc;

use srv_tests::nginx::{self, Content, Nginx};

use crate::gate;
use crate::load::{figures, load};

/// The same for curl and `srv load`, s. Only shapes that the server leaves open
/// without an end take that long.
const PATIENCE_S: &str = "5";

/// A response, in the pieces in which it is sent.
struct Shape {
    name: &'static str,
    pieces: Vec<Vec<u8>>,
    /// Whether the server then closes the connection. Where a response is complete
    /// before that, the next request on the connection may arrive before the close
    /// and be lost, so that such a response must stay open.
    closes: bool,
}

fn shape(name: &'static str, bytes: impl AsRef<[u8]>, closes: bool) -> Shape {
    Shape {
        name,
        pieces: vec![bytes.as_ref().to_vec()],
        closes,
    }
}

const OK: &str = "HTTP/1.1 200 OK\r\n";
const CHUNKED: &str = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
const HELLO: &str = "Content-Length: 5\r\n\r\nhello";

/// Shapes that a server's answer comes in; curl accepts each.
fn accepted() -> Vec<Shape> {
    let mut shapes = interim_and_chunked();
    shapes.extend(statuses_and_lengths());
    shapes.extend(unusual_heads());
    shapes
}

fn interim_and_chunked() -> Vec<Shape> {
    let bytes = |text: &str| text.bytes().map(|byte| vec![byte]).collect();
    let after = |interim: &str| format!("HTTP/1.1 {interim}\r\n\r\n{OK}{HELLO}");
    vec![
        shape("a length", format!("{OK}{HELLO}"), false),
        shape("100 before it", after("100 Continue"), false),
        shape("102 before it", after("102 Processing"), false),
        shape(
            "103 twice before it",
            format!(
                "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n{}",
                after("103 Early Hints")
            ),
            false,
        ),
        Shape {
            name: "103 and the rest in pieces",
            pieces: bytes(&after("103 Early Hints")),
            closes: false,
        },
        shape("chunks", format!("{CHUNKED}5\r\nhello\r\n0\r\n\r\n"), false),
        shape(
            "chunks with extensions and trailers",
            format!("{CHUNKED}5;a=b\r\nhello\r\n00000\r\nX: y\r\nZ: z\r\n\r\n"),
            false,
        ),
        shape(
            "chunks and LF alone",
            format!("{CHUNKED}5\nhello\n0\n\n"),
            false,
        ),
        Shape {
            name: "chunks in pieces",
            pieces: bytes(&format!("{CHUNKED}A\r\n0123456789\r\n0\r\n\r\n")),
            closes: false,
        },
    ]
}

fn statuses_and_lengths() -> Vec<Shape> {
    vec![
        shape("201", format!("HTTP/1.1 201 Created\r\n{HELLO}"), false),
        shape(
            "202 in chunks",
            CHUNKED.replace("200 OK", "202 Accepted") + "0\r\n\r\n",
            false,
        ),
        shape("204", "HTTP/1.1 204 No Content\r\n\r\n", false),
        shape(
            "206",
            format!("HTTP/1.1 206 Partial Content\r\n{HELLO}"),
            false,
        ),
        shape(
            "301",
            format!("HTTP/1.1 301 Moved\r\nLocation: /\r\n{HELLO}"),
            false,
        ),
        shape(
            "304 with a length",
            "HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n",
            false,
        ),
        shape("until the end", format!("{OK}\r\nhello"), true),
        shape(
            "HTTP/1.0 until the end",
            "HTTP/1.0 200 OK\r\n\r\nhello",
            true,
        ),
        shape(
            "an identity coding",
            format!("{OK}Transfer-Encoding: identity\r\n\r\nhello"),
            true,
        ),
        shape(
            "chunks beside a length",
            CHUNKED.replace("\r\n\r\n", "\r\nContent-Length: 3\r\n\r\n")
                + "5\r\nhello\r\n0\r\n\r\n",
            false,
        ),
        shape(
            "a gzip that stays packed",
            format!("{OK}Content-Encoding: gzip\r\n{HELLO}"),
            false,
        ),
        shape(
            "a length twice",
            format!("{OK}Content-Length: 5\r\n{HELLO}"),
            false,
        ),
        shape(
            "a list of lengths",
            format!("{OK}Content-Length: 5, 5\r\n\r\nhello"),
            false,
        ),
    ]
}

fn unusual_heads() -> Vec<Shape> {
    let fields = |count| "X-Field: value\r\n".repeat(count);
    vec![
        shape("42 fields", format!("{OK}{}{HELLO}", fields(42)), false),
        shape("1000 fields", format!("{OK}{}{HELLO}", fields(1000)), false),
        shape(
            "a field of 60 kB",
            format!("{OK}X: {}\r\n{HELLO}", "x".repeat(60_000)),
            false,
        ),
        shape(
            "a stranger's X-Worker",
            format!("{OK}X-Worker: web-1\r\n{HELLO}"),
            false,
        ),
        shape("no reason", format!("HTTP/1.1 200\r\n{HELLO}"), false),
        shape("two spaces", format!("HTTP/1.1  200 OK\r\n{HELLO}"), false),
        shape(
            "LF alone",
            format!("{OK}{HELLO}").replace("\r\n", "\n"),
            false,
        ),
        shape(
            "a folded field",
            format!("{OK}X: a\r\n b\r\n{HELLO}"),
            false,
        ),
        shape(
            "a space before the colon",
            format!("{OK}X : a\r\n{HELLO}"),
            false,
        ),
        shape(
            "fields that are none",
            format!("{OK}: x\r\nX Y: z\r\nX: \u{1}\r\n{HELLO}"),
            false,
        ),
        shape(
            "a field that is not ASCII",
            [OK.as_bytes(), b"X: \xe4\xf6\r\n", HELLO.as_bytes()].concat(),
            false,
        ),
        shape(
            "more than its length",
            format!("{OK}{HELLO} and more"),
            true,
        ),
    ]
}

/// Shapes that curl refuses.
fn refused() -> Vec<Shape> {
    vec![
        shape("404", format!("HTTP/1.1 404 Not Found\r\n{HELLO}"), false),
        shape(
            "500 in chunks",
            CHUNKED.replace("200 OK", "500 Oh") + "0\r\n\r\n",
            false,
        ),
        shape("nothing", "", true),
        shape(
            "less than its length",
            format!("{OK}Content-Length: 9\r\n\r\nhello"),
            true,
        ),
        shape(
            "chunks without an end",
            format!("{CHUNKED}5\r\nhello\r\n"),
            true,
        ),
        shape("half a chunk", format!("{CHUNKED}5\r\nhel"), true),
        shape(
            "a chunk that is longer",
            format!("{CHUNKED}2\r\nhello\r\n0\r\n\r\n"),
            true,
        ),
        shape(
            "a chunk without a size",
            format!("{CHUNKED}hello\r\n0\r\n\r\n"),
            true,
        ),
        shape(
            "a length that is none",
            format!("{OK}Content-Length: many\r\n\r\n"),
            true,
        ),
        shape("HTTP/1.2", format!("HTTP/1.2 200 OK\r\n{HELLO}"), true),
        shape("another protocol", "SSH-2.0-OpenSSH_9.2\r\n\r\n", true),
        shape("no status", format!("HTTP/1.1 OK\r\n{HELLO}"), true),
        shape("only 103", "HTTP/1.1 103 Early Hints\r\n\r\n", true),
    ]
}

/// Shapes that curl accepts and that are lost nevertheless: the answer was cut off.
fn cut_off() -> Vec<Shape> {
    vec![shape("half a head", "HTTP/1.1 200 OK\r\nContent", true)]
}

/// Answers `GET /N` with shape N.
fn serve(shapes: Vec<Shape>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let shapes = Arc::new(shapes);
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let (mut stream, shapes) = (stream.unwrap(), Arc::clone(&shapes));
            // A client that goes away early ends its own thread only.
            std::thread::spawn(move || answer(&mut stream, &shapes));
        }
    });
    address
}

fn answer(stream: &mut TcpStream, shapes: &[Shape]) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    loop {
        let request = head(stream)?;
        let number = request.split([' ', '/']).nth(2).unwrap_or_default();
        let shape = &shapes[number.parse::<usize>().map_err(std::io::Error::other)?];
        for piece in &shape.pieces {
            stream.write_all(piece)?;
        }
        if shape.closes {
            return Ok(());
        }
    }
}

/// A request's head.
pub(crate) fn head(stream: &mut impl std::io::Read) -> std::io::Result<String> {
    let mut request = Vec::new();
    let mut byte = [0];
    while !request.ends_with(b"\r\n\r\n") {
        if stream.read(&mut byte)? == 0 {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        request.push(byte[0]);
    }
    Ok(String::from_utf8_lossy(&request).into_owned())
}

/// Whether curl is content: with the answer, and with its status.
pub(crate) fn curl(arguments: &[&str]) -> bool {
    let mut command = Command::new("curl");
    command.args(["--silent", "--fail", "--max-time", PATIENCE_S]);
    command.args(["--output", "/dev/null"]).args(arguments);
    command
        .output()
        .expect("curl is installed")
        .status
        .success()
}

fn get(url: &str, more: &[&str]) -> Output {
    let timeout = format!("{PATIENCE_S}s");
    let arguments = ["--clients", "1", "--json", "--timeout", &timeout, url];
    load(arguments.iter().chain(more))
}

/// Whether `srv load` counts both requests as answered: on a connection each, and
/// on a kept one.
fn answered(url: &str, more: &[&str]) -> Vec<bool> {
    let ways: [&[&str]; 2] = [
        &["--requests", "1"],
        &["--requests", "2", "--keep-alive", "1"],
    ];
    let is_answered = |way: &&[&str]| {
        let output = get(url, &[*way, more].concat());
        let figures = figures(&output);
        assert!(figures.unsent.is_empty(), "{figures:?}");
        figures.answered == figures.requests
    };
    ways.iter().map(is_answered).collect()
}

#[test]
fn what_curl_accepts_is_a_success_and_nothing_else_is() {
    let (mut shapes, expected) = (accepted(), accepted().len());
    shapes.extend(refused());
    let names: Vec<_> = shapes.iter().map(|shape| shape.name).collect();
    let address = serve(shapes);
    let mut wrong = Vec::new();
    for (number, name) in names.into_iter().enumerate() {
        let url = format!("http://{address}/{number}");
        let is_accepted = curl(&[&url]);
        assert_eq!(is_accepted, number < expected, "curl: {name}");
        let answered = answered(&url, &[]);
        if answered.iter().any(|answered| *answered != is_accepted) {
            wrong.push(format!("{name}: curl {is_accepted}, srv load {answered:?}"));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn an_answer_that_was_cut_off_in_its_head_is_lost() {
    let url = format!("http://{}/0", serve(cut_off()));
    assert_eq!(answered(&url, &[]), [false, false]);
}

/// The answer to a HEAD ends with its head, whatever length that announces.
#[test]
fn a_head_request_has_no_body() {
    let shapes = vec![
        shape("a length", format!("{OK}Content-Length: 5\r\n\r\n"), false),
        shape("chunks", CHUNKED, false),
        shape("neither", format!("{OK}\r\n"), false),
    ];
    let count = shapes.len();
    let address = serve(shapes);
    for number in 0..count {
        let url = format!("http://{address}/{number}");
        assert!(curl(&["--head", &url]), "shape {number}");
        assert_eq!(
            answered(&url, &["--method", "HEAD"]),
            [true, true],
            "shape {number}"
        );
    }
}

#[test]
fn what_counts_as_a_success_can_be_said() {
    let shapes = vec![shape(
        "404",
        format!("HTTP/1.1 404 Not Found\r\n{HELLO}"),
        false,
    )];
    let url = format!("http://{}/0", serve(shapes));
    let lost = get(&url, &["--requests", "3"]);
    assert_eq!(lost.status.code(), Some(1), "{lost:?}");
    let told = figures(&lost);
    assert_eq!(told.lost.get("status"), Some(&3), "{told:?}");
    assert_eq!(told.statuses.get(&404), Some(&3), "{told:?}");
    let said = String::from_utf8_lossy(&lost.stderr).into_owned();
    assert!(said.contains("no status was one of 2xx,3xx"), "{said}");
    let found = get(&url, &["--requests", "3", "--success", "2xx,404"]);
    assert_eq!(found.status.code(), Some(0), "{found:?}");
    assert_eq!(figures(&found).answered, 3);
    let strict = get(&url, &["--requests", "3", "--success", "200-299"]);
    assert_eq!(figures(&strict).answered, 0);
}

/// nginx packs what it serves, and sends it in chunks, to a client that asks for that.
#[test]
fn nginx_sends_chunks_that_are_counted() {
    let folder = tempfile::tempdir().unwrap();
    let options = nginx::Options {
        workers: 1,
        reuseport: false,
        deferred: false,
        tuning: "gzip on; gzip_min_length 1; gzip_types *;".to_owned(),
        content: Content::Files(folder.path().to_owned()),
    };
    gate::needs!("run nginx": &nginx::require(&options));
    std::fs::write(folder.path().join("page.html"), "hello ".repeat(5_000)).unwrap();
    let nginx = Nginx::start(IpAddr::V4(Ipv4Addr::LOCALHOST), &options).unwrap();
    let url = format!("http://{}/page.html", nginx.address());
    let packed = Command::new("curl")
        .args(["-s", "-i", "-H", "Accept-Encoding: gzip", &url])
        .output()
        .unwrap();
    let head = String::from_utf8_lossy(&packed.stdout).into_owned();
    assert!(head.contains("Transfer-Encoding: chunked"), "{head}");
    let answered = answered(&url, &["--header", "Accept-Encoding: gzip"]);
    assert_eq!(answered, [true, true]);
}

/// A server that answers a large body before it has read it, and reads no more.
#[test]
fn an_early_answer_to_a_large_body_counts() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        let mut open = Vec::new();
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            head(&mut stream).unwrap();
            stream.write_all(format!("{OK}{HELLO}").as_bytes()).unwrap();
            open.push(stream);
        }
    });
    let folder = tempfile::tempdir().unwrap();
    let body = folder.path().join("body");
    std::fs::write(&body, vec![b'x'; 32 << 20]).unwrap();
    let body = body.to_str().unwrap();
    assert_eq!(answered(&url, &["--body-file", body]), [true, true]);
}
