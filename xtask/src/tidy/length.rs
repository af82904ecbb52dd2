//! The bounds of files and functions, in lines of code: those that are neither blank nor
//! nothing but comment. Data apart: a `const` or `static` counts nowhere. The module of
//! tests within a file counts apart, with the same bound. Owns the exceptions.

use std::{collections::BTreeSet, ops::RangeInclusive};

use proc_macro2::{Delimiter, Span, TokenStream, TokenTree};
use syn::{
    Block, ImplItemConst, ImplItemFn, ItemConst, ItemFn, ItemMod, ItemStatic, Signature,
    TraitItemFn,
    visit::{self, Visit},
};

use super::{
    Finding,
    source::{Source, Sources, is_test},
};

/// Lines of code a file, and a file's tests.
const FILE: usize = 450;

/// Lines of code a function, from `fn` to the last brace.
const FUNCTION: usize = 60;

/// What may be longer. One that is not needed any more is a finding.
pub(super) struct Exception {
    pub file: &'static str,
    /// The function's name; the file itself without.
    pub function: Option<&'static str>,
    /// Why it is better whole.
    pub reason: &'static str,
}

/// The exceptions of srv.
pub(super) const EXCEPTIONS: [Exception; 0] = [];

/// What is longer than it may be, and exceptions for what is not.
pub(super) fn check(sources: &Sources, exceptions: &[Exception]) -> Vec<Finding> {
    let mut unused: Vec<_> = exceptions.iter().collect();
    let mut findings = Vec::new();
    for source in sources.iter() {
        for Long {
            function,
            line,
            text,
        } in long(source)
        {
            let excepts =
                |it: &&Exception| it.file == source.path && it.function == function.as_deref();
            if exceptions.iter().any(|it| excepts(&it)) {
                unused.retain(|it| !excepts(it));
            } else {
                findings.push(Finding::new(&source.path, line, text));
            }
        }
    }
    findings.extend(unused.into_iter().map(|it| {
        let what = it.function.unwrap_or("the file");
        let text = format!(
            "the exception for the length of {what} ({}) is not needed: remove it",
            it.reason
        );
        Finding::new(it.file, 1, text)
    }));
    findings
}

/// Something that is longer than its bound.
struct Long {
    function: Option<String>,
    line: usize,
    text: String,
}

fn long(source: &Source) -> Vec<Long> {
    let mut parts = Parts::default();
    parts.visit_file(&source.syntax);
    let mut code = lines_of_code(source);
    for data in &parts.data {
        code.retain(|line| !data.contains(line));
    }
    let mut found = Vec::new();
    let is_in_tests = |line: &usize| parts.tests.iter().any(|tests| tests.contains(line));
    let tests = code.iter().filter(|line| is_in_tests(line)).count();
    let first_of_tests = parts.tests.first().map_or(1, |tests| *tests.start());
    for (count, line, what) in [
        (code.len() - tests, 1, "the file"),
        (tests, first_of_tests, "the tests of the file"),
    ] {
        found.extend(over(FILE, count).map(|text| Long {
            function: None,
            line,
            text: format!("{what}: {text}"),
        }));
    }
    for (name, lines) in &parts.functions {
        let count = code.range(lines.clone()).count();
        found.extend(over(FUNCTION, count).map(|text| Long {
            function: Some(name.clone()),
            line: *lines.start(),
            text: format!("fn {name}: {text}"),
        }));
    }
    found
}

fn over(bound: usize, count: usize) -> Option<String> {
    (count > bound).then(|| format!("{count} lines of code, at most {bound} are allowed"))
}

/// The numbers of the lines on which there is code.
fn lines_of_code(source: &Source) -> BTreeSet<usize> {
    let blank: BTreeSet<_> = source
        .text
        .lines()
        .enumerate()
        .filter(|(_, line)| line.trim().is_empty())
        .map(|(index, _)| index + 1)
        .collect();
    let mut lines = BTreeSet::new();
    add_lines(source, source.tokens.clone(), &mut lines);
    &lines - &blank
}

fn add_lines(source: &Source, tokens: TokenStream, lines: &mut BTreeSet<usize>) {
    for token in tokens {
        match &token {
            // A comment that is documentation comes as `#[doc]`, of which each token has the
            // whole comment as its place.
            TokenTree::Punct(punct)
                if ['#', '!'].contains(&punct.as_char()) && is_comment(source, punct.span()) => {}
            TokenTree::Group(group)
                if group.delimiter() == Delimiter::Bracket && is_comment(source, group.span()) => {}
            TokenTree::Group(group) => {
                if group.delimiter() != Delimiter::None {
                    lines.insert(group.span_open().start().line);
                    lines.insert(group.span_close().end().line);
                }
                add_lines(source, group.stream(), lines);
            }
            _ => lines.extend(token.span().start().line..=token.span().end().line),
        }
    }
}

fn is_comment(source: &Source, span: Span) -> bool {
    let text = source.text.get(span.byte_range()).unwrap_or_default();
    text.starts_with("//") || text.starts_with("/*")
}

/// Which lines of a file are what.
#[derive(Default)]
struct Parts {
    data: Vec<RangeInclusive<usize>>,
    tests: Vec<RangeInclusive<usize>>,
    functions: Vec<(String, RangeInclusive<usize>)>,
}

impl Parts {
    fn add_function(&mut self, signature: &Signature, block: &Block) {
        let lines = range(signature.fn_token.span, block.brace_token.span.close());
        self.functions.push((signature.ident.to_string(), lines));
    }
}

fn range(first: Span, last: Span) -> RangeInclusive<usize> {
    first.start().line..=last.end().line
}

impl<'ast> Visit<'ast> for Parts {
    fn visit_item_const(&mut self, item: &'ast ItemConst) {
        self.data
            .push(range(item.const_token.span, item.semi_token.span));
    }

    fn visit_item_static(&mut self, item: &'ast ItemStatic) {
        self.data
            .push(range(item.static_token.span, item.semi_token.span));
    }

    fn visit_impl_item_const(&mut self, item: &'ast ImplItemConst) {
        self.data
            .push(range(item.const_token.span, item.semi_token.span));
    }

    fn visit_item_mod(&mut self, item: &'ast ItemMod) {
        if let (Some((braces, _)), true) = (&item.content, is_test(&item.attrs)) {
            let first = item.attrs[0].pound_token.span;
            self.tests.push(range(first, braces.span.close()));
        }
        visit::visit_item_mod(self, item);
    }

    fn visit_item_fn(&mut self, item: &'ast ItemFn) {
        self.add_function(&item.sig, &item.block);
        visit::visit_item_fn(self, item);
    }

    fn visit_impl_item_fn(&mut self, item: &'ast ImplItemFn) {
        self.add_function(&item.sig, &item.block);
        visit::visit_impl_item_fn(self, item);
    }

    fn visit_trait_item_fn(&mut self, item: &'ast TraitItemFn) {
        if let Some(block) = &item.default {
            self.add_function(&item.sig, block);
        }
        visit::visit_trait_item_fn(self, item);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tidy::tree;

    fn findings(text: &str, exceptions: &[Exception]) -> Vec<String> {
        let small = tree::small(&[("a.rs", text)]);
        let (sources, unread) = Sources::parse(&small.tree).expect("read the file");
        assert_eq!(unread, []);
        let findings = check(&sources, exceptions);
        findings.iter().map(ToString::to_string).collect()
    }

    fn times(count: usize, line: &str) -> String {
        format!("{line}\n").repeat(count)
    }

    #[test]
    fn a_file_of_450_lines_passes_and_one_of_451_is_found() {
        assert_eq!(findings(&times(450, "struct A;"), &[]), [""; 0]);
        assert_eq!(
            findings(&times(451, "struct A;"), &[]),
            ["a.rs:1: the file: 451 lines of code, at most 450 are allowed"]
        );
    }

    #[test]
    fn blank_lines_comments_and_data_do_not_count() {
        let text = [
            &times(9, "//! About."),
            "/* a\n * b\n */\n",
            &times(449, "/// Said. \n\n// Why.\nstruct A;"),
            &format!("pub const TABLE: [&str; 9] = [\n{}];\n", times(9, "\"x\",")),
            &format!("static TEXT: &str = \"\n{}\";\n", times(9, "x")),
        ];
        assert_eq!(findings(&text.concat(), &[]), [""; 0]);
    }

    #[test]
    fn the_lines_of_a_string_count_unless_they_are_blank() {
        let text = format!("fn f() {{\n    g(\"{}\");\n}}\n", times(57, "x\n"));
        assert_eq!(findings(&text, &[]), [""; 0]);
        let text = format!("\nfn f() {{\n    g(\"{}\");\n}}\n", times(58, "x\n"));
        assert_eq!(
            findings(&text, &[]),
            ["a.rs:2: fn f: 61 lines of code, at most 60 are allowed"]
        );
    }

    #[test]
    fn tests_count_apart() {
        let tests = |count| {
            let functions = times(count, "fn t() {}");
            format!(
                "{}#[cfg(test)]\nmod tests {{\n{functions}}}\n",
                times(400, "struct A;")
            )
        };
        assert_eq!(findings(&tests(400), &[]), [""; 0]);
        assert_eq!(
            findings(&tests(450), &[]),
            ["a.rs:401: the tests of the file: 453 lines of code, at most 450 are allowed"]
        );
    }

    #[test]
    fn functions_of_impls_and_traits_are_found_and_data_within_does_not_count() {
        let body = |count| format!("{}}}\n", times(count, "    f();"));
        let text = [
            "impl A {\n    fn long() {\n",
            &body(59),
            "    fn short() {\n",
            &body(58),
            "}\ntrait B {\n    fn long_too() {\n",
            &body(59),
            "    fn none();\n}\nfn with_data() {\n    const D: [u8; 1] = [\n1\n];\n",
            &body(58),
        ];
        assert_eq!(
            findings(&text.concat(), &[]),
            [
                "a.rs:2: fn long: 61 lines of code, at most 60 are allowed",
                "a.rs:125: fn long_too: 61 lines of code, at most 60 are allowed"
            ]
        );
    }

    #[test]
    fn an_exception_allows_what_it_names_and_is_a_finding_if_it_is_not_needed() {
        let exception = |function| Exception {
            file: "a.rs",
            function,
            reason: "it is one table",
        };
        let long = times(451, "struct A;");
        assert_eq!(findings(&long, &[exception(None)]), [""; 0]);
        assert_eq!(
            findings("fn f() {}", &[exception(Some("f"))]),
            [
                "a.rs:1: the exception for the length of f (it is one table) is not needed: remove it"
            ]
        );
        assert_eq!(findings(&long, &[exception(Some("f"))]).len(), 2);
    }
}
