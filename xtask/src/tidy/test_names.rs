//! The tests that docs/reliability.md names exist. A promise whose test was renamed would
//! else stand there without one.

use std::collections::BTreeSet;

use anyhow::Result;
use proc_macro2::{TokenStream, TokenTree};
use syn::Item;

use super::{
    Finding,
    markdown::Page,
    modules::{Crate, Module},
    source::{Sources, is_test},
    tree::Tree,
};

/// The page that names tests.
const PAGE: &str = "docs/reliability.md";

/// The crate that they are in.
const TESTS: &str = "tests/tests/it/main.rs";

/// The names on the page, `module::test` or `module::*`, for which there is no test. What is
/// a module of a crate, whose unit tests are meant, may be named, too.
///
/// # Errors
/// If a file cannot be read.
pub(super) fn check(tree: &Tree, sources: &Sources, crates: &[Crate<'_>]) -> Result<Vec<Finding>> {
    let mut findings = Vec::new();
    if !tree.has(PAGE) {
        return Ok(findings);
    }
    let known = Known::gather(sources, crates);
    for code in Page::parse(&tree.utf8(PAGE)?).code {
        let words: Vec<_> = code.text.split_whitespace().collect();
        for word in &words {
            // In a command it is what the names of tests begin with.
            let is_filter = words.len() > 1;
            if is_name(word) && !known.has(word, is_filter) {
                let text = format!("there is no test {word} in {TESTS}, and no such module");
                findings.push(Finding::new(PAGE, code.line, text));
            }
        }
    }
    Ok(findings)
}

/// Whether a word is two or more names (the last may be `*`) with `::` between.
fn is_name(word: &str) -> bool {
    let parts: Vec<_> = word.split("::").collect();
    let is_ident = |part: &&str| {
        !part.is_empty() && part.chars().all(|c| c == '_' || c.is_ascii_alphanumeric())
    };
    match parts.split_last() {
        Some((last, before)) => {
            !before.is_empty() && before.iter().all(is_ident) && (*last == "*" || is_ident(last))
        }
        None => false,
    }
}

/// What may be named.
struct Known {
    tests: BTreeSet<String>,
    /// Modules of tests, and of crates.
    modules: BTreeSet<String>,
}

impl Known {
    fn gather(sources: &Sources, crates: &[Crate<'_>]) -> Self {
        let (tests, _) = Crate::load(sources, TESTS);
        let modules = crates.iter().chain([&tests]).flat_map(|it| &it.modules);
        Self {
            tests: tests.modules.iter().flat_map(tests_of).collect(),
            modules: modules.map(|module| module.path.join("::")).collect(),
        }
    }

    fn has(&self, name: &str, is_filter: bool) -> bool {
        let is_module = |name: &str| {
            let ends_so = |it: &String| it == name || it.ends_with(&format!("::{name}"));
            self.modules.iter().any(ends_so)
        };
        match name.strip_suffix("::*") {
            Some(module) => is_module(module),
            None => {
                self.tests.contains(name)
                    || is_module(name)
                    || is_filter && self.tests.iter().any(|test| test.starts_with(name))
            }
        }
    }
}

/// The tests of one module, `module::test`.
fn tests_of(module: &Module<'_>) -> Vec<String> {
    let mut names = Vec::new();
    for item in module.items {
        match item {
            Item::Fn(item) if is_test(&item.attrs) => names.push(item.sig.ident.to_string()),
            // `proptest! { #[test] fn name() { … } }`
            Item::Macro(item) => names.extend(functions(item.mac.tokens.clone())),
            _ => {}
        }
    }
    names
        .into_iter()
        .map(|name| [&module.path[..], &[name]].concat().join("::"))
        .collect()
}

/// What stands behind each `fn`.
fn functions(tokens: TokenStream) -> Vec<String> {
    let words: Vec<_> = tokens
        .into_iter()
        .map(|token| match token {
            TokenTree::Ident(ident) => ident.to_string(),
            _ => String::new(),
        })
        .collect();
    words
        .windows(2)
        .filter(|pair| pair[0] == "fn" && !pair[1].is_empty())
        .map(|pair| pair[1].clone())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tidy::tree;

    fn findings(page: &str) -> Vec<String> {
        let small = tree::small(&[
            (PAGE, page),
            (TESTS, "mod stop;\nmod join;\n"),
            (
                "tests/tests/it/stop.rs",
                "#[test]\nfn it_stops() {}\nfn no_test() {}\nmod deep {\n    #[test]\n    fn t() {}\n}\n",
            ),
            (
                "tests/tests/it/join.rs",
                "proptest! {\n    #[test]\n    fn it_joins(x in any::<u8>()) {}\n}\n",
            ),
            ("srv-user/src/lib.rs", "mod attach;"),
            ("srv-user/src/attach.rs", "mod lock;"),
            ("srv-user/src/attach/lock.rs", ""),
        ]);
        let (sources, _) = Sources::parse(&small.tree).expect("read the files");
        let (krate, _) = Crate::load(&sources, "srv-user/src/lib.rs");
        let findings = check(&small.tree, &sources, &[krate]).expect("check the page");
        findings.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn tests_and_modules_that_exist_may_be_named() {
        let page = "`stop::it_stops`, `stop::*`, `stop::deep::t`, `join::it_joins`, `attach::lock`,
`cargo test stop::it_st`, `stop`, `a::`, `::b`, `std::fmt::Display<T>`\n";
        assert_eq!(findings(page), [""; 0]);
    }

    #[test]
    fn a_test_that_does_not_exist_is_found_at_its_line() {
        for name in [
            "stop::gone",
            "stop::it_st",
            "gone::*",
            "stop::no_test",
            "locks::lock",
        ] {
            assert_eq!(
                findings(&format!("# Page\n\nIs `{name}`.\n")),
                [format!(
                    "docs/reliability.md:3: there is no test {name} in tests/tests/it/main.rs, \
                     and no such module"
                )]
            );
        }
    }
}
