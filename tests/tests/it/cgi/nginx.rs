//! nginx as the client of `srv cgi`.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Output};

use anyhow::Result;
use srv_tests::child::Child;
use srv_tests::free_address;

use super::Cgi;
use crate::agent::LOCALHOST;
use crate::gate;
use crate::probe::until;
use crate::unmodified::in_path;

/// nginx in front of a `srv cgi`.
pub(super) struct Nginx {
    pub address: SocketAddr,
    _child: Child,
}

impl Nginx {
    /// Starts it with these locations; `{socket}` and `{scripts}` stand for those of `cgi`.
    pub(super) fn start(cgi: &Cgi, locations: &str) -> Self {
        let address = free_address(LOCALHOST).unwrap();
        let folder = cgi.folder.path().join("nginx");
        fs::create_dir(&folder).unwrap();
        let socket = cgi.socket().display().to_string();
        let scripts = cgi.script("").display().to_string();
        let locations = locations.replace("{socket}", &format!("unix:{socket}"));
        let locations = locations.replace("{scripts}/", &scripts);
        // A location that sets a parameter inherits none.
        let pass = "include /etc/nginx/fastcgi_params; fastcgi_pass";
        let locations = locations.replace("fastcgi_pass", pass);
        let at = folder.display();
        let configuration = format!(
            "daemon off; worker_processes 1; pid {at}/pid; error_log stderr notice;
             events {{ worker_connections 64; }}
             http {{
                 access_log off; client_max_body_size 0;
                 client_body_temp_path {at}/body; fastcgi_temp_path {at}/fastcgi;
                 proxy_temp_path {at}/proxy; scgi_temp_path {at}/scgi; uwsgi_temp_path {at}/uwsgi;
                 server {{ listen {address}; {locations} }}
             }}"
        );
        let file = folder.join("nginx.conf");
        fs::write(&file, configuration).unwrap();
        let mut command = Command::new("nginx");
        command.arg("-e").arg("stderr").arg("-c").arg(&file);
        let child = Child::spawn(&mut command).unwrap();
        until("nginx listens", || {
            std::net::TcpStream::connect(address).ok()
        });
        Self {
            address,
            _child: child,
        }
    }

    /// Gets `path` by curl, with these arguments.
    pub(super) fn get(&self, path: &str, arguments: &[&str]) -> String {
        curl(self.address, path, arguments)
    }
}

/// Gets `path` by curl, with these arguments.
pub(super) fn curl(address: SocketAddr, path: &str, arguments: &[&str]) -> String {
    let mut curl = Command::new("curl");
    curl.args(["-s", "-i", "--max-time", "20"]).args(arguments);
    text(
        &curl
            .arg(format!("http://{address}{path}"))
            .output()
            .unwrap(),
    )
}

/// Whether nginx and curl are there.
pub(super) fn installed() -> Result<()> {
    in_path("nginx").and_then(|_| in_path("curl")).map(drop)
}

/// What a command has printed.
#[track_caller]
pub(super) fn text(output: &Output) -> String {
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}: {complaint}", output.status);
    String::from_utf8(output.stdout.clone()).unwrap()
}

const LOCATIONS: &str = r"
location / {
    fastcgi_split_path_info ^(/[^/]+)(/.*)$;
    fastcgi_param PATH_INFO $fastcgi_path_info;
    fastcgi_param SCRIPT_FILENAME {scripts}/$fastcgi_script_name;
    fastcgi_param HTTP_PROXY $http_proxy;
    fastcgi_pass {socket};
}
";

/// nginx sends no more of a body once the answer has begun.
const SHOW: &str = "#!/bin/sh
body=$(wc -c)
echo 'Content-Type: text/plain'; echo
env; echo body=$body; echo note >&2
";

#[test]
fn nginx_is_a_client() {
    gate::needs!("run nginx": &installed());
    let scripts = [
        ("show", SHOW),
        (
            "moved",
            "#!/bin/sh\necho 'Location: https://example.org/a'; echo\n",
        ),
        (
            "failed",
            "#!/bin/sh\necho 'Status: 503 Later'; echo; echo later; exit 1\n",
        ),
        ("dies", "#!/bin/sh\nkill -9 $$\n"),
        ("hangs", "#!/bin/sh\nsleep 1000\n"),
    ];
    let mut cgi = Cgi::start(&scripts, &["--time-limit", "500ms"]);
    let nginx = Nginx::start(&cgi, LOCATIONS);
    let body = cgi
        .script("")
        .parent()
        .map(Path::to_owned)
        .unwrap()
        .join("body");
    fs::write(&body, "x".repeat(300_000)).unwrap();
    let data = format!("@{}", body.display());
    let said = nginx.get(
        "/show/a%20b?c=d",
        &["-H", "Proxy: http://192.0.2.1/", "--data-binary", &data],
    );
    for part in [
        "200 OK",
        "REQUEST_METHOD=POST\n",
        "PATH_INFO=/a b\n",
        "QUERY_STRING=c=d\n",
        "CONTENT_LENGTH=300000\n",
        "body=300000\n",
    ] {
        assert!(said.contains(part), "no `{part}` in:\n{said}");
    }
    assert!(!said.contains("HTTP_PROXY"), "{said}");
    cgi.child.await_line("/show: note").unwrap();
    for (path, status) in [
        ("/moved", 302),
        ("/failed", 503),
        ("/dies", 502),
        ("/hangs", 504),
        ("/none", 404),
    ] {
        let said = nginx.get(path, &[]);
        assert!(
            said.starts_with(&format!("HTTP/1.1 {status} ")),
            "{path}: {said}"
        );
    }
}
