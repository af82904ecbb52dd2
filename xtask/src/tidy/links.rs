//! What the documentation points at exists: files that it links to, headings in them, and
//! paths of this repository that it names in code. What is elsewhere is not looked up.

use std::path::Path;

use anyhow::Result;

use super::{
    Finding,
    folders::normal,
    markdown::{Page, Placed},
    tree::Tree,
};

/// The links and paths in all Markdown files that lead nowhere.
///
/// # Errors
/// If a file cannot be read.
pub(super) fn check(tree: &Tree) -> Result<Vec<Finding>> {
    let mut findings = Vec::new();
    for file in tree.files().iter().filter(|file| file.ends_with(".md")) {
        let page = Page::parse(&tree.utf8(file)?);
        for link in &page.links {
            if let Some(text) = fault(tree, file, &page, &link.text)? {
                findings.push(Finding::new(file, link.line, text));
            }
        }
        for code in &page.code {
            findings.extend(missing_paths(tree, file, code));
        }
    }
    Ok(findings)
}

/// What is wrong with a link on `page`, which is in `file`.
fn fault(tree: &Tree, file: &str, page: &Page, link: &str) -> Result<Option<String>> {
    if is_elsewhere(link) {
        return Ok(None);
    }
    let (target, anchor) = match link.split_once('#') {
        Some((target, anchor)) => (target, Some(anchor)),
        None => (link, None),
    };
    let folder = Path::new(file).parent().unwrap_or(Path::new(""));
    let path = match target.strip_prefix('/') {
        _ if target.is_empty() => file.to_owned(),
        Some(from_root) => normal(Path::new(from_root)),
        None => normal(&folder.join(target)),
    };
    if !tree.has(&path) {
        return Ok(Some(format!(
            "the link to {link} leads nowhere: there is no {path}"
        )));
    }
    let Some(anchor) = anchor.filter(|_| path.ends_with(".md")) else {
        return Ok(None);
    };
    let has_anchor = if path == file {
        page.anchors.contains(anchor)
    } else {
        Page::parse(&tree.utf8(&path)?).anchors.contains(anchor)
    };
    Ok((!has_anchor)
        .then(|| format!("the link to {link} leads nowhere: {path} has no heading #{anchor}")))
}

/// Whether a link has a scheme, such as `https:`.
fn is_elsewhere(link: &str) -> bool {
    link.starts_with("//")
        || link
            .split_once(':')
            .is_some_and(|(scheme, _)| scheme.bytes().all(|byte| byte.is_ascii_alphanumeric()))
}

/// The words of a piece of code that are paths of the repository and not there. One that
/// does not begin with a file or folder at the root is no such path.
fn missing_paths(tree: &Tree, file: &str, code: &Placed) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (index, line) in code.text.lines().enumerate() {
        for word in line.split_whitespace() {
            let path = word.trim_end_matches(['/', '.', ',', ';', ':']);
            let top = word.split_once('/').map(|(top, _)| top);
            if top.is_some_and(|top| !top.is_empty() && tree.has(top)) && !exists(tree, path) {
                let text = format!("there is no {path} in the repository");
                findings.push(Finding::new(file, code.line + index, text));
            }
        }
    }
    findings
}

/// A `*` stands for any text without a slash.
fn exists(tree: &Tree, path: &str) -> bool {
    match path.split_once('*') {
        None => tree.has(path),
        Some((before, after)) => tree.files().iter().any(|file| {
            file.strip_prefix(before)
                .and_then(|rest| rest.strip_suffix(after))
                .is_some_and(|middle| !middle.contains('/'))
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tidy::tree;

    fn findings(page: &str) -> Vec<String> {
        let small = tree::small(&[
            ("docs/page.md", page),
            ("docs/other.md", "# The title\n"),
            ("docs/a.png", ""),
            ("README.md", "# Top\n"),
            ("dist/srv@.service", ""),
        ]);
        let findings = check(&small.tree).expect("read the files");
        findings.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn what_leads_somewhere_is_not_found() {
        let page = "# Here\n[a](other.md) [b](../README.md#top) [c](#here) ![d](a.png)
[e](../dist) [f](/README.md) [g](https://example.org/x) [h](mailto:a@example.org)
[i](../dist/srv@.service) `dist/`, `docs/*.md`, `cat docs/other.md,` `and/or` `/proc/stat`\n";
        assert_eq!(findings(page), [""; 0]);
    }

    #[test]
    fn links_and_paths_that_lead_nowhere_are_found_at_their_lines() {
        let page = "[a](gone.md)\n[b](other.md#gone)\n[c](#gone) [d](/docs/gone/)
`docs/gone.md`\n`cat dist/*.md\ndocs/gone`\n[e](../../above.md)\n";
        assert_eq!(
            findings(page),
            [
                "docs/page.md:1: the link to gone.md leads nowhere: there is no docs/gone.md",
                "docs/page.md:2: the link to other.md#gone leads nowhere: docs/other.md has no \
                 heading #gone",
                "docs/page.md:3: the link to #gone leads nowhere: docs/page.md has no heading #gone",
                "docs/page.md:3: the link to /docs/gone/ leads nowhere: there is no docs/gone",
                "docs/page.md:7: the link to ../../above.md leads nowhere: there is no ../above.md",
                "docs/page.md:4: there is no docs/gone.md in the repository",
                "docs/page.md:5: there is no dist/*.md in the repository",
                "docs/page.md:6: there is no docs/gone in the repository",
            ]
        );
    }
}
