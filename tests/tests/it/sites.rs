//! Sites and routes: which site answers for a host, and that sites come and go without loss.

mod access;
mod documented;
mod files;
mod listeners;
mod rules;

use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use srv::kernel::sock_diag::SockDiag;
use srv_tests::server::Server;
use tempfile::TempDir;

use crate::client::{Client, Response};
use crate::configured::Configured;
use crate::loaded::without_loss;
use crate::probe::group;

/// A server whose file names folders beside it.
struct Sites {
    server: Server,
    folder: TempDir,
}

impl Sites {
    /// Starts a server whose file says `text`. Each of `files` is there with its content.
    #[track_caller]
    fn start(text: &str, files: &[(&str, &str)]) -> Self {
        Self::start_with(text, files, &[])
    }

    #[track_caller]
    fn start_with(text: &str, files: &[(&str, &str)], flags: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::set_permissions(folder.path(), PermissionsExt::from_mode(0o755)).unwrap();
        for (name, content) in files {
            write(&folder, name, content);
        }
        write(&folder, "srv.toml", text);
        let file = folder.path().join("srv.toml");
        let config = ["--config", file.to_str().unwrap()];
        let server = Server::start(config.iter().chain(flags)).unwrap();
        Self { server, folder }
    }

    fn write(&self, name: &str, content: &str) {
        write(&self.folder, name, content);
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn get(&self, host: &str, path: &str) -> Response {
        get_with(self.server.address(), host, path, "")
    }

    /// From now on the file says `text`. What `srv reload` says, and whether it succeeded.
    fn reload(&self, text: &str) -> (String, bool) {
        self.write("srv.toml", text);
        let output = self.server.srv(&["reload"]).unwrap();
        let said = [output.stdout, output.stderr].concat();
        let said = String::from_utf8_lossy(&said).into_owned();
        (said, output.status.success())
    }
}

fn write(folder: &TempDir, name: &str, content: &str) {
    let path = folder.path().join(name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, content).unwrap();
}

/// Gets a path of a host over a connection of its own. `lines` are further header lines.
fn get_with(target: SocketAddr, host: &str, path: &str, lines: &str) -> Response {
    let mut client = Client::connect(target);
    client.send(format!(
        "GET {path} HTTP/1.1\r\nHost: {host}\r\n{lines}Connection: close\r\n\r\n"
    ));
    let response = client.response();
    client.assert_closed();
    response
}

const TWO: &str = "workers = 2\n\
    [[site]]\nhosts = [\"one.test\"]\nroot = \"one\"\n\
    [[site]]\nhosts = [\"*.two.test\", \"two.test\"]\nroot = \"two\"\n";
const PAGES: [(&str, &str); 3] = [
    ("one/index.html", "one"),
    ("two/index.html", "two"),
    ("three/index.html", "three"),
];

#[test]
fn two_sites_on_one_address_by_host() {
    let sites = Sites::start(TWO, &PAGES);
    for (host, body) in [
        ("one.test", "one"),
        ("ONE.test:80", "one"),
        ("one.test.", "one"),
        ("two.test", "two"),
        ("a.b.two.test", "two"),
    ] {
        // Each site has a cache of its own for the same path.
        for _ in 0..3 {
            assert_eq!(sites.get(host, "/").body, body.as_bytes(), "{host}");
        }
    }
    let refused = sites.get("three.test", "/");
    assert_eq!(refused.status(), 421);
    let absolute = sites.get("one.test", "http://two.test/");
    assert_eq!(absolute.body, b"two", "the target counts more than Host");
}

#[test]
fn a_default_site_answers_for_other_hosts() {
    let text = format!("{TWO}[[site]]\nroot = \"three\"\n");
    let sites = Sites::start(&text, &PAGES);
    assert_eq!(sites.get("one.test", "/").body, b"one");
    assert_eq!(sites.get("other.test", "/").body, b"three");
    let mut client = Client::connect(sites.server.address());
    client.send("GET / HTTP/1.0\r\n\r\n");
    assert_eq!(client.response().body, b"three");
}

#[test]
fn sites_come_and_go_under_load_without_loss() {
    let sites = Sites::start_with(TWO, &PAGES, &["--synthetic"]);
    let three = format!("{TWO}[[site]]\nhosts = [\"three.test\"]\nroot = \"three\"\n");
    without_loss(sites.server.address(), 200.0, || {
        for _ in 0..3 {
            let (said, succeeded) = sites.reload(&three);
            assert!(succeeded && said.contains("site"), "{said}");
            // The reload is over when each worker has the new roots.
            for _ in 0..10 {
                assert_eq!(sites.get("three.test", "/").body, b"three");
                assert_eq!(sites.get("one.test", "/").body, b"one");
            }
            let (said, succeeded) = sites.reload(TWO);
            assert!(succeeded && said.contains("site"), "{said}");
            for _ in 0..10 {
                assert_eq!(sites.get("three.test", "/").status(), 421);
                assert_eq!(sites.get("two.test", "/").body, b"two");
            }
        }
    });
}

/// What does not need other folders is taken over by the workers that run.
#[test]
fn a_change_without_another_root_replaces_no_worker() {
    let sites = Sites::start(TWO, &PAGES);
    let pids = || {
        let workers = group(&sites.server).workers.into_iter();
        workers.map(|worker| worker.pid).collect::<Vec<_>>()
    };
    let before = pids();
    let (said, succeeded) = sites.reload(&TWO.replace("one.test", "uno.test"));
    assert!(succeeded && said.contains("site"), "{said}");
    assert_eq!(sites.get("uno.test", "/").body, b"one");
    assert_eq!(sites.get("one.test", "/").status(), 421);
    assert_eq!(pids(), before);
}

#[test]
fn a_reload_that_cannot_be_followed_changes_nothing() {
    let sites = Sites::start(TWO, &PAGES);
    let bad = TWO.replace("\"one\"", "\"missing\"");
    let (said, succeeded) = sites.reload(&bad);
    assert!(!succeeded && said.contains("srv.toml:4:8: found"), "{said}");
    assert_eq!(sites.get("one.test", "/").body, b"one");
}

/// All sites together are longer than a packet on a worker's channel.
#[test]
fn five_hundred_sites_are_served_and_reloaded() {
    let text = |host: &str| {
        let site = |nth: usize| {
            format!(
                "[[site]]\nhosts = [\"{host}{nth}.test\", \"*.{host}{nth}.test\"]\nroot = \"{}\"\n\
                 [[site.route]]\nprefix = \"/old/\"\n\
                 redirect = {{ to = \"/new/{nth}/\", path = \"rest\" }}\n",
                ["one", "two", "three"][nth % 3]
            )
        };
        format!("workers = 2\n{}", (0..500).map(site).collect::<String>())
    };
    let sites = Sites::start(&text("a"), &PAGES);
    let check = |host: &str| {
        for nth in [0, 1, 250, 499] {
            let page = ["one", "two", "three"][nth % 3];
            let host = format!("www.{host}{nth}.test");
            assert_eq!(sites.get(&host, "/").body, page.as_bytes());
            let moved = sites.get(&host, "/old/x?y");
            let location = format!("/new/{nth}/x?y");
            assert_eq!(moved.header("location"), Some(&*location));
        }
    };
    check("a");
    let (said, succeeded) = sites.reload(&text("b"));
    assert!(succeeded && said.contains("site"), "{said}");
    check("b");
    assert_eq!(sites.get("a0.test", "/").status(), 421);
}

#[test]
fn the_roots_of_sites_are_followed() {
    let sites = Sites::start(TWO, &PAGES);
    fs::rename(sites.path("one"), sites.path("aside")).unwrap();
    sites.write("one/index.html", "another");
    let (said, succeeded) = sites.reload(TWO);
    assert!(succeeded, "{said}");
    for _ in 0..10 {
        assert_eq!(sites.get("one.test", "/").body, b"another");
        assert_eq!(sites.get("two.test", "/").body, b"two");
    }
}

/// The options are in force where the kernel shows them.
#[test]
fn an_address_has_the_socket_options_of_its_table() {
    let text = "workers = 1\nbacklog = 100\n\
        [[listen]]\naddress = \"127.0.0.1:0\"\nbacklog = 55\n\
        [[listen]]\naddress = \"127.0.0.1:0\"\n";
    let configured = Configured::start_listening(text, &[], 2);
    let limits = |address: SocketAddr| {
        let mut listeners = SockDiag::open(None).unwrap().listeners_on(address).unwrap();
        listeners.pop().unwrap().backlog
    };
    let addresses = configured.server.addresses();
    assert_eq!(
        addresses.iter().map(|one| limits(*one)).collect::<Vec<_>>(),
        [55, 100]
    );
}
