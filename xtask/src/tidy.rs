//! `cargo xtask tidy`: whether the code base still has the structure that it is meant to
//! have. This file owns the list of the checks and how findings are printed; it knows no
//! rule.
//!
//! | check | rule |
//! |---|---|
//! | [`order`] | which folder of srv-user may import which |
//! | [`cycles`] | no modules import one another in a circle |
//! | [`length`] | files and functions have a bound |
//! | [`links`] | what the documentation points at exists |
//! | [`test_names`] | the tests that docs/reliability.md names exist |
//! | [`retired`] | names that were given up are written nowhere |
//! | [`api`] | the public API of srv-steer is the one that is written down |
//!
//! They read the tree through [`tree`] (files), [`source`] (Rust), [`modules`] and
//! [`folders`] (which file is which module, what a path means), [`imports`] (the paths that
//! code writes) and [`markdown`] (links, headings, words of code).

mod api;
mod cycles;
mod folders;
mod imports;
mod length;
mod links;
mod markdown;
mod modules;
mod order;
mod retired;
mod source;
mod test_names;
mod tree;

use std::{
    fmt, fs,
    io::{self, Write},
    path::Path,
};

use anyhow::{Context, Result, ensure};

use modules::Crate;
use source::Sources;
use tree::Tree;

/// The crates whose modules may not import one another in a circle: folders with a
/// Cargo.toml. One that does not exist is left out.
const CRATES: [&str; 6] = [
    "srv-common",
    "srv-ebpf",
    "srv-preload",
    "srv-steer",
    "srv-user",
    "xtask",
];

/// The crate whose folders have an order.
const ORDERED: &str = "srv-user/src/lib.rs";

/// Something that does not keep a rule. Findings are sorted by their place.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Finding {
    /// Relative to the tree's root.
    file: String,
    /// From 1.
    line: usize,
    text: String,
}

impl Finding {
    fn new(file: &str, line: usize, text: impl Into<String>) -> Self {
        Self {
            file: file.to_owned(),
            line,
            text: text.into(),
        }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.file, self.line, self.text)
    }
}

/// Checks the git working tree at `root` and prints the findings, one a line. With `write_api`,
/// writes the snapshot of the API first.
///
/// # Errors
/// If there is a finding, or the tree cannot be read.
pub(crate) fn run(root: &Path, write_api: bool) -> Result<()> {
    let tree = Tree::open(root)?;
    if write_api {
        let (sources, _) = Sources::parse(&tree)?;
        let api = api::describe(&sources).context("find srv-steer")?;
        let snapshot = root.join(api::SNAPSHOT);
        fs::write(&snapshot, api).with_context(|| format!("write {}", snapshot.display()))?;
    }
    let findings = check(&tree, &order::ORDER)?;
    let mut stdout = io::stdout().lock();
    for finding in &findings {
        writeln!(stdout, "{finding}").context("print the findings")?;
    }
    ensure!(
        findings.is_empty(),
        "check the structure of {}: {} findings, one in each line above",
        root.display(),
        findings.len()
    );
    writeln!(stdout, "tidy: {} files, no finding", tree.files().len()).context("print the outcome")
}

/// Every finding, sorted.
fn check(tree: &Tree, order: &[order::Rule]) -> Result<Vec<Finding>> {
    let (sources, mut findings) = Sources::parse(tree)?;
    let mut crates = Vec::new();
    for root in crate_roots(tree)? {
        let (krate, unread) = Crate::load(&sources, &root);
        findings.extend(unread);
        findings.extend(cycles::check(&krate));
        if root == ORDERED {
            findings.extend(order::check(&krate, order));
        }
        crates.push(krate);
    }
    findings.extend(length::check(&sources, &length::EXCEPTIONS));
    findings.extend(links::check(tree)?);
    findings.extend(test_names::check(tree, &sources, &crates)?);
    findings.extend(retired::check(tree)?);
    findings.extend(api::check(tree, &sources)?);
    findings.sort();
    findings.dedup();
    Ok(findings)
}

/// The root file of each library and binary of [`CRATES`]: where cargo looks for them, and
/// what a manifest names with `path`.
fn crate_roots(tree: &Tree) -> Result<Vec<String>> {
    let mut roots = Vec::new();
    for folder in CRATES {
        let manifest = format!("{folder}/Cargo.toml");
        if !tree.has(&manifest) {
            continue;
        }
        let manifest = tree.text(&manifest)?.unwrap_or_default();
        let named = manifest.lines().filter_map(|line| {
            let (key, value) = line.split_once('=')?;
            let value = value.trim().trim_matches('"');
            (key.trim() == "path" && value.ends_with(".rs")).then_some(value)
        });
        for path in ["src/lib.rs", "src/main.rs"].into_iter().chain(named) {
            let root = format!("{folder}/{path}");
            if tree.has(&root) && !roots.contains(&root) {
                roots.push(root);
            }
        }
    }
    Ok(roots)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ORDER: [order::Rule; 2] = [
        order::Rule {
            folder: "kernel",
            may_import: &[],
        },
        order::Rule {
            folder: "output",
            may_import: &["kernel"],
        },
    ];

    /// A small tree that keeps every rule.
    const CLEAN: [(&str, &str); 7] = [
        ("srv-user/Cargo.toml", "[lib]\nname = \"srv\"\n"),
        ("srv-user/src/lib.rs", "pub mod kernel;\npub mod output;\n"),
        ("srv-user/src/kernel.rs", "pub struct Clock;\n"),
        ("srv-user/src/output.rs", "use crate::kernel::Clock;\n"),
        ("tests/tests/it/main.rs", "mod stop;\n"),
        ("tests/tests/it/stop.rs", "#[test]\nfn it_stops() {}\n"),
        (
            "docs/reliability.md",
            "# Promises\n\n`stop::it_stops`, see [above](#promises) and `srv-user/src`.\n",
        ),
    ];

    fn findings(files: &[(&str, &str)]) -> Vec<String> {
        let small = tree::small(files);
        let found = check(&small.tree, &ORDER).expect("check a small tree");
        found.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_clean_tree_has_no_finding() {
        assert_eq!(findings(&CLEAN), [""; 0]);
    }

    #[test]
    fn a_fault_of_each_kind_is_found_and_sorted() {
        let mut files = CLEAN.to_vec();
        // Not so that this file has the name in it.
        files[2].1 = concat!("use crate::output::Group;\n\n// srv", "::load\n");
        let long = format!("{}fn f() {{\n{}}}\n", CLEAN[3].1, "    f();\n".repeat(59));
        files[3].1 = &long;
        files[6].1 = "`stop::it_goes_on` [gone](gone.md)\n";
        let findings = findings(&files);
        let begins = [
            "docs/reliability.md:1: the link to gone.md",
            "docs/reliability.md:1: there is no test stop::it_goes_on",
            "srv-user/src/kernel.rs:1: circle in srv-user/src/lib.rs: kernel",
            "srv-user/src/kernel.rs:1: kernel imports output",
            concat!("srv-user/src/kernel.rs:3: srv", "::load is retired"),
            "srv-user/src/output.rs:2: fn f: 61 lines of code",
        ];
        assert_eq!(findings.len(), begins.len(), "{findings:#?}");
        for (finding, begin) in findings.iter().zip(begins) {
            assert!(finding.starts_with(begin), "{finding}");
        }
    }

    #[test]
    fn binaries_that_a_manifest_names_are_crates() {
        let small = tree::small(&[
            (
                "srv-ebpf/Cargo.toml",
                "[[bin]]\nname = \"srv-attached\"\npath = \"src/attached/main.rs\"\n",
            ),
            ("srv-ebpf/src/main.rs", ""),
            ("srv-ebpf/src/attached/main.rs", ""),
        ]);
        let roots = crate_roots(&small.tree).expect("find the crates");
        assert_eq!(
            roots,
            ["srv-ebpf/src/main.rs", "srv-ebpf/src/attached/main.rs"]
        );
    }
}
