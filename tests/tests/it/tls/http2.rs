//! HTTP/2 with the clients that people use. What a hostile client does is in the unit tests of
//! `serve::worker::connection`.

use std::process::{Command, Output};

use super::fixture::Https;
use crate::gate::can;
use crate::probe::{signal, until_ended};
use rustix::process::Signal;

const SITE: &str = "\
workers = 2
synthetic = true
worker-header = true

[[listen]]
address = \"127.0.0.1:0\"
tls = true

[[site]]
root = \"site\"
tls = { certificate = \"one.pem\", key = \"one.key\" }
";

fn start(text: &str) -> Https {
    let names: &[&str] = &["one.test", "127.0.0.1"];
    let files: &[(&str, &[u8])] = &[("site/index.html", b"hello\n")];
    Https::start(text, files, &[("one", names)], &[])
}

/// Runs a client. `None`: it is not installed.
fn client(command: &mut Command) -> Option<Output> {
    let output = command.output();
    let program = command.get_program().display();
    let is_there = output.as_ref().map(drop).map_err(ToString::to_string);
    can(&format!("run {program}"), is_there).then(|| output.unwrap())
}

/// curl, which trusts the server's authority.
fn curl(https: &Https) -> Command {
    let port = https.address().port();
    let mut curl = Command::new("curl");
    curl.args(["--silent", "--show-error", "--http2", "--cacert"]);
    curl.arg(https.path("ca.pem"));
    curl.args(["--resolve", &format!("one.test:{port}:127.0.0.1")]);
    curl
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn it_is_spoken_by_those_that_offer_it() {
    let https = start(SITE);
    let url = format!("https://one.test:{}/", https.address().port());
    let shown = ["--write-out", "%{http_version} %{response_code}"];
    for (more, expected) in [
        (&[][..], "hello\n2 200"),
        (&["--http1.1"], "hello\n1.1 200"),
        (&["--data", "a body"], "\n2 405"),
    ] {
        let Some(output) = client(curl(&https).args(shown).args(more).arg(&url)) else {
            return;
        };
        assert!(text(&output.stdout).ends_with(expected), "{output:?}");
    }
    let expected = [("2xx".to_owned(), 2), ("4xx".to_owned(), 1)];
    until_ended(&https.server, &expected.into());
    let never = start(&format!("http2 = \"never\"\n{SITE}"));
    let url = format!("https://one.test:{}/", never.address().port());
    let output = client(curl(&never).args(shown).arg(&url)).unwrap();
    assert_eq!(text(&output.stdout), "hello\n1.1 200", "{output:?}");
}

#[test]
fn a_hundred_streams_of_a_connection_are_answered_side_by_side() {
    let https = start(SITE);
    let url = format!("https://{}/", https.address());
    let mut h2load = Command::new("h2load");
    h2load.args("--clients 4 --max-concurrent-streams 100 --requests 2000".split(' '));
    let Some(output) = client(h2load.arg(&url)) else {
        return;
    };
    let said = text(&output.stdout);
    assert!(said.contains("Application protocol: h2"), "{said}");
    assert!(said.contains("status codes: 2000 2xx"), "{said}");
    until_ended(&https.server, &[("2xx".to_owned(), 2000)].into());
    let mut nghttp = Command::new("nghttp");
    let output = client(nghttp.args(["--no-verify-peer", &url])).unwrap();
    assert_eq!(text(&output.stdout), "hello\n", "{output:?}");
}

/// curl asks again for what a GOAWAY refused, as browsers do.
#[test]
fn workers_that_leave_lose_no_stream() {
    const REQUESTS: usize = 300;
    let mut https = start(SITE);
    let port = https.address().port();
    let mut curl = curl(&https);
    curl.args([
        "--parallel",
        "--parallel-max",
        "20",
        "--output",
        "/dev/null",
    ]);
    curl.args(["--write-out", "%{http_version} %{response_code}\\n"]);
    curl.arg(format!("https://one.test:{port}/work?sleep_us=[5001-5300]"));
    let loading = std::thread::spawn(move || client(&mut curl));
    for workers in [1, 3, 2] {
        let text = SITE.replace("workers = 2", &format!("workers = {workers}"));
        std::fs::write(https.path("srv.toml"), text).unwrap();
        signal(https.server.pid(), Signal::HUP);
        https.server.child().await_line("reloaded").unwrap();
    }
    let Some(output) = loading.join().unwrap() else {
        return;
    };
    let said = text(&output.stdout);
    let answered = said.lines().filter(|line| *line == "2 200").count();
    assert_eq!(answered, REQUESTS, "{output:?}");
}

/// The page writes what its browser says of the connection that it came by.
const PAGE: &str = "<!doctype html><title>a page</title><p id=p></p><script>
const [page] = performance.getEntriesByType('navigation');
document.getElementById('p').textContent = `by ${page.nextHopProtocol}`;
</script>
";

#[test]
fn a_browser_speaks_it() {
    let files: &[(&str, &[u8])] = &[("site/index.html", PAGE.as_bytes())];
    let https = Https::start(SITE, files, &[("one", &["one.test"])], &[]);
    let profile = tempfile::tempdir().unwrap();
    let mut chromium = Command::new("timeout");
    chromium.args("60 chromium --headless --no-sandbox --disable-gpu --dump-dom".split(' '));
    chromium.arg(format!("--user-data-dir={}", profile.path().display()));
    // The browser does not know the test's authority.
    chromium.arg("--ignore-certificate-errors");
    chromium.arg("--host-resolver-rules=MAP one.test 127.0.0.1");
    chromium.arg(format!("https://one.test:{}/", https.address().port()));
    let there = Command::new("chromium").arg("--version").output();
    let there = there.map(drop).map_err(|error| error.to_string());
    if !can("show a page in Chromium", there) {
        return;
    }
    let output = chromium.output().unwrap();
    let shown = text(&output.stdout);
    assert!(shown.contains("<p id=\"p\">by h2</p>"), "{output:?}");
}
