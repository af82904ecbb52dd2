//! Requests that have fooled servers, sent to srv and to nginx with the same folder: paths that lead
//! out of it, and messages of which one can be taken for two. Both must answer alike. Each difference
//! is in [`DIFFERENCES`] with its reason; one that is not there, or is there in vain, is a failure.

mod corpus;
mod peer;

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::path::Path;
use std::time::Duration;

use crate::gate;
use crate::serve::serve;
use crate::unmodified::in_path;
use corpus::{CASES, DIFFERENCES};
use peer::Nginx;

/// What the file beside the root says: no answer may have it.
const OUTSIDE: &str = "outside of the root";

/// How a server answered all that came over one connection.
#[derive(Debug, PartialEq)]
struct Answers {
    statuses: Vec<u16>,
    /// The files whose text came, by what they say.
    files: Vec<&'static str>,
}

impl std::fmt::Display for Answers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let statuses: Vec<_> = self.statuses.iter().map(u16::to_string).collect();
        f.write_str(&statuses.join(","))?;
        if !self.files.is_empty() {
            write!(f, " {}", self.files.join(","))?;
        }
        Ok(())
    }
}

#[test]
fn srv_and_nginx_answer_alike() {
    gate::needs!("run nginx": &in_path("nginx").map(drop));
    let folder = tempfile::tempdir().unwrap();
    fill(folder.path());
    let root = folder.path().join("root");
    let nginx = Nginx::start(folder.path(), &root);
    let server = serve()
        .workers(1)
        .with("--root", root.to_str().unwrap())
        .start();
    let mut differences = BTreeMap::new();
    for (name, request) in CASES {
        let [ours, peers] = [server.address(), nginx.address].map(|at| answers(at, request));
        if ours != peers {
            differences.insert(name.to_string(), format!("{ours} beside {peers}"));
        }
    }
    let known = |(name, said, _why): &(&str, &str, &str)| (name.to_string(), said.to_string());
    let known: BTreeMap<_, _> = DIFFERENCES.iter().map(known).collect();
    assert_eq!(
        differences, known,
        "srv's answers beside nginx's, and the known differences"
    );
}

/// Makes a root, and beside it what must not be served.
fn fill(folder: &Path) {
    let root = folder.join("root");
    std::fs::create_dir_all(root.join("dir/sub")).unwrap();
    for (file, text) in [
        ("outside", OUTSIDE),
        ("root/index.html", "file index"),
        ("root/a", "file a"),
        ("root/a b", "file a b"),
        ("root/a%2fb", "file percent"),
        ("root/dir/b", "file b"),
        ("root/dir/index.html", "file dir"),
    ] {
        std::fs::write(folder.join(file), text).unwrap();
    }
    std::os::unix::fs::symlink("../outside", root.join("link")).unwrap();
}

/// Sends `request`, says that no more comes, and reads all answers.
fn answers(server: SocketAddr, request: &[u8]) -> Answers {
    let mut stream = TcpStream::connect(server).unwrap();
    stream
        .set_read_timeout(Some(Duration::from_secs(10)))
        .unwrap();
    // A server that refuses the first bytes may not read the last.
    let _ = stream.write_all(request);
    let _ = stream.shutdown(Shutdown::Write);
    let mut all = Vec::new();
    // What came before a reset is an answer, too.
    let _ = stream.read_to_end(&mut all);
    let text = String::from_utf8_lossy(&all);
    assert!(
        !text.contains(OUTSIDE),
        "{:?} leads out of the root",
        String::from_utf8_lossy(request)
    );
    let status = |rest: &str| rest.get(2..5)?.parse().ok();
    let files = [
        "file index",
        "file a b",
        "file a",
        "file percent",
        "file b",
        "file dir",
    ];
    Answers {
        statuses: text.split("HTTP/1.").skip(1).filter_map(status).collect(),
        files: files
            .into_iter()
            .filter(|file| text.ends_with(file))
            .collect(),
    }
}
