//! The file of `--targets`, in vegeta's format: a line `METHOD URL` or `URL`,
//! then lines `Name: value` for header fields and a line `@FILE` for the body.
//! Empty lines and lines that begin with `#` are skipped.

use std::fs;
use std::io::{self, Read as _};
use std::path::Path;

use anyhow::{Context as _, Result, bail, ensure};

use super::header::Header;

/// One target as the file says it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) method: Option<String>,
    pub(super) url: String,
    pub(super) headers: Vec<Header>,
    /// The body's file, relative to the current folder.
    pub(super) body_file: Option<String>,
}

/// Reads the targets from the file at `path`, or from standard input if that is `-`.
///
/// # Errors
/// It cannot be read, or a line is none of the above; the message has its number.
pub(super) fn read(path: &Path) -> Result<Vec<Entry>> {
    let text = if path == Path::new("-") {
        let mut text = String::new();
        io::stdin().read_to_string(&mut text).map(|_| text)
    } else {
        fs::read_to_string(path)
    };
    let text = text.with_context(|| format!("read targets from {}", path.display()))?;
    parse(&text).with_context(|| format!("read targets from {}", path.display()))
}

fn parse(text: &str) -> Result<Vec<Entry>> {
    let mut entries: Vec<Entry> = Vec::new();
    let lines = text.lines().map(str::trim).zip(1..);
    for (line, number) in lines.filter(|(line, _)| !line.is_empty() && !line.starts_with('#')) {
        add(&mut entries, line).with_context(|| format!("line {number}: `{line}`"))?;
    }
    ensure!(!entries.is_empty(), "there is no target in it");
    Ok(entries)
}

fn add(entries: &mut Vec<Entry>, line: &str) -> Result<()> {
    if let Some(file) = line.strip_prefix('@') {
        let entry = entries.last_mut().context("a body comes after its URL")?;
        ensure!(entry.body_file.is_none(), "this target has a body already");
        entry.body_file = Some(file.to_owned());
        return Ok(());
    }
    let words: Vec<&str> = line.split_whitespace().collect();
    let (method, url) = match words[..] {
        [url] if url.contains("://") => (None, url),
        [method, url] if !method.ends_with(':') && url.contains("://") => (Some(method), url),
        _ => {
            let header = line.parse().context(
                "this is neither `URL` nor `METHOD URL`, nor a header field, nor `@FILE`",
            )?;
            let Some(entry) = entries.last_mut() else {
                bail!("a header field comes after its URL");
            };
            entry.headers.push(header);
            return Ok(());
        }
    };
    entries.push(Entry {
        method: method.map(str::to_owned),
        url: url.to_owned(),
        ..Entry::default()
    });
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_are_read_with_what_belongs_to_them() {
        let text = "\
# the start page
http://a/

POST http://a/x?{us}
Content-Type: text/plain
X-Url: http://b/
@body.txt
https://b/
";
        let entry = |method: Option<&str>, url: &str| Entry {
            method: method.map(str::to_owned),
            url: url.into(),
            ..Entry::default()
        };
        let expected = [
            entry(None, "http://a/"),
            Entry {
                headers: vec![
                    "Content-Type: text/plain".parse().unwrap(),
                    "X-Url: http://b/".parse().unwrap(),
                ],
                body_file: Some("body.txt".into()),
                ..entry(Some("POST"), "http://a/x?{us}")
            },
            entry(None, "https://b/"),
        ];
        assert_eq!(parse(text).unwrap(), expected);
    }

    #[test]
    fn a_line_that_is_none_is_named() {
        for (text, expected) in [
            ("", "no target"),
            ("# http://a/\n", "no target"),
            ("\nnonsense", "line 2: `nonsense`: this is neither"),
            (
                "X: y\nhttp://a/",
                "line 1: `X: y`: a header field comes after",
            ),
            ("@x\nhttp://a/", "line 1: `@x`: a body comes after"),
            ("http://a/\n@x\n@y", "line 3: `@y`: this target has a body"),
        ] {
            let error = format!("{:#}", parse(text).expect_err(text));
            assert!(error.contains(expected), "{text}: {error}");
        }
    }
}
