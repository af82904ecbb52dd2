//! DokuWiki as Debian packages it, behind srv with PHP's process manager: a page is read, a user logs in,
//! edits a page and uploads a picture.

use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

use crate::configured::Configured;
use crate::gate;
use crate::php;

const WIKI: &str = "/usr/share/dokuwiki";
const CONFIGURATION: &str = "/etc/dokuwiki";
const PICTURE: &str = "/usr/share/dokuwiki/lib/images/throbber.gif";

const EDIT: &str = "/doku.php?id=wiki:second&do=edit";

/// As in docs/sites.md.
const SITE: &str = r#"
[[site]]
root = "/usr/share/dokuwiki"
fastcgi = { to = "SOCKET", files = true }
limits = { body-bytes = "16MiB" }

# Debian's package links to these two from beneath the root.
[[site.route]]
prefix = "/lib/tpl"
root = "/var/lib/dokuwiki"
fastcgi = { to = "SOCKET", files = true }
[[site.route]]
prefix = "/lib/plugins"
root = "/var/lib/dokuwiki"
fastcgi = { to = "SOCKET", files = true }

[[site.route]]
prefix = "/inc"
respond = { status = 404 }
[[site.route]]
prefix = "/vendor"
respond = { status = 404 }
[[site.route]]
prefix = "/bin"
respond = { status = 404 }
"#;

fn is_installed() -> Result<(), String> {
    php::is_installed()?;
    let is_there = Path::new(WIKI).join("doku.php").is_file();
    is_there
        .then_some(())
        .ok_or("no DokuWiki: apt-get install dokuwiki".into())
}

/// A configuration of the wiki's own in `folder`, with the user `admin` and the password `secret`.
/// Returns what PHP is to do first.
fn configure(folder: &Path) -> PathBuf {
    fs::set_permissions(folder, PermissionsExt::from_mode(0o755)).unwrap();
    let at = |name: &str| folder.join(name);
    let mut copy = Command::new("cp");
    copy.args(["-rL", CONFIGURATION]).arg(at("conf"));
    assert!(copy.status().unwrap().success());
    for name in [
        "attic",
        "cache",
        "index",
        "locks",
        "log",
        "media",
        "media_attic",
        "media_meta",
        "meta",
        "pages",
        "tmp",
    ] {
        fs::create_dir_all(at("data").join(name)).unwrap();
    }
    fs::create_dir(at("data/pages/wiki")).unwrap();
    fs::write(
        at("data/pages/wiki/first.txt"),
        "====== First ======\nRead **me**.",
    )
    .unwrap();
    let shown = folder.display();
    let local = format!(
        "<?php $conf['title'] = 'A wiki'; $conf['useacl'] = 1; $conf['superuser'] = '@admin';\
         $conf['savedir'] = '{shown}/data';"
    );
    fs::write(at("conf/local.php"), local).unwrap();
    let admin = "# <?php exit()?>\nadmin:$2y$04$eMzaL6P9AuVXjP3t7AWaleC3sWsC2YeqJEod7.OKOWgtt9nAMujoS\
                 :Ad Min:a@example.org:admin,user\n";
    fs::write(at("conf/users.auth.php"), admin).unwrap();
    fs::write(at("conf/acl.auth.php"), "# <?php exit()?>\n*\t@ALL\t1\n").unwrap();
    let first = at("first.php");
    let defines =
        ["DOKU_CONF", "DOKU_MAIN_CONF"].map(|name| format!("define('{name}', '{shown}/conf/');"));
    fs::write(&first, format!("<?php {}", defines.concat())).unwrap();
    first
}

/// A browser: curl with cookies.
struct Browser<'a> {
    folder: &'a TempDir,
    address: SocketAddr,
}

impl Browser<'_> {
    fn ask(&self, path: &str, arguments: &[&str]) -> Vec<u8> {
        let mut curl = Command::new("curl");
        let cookies = self.folder.path().join("cookies");
        curl.args(["-s", "--fail", "--location", "--max-time", "20"]);
        curl.arg("-b").arg(&cookies).arg("-c").arg(&cookies);
        curl.args(arguments)
            .arg(format!("http://{}{path}", self.address));
        let output = curl.output().unwrap();
        assert!(output.status.success(), "{path}: {}", output.status);
        output.stdout
    }

    fn text(&self, path: &str, arguments: &[&str]) -> String {
        String::from_utf8(self.ask(path, arguments)).unwrap()
    }
}

/// The value of a hidden field of a form.
fn field(page: &str, name: &str) -> String {
    let begin = format!("name=\"{name}\" value=\"");
    let (_, rest) = page
        .split_once(&begin)
        .unwrap_or_else(|| panic!("no {name} in {page}"));
    format!("{name}={}", rest.split('"').next().unwrap())
}

#[test]
fn dokuwiki_is_read_edited_and_given_a_picture() {
    gate::needs!(root, "run DokuWiki": &is_installed());
    let folder = tempfile::tempdir().unwrap();
    let first = configure(folder.path());
    let prepend = format!("php_admin_value[auto_prepend_file] = {}\n", first.display());
    let _manager = php::fpm(folder.path(), &prepend);
    let socket = format!("unix:{}/php.sock", folder.path().display());
    let served = Configured::start(&SITE.replace("SOCKET", &socket), &["--workers", "2"]);
    let browser = Browser {
        address: served.server.address(),
        folder: &folder,
    };
    let read = browser.text("/doku.php?id=wiki:first", &[]);
    assert!(
        read.contains("Read <strong>me</strong>.") && !read.contains("Ad Min"),
        "{read}"
    );
    assert!(!browser.text(EDIT, &[]).contains("wikitext\" rows"));

    log_in_and_edit(&browser);
    upload(&browser);
}

fn log_in_and_edit(browser: &Browser<'_>) {
    let user = ["-d", "id=wiki:first&do=login&u=admin&p=secret"];
    let page = browser.text("/doku.php", &user);
    assert!(page.contains("Ad Min"), "{page}");
    let page = browser.text(EDIT, &[]);
    let fields = ["sectok", "changecheck"].map(|name| field(&page, name));
    let save = [
        "--data-urlencode",
        "wikitext====== Second ======\nWritten **through srv**.",
        "--data-urlencode",
        "prefix=.",
        "-d",
        "suffix=&rev=0&date=&target=section&do[save]=1",
        "-d",
        &fields[0],
        "-d",
        &fields[1],
    ];
    browser.text("/doku.php?id=wiki:second", &save);
    let page = browser.text("/doku.php?id=wiki:second", &[]);
    assert!(
        page.contains("Written <strong>through srv</strong>."),
        "{page}"
    );
}

fn upload(browser: &Browser<'_>) {
    let manager = "/lib/exe/mediamanager.php?ns=wiki";
    let token = field(&browser.text(manager, &[]), "sectok");
    let picture = format!("upload=@{PICTURE};type=image/gif");
    let upload = [
        "-F",
        &token,
        "-F",
        "ns=wiki",
        "-F",
        "mediaid=a.gif",
        "-F",
        &picture,
    ];
    let page = browser.text(manager, &upload);
    assert!(page.contains("Upload successful"), "{page}");
    let sent = browser.ask("/lib/exe/fetch.php?media=wiki:a.gif", &[]);
    assert_eq!(sent, fs::read(PICTURE).unwrap());
    assert_eq!(browser.ask("/lib/images/throbber.gif", &[]), sent);
    assert!(
        !browser
            .ask("/lib/tpl/dokuwiki/images/logo.png", &[])
            .is_empty()
    );
}
