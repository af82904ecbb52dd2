//! Applications over FastCGI: PHP's process manager and a Python application, asked by srv's workers.

mod slow_readers;

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Command;

use srv::measure::baseline::child::Child;
use srv_tests::python::executable;
use srv_tests::server::Server;
use tempfile::TempDir;

use crate::client::{Client, get};
use crate::gate;
use crate::loaded::without_loss;
use crate::php;
use crate::probe::{group, until, until_ended};

const SCRIPTS: [(&str, &str); 9] = [
    (
        "index.php",
        "<?php echo 'front ', $_SERVER['REQUEST_URI'], ' ', $_SERVER['SCRIPT_NAME'];",
    ),
    (
        "show.php",
        "<?php header('X-A: b'); header('Connection: close'); http_response_code(202);\
         foreach (['SCRIPT_NAME', 'PATH_INFO', 'QUERY_STRING', 'REMOTE_ADDR', 'SERVER_NAME', 'APP'] as $name)\
         echo $name, '=', $_SERVER[$name] ?? 'none', \"\\n\";\
         echo isset($_SERVER['HTTP_PROXY']) || isset($_SERVER['HTTP_A_B']) ? 'dangerous' : 'safe';",
    ),
    (
        "body.php",
        "<?php $body = file_get_contents('php://input');\
         echo strlen($body), ' ', md5($body), \"\\n\", str_repeat('0123456789abcdef', 1 << 18);",
    ),
    (
        "user.php",
        "<?php foreach (['REMOTE_USER', 'AUTH_TYPE', 'HTTP_AUTHORIZATION'] as $name)\
         echo $_SERVER[$name] ?? 'none', ' ';",
    ),
    (
        "wait.php",
        "<?php while (!file_exists('go')) { clearstatcache(); usleep(1000); } echo 'went';",
    ),
    (
        "stderr.php",
        "<?php error_log(\"to the log \\x1b[31m\"); echo 'logged';",
    ),
    ("dies.php", "<?php posix_kill(getmypid(), 9);"),
    (
        "dies_late.php",
        "<?php echo str_repeat('x', 100000); flush(); posix_kill(getmypid(), 9);",
    ),
    (
        "send.php",
        "<?php header('X-Accel-Redirect: /a.txt'); header('Content-Type: text/x');",
    ),
];

/// A server with a folder of scripts, and the process manager that executes them.
struct Php {
    folder: TempDir,
    manager: Child,
}

impl Php {
    fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        let open = <fs::Permissions as std::os::unix::fs::PermissionsExt>::from_mode(0o755);
        fs::set_permissions(folder.path(), open).unwrap();
        fs::create_dir(at("root")).unwrap();
        for (name, text) in SCRIPTS {
            fs::write(at("root").join(name), text).unwrap();
        }
        fs::write(at("root/a.txt"), "a text").unwrap();
        Self {
            manager: php::fpm(folder.path(), ""),
            folder,
        }
    }

    /// The file of a server whose site says this of it.
    fn config(&self, name: &str, site: &str) -> String {
        let folder = self.folder.path().display();
        let text = format!("[[site]]\nroot = \"{folder}/root\"\n{site}")
            .replace("SOCKET", &format!("unix:{folder}/php.sock"));
        let file = self.folder.path().join(name);
        fs::write(&file, text).unwrap();
        file.display().to_string()
    }

    fn serve(&self, site: &str) -> Server {
        let file = self.config("srv.toml", site);
        let flags = ["--config", &file, "--workers", "1", "--body-bytes", "8MiB"];
        Server::start(flags).unwrap()
    }
}

const SUFFIX: &str = "[[site.route]]\nsuffix = \".php\"\nfastcgi = \"SOCKET\"\n";
const ALL: &str = "[site.fastcgi]\nto = \"SOCKET\"\nfiles = true\nscript = \"/index.php\"\nparams = { APP = \"x\" }\n";

/// The answer to an HTTP/1.0 request, whose body ends with the connection.
fn ask(server: &Server, head: &str, body: &[u8]) -> (String, Vec<u8>) {
    let mut stream = TcpStream::connect(server.address()).unwrap();
    let mut sender = stream.try_clone().unwrap();
    let mut answer = Vec::new();
    std::thread::scope(|scope| {
        scope.spawn(move || {
            sender
                .write_all(format!("{head}\r\n\r\n").as_bytes())
                .unwrap();
            sender.write_all(body).unwrap();
        });
        stream.read_to_end(&mut answer).unwrap();
    });
    let end = answer
        .windows(4)
        .position(|bytes| bytes == b"\r\n\r\n")
        .unwrap();
    let head = String::from_utf8(answer[..end].to_vec()).unwrap();
    (head, answer[end + 4..].to_vec())
}

fn text_of(server: &Server, path: &str) -> (String, String) {
    let (head, body) = ask(
        server,
        &format!("GET {path} HTTP/1.0\r\nHost: a.test:80"),
        b"",
    );
    (head, String::from_utf8(body).unwrap())
}

#[test]
fn php_answers_for_scripts_and_srv_for_files() {
    gate::needs!(root, "run php-fpm": &php::is_installed());
    let php = Php::start();
    let server = php.serve(ALL);
    let head = "GET /show.php/more/x?a=b HTTP/1.0\r\nHost: a.test:80\r\nProxy: evil\r\nA_B: c";
    let (head, body) = ask(&server, head, b"");
    assert!(
        head.starts_with("HTTP/1.0 202 ") && head.contains("x-a: b"),
        "{head}"
    );
    assert_eq!(
        String::from_utf8(body).unwrap(),
        "SCRIPT_NAME=/show.php\nPATH_INFO=/more/x\nQUERY_STRING=a=b\nREMOTE_ADDR=127.0.0.1\n\
         SERVER_NAME=a.test\nAPP=x\nsafe"
    );
    assert_eq!(text_of(&server, "/a.txt").1, "a text");
    assert_eq!(
        text_of(&server, "/some/path?q").1,
        "front /some/path?q /index.php"
    );
    assert_eq!(text_of(&server, "/").1, "front / /index.php");
    let (head, body) = text_of(&server, "/send.php");
    assert_eq!(body, "a text");
    assert!(
        head.contains("content-type: text/x") && !head.contains("accel"),
        "{head}"
    );
    let head = ask(&server, "HEAD /show.php HTTP/1.0\r\nHost: a", b"");
    assert!(head.0.contains("202") && head.1.is_empty(), "{head:?}");
}

#[test]
fn what_is_no_script_is_never_asked_for() {
    gate::needs!(root, "run php-fpm": &php::is_installed());
    let php = Php::start();
    fs::write(
        php.folder.path().join("root/picture.txt"),
        "<?php echo 'run';",
    )
    .unwrap();
    let server = php.serve(SUFFIX);
    for path in ["/absent.php", "/picture.txt/x.php", "/.php"] {
        assert!(
            text_of(&server, path).0.starts_with("HTTP/1.0 404 "),
            "{path}"
        );
    }
    assert_eq!(
        text_of(&server, "/index.php").1,
        "front /index.php /index.php"
    );
}

#[test]
fn bodies_of_megabytes_go_both_ways() {
    gate::needs!(root, "run php-fpm": &php::is_installed());
    let php = Php::start();
    let server = php.serve(SUFFIX);
    let body: Vec<u8> = (0..5_000_000u32).map(|n| (n % 251) as u8).collect();
    let head = format!(
        "POST /body.php HTTP/1.0\r\nHost: a\r\nContent-Type: a/b\r\nContent-Length: {}",
        body.len()
    );
    let (_, answer) = ask(&server, &head, &body);
    let lines: Vec<_> = answer.splitn(2, |byte| *byte == b'\n').collect();
    let expected = ask(&server, "GET /body.php HTTP/1.0\r\nHost: a", b"").1;
    assert!(expected.starts_with(b"0 d41d8cd98f00b204e9800998ecf8427e\n"));
    let said = String::from_utf8(lines[0].to_vec()).unwrap();
    assert_eq!(said, format!("5000000 {}", md5(&body)));
    assert_eq!(lines[1], "0123456789abcdef".repeat(1 << 18).as_bytes());
    // A script has to be told the length of a chunked body, too.
    for part in [&body[..], &body[..1000]] {
        let head = "POST /body.php HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\
                    Transfer-Encoding: chunked";
        let (head, answer) = ask(&server, head, &chunked(part, 70_000));
        assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
        let answer = String::from_utf8_lossy(&answer);
        let said = format!("{} {}\n", part.len(), md5(part));
        assert!(answer.contains(&said), "expected {said}");
    }
}

/// A body in chunks of so many bytes.
fn chunked(body: &[u8], chunk: usize) -> Vec<u8> {
    let mut out = Vec::new();
    for chunk in body.chunks(chunk) {
        out.extend(format!("{:x}\r\n", chunk.len()).bytes());
        out.extend_from_slice(chunk);
        out.extend_from_slice(b"\r\n");
    }
    out.extend_from_slice(b"0\r\n\r\n");
    out
}

fn md5(bytes: &[u8]) -> String {
    let mut sum = Command::new("md5sum");
    sum.stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped());
    let mut sum = sum.spawn().unwrap();
    sum.stdin.take().unwrap().write_all(bytes).unwrap();
    let sum = String::from_utf8(sum.wait_with_output().unwrap().stdout).unwrap();
    sum[..32].to_owned()
}

#[test]
fn a_chunked_body_has_the_limit_of_every_body() {
    gate::needs!(root, "run php-fpm": &php::is_installed());
    let php = Php::start();
    let server = php.serve(&format!("limits = {{ body-bytes = \"200KiB\" }}\n{SUFFIX}"));
    for (bytes, status) in [(200 << 10, 200), ((200 << 10) + 1, 413)] {
        let mut client = Client::connect(server.address());
        client.send("POST /index.php HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n");
        // The server may close the connection before it has all.
        let mut stream = client.stream().try_clone().unwrap();
        let _ = stream.write_all(&chunked(&vec![b'x'; bytes], 10_000));
        assert_eq!(client.response().status(), status, "{bytes}");
    }
}

#[test]
fn an_application_learns_which_user_it_is() {
    gate::needs!(root, "run php-fpm": &php::is_installed());
    let php = Php::start();
    let users = php.folder.path().join("users");
    // Of `secret`.
    let line = "a:$2y$04$eMzaL6P9AuVXjP3t7AWaleC3sWsC2YeqJEod7.OKOWgtt9nAMujoS\n";
    fs::write(&users, line).unwrap();
    let auth = format!(
        "auth = {{ realm = \"r\", users = \"{}\" }}\n",
        users.display()
    );
    let user = |server: &Server, headers: &str| {
        let head = format!("GET /user.php HTTP/1.0\r\nHost: a{headers}");
        let (head, body) = ask(server, &head, b"");
        let status = head.split(' ').nth(1).unwrap().to_owned();
        status + " " + String::from_utf8(body).unwrap().trim_end()
    };
    let right = "\r\nAuthorization: Basic YTpzZWNyZXQ=";
    let server = php.serve(&format!("{auth}{SUFFIX}"));
    assert_eq!(user(&server, right), "200 a Basic none");
    let wrong = user(
        &server,
        "\r\nAuthorization: Basic YTp3cm9uZw==\r\nRemote-User: a",
    );
    assert!(wrong.starts_with("401 "), "{wrong}");
    // If the application itself asks for passwords, it sees them.
    let server = php.serve(SUFFIX);
    assert_eq!(user(&server, right), "200 none none Basic YTpzZWNyZXQ=");
}

#[test]
fn files_are_served_while_scripts_wait() {
    gate::needs!(root, "run php-fpm": &php::is_installed());
    let php = Php::start();
    let server = php.serve(SUFFIX);
    let mut waiting: Vec<_> = (0..3).map(|_| Client::connect(server.address())).collect();
    for client in &mut waiting {
        client.send("GET /wait.php HTTP/1.1\r\nHost: a\r\n\r\n");
    }
    let running = || group(&server).totals.running;
    let until_running = |count| until("so many run", || (running() == count).then_some(()));
    until_running(3);
    for _ in 0..20 {
        assert_eq!(get(server.address(), "/a.txt").body, b"a text");
    }
    assert_eq!(running(), 3);
    // A client that leaves cancels its request; the others have their answers.
    drop(waiting.pop());
    until_running(2);
    fs::write(php.folder.path().join("root/go"), "").unwrap();
    for mut client in waiting {
        assert_eq!(client.response().body, b"went");
    }
    until_running(0);
    let expected = [("2xx", 20 + 2), ("unanswered", 1)];
    let expected = expected.map(|(class, count)| (class.to_owned(), count));
    until_ended(&server, &expected.into());
}

#[test]
fn what_a_script_writes_to_its_error_stream_is_in_the_log() {
    gate::needs!(root, "run php-fpm": &php::is_installed());
    let php = Php::start();
    let mut server = php.serve(SUFFIX);
    assert_eq!(text_of(&server, "/stderr.php").1, "logged");
    let line = server.child().await_line("error stream").unwrap();
    assert!(line.contains("to the log \\u{1b}[31m"), "{line}");
}

#[test]
fn an_application_that_dies_gives_no_whole_answer() {
    gate::needs!(root, "run php-fpm": &php::is_installed());
    let mut php = Php::start();
    let mut server = php.serve(SUFFIX);
    assert!(text_of(&server, "/dies.php").0.starts_with("HTTP/1.0 502 "));
    server.child().await_line("answered 502").unwrap();
    let mut stream = TcpStream::connect(server.address()).unwrap();
    stream
        .write_all(b"GET /dies_late.php HTTP/1.0\r\nHost: a\r\n\r\n")
        .unwrap();
    let mut answer = Vec::new();
    let ended = stream.read_to_end(&mut answer);
    assert_eq!(
        ended.unwrap_err().kind(),
        std::io::ErrorKind::ConnectionReset
    );
    php.manager.stop().unwrap();
    assert!(
        text_of(&server, "/index.php")
            .0
            .starts_with("HTTP/1.0 502 ")
    );
    assert_eq!(text_of(&server, "/a.txt").1, "a text");
}

#[test]
fn an_application_comes_by_reload_without_loss() {
    gate::needs!(root, "run php-fpm": &php::is_installed());
    let php = Php::start();
    let file = php.config("srv.toml", "");
    let server = Server::start(["--config", &file, "--workers", "2", "--synthetic"]).unwrap();
    without_loss(server.address(), 200.0, || {
        for _ in 0..2 {
            for site in [SUFFIX, ""] {
                php.config("srv.toml", site);
                assert!(server.srv(&["reload"]).unwrap().status.success());
                let answer = text_of(&server, "/index.php").1;
                let expected = if site.is_empty() {
                    SCRIPTS[0].1
                } else {
                    "front /index.php /index.php"
                };
                assert_eq!(answer, expected);
            }
        }
    });
}

/// A WSGI application, served by flup.
const FLUP: &str = r"
import sys
from flup.server.fcgi import WSGIServer
def application(environ, start_response):
    body = environ['wsgi.input'].read(int(environ.get('CONTENT_LENGTH') or 0))
    start_response('200 OK', [('Content-Type', 'text/plain')])
    names = ['SCRIPT_NAME', 'PATH_INFO', 'QUERY_STRING']
    return ['|'.join([environ.get(name, '') for name in names] + [str(len(body))]).encode()]
WSGIServer(application, bindAddress=sys.argv[1], umask=0).run()
";

fn has_flup(python: &Path) -> Result<(), String> {
    let imports = ["-c", "import flup.server.fcgi"];
    let output = Command::new(python).args(imports).output();
    let output = output.map_err(|error| error.to_string())?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    output.status.success().then_some(()).ok_or(said)
}

#[test]
fn a_python_application_answers_for_all_paths_of_its_route() {
    let python = executable("python");
    gate::needs!("serve Python's flup": &has_flup(&python));
    let folder = tempfile::tempdir().unwrap();
    let open = <fs::Permissions as std::os::unix::fs::PermissionsExt>::from_mode(0o755);
    fs::set_permissions(folder.path(), open).unwrap();
    let socket = folder.path().join("app.sock");
    let mut command = Command::new(python);
    command.args(["-c", FLUP]).arg(&socket);
    let mut application = Child::spawn(&mut command).unwrap();
    until("flup listens", || UnixStream::connect(&socket).ok());
    let file = folder.path().join("srv.toml");
    let text = format!(
        "[[site]]\nrespond = {{ status = 404 }}\n[[site.route]]\nprefix = \"/app\"\n\
         fastcgi = {{ to = \"unix:{}\", suffix = \"\" }}\n",
        socket.display()
    );
    fs::write(&file, text).unwrap();
    let server = Server::start(["--config", file.to_str().unwrap()]).unwrap();
    assert_eq!(text_of(&server, "/app/a/b?c").1, "/app|/a/b|c|0");
    let head = "POST /app HTTP/1.0\r\nHost: a\r\nContent-Length: 100000";
    let (_, body) = ask(&server, head, &[b'x'; 100_000]);
    assert_eq!(String::from_utf8(body).unwrap(), "/app|||100000");
    assert!(text_of(&server, "/other").0.contains(" 404 "));
    application.stop().unwrap();
    assert!(text_of(&server, "/app").0.contains(" 502 "));
}
