//! Which script of an application answers a request: the one that the path names, the index of a
//! folder, or the one script for all other paths. A script is a regular file beneath the root, as
//! `openat2` finds it, or has found it within the last second; what is none is never asked for. An application without scripts answers all
//! paths by itself.

mod known;

use std::os::unix::ffi::OsStrExt;

use http::Method;
use http::request::Parts;

use crate::fastcgi::script_path::ScriptPath;
use crate::serve::config::Root;
use crate::serve::config::sites::FastCgi;
use crate::serve::site::{IsThere, Site, decoded};

pub(super) use known::KnownScripts;

/// A script that exists, or the application itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Script {
    /// `SCRIPT_NAME`.
    pub name: Vec<u8>,
    /// `PATH_INFO`.
    pub info: Vec<u8>,
    /// `SCRIPT_FILENAME`: its path.
    pub file: Vec<u8>,
    /// `DOCUMENT_ROOT`.
    pub root: Vec<u8>,
}

/// What answers a path.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Found {
    Script(Script),
    /// The site's files, or their refusal.
    Files,
    Nothing,
}

/// Where scripts are looked up.
pub(super) struct Lookup<'a> {
    pub(super) fastcgi: &'a FastCgi,
    pub(super) root: Option<&'a Root>,
    /// What finds files beneath the root.
    pub(super) site: &'a Site,
    pub(super) known: &'a KnownScripts,
    /// The prefix of the route; empty if it has none.
    pub(super) prefix: &'a str,
}

/// Finds what answers `request`.
pub(super) fn find(lookup: &Lookup<'_>, request: &Parts) -> Found {
    // Every other answer than a refusal would be a tunnel (RFC 9110, 9.3.6).
    if request.method == Method::CONNECT {
        return Found::Files;
    }
    let Ok(path) = decoded(request.uri.path()) else {
        return Found::Files;
    };
    match lookup.fastcgi.has_scripts() {
        true => lookup.find(&path),
        false => lookup.application(&path),
    }
}

impl Lookup<'_> {
    fn find(&self, path: &[u8]) -> Found {
        let suffix = self.fastcgi.suffix.as_bytes();
        if let Some(ScriptPath { script, info }) = ScriptPath::by_suffix(path, suffix) {
            return match self.script(script, info) {
                Some(script) => Found::Script(script),
                None => self.otherwise(Found::Nothing),
            };
        }
        match self.site.is_there(path) {
            IsThere::File if self.fastcgi.files => Found::Files,
            IsThere::Folder if path.ends_with(b"/") => {
                let index = self.fastcgi.index.as_ref();
                let name = index.map(|index| [path, index.as_bytes()].concat());
                match name.and_then(|name| self.script(&name, b"")) {
                    Some(script) => Found::Script(script),
                    None => self.otherwise(self.files_or_nothing()),
                }
            }
            // The site redirects to the same with a slash.
            IsThere::Folder => self.otherwise(Found::Files),
            IsThere::File | IsThere::No => self.otherwise(Found::Nothing),
        }
    }

    fn files_or_nothing(&self) -> Found {
        match self.fastcgi.files {
            true => Found::Files,
            false => Found::Nothing,
        }
    }

    /// The script for all other paths, or `nothing` if there is none.
    fn otherwise(&self, nothing: Found) -> Found {
        let name = self.fastcgi.script.as_ref();
        let script = name.and_then(|name| self.script(name.as_bytes(), b""));
        script.map_or(nothing, Found::Script)
    }

    fn script(&self, name: &[u8], info: &[u8]) -> Option<Script> {
        let find = || self.site.is_there(name) == IsThere::File;
        let is_there = self.known.has(name, self.site.now(), find);
        is_there.then(|| self.named(name, info))
    }

    /// The application, for all of a path that follows the prefix.
    fn application(&self, path: &[u8]) -> Found {
        if self.fastcgi.files && self.site.is_there(path) == IsThere::File {
            return Found::Files;
        }
        let parts = ScriptPath::beneath(path, self.prefix.as_bytes());
        match parts {
            Some(ScriptPath { script, info }) => Found::Script(self.named(script, info)),
            None => Found::Files,
        }
    }

    fn named(&self, name: &[u8], info: &[u8]) -> Script {
        let root = self.root.map(|root| root.path.as_os_str().as_bytes());
        let root = root.unwrap_or_default();
        let root = root.strip_suffix(b"/").unwrap_or(root);
        Script {
            name: name.to_vec(),
            info: info.to_vec(),
            file: [root, name].concat(),
            root: root.to_vec(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::rc::Rc;

    use http::Request;

    use super::*;
    use crate::serve::config::sites::Files;
    use crate::serve::site::DocRoot;

    fn fastcgi(table: &str) -> FastCgi {
        FastCgi::of_table(&format!("to = \"127.0.0.1:9000\"\n{table}"))
    }

    /// What answers `path` in a folder with these files: the script and its path information, or
    /// what there is instead.
    fn found(fastcgi: &FastCgi, path: &str) -> String {
        let folder = tempfile::tempdir().unwrap();
        for name in ["index.php", "a.php", "a.txt", ".b.php"] {
            std::fs::write(folder.path().join(name), "x").unwrap();
        }
        for name in ["sub", "sub/folder.php", "empty"] {
            std::fs::create_dir(folder.path().join(name)).unwrap();
        }
        std::fs::write(folder.path().join("sub/index.php"), "x").unwrap();
        std::fs::write(folder.path().join("sub/folder.php/c.php"), "x").unwrap();
        std::os::unix::fs::symlink("/etc/passwd", folder.path().join("out.php")).unwrap();
        let root = Root::find(folder.path()).unwrap();
        let opened = Rc::new(DocRoot::new(&root).unwrap());
        let site = Site::of(
            Files::default(),
            Some((opened, Rc::default())),
            String::new(),
        );
        let (request, ()) = Request::get(path).body(()).unwrap().into_parts();
        let lookup = Lookup {
            fastcgi,
            root: Some(&root),
            site: &site,
            known: &KnownScripts::default(),
            prefix: "",
        };
        match find(&lookup, &request) {
            Found::Script(script) => {
                let name = String::from_utf8(script.name).unwrap();
                let file = String::from_utf8(script.file).unwrap();
                assert_eq!(file, format!("{}{name}", root.path.display()));
                format!("{name} {}", String::from_utf8(script.info).unwrap())
            }
            Found::Files => "files".into(),
            Found::Nothing => "nothing".into(),
        }
    }

    #[test]
    fn a_script_is_a_regular_file_beneath_the_root() {
        let plain = fastcgi("");
        for (path, answer) in [
            ("/a.php", "/a.php "),
            ("/a.php/b/c", "/a.php /b/c"),
            ("/%61.php", "/a.php "),
            ("/x/../a.php", "/a.php "),
            ("/", "/index.php "),
            ("/sub/", "/sub/index.php "),
            ("/sub", "files"),
            ("/a.txt", "nothing"),
            // A picture that an attacker has uploaded is no script (nginx's `cgi.fix_pathinfo`).
            ("/a.txt/x.php", "nothing"),
            ("/absent.php", "nothing"),
            ("/out.php", "nothing"),
            ("/.b.php", "nothing"),
            ("/empty/", "nothing"),
            ("/sub/folder.php/c.php", "nothing"),
            ("/../a.php", "files"),
        ] {
            assert_eq!(found(&plain, path), answer, "{path}");
        }
    }

    #[test]
    fn one_script_answers_what_is_no_file() {
        let front = fastcgi("files = true\nscript = \"/index.php\"");
        for (path, answer) in [
            ("/a.php/b", "/a.php /b"),
            ("/a.txt", "files"),
            ("/absent", "/index.php "),
            ("/absent.php", "/index.php "),
            ("/empty/", "/index.php "),
            ("/sub/", "/sub/index.php "),
        ] {
            assert_eq!(found(&front, path), answer, "{path}");
        }
        let all = fastcgi("script = \"/a.php\"\nsuffix = \"\"");
        for path in ["/", "/a.txt", "/index.php", "/absent"] {
            assert_eq!(found(&all, path), "/a.php ", "{path}");
        }
    }

    #[test]
    fn an_application_without_scripts_answers_for_all_paths() {
        let all = fastcgi("suffix = \"\"");
        for (path, answer) in [
            ("/", " /"),
            ("/a.php/b", " /a.php/b"),
            ("/absent", " /absent"),
        ] {
            assert_eq!(found(&all, path), answer, "{path}");
        }
        let rest = fastcgi("suffix = \"\"\nfiles = true");
        assert_eq!(found(&rest, "/a.txt"), "files");
        assert_eq!(found(&rest, "/absent"), " /absent");
    }
}
