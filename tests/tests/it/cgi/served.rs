//! srv's own workers as the client of `srv cgi`.

use std::io::Read as _;

use super::Cgi;
use super::nginx::{curl, installed};
use crate::client::Client;
use crate::configured::Configured;
use crate::gate;

const SITE: &str = r#"
[[site]]
root = "{root}"
[site.fastcgi]
to = "unix:{socket}"
suffix = ".cgi"
"#;

const SCRIPTS: [(&str, &str); 7] = [
    (
        "show.cgi",
        "#!/bin/sh\nbody=$(cat)\necho 'Content-Type: text/plain'; echo; env; echo body=$body; echo note >&2\n",
    ),
    (
        "moved.cgi",
        "#!/bin/sh\necho 'Location: https://example.org/a'; echo\n",
    ),
    (
        "local.cgi",
        "#!/bin/sh\necho 'Location: /show.cgi/local?e=f'; echo\n",
    ),
    (
        "failed.cgi",
        "#!/bin/sh\necho 'Status: 503 Later'; echo; echo later; exit 1\n",
    ),
    ("dies.cgi", "#!/bin/sh\nkill -9 $$\n"),
    ("hangs.cgi", "#!/bin/sh\nsleep 1000\n"),
    (
        "cut.cgi",
        "#!/bin/sh\necho; echo part; sleep 0.1; kill -9 $$\n",
    ),
];

#[test]
fn srv_is_a_client() {
    gate::needs!("run curl": &installed());
    let mut cgi = Cgi::start(&SCRIPTS, &["--time-limit", "500ms"]);
    let root = cgi.folder.path().join("scripts");
    let site = SITE.replace("{root}", root.to_str().unwrap());
    let site = site.replace("{socket}", cgi.socket().to_str().unwrap());
    let served = Configured::start(&site, &[]);
    let address = served.server.address();
    let arguments = ["-H", "Proxy: http://192.0.2.1/", "-d", "some body"];
    let said = curl(address, "/show.cgi/a%20b?c=d", &arguments);
    for part in [
        "200 OK",
        "REQUEST_METHOD=POST\n",
        "SCRIPT_NAME=/show.cgi\n",
        "PATH_INFO=/a b\n",
        "QUERY_STRING=c=d\n",
        "CONTENT_LENGTH=9\n",
        "REMOTE_ADDR=127.0.0.1\n",
        "body=some body\n",
    ] {
        assert!(said.contains(part), "no `{part}` in:\n{said}");
    }
    assert!(!said.contains("HTTP_PROXY"), "{said}");
    cgi.child.await_line("/show.cgi: note").unwrap();
    for (path, status) in [
        ("/moved.cgi", 302),
        ("/failed.cgi", 503),
        ("/dies.cgi", 502),
        ("/hangs.cgi", 504),
        ("/none.cgi", 404),
    ] {
        let said = curl(address, path, &[]);
        assert!(
            said.starts_with(&format!("HTTP/1.1 {status} ")),
            "{path}: {said}"
        );
    }
    let local = curl(address, "/local.cgi", &[]);
    assert!(
        local.contains("200 OK") && local.contains("QUERY_STRING=e=f\n"),
        "{local}"
    );
    let mut client = Client::connect(address);
    client.get("/cut.cgi");
    let mut part = Vec::new();
    let ended = client.stream().read_to_end(&mut part);
    // A part must not look like the whole: neither a last chunk nor an end in order.
    assert!(ended.is_err(), "{}", String::from_utf8_lossy(&part));
}
