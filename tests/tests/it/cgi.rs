//! `srv cgi`: what scripts get, and what clients get of them. The client here is srv's own codec over
//! a blocking socket; nginx is one in `nginx`, srv itself in `served`, and git in `git`.

mod bounds;
mod git;
mod hostile;
mod nginx;
mod served;
mod stop;
mod unit;

use std::fs;
use std::io::{ErrorKind, Read as _, Write as _};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Version};
use rustix::process::geteuid;
use srv::fastcgi::client::{self, Event};
use srv::fastcgi::response::{Document, Head, HeadReader};
use srv::fastcgi::script_path::ScriptPath;
use srv::fastcgi::variables::Variables;
use srv::fastcgi::{ProtocolStatus, pairs};
use srv_tests::child::Child;
use tempfile::TempDir;

use crate::agent::srv;
use crate::probe::until;
use crate::support::executable;

/// A running `srv cgi` with a folder of scripts.
struct Cgi {
    child: Child,
    folder: TempDir,
}

/// What a client got.
#[derive(Debug)]
struct Answer {
    /// What srv's own client makes of the header.
    head: Option<Head>,
    body: String,
    /// FastCGI's end of the request: the application's status and the protocol's.
    end: Option<(u32, ProtocolStatus)>,
}

impl Answer {
    fn document(&self) -> &Document {
        match &self.head {
            Some(Head::Document(document)) => document,
            other => panic!("expected a document, got {other:?}"),
        }
    }

    fn status(&self) -> u16 {
        self.document().status.as_u16()
    }
}

const COMPLETE: ProtocolStatus = ProtocolStatus::Complete;

/// An answer takes no longer than that.
const PATIENCE: Duration = Duration::from_secs(20);

impl Cgi {
    /// Starts it with these scripts, which every user may execute, in a folder that every user may
    /// enter.
    #[track_caller]
    fn start(scripts: &[(&str, &str)], flags: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::set_permissions(folder.path(), PermissionsExt::from_mode(0o755)).unwrap();
        fs::create_dir(folder.path().join("scripts")).unwrap();
        for (name, text) in scripts {
            executable::write(folder.path().join("scripts").join(name), text);
        }
        let mut command = srv();
        command.args(["cgi", "--socket-mode", "666", "--listen"]);
        command.arg(format!("unix:{}", socket(&folder).display()));
        command.arg("--root").arg(folder.path().join("scripts"));
        if geteuid().is_root() {
            command.args(["--user", "nobody"]);
        }
        let mut child = Child::spawn(command.args(flags)).unwrap();
        child.await_line("listening on ").unwrap();
        Self { child, folder }
    }

    fn socket(&self) -> PathBuf {
        socket(&self.folder)
    }

    fn script(&self, name: &str) -> PathBuf {
        self.folder.path().join("scripts").join(name)
    }

    fn connect(&self) -> UnixStream {
        let stream = UnixStream::connect(self.socket()).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream
    }

    /// Sends a request without a body, which keeps no connection.
    fn begin(&self, script: &str) -> UnixStream {
        let mut stream = self.connect();
        stream.write_all(&self.request(script, false)).unwrap();
        stream
    }

    /// The answer to such a request.
    fn ask(&self, script: &str) -> Answer {
        answer(&mut self.begin(script))
    }

    /// The bytes of a request without a body.
    fn request(&self, script: &str, keeps_connection: bool) -> Vec<u8> {
        let mut out = Vec::new();
        client::put_request(&mut out, &self.pairs(script), keeps_connection);
        client::put_end_of_body(&mut out);
        out
    }

    fn pairs(&self, script: &str) -> Vec<u8> {
        let file = self.script(script);
        let mut pairs = Vec::new();
        pairs::put(
            &mut pairs,
            b"SCRIPT_FILENAME",
            file.as_os_str().as_encoded_bytes(),
        );
        pairs
    }

    /// Waits until no process has the folder of scripts as its own, as each script has and what it
    /// starts.
    #[track_caller]
    fn await_none_left(&self) {
        let folder = self.folder.path().join("scripts").canonicalize().unwrap();
        until("nothing that a script has started is left", || {
            in_folder(&folder).is_empty().then_some(())
        });
    }
}

fn socket(folder: &TempDir) -> PathBuf {
    folder.path().join("socket")
}

/// The processes whose current folder this is.
fn in_folder(folder: &Path) -> Vec<i32> {
    let all = procfs::process::all_processes().unwrap().flatten();
    let inside = all.filter(|process| process.cwd().is_ok_and(|cwd| cwd == folder));
    inside.map(|process| process.pid).collect()
}

/// Reads an answer to its end, or to that of the connection.
#[track_caller]
fn answer(stream: &mut UnixStream) -> Answer {
    let mut reader = HeadReader::new(64 << 10);
    let mut answer = client::Answer::default();
    let mut got = Answer {
        head: None,
        body: String::new(),
        end: None,
    };
    let mut buffer = vec![0; 64 << 10];
    while got.end.is_none() {
        let length = match stream.read(&mut buffer) {
            // A signal ends a wait that has a time limit (signal(7)).
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            read => read.expect("the answer comes in time"),
        };
        if length == 0 {
            break;
        }
        let mut input = Bytes::copy_from_slice(&buffer[..length]);
        while let Some(event) = answer.next(&mut input).unwrap() {
            match event {
                Event::Stdout(more) if got.head.is_none() => {
                    if let Some((head, body)) = reader.push(more).unwrap() {
                        got.head = Some(head);
                        got.body.push_str(std::str::from_utf8(&body).unwrap());
                    }
                }
                Event::Stdout(more) => got.body.push_str(std::str::from_utf8(&more).unwrap()),
                Event::Stderr(text) => panic!("standard error goes to the log, not {text:?}"),
                Event::End {
                    app_status,
                    protocol_status,
                } => got.end = Some((app_status, protocol_status)),
            }
        }
    }
    got
}

const SHOW: &str = r#"#!/bin/sh
echo "Content-Type: text/plain"
echo
env
echo "zero=$0"
echo "arguments=$#"
echo descriptors:
ls /proc/$$/fd
echo "end of descriptors"
grep -E '^(NoNewPrivs|CapEff|CapBnd|SigBlk|SigIgn):' /proc/self/status
echo "session=$(cut -d ' ' -f 6 /proc/$$/stat) pid=$$"
echo "body=$(cat)"
"#;

/// A POST with a body, as srv's worker would send it, with `more` parameters after its own.
fn post(cgi: &Cgi, script: &str, headers: &HeaderMap, more: &[(&str, &str)]) -> Vec<u8> {
    let (file, root) = (cgi.script(script), cgi.folder.path().join("scripts"));
    let request = Variables {
        method: &Method::POST,
        request_uri: "/show/i%20nfo?a+b",
        version: Version::HTTP_11,
        headers,
        authority: None,
        content_length: Some(4),
        document_root: root.as_os_str().as_encoded_bytes(),
        path: ScriptPath {
            script: b"/show",
            info: b"/i nfo",
        },
        script_file: file.as_os_str().as_encoded_bytes(),
        remote: "192.0.2.7:4711".parse().unwrap(),
        local: "192.0.2.8:80".parse().unwrap(),
        server_name: "example.org",
        is_tls: false,
        user: None,
        software: "test",
    };
    let mut pairs = Vec::new();
    request.put(&mut pairs);
    for (name, value) in more {
        pairs::put(&mut pairs, name.as_bytes(), value.as_bytes());
    }
    let mut out = Vec::new();
    client::put_request(&mut out, &pairs, false);
    client::put_body(&mut out, b"body");
    client::put_end_of_body(&mut out);
    out
}

/// Lines of what [`SHOW`] says.
const SHOWN: [&str; 16] = [
    "REQUEST_METHOD=POST",
    "QUERY_STRING=a+b",
    "PATH_INFO=/i nfo",
    "SCRIPT_NAME=/show",
    "GATEWAY_INTERFACE=CGI/1.1",
    "REMOTE_ADDR=192.0.2.7",
    "CONTENT_LENGTH=4",
    "HTTP_X_HEADER=a",
    "FROM_US=1",
    "FROM_CLIENT=2",
    "PATH=/usr/local/bin:/usr/bin:/bin",
    "arguments=0",
    "NoNewPrivs:\t1",
    "CapEff:\t0000000000000000",
    "SigBlk:\t0000000000000000",
    "body=body",
];

#[test]
fn a_script_gets_the_meta_variables_and_nothing_else() {
    let flags = ["--env", "FROM_US=1", "--env", "FROM_CLIENT"];
    let cgi = Cgi::start(&[("show", SHOW)], &flags);
    let mut headers = HeaderMap::new();
    headers.insert("proxy", HeaderValue::from_static("http://192.0.2.1/"));
    headers.insert("x-header", HeaderValue::from_static("a"));
    let more = [
        ("LD_PRELOAD", "/no/such"),
        ("HTTP_PROXY", "http://192.0.2.1/"),
        ("FROM_CLIENT", "2"),
        ("FROM_OTHER", "3"),
    ];
    let mut stream = cgi.connect();
    stream
        .write_all(&post(&cgi, "show", &headers, &more))
        .unwrap();
    let said = answer(&mut stream);
    assert_eq!(
        (said.status(), said.end),
        (200, Some((0, COMPLETE))),
        "{said:?}"
    );
    let folder = cgi.folder.path().join("scripts");
    let own = [
        format!("zero={}/show", folder.display()),
        format!("PWD={}", folder.display()),
    ];
    let lines: Vec<&str> = said.body.lines().collect();
    for line in SHOWN.into_iter().chain(own.iter().map(String::as_str)) {
        assert!(lines.contains(&line), "no `{line}` in:\n{}", said.body);
    }
    for name in ["HTTP_PROXY", "LD_PRELOAD", "FROM_OTHER", "HOME", "NO_COLOR"] {
        assert!(
            !said.body.contains(&format!("{name}=")),
            "{name} in:\n{}",
            said.body
        );
    }
}

#[test]
fn a_script_has_a_session_and_no_other_descriptors() {
    let cgi = Cgi::start(&[("show", SHOW)], &[]);
    let said = cgi.ask("show");
    let value = |name| {
        let mut lines = said.body.lines();
        lines
            .find_map(|line| line.strip_prefix(name))
            .unwrap_or_else(|| panic!("no {name}: {said:?}"))
    };
    let (_, listed) = said.body.split_once("descriptors:\n").unwrap();
    let (listed, _) = listed.split_once("end of descriptors").unwrap();
    // The shell has its own script open beside the three.
    let listed: Vec<&str> = listed.lines().filter(|fd| *fd != "10").collect();
    assert_eq!(listed, ["0", "1", "2"]);
    let (session, pid) = value("session=").split_once(" pid=").unwrap();
    assert_eq!(session, pid, "a script leads a session of its own");
    // The C library ignores its own two signals, 32 and 33, in what it starts.
    let ignored = u64::from_str_radix(value("SigIgn:\t"), 16).unwrap();
    assert_eq!(ignored & !0x1_8000_0000, 0, "{ignored:x}");
}

#[test]
fn a_binary_is_executed_as_well() {
    let cgi = Cgi::start(&[], &[]);
    executable::copy("/usr/bin/env", cgi.script("env"));
    let mut stream = cgi.begin("env");
    let mut said = String::new();
    stream.read_to_string(&mut said).unwrap();
    // It writes no header, so that only the records can be looked at.
    assert!(said.contains("SCRIPT_FILENAME="), "{said:?}");
}

#[test]
fn redirects_and_statuses_come_through() {
    let scripts = [
        ("local", "#!/bin/sh\nprintf 'Location: /other?a=b\\n\\n'\n"),
        (
            "client",
            "#!/bin/sh\nprintf 'Location: https://example.org/\\r\\n\\r\\n'\n",
        ),
        (
            "status",
            "#!/bin/sh\nprintf 'Status: 418 Teapot\\nX-A: b\\n\\nshort and stout'\nexit 3\n",
        ),
    ];
    let cgi = Cgi::start(&scripts, &[]);
    let local = cgi.ask("local");
    assert_eq!(
        local.head,
        Some(Head::LocalRedirect("/other?a=b".parse().unwrap()))
    );
    let client = cgi.ask("client");
    assert_eq!((client.status(), client.end), (302, Some((0, COMPLETE))));
    let status = cgi.ask("status");
    assert_eq!(
        (status.status(), status.body.as_str()),
        (418, "short and stout")
    );
    assert_eq!(status.document().headers["x-a"], "b");
    assert_eq!(status.end, Some((3, COMPLETE)), "the exit code");
}

#[test]
fn what_is_no_script_is_refused() {
    let cgi = Cgi::start(
        &[("nph-a", "#!/bin/sh\n"), ("broken", "#!/no/such/shell\n")],
        &[],
    );
    fs::write(cgi.script("data"), "#!/bin/sh\n").unwrap();
    std::os::unix::fs::symlink("/bin/sh", cgi.script("out")).unwrap();
    for (name, status) in [
        ("none", 404),
        ("out", 404),
        ("../socket", 404),
        ("/bin/sh", 404),
        ("data", 403),
        ("nph-a", 403),
        ("", 404),
    ] {
        let refused = cgi.ask(name);
        assert_eq!(
            (refused.status(), refused.end),
            (status, Some((0, COMPLETE))),
            "{name}"
        );
    }
    let broken = cgi.ask("broken");
    assert_eq!((broken.head, broken.end), (None, Some((126, COMPLETE))));
}

#[test]
fn a_connection_has_one_request_after_another() {
    let cgi = Cgi::start(&[("a", "#!/bin/sh\necho; echo a; exit $PATH_INFO\n")], &[]);
    let mut stream = cgi.connect();
    for code in ["0", "7", "0"] {
        let mut pairs = cgi.pairs("a");
        pairs::put(&mut pairs, b"PATH_INFO", code.as_bytes());
        let mut out = Vec::new();
        client::put_request(&mut out, &pairs, true);
        client::put_end_of_body(&mut out);
        stream.write_all(&out).unwrap();
        let said = answer(&mut stream);
        assert_eq!(said.body, "a\n");
        assert_eq!(said.end, Some((code.parse().unwrap(), COMPLETE)));
    }
    // The last one keeps no connection.
    stream.write_all(&cgi.request("a", false)).unwrap();
    assert_eq!(answer(&mut stream).body, "a\n");
    assert_eq!(stream.read(&mut [0]).unwrap(), 0, "it is closed");
}

#[test]
fn what_is_not_fastcgi_is_closed() {
    let cgi = Cgi::start(&[], &[]);
    let mut stream = cgi.connect();
    stream.write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
    assert_eq!(stream.read(&mut [0]).unwrap_or(0), 0);
}

#[test]
fn root_executes_nothing() {
    if !crate::gate::root() {
        return;
    }
    for user in [&[][..], &["--user", "root"], &["--user", "65534:0"]] {
        let mut command = srv();
        command
            .args(["cgi", "--listen", "127.0.0.1:0", "--root", "/"])
            .args(user);
        let output = command.output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(
            !output.status.success() && said.contains("pass --user"),
            "{user:?}: {said}"
        );
    }
}
