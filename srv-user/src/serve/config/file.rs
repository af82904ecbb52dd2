//! The TOML file: the flags of `srv serve` under the same names, those about
//! limits in a `[limits]` table. Knows syntax and places, not which settings
//! go together.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow};

use crate::serve::config::args::ServeArgs;

/// A file that was read.
#[derive(Debug)]
pub struct File {
    /// What it asks for, with paths relative to the file made absolute or
    /// relative to the current directory.
    pub args: ServeArgs,
    path: PathBuf,
    text: String,
}

impl File {
    /// Reads and parses the file.
    ///
    /// # Errors
    /// It cannot be read, or `file:line: what was found, what was expected`.
    pub fn read(path: &Path) -> Result<Self> {
        let text = fs::read_to_string(path)
            .with_context(|| format!("read --config {}", path.display()))?;
        Self::parse(path, text)
    }

    fn parse(path: &Path, text: String) -> Result<Self> {
        let mut args: ServeArgs = toml::from_str(&text).map_err(|error| {
            let line = line_of(&text, error.span().map_or(0, |span| span.start));
            // TOML says key where serde says field.
            let message = error.message().replacen("unknown field", "unknown key", 1);
            anyhow!("{}:{line}: {message}", path.display())
        })?;
        let folder = path.parent().unwrap_or(Path::new(""));
        for path in [&mut args.root, &mut args.control].into_iter().flatten() {
            *path = folder.join(&path);
        }
        Ok(Self {
            args,
            path: path.to_owned(),
            text,
        })
    }

    /// Where a top-level key is, as `file:line`.
    pub fn place(&self, key: &str) -> String {
        let line = line_of(&self.text, self.start_of(key).unwrap_or(0));
        format!("{}:{line}", self.path.display())
    }

    /// Whether the file has that top-level key.
    pub fn has(&self, key: &str) -> bool {
        self.start_of(key).is_some()
    }

    fn start_of(&self, key: &str) -> Option<usize> {
        let table = toml::de::DeTable::parse(&self.text).ok()?;
        let (key, _) = table.get_ref().get_key_value(key)?;
        Some(key.span().start)
    }
}

/// The line, counted from 1, of a byte offset.
fn line_of(text: &str, offset: usize) -> usize {
    let before = &text.as_bytes()[..offset.min(text.len())];
    1 + before.iter().filter(|byte| **byte == b'\n').count()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::values::{ListenAddr, PolicyName};
    use srv_common::Policy;

    fn parse(text: &str) -> Result<File> {
        File::parse(Path::new("etc/srv.toml"), text.into())
    }

    #[track_caller]
    fn assert_refused(text: &str, refusal: &str) {
        let error = parse(text).expect_err(text).to_string();
        assert!(
            error.starts_with(refusal),
            "{error:?} does not start with {refusal:?}"
        );
    }

    #[test]
    fn every_flag_is_a_key() {
        let file = parse(
            r#"
            listen = ["127.0.0.1:8080", "[::1]:8080"]
            workers = 4
            policy = "p2c"
            accept = "own"
            root = "site"
            dotfiles = true
            synthetic = true
            worker-header = true
            control = "/run/srv.sock"
            backlog = 128
            fast-open = 16
            v6-only = false
            no-bpf = false
            grace = "5s"
            upgrade-within = "30s"
            hang-after = "100ms"
            hang-kill = "5s"
            user = 65534
            log = "json"
            [types]
            foo = "text/x-foo; charset=utf-8"
            ".BAR" = "application/x-bar"
            [limits]
            header-bytes = "16KiB"
            body-bytes = 1048576
            connections = 1000
            header-timeout = "1s"
            read-timeout = "2s"
            idle-timeout = "3s"
            write-timeout = "4s"
            "#,
        )
        .unwrap();
        assert_eq!(file.args.listen.as_ref().map(Vec::len), Some(2));
        assert_eq!(file.args.policy, Some(PolicyName(Policy::P2c)));
        assert_eq!(
            file.args.limits.write_timeout.unwrap().0,
            Duration::from_secs(4)
        );
        assert_eq!(
            file.args.root,
            Some("etc/site".into()),
            "relative to the file"
        );
        assert_eq!(file.args.control, Some("/run/srv.sock".into()));
        let types = file.args.types.unwrap();
        let types: Vec<_> = types
            .iter()
            .map(|one| (one.extension.as_str(), one.name.as_str()))
            .collect();
        assert!(
            types.contains(&("foo", "text/x-foo; charset=utf-8")),
            "{types:?}"
        );
        assert!(types.contains(&("bar", "application/x-bar")), "{types:?}");
    }

    #[test]
    fn no_key_is_missing_from_the_file() {
        use clap::Args as _;
        let flags = ServeArgs::augment_args(clap::Command::new("serve"));
        for flag in flags.get_arguments().filter_map(|arg| arg.get_long()) {
            let in_file = |text: String| {
                let error = parse(&text)
                    .expect_err("an array of tables fits nowhere")
                    .to_string();
                !error.contains("unknown key")
            };
            let known = in_file(format!("{flag} = [{{}}]"))
                || in_file(format!("[limits]\n{flag} = [{{}}]"));
            // Of this one start, not of the server.
            let is_flag_only = ["config", "join"].contains(&flag);
            assert_eq!(known, !is_flag_only, "{flag}");
        }
    }

    #[test]
    fn one_address_needs_no_array() {
        let file = parse("listen = \"[::]:80\"").unwrap();
        assert_eq!(
            file.args.listen,
            Some(vec![ListenAddr("[::]:80".parse().unwrap())])
        );
    }

    #[test]
    fn unknown_keys_are_refused_at_their_line() {
        assert_refused(
            "workers = 2\n\nworkrs = 3\n",
            "etc/srv.toml:3: unknown key `workrs`, expected one of `listen`, `workers`",
        );
        assert_refused(
            "[limits]\nbody = 1",
            "etc/srv.toml:2: unknown key `body`, expected one of `header-bytes`",
        );
        assert_refused(
            "config = \"other.toml\"",
            "etc/srv.toml:1: unknown key `config`",
        );
    }

    #[test]
    fn bad_values_are_refused_at_their_line() {
        for (text, refusal) in [
            (
                "\nworkers = 0",
                "2: found `0`, expected a whole number from 1 to 256",
            ),
            (
                "\nworkers = 2.5",
                "2: invalid type: floating point `2.5`, expected a string or",
            ),
            (
                "policy = \"lest\"",
                "1: found `lest`, expected one of hash, random",
            ),
            ("policy = 3", "1: found `3`, expected one of hash"),
            ("accept = \"all\"", "1: found `all`, expected one of ring"),
            (
                "log = \"xml\"",
                "1: found `xml`, expected one of text, json",
            ),
            (
                "grace = 10",
                "1: found `10`, expected a duration with its unit",
            ),
            (
                "synthetic = \"yes\"",
                "1: invalid type: string \"yes\", expected a boolean",
            ),
            (
                "root = 1",
                "1: invalid type: integer `1`, expected path string",
            ),
            (
                "listen = 8080",
                "1: found `8080`, expected an address before the port",
            ),
            (
                "listen = [\n\"[::]:80\",\n\"a:80\"]",
                "3: found `a:80`, expected an IP address",
            ),
            (
                "[limits]\nheader-bytes = \"4KiB\"",
                "2: found `4KiB`, expected at least 8192 bytes",
            ),
            (
                "[limits]\n\nread-timeout = \"0s\"",
                "3: found `0s`, expected at least 1ms",
            ),
            (
                "[types]\na = \"b/c\"\nfoo = \"text\"",
                "3: found `foo = text`, expected a media type, such as",
            ),
            (
                "[types]\n\"a/b\" = \"b/c\"",
                "2: found `a/b = b/c`, expected what follows the last dot",
            ),
            (
                "types = 3",
                "1: invalid type: integer `3`, expected a table of extensions",
            ),
            (
                "limits = 3",
                "1: invalid type: integer `3`, expected a table of limits",
            ),
        ] {
            assert_refused(text, &format!("etc/srv.toml:{refusal}"));
        }
    }

    #[test]
    fn broken_syntax_is_refused_at_its_line() {
        assert_refused("workers = 1\nworkers = 2", "etc/srv.toml:2: duplicate key");
        assert_refused("workers = 1\npolicy least", "etc/srv.toml:2: ");
        assert_refused("policy = \"least\nworkers = 1", "etc/srv.toml:1: ");
    }

    #[test]
    fn an_unreadable_file_is_named() {
        let error = File::read(Path::new("does/not/exist.toml")).unwrap_err();
        assert!(error.to_string().contains("does/not/exist.toml"));
    }

    #[test]
    fn the_place_of_a_key_is_known_afterwards() {
        let file = parse("# a comment\nworkers = 2\npolicy = \"hash\"").unwrap();
        assert_eq!(file.place("policy"), "etc/srv.toml:3");
    }
}
