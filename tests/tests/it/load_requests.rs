//! What `srv load` sends: methods, header fields, bodies, several targets, and
//! where it connects to. Servers of the test's own say what came.

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::os::unix::net::UnixListener;
use std::process::Command;
use std::sync::mpsc::{Receiver, Sender, channel};

use crate::load::{figures, load, refusal};
use crate::load_shapes::head;

/// A request as it came.
#[derive(Debug)]
struct Request {
    head: String,
    body: Vec<u8>,
}

impl Request {
    /// The values of a header field.
    fn values(&self, name: &str) -> Vec<&str> {
        let fields = self.head.lines().filter_map(|line| line.split_once(": "));
        let of_name = fields.filter(|(known, _)| known.eq_ignore_ascii_case(name));
        of_name.map(|(_, value)| value).collect()
    }
}

/// Tells of each request on `stream`, and answers it.
fn record(mut stream: impl Read + Write, told: &Sender<Request>) {
    while let Ok(head) = head(&mut stream) {
        let mut request = Request {
            head,
            body: Vec::new(),
        };
        let length = request.values("content-length").first().copied();
        let length = length.map_or(0, |length| length.parse().unwrap());
        request.body.resize(length, 0);
        stream.read_exact(&mut request.body).unwrap();
        let closes = request.values("connection") == ["close"];
        told.send(request).unwrap();
        let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
        if stream.write_all(answer).is_err() || closes {
            break;
        }
    }
}

fn recorder() -> (SocketAddr, Receiver<Request>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let (told, requests) = channel();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let (stream, told) = (stream.unwrap(), told.clone());
            std::thread::spawn(move || record(stream, &told));
        }
    });
    (address, requests)
}

const ONCE: [&str; 5] = ["--clients", "1", "--requests", "1", "--strict"];

/// Sends with these arguments; each request was answered.
fn send(arguments: &[&str]) {
    let output = load(ONCE.iter().chain(arguments));
    assert_eq!(output.status.code(), Some(0), "{output:?}");
}

#[test]
fn method_headers_and_body_are_sent_as_curl_sends_them() {
    let (address, requests) = recorder();
    let url = format!("http://{address}/path?query");
    let flags = [
        "-X",
        "PUT",
        "-H",
        "X-One: 1",
        "-H",
        "Accept: text/a",
        "-d",
        "hello",
    ];
    send(&[&flags[..], &[&url]].concat());
    let sent = requests.recv().unwrap();
    let curl = Command::new("curl")
        .args(["-s"])
        .args(flags)
        .arg(&url)
        .output();
    assert!(curl.unwrap().status.success());
    let by_curl = requests.recv().unwrap();
    assert_eq!(sent.head.lines().next(), by_curl.head.lines().next());
    assert_eq!(sent.body, by_curl.body);
    for name in ["host", "x-one", "accept", "content-length"] {
        assert_eq!(sent.values(name), by_curl.values(name), "{name}: {sent:?}");
    }
    assert_eq!(sent.values("connection"), ["close"]);
}

#[test]
fn own_headers_replace_those_that_are_sent_anyway() {
    let (address, requests) = recorder();
    let url = format!("http://{address}/");
    send(&[
        &url,
        "-H",
        "Host: example.org",
        "-H",
        "connection: close, x",
    ]);
    let sent = requests.recv().unwrap();
    assert_eq!(sent.values("host"), ["example.org"]);
    assert_eq!(sent.values("connection"), ["close, x"]);
}

/// Larger than the buffers of both sockets: it is sent in many pieces.
#[test]
fn a_large_body_arrives_whole() {
    let (address, requests) = recorder();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("body");
    let body: Vec<u8> = (0..20_000_000_u32).map(|nth| (nth % 251) as u8).collect();
    fs::write(&file, &body).unwrap();
    let (url, file) = (format!("http://{address}/"), file.to_str().unwrap());
    for kept in [&[][..], &["--keep-alive", "1"]] {
        send(&[&[&url, "--body-file", file], kept].concat());
        let sent = requests.recv().unwrap();
        assert!(sent.head.starts_with("POST / "), "{}", sent.head);
        assert!(sent.body == body, "{} bytes came", sent.body.len());
    }
}

/// The first lines of so many requests, sorted; each is as the file of targets says.
fn lines(requests: &Receiver<Request>, count: usize) -> Vec<String> {
    let mut lines = Vec::new();
    for _ in 0..count {
        let request = requests.recv().unwrap();
        assert_eq!(request.values("x-all"), ["yes"]);
        lines.push(request.head.lines().next().unwrap().to_owned());
        let is_post = request.head.starts_with("POST");
        assert_eq!(request.values("x-own").is_empty(), !is_post);
        assert_eq!(
            request.body,
            if is_post { &b"from a file"[..] } else { b"" }
        );
    }
    lines.sort();
    lines
}

#[test]
fn targets_from_a_file_are_taken_in_turn() {
    let ((first, to_first), (second, to_second)) = (recorder(), recorder());
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let (file, body, out) = (path("targets"), path("body"), path("out"));
    fs::write(&body, "from a file").unwrap();
    let targets = format!(
        "# comment\nhttp://{first}/a\nPOST http://{second}/b\nX-Own: yes\n@{body}\n\nhttp://{first}/c\n"
    );
    fs::write(&file, targets).unwrap();
    for kept in [&[][..], &["--keep-alive", "2"]] {
        let flags = [
            "--targets",
            &file,
            "--rate",
            "1000",
            "--arrivals",
            "constant",
        ];
        let more = [
            "--duration",
            "9ms",
            "-H",
            "X-All: yes",
            "--json",
            "--strict",
            "--out",
            &out,
        ];
        let output = load([&flags[..], &more, kept].concat());
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        let figures = figures(&output);
        assert_eq!((figures.answered, figures.asked.targets), (9, 3));
        assert_eq!(
            figures.asked.addresses,
            [first, second].map(|address| address.to_string())
        );
        let records = fs::read_to_string(folder.path().join("out/records.csv")).unwrap();
        let of_targets: Vec<_> = records
            .lines()
            .skip(1)
            .map(|line| &line[line.len() - 1..])
            .collect();
        assert_eq!(of_targets.concat(), "012012012");
        let (a, c) = ("GET /a HTTP/1.1", "GET /c HTTP/1.1");
        assert_eq!(lines(&to_first, 6), [a, a, a, c, c, c]);
        assert_eq!(lines(&to_second, 3), ["POST /b HTTP/1.1"; 3]);
        assert!(to_first.try_recv().is_err() && to_second.try_recv().is_err());
    }
}

#[test]
fn connect_to_changes_the_server_and_nothing_else() {
    let (address, requests) = recorder();
    let rule = format!("no-such-host.invalid:80:127.0.0.1:{}", address.port());
    send(&["http://no-such-host.invalid/x", "--connect-to", &rule]);
    assert_eq!(
        requests.recv().unwrap().values("host"),
        ["no-such-host.invalid"]
    );
}

#[test]
fn a_unix_socket_is_a_server_like_others() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("socket");
    let listener = UnixListener::bind(&socket).unwrap();
    let (told, requests) = channel();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            record(stream.unwrap(), &told);
        }
    });
    let socket = socket.to_str().unwrap();
    let curl = ["--silent", "--unix-socket", socket, "http://any/path"];
    assert!(
        Command::new("curl")
            .args(curl)
            .output()
            .unwrap()
            .status
            .success()
    );
    let by_curl = requests.recv().unwrap();
    for kept in [&[][..], &["--keep-alive", "1"]] {
        send(&[&["--unix-socket", socket, "http://any/path"], kept].concat());
        let sent = requests.recv().unwrap();
        assert_eq!(sent.head.lines().next(), by_curl.head.lines().next());
        assert_eq!(sent.values("host"), by_curl.values("host"));
    }
    let absent = folder.path().join("absent");
    let output =
        load(
            ONCE.iter()
                .chain(&["--unix-socket", absent.to_str().unwrap(), "http://any/"]),
        );
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(
        said.contains("No such file") && said.contains("absent"),
        "{said}"
    );
}

#[test]
fn what_cannot_be_sent_is_refused_with_the_reason() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("targets");
    fs::write(&file, "http://127.0.0.1:1/\nnonsense\n").unwrap();
    let file = file.to_str().unwrap();
    let url = "http://127.0.0.1:1/";
    for (arguments, reason) in [
        (
            &[url, "--body-file", "/no/such/file"][..],
            "read the body from /no/such/file",
        ),
        (&[url, "--method", "a b"], "`a b` is not a method"),
        (&[url, "--method", "CONNECT"], "tunnel"),
        (
            &["--targets", "/no/such/file"],
            "read targets from /no/such/file",
        ),
        (&["--targets", file], "line 2: `nonsense`"),
    ] {
        let said = refusal(ONCE.iter().chain(arguments));
        assert!(said.contains(reason), "{said}");
    }
}
