//! The TOML file. It has the flags of `srv serve` under the same names; the limits are in the
//! table `[limits]`. This module knows syntax and places, but not which settings contradict
//! each other.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, anyhow};
use serde::Deserialize;
use toml::de::{DeTable, Deserializer, Error};

use super::args::ServeArgs;
use super::keys::Places;

/// A file that was read.
#[derive(Debug, Default)]
pub(super) struct File {
    /// What the file sets. Paths that were relative to the file are now absolute or relative to
    /// the current directory.
    pub args: ServeArgs,
    /// Where the file has each key.
    pub places: Places,
}

impl File {
    /// Reads and parses the file.
    ///
    /// # Errors
    /// srv cannot read the file, or a value is wrong: `file:line:column: what was found, what was
    /// expected`.
    pub(super) fn read(path: &Path) -> Result<Self> {
        let text = fs::read_to_string(path)
            .with_context(|| format!("read --config {}", path.display()))?;
        Self::parse(path, &text)
    }

    fn parse(path: &Path, text: &str) -> Result<Self> {
        let mut places = Places {
            file: path.to_owned(),
            text: text.into(),
            ..Places::default()
        };
        let refusal = |error: Error| {
            let offset = error.span().map_or(0, |span| span.start);
            // TOML has keys; serde calls them fields.
            let message = error.message().replacen("unknown field", "unknown key", 1);
            anyhow!("{}: {message}", places.at(offset))
        };
        let table = DeTable::parse(text).map_err(refusal)?;
        let keys = table.get_ref().keys();
        let offsets = keys.map(|key| (key.to_string(), key.span().start));
        let offsets = offsets.collect();
        let mut args = ServeArgs::deserialize(Deserializer::from(table)).map_err(refusal)?;
        args.relative_to(path.parent().unwrap_or(Path::new("")));
        places.offsets = offsets;
        Ok(Self { args, places })
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use clap::{Arg, Args as _, Command, FromArgMatches as _};
    use srv_common::Policy;

    use super::*;
    use crate::serve::config::limits::LimitArgs;
    use crate::values::PolicyName;

    /// Flags that belong to one start and not to the server. The file does not have them.
    const OF_ONE_START: [&str; 3] = ["config", "join", "print-config"];

    fn parse(text: &str) -> Result<File> {
        File::parse(Path::new("etc/srv.toml"), text)
    }

    #[track_caller]
    fn assert_refused(text: &str, refusal: &str) {
        let error = parse(text).expect_err(text).to_string();
        assert!(
            error.starts_with(refusal),
            "{error:?} does not start with {refusal:?}"
        );
    }

    fn flags() -> Command {
        ServeArgs::augment_args(Command::new("serve"))
    }

    /// A sample value for the kind of a flag: on the command line, and in the file.
    fn sample(flag: &Arg) -> (&'static str, &'static str) {
        match flag.get_value_names().unwrap()[0].as_str() {
            "ADDR" => ("[::1]:80", "\"[::1]:80\""),
            "BOOL" => ("true", "true"),
            "BYTES" => ("32KiB", "\"32KiB\""),
            "DIR" | "PATH" => ("/a/b", "\"/a/b\""),
            "EXT=TYPE" => (".FOO=a/b; c=d", "{ \".FOO\" = \"a/b; c=d\" }"),
            "FORMAT" => ("json", "\"json\""),
            "MODE" => ("own", "\"own\""),
            "N" => ("64", "64"),
            "NAME" => ("p2c", "\"p2c\""),
            "TIME" => ("5s", "\"5s\""),
            "USER" => ("65534", "65534"),
            "WHERE" => ("syslog", "\"syslog\""),
            "WHICH" => ("always", "\"always\""),
            other => panic!("add a sample of the kind {other}"),
        }
    }

    #[test]
    fn every_flag_is_a_key() {
        let limits = LimitArgs::augment_args(Command::new("limits"));
        let is_limit = |flag: &Arg| limits.get_arguments().any(|limit| limit == flag);
        let silent = format!("{:?}", ServeArgs::default());
        let (mut whole, mut tables) = (String::new(), "[limits]\n".to_owned());
        for flag in flags().get_arguments() {
            let name = flag.get_long().unwrap();
            if OF_ONE_START.contains(&name) {
                continue;
            }
            let (by_flag, in_file) = sample(flag);
            let line = format!("{name} = {in_file}\n");
            let text = match is_limit(flag) {
                true => format!("[limits]\n{line}"),
                false => line.clone(),
            };
            let words = ["serve".to_owned(), format!("--{name}={by_flag}")];
            let by_flag = ServeArgs::from_arg_matches(&flags().get_matches_from(words)).unwrap();
            let in_file = format!("{:?}", parse(&text).unwrap().args);
            assert_eq!(in_file, format!("{by_flag:?}"), "{name}");
            assert_ne!(in_file, silent, "{name}");
            let part = if is_limit(flag) {
                &mut tables
            } else {
                &mut whole
            };
            part.push_str(&line);
        }
        let file = parse(&(whole + &tables)).unwrap();
        assert_eq!(file.args.policy, Some(PolicyName(Policy::P2c)));
        let last = file.args.limits.write_timeout.unwrap();
        assert_eq!(last.0, Duration::from_secs(5));
    }

    #[test]
    fn values_are_read_and_paths_are_relative_to_the_file() {
        let file = parse(
            r#"
            listen = ["127.0.0.1:8080", "[::1]:8080"]
            policy = "p2c"
            root = "site"
            control = "/run/srv.sock"
            [types]
            foo = "text/x-foo; charset=utf-8"
            ".BAR" = "application/x-bar"
            [limits]
            body-bytes = 1048576
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
        assert_eq!(file.args.limits.body_bytes.unwrap().0, 1 << 20);
        assert_eq!(file.args.root, Some("etc/site".into()));
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
        for flag in flags().get_arguments().filter_map(|arg| arg.get_long()) {
            let in_file = |text: String| {
                let error = parse(&text)
                    .expect_err("an array of empty tables fits nowhere")
                    .to_string();
                !error.contains("unknown key")
            };
            let known = in_file(format!("{flag} = [{{}}]"))
                || in_file(format!("[limits]\n{flag} = [{{}}]"));
            assert_eq!(known, !OF_ONE_START.contains(&flag), "{flag}");
        }
    }

    #[test]
    fn one_address_needs_no_array() {
        let file = parse("listen = \"[::]:80\"").unwrap();
        assert_eq!(file.args.listen, Some(vec!["[::]:80".parse().unwrap()]));
    }

    #[test]
    fn an_address_may_have_options_of_its_own() {
        let text = "backlog = 7\n[[listen]]\naddress = \"[::]:80\"\nv6-only = false\n\
                    [[listen]]\naddress = \"127.0.0.1:81\"\nbacklog = 9\nfast-open = 3\n";
        let listen = parse(text).unwrap().args.listen.unwrap();
        let options = listen
            .iter()
            .map(|one| (one.backlog, one.fast_open, one.v6_only));
        let options: Vec<_> = options.collect();
        assert_eq!(
            options,
            [(None, None, Some(false)), (Some(9), Some(3), None)]
        );
        assert_eq!(listen[1].address, "127.0.0.1:81".parse().unwrap());
        assert_refused(
            "[[listen]]\naddress = \"[::]:80\"\nreuseport = true",
            "etc/srv.toml:3:1: unknown key `reuseport`, expected one of `address`",
        );
        assert_refused(
            "[[listen]]\naddress = \"80\"",
            "etc/srv.toml:2:11: found `80`, expected an address before the port",
        );
        assert_refused(
            "[[listen]]\nbacklog = 3",
            "etc/srv.toml:1:1: missing field `address`",
        );
    }

    #[test]
    fn unknown_keys_are_refused_at_their_line() {
        assert_refused(
            "workers = 2\n\nworkrs = 3\n",
            "etc/srv.toml:3:1: unknown key `workrs`, expected one of `listen`, `workers`",
        );
        assert_refused(
            "[limits]\nbody = 1",
            "etc/srv.toml:2:1: unknown key `body`, expected one of `header-bytes`",
        );
        assert_refused(
            "config = \"other.toml\"",
            "etc/srv.toml:1:1: unknown key `config`",
        );
    }

    /// A file, and how the refusal continues after the file's name.
    const BAD_VALUES: &[(&str, &str)] = &[
        (
            "\nworkers = 0",
            "2:11: found `0`, expected a whole number from 1 to 256",
        ),
        (
            "\nworkers = 2.5",
            "2:11: invalid type: floating point `2.5`, expected a string or",
        ),
        (
            "policy = \"lest\"",
            "1:10: found `lest`, expected one of hash, random",
        ),
        ("policy = 3", "1:10: found `3`, expected one of hash"),
        (
            "accept = \"all\"",
            "1:10: found `all`, expected one of ring",
        ),
        (
            "log = \"xml\"",
            "1:7: found `xml`, expected one of text, json",
        ),
        (
            "grace = 10",
            "1:9: found `10`, expected a duration with its unit",
        ),
        (
            "synthetic = \"yes\"",
            "1:13: invalid type: string \"yes\", expected a boolean",
        ),
        (
            "root = 1",
            "1:8: invalid type: integer `1`, expected path string",
        ),
        (
            "listen = 8080",
            "1:10: found `8080`, expected an address before the port",
        ),
        (
            "listen = [\n\"[::]:80\",\n\"a:80\"]",
            "3:1: found `a:80`, expected an IP address",
        ),
        (
            "[limits]\nheader-bytes = \"4KiB\"",
            "2:16: found `4KiB`, expected at least 8192 bytes",
        ),
        (
            "[limits]\n\nread-timeout = \"0s\"",
            "3:16: found `0s`, expected at least 1ms",
        ),
        (
            "[types]\na = \"b/c\"\nfoo = \"text\"",
            "3:7: found `foo = text`, expected a media type, such as",
        ),
        (
            "[types]\n\"a/b\" = \"b/c\"",
            "2:9: found `a/b = b/c`, expected what follows the last dot",
        ),
        (
            "types = 3",
            "1:9: invalid type: integer `3`, expected a table of extensions",
        ),
        (
            "limits = 3",
            "1:10: invalid type: integer `3`, expected a table of limits",
        ),
    ];

    #[test]
    fn bad_values_are_refused_at_their_line() {
        for (text, refusal) in BAD_VALUES {
            assert_refused(text, &format!("etc/srv.toml:{refusal}"));
        }
    }

    #[test]
    fn broken_syntax_is_refused_at_its_line() {
        assert_refused(
            "workers = 1\nworkers = 2",
            "etc/srv.toml:2:1: duplicate key",
        );
        assert_refused("workers = 1\npolicy least", "etc/srv.toml:2:");
        assert_refused("policy = \"least\nworkers = 1", "etc/srv.toml:1:");
    }

    #[test]
    fn an_unreadable_file_is_named() {
        let error = File::read(Path::new("does/not/exist.toml")).unwrap_err();
        assert!(error.to_string().contains("does/not/exist.toml"));
    }

    #[test]
    fn the_place_of_a_key_is_known_afterwards() {
        let file = parse("# a comment\nworkers = 2\npolicy = \"hash\"").unwrap();
        assert_eq!(file.places.of("policy"), "etc/srv.toml:3:1: policy");
        assert_eq!(file.places.of("accept"), "--accept");
    }
}
