//! git over HTTP and gitweb, by the programs that git itself has for that: behind nginx and behind srv.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output};

use anyhow::{Result, ensure};
use rustix::process::geteuid;

use super::Cgi;
use super::nginx::{Nginx, curl, installed, text};
use crate::configured::Configured;
use crate::gate;

const BACKEND: &str = "/usr/lib/git-core/git-http-backend";
const GITWEB: &str = "/usr/share/gitweb/gitweb.cgi";

const SITE: &str = r#"
[[site]]
respond = { status = 404 }
[[site.route]]
prefix = "/git"
[site.route.fastcgi]
to = "unix:{socket}"
suffix = ""
params = { SCRIPT_FILENAME = "/usr/lib/git-core/git-http-backend" }
[[site.route]]
prefix = "/private"
auth = { realm = "git", users = "{users}" }
[site.route.fastcgi]
to = "unix:{socket}"
suffix = ""
params = { SCRIPT_FILENAME = "/usr/lib/git-core/git-http-backend" }
[[site.route]]
prefix = "/gitweb"
[site.route.fastcgi]
to = "unix:{socket}"
suffix = ""
params = { SCRIPT_FILENAME = "/usr/share/gitweb/gitweb.cgi" }
"#;

const LOCATIONS: &str = r"
location /git/ {
    fastcgi_split_path_info ^(/git)(/.*)$;
    fastcgi_param PATH_INFO $fastcgi_path_info;
    fastcgi_param SCRIPT_FILENAME /usr/lib/git-core/git-http-backend;
    fastcgi_pass {socket};
}
location = /gitweb {
    fastcgi_param SCRIPT_FILENAME /usr/share/gitweb/gitweb.cgi;
    fastcgi_pass {socket};
}
";

fn programs() -> Result<()> {
    installed()?;
    for program in [BACKEND, GITWEB] {
        ensure!(
            Path::new(program).is_file(),
            "{program} is not there: `cargo xtask test` installs it"
        );
    }
    Ok(())
}

/// Runs git in `folder`, as a user without a configuration.
fn git(folder: &Path, arguments: &[&str]) -> String {
    text(&tried(folder, arguments)).trim().to_owned()
}

/// As [`git`], whether it succeeds or not.
fn tried(folder: &Path, arguments: &[&str]) -> Output {
    let mut git = Command::new("git");
    git.current_dir(folder).args(arguments);
    git.env("HOME", folder).env("GIT_CONFIG_NOSYSTEM", "1");
    for role in ["AUTHOR", "COMMITTER"] {
        git.env(format!("GIT_{role}_NAME"), "A U Thor");
        git.env(format!("GIT_{role}_EMAIL"), "author@example.org");
    }
    git.env("GIT_TERMINAL_PROMPT", "0").output().unwrap()
}

/// A repository on the server, which its user owns. If its name says that it is private, only users may
/// push, since git finds `REMOTE_USER` (git-http-backend(1)).
fn make_repository(folder: &Path, name: &str) {
    let name = folder.join("repositories").join(name);
    let path = name.to_str().unwrap();
    git(
        folder,
        &["init", "--quiet", "--bare", "--initial-branch=main", path],
    );
    if !name.ends_with("private.git") {
        git(&name, &["config", "http.receivepack", "true"]);
    }
    if geteuid().is_root() {
        let owned = Command::new("chown").args(["-R", "nobody", path]).status();
        assert!(owned.unwrap().success());
    }
}

/// Commits a file of so many bytes, of which no two are alike for git to compress.
fn commit(work: &Path, name: &str, bytes: usize) -> String {
    let mut state = 1u64;
    let noise = std::iter::repeat_with(|| {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        (state >> 56) as u8
    });
    std::fs::write(work.join(name), noise.take(bytes).collect::<Vec<_>>()).unwrap();
    git(work, &["add", name]);
    git(work, &["commit", "--quiet", "-m", &format!("add {name}")]);
    git(work, &["rev-parse", "HEAD"])
}

/// A `srv cgi` for git, with the repositories of `folder`.
fn start(folder: &Path, repositories: &[&str]) -> Cgi {
    fs::set_permissions(folder, PermissionsExt::from_mode(0o755)).unwrap();
    for name in repositories {
        make_repository(folder, name);
    }
    let all = folder.join("repositories").display().to_string();
    let configuration = folder.join("gitweb.conf");
    fs::write(&configuration, format!("$projectroot = '{all}'; 1;\n")).unwrap();
    let root = format!("GIT_PROJECT_ROOT={all}");
    let config = format!("GITWEB_CONFIG={}", configuration.display());
    let variables = ["GIT_HTTP_EXPORT_ALL=1", &root, &config];
    let variables = variables.into_iter().flat_map(|it| ["--env", it]);
    let scripts = ["--script", BACKEND, "--script", GITWEB];
    Cgi::start(
        &[],
        &scripts.into_iter().chain(variables).collect::<Vec<_>>(),
    )
}

/// Pushes so many bytes, clones, pushes from the clone, and fetches, in the folder `work`, which it makes.
fn use_repository(work: &Path, url: &str, bytes: usize) {
    fs::create_dir(work).unwrap();
    let (first, second) = (work.join("first"), work.join("second"));
    git(work, &["init", "--quiet", "--initial-branch=main", "first"]);
    git(&first, &["remote", "add", "origin", url]);
    commit(&first, "small", 1);
    let pushed = commit(&first, "large", bytes);
    git(&first, &["push", "--quiet", "origin", "main"]);
    git(work, &["clone", "--quiet", url, "second"]);
    assert_eq!(git(&second, &["rev-parse", "HEAD"]), pushed);
    let pushed = commit(&second, "answer", 10);
    git(&second, &["push", "--quiet", "origin", "main"]);
    git(&first, &["fetch", "--quiet", "origin"]);
    assert_eq!(git(&first, &["rev-parse", "origin/main"]), pushed);
}

#[test]
fn git_clones_fetches_and_pushes() {
    gate::needs!("run git-http-backend and gitweb": &programs());
    let folder = tempfile::tempdir().unwrap();
    let cgi = start(folder.path(), &["a.git", "b.git", "private.git"]);
    let nginx = Nginx::start(&cgi, LOCATIONS);
    let url = format!("http://{}/git/a.git", nginx.address);
    // nginx would not send all of a larger body: git begins to answer before.
    use_repository(&folder.path().join("by-nginx"), &url, 10_000);
    let list = nginx.get("/gitweb", &[]);
    assert!(list.contains("200 OK") && list.contains("a.git"), "{list}");
    let log = nginx.get("/gitweb?p=a.git;a=shortlog", &[]);
    assert!(
        log.contains("add answer") && log.contains("A U Thor"),
        "{log}"
    );

    let users = folder.path().join("users");
    // Of `secret`.
    let line = "a:$2y$04$eMzaL6P9AuVXjP3t7AWaleC3sWsC2YeqJEod7.OKOWgtt9nAMujoS\n";
    fs::write(&users, line).unwrap();
    let site = SITE.replace("{socket}", cgi.socket().to_str().unwrap());
    let site = site.replace("{users}", users.to_str().unwrap());
    let served = Configured::start(&site, &["--body-bytes", "16MiB"]);
    let address = served.server.address();
    let url = format!("http://{address}/git/b.git");
    // Beyond 1 MiB, git sends a body whose length it does not say.
    use_repository(&folder.path().join("by-srv"), &url, 3 << 20);
    let first = folder.path().join("by-srv/first");
    let push = |user: &str, repository: &str| {
        let url = format!("http://{user}{address}/{repository}/private.git");
        tried(&first, &["push", "--quiet", &url, "main"])
    };
    // By the public route, there is no user.
    for (user, repository) in [("", "private"), ("a:wrong@", "private"), ("", "git")] {
        assert!(
            !push(user, repository).status.success(),
            "{user} {repository}"
        );
    }
    text(&push("a:secret@", "private"));
    let log = curl(address, "/gitweb?p=b.git;a=shortlog", &[]);
    assert!(
        log.contains("200 OK") && log.contains("add answer"),
        "{log}"
    );
}
