//! The Rust files of a tree, parsed once for all checks; and what is test code. Owns the
//! parser; knows neither modules nor rules.

use std::collections::BTreeMap;

use anyhow::Result;
use proc_macro2::TokenStream;
use syn::{Attribute, ImplItem, Item, Meta, Token, TraitItem, punctuated::Punctuated};

use super::{Finding, tree::Tree};

/// One file.
pub(super) struct Source {
    pub path: String,
    pub text: String,
    pub tokens: TokenStream,
    pub syntax: syn::File,
}

/// All of a tree, by path.
pub(super) struct Sources(BTreeMap<String, Source>);

impl Sources {
    /// Parses each Rust file; what is no Rust is a finding.
    ///
    /// # Errors
    /// If a file cannot be read.
    pub(super) fn parse(tree: &Tree) -> Result<(Self, Vec<Finding>)> {
        let (mut sources, mut findings) = (BTreeMap::new(), Vec::new());
        for path in tree.files().iter().filter(|path| path.ends_with(".rs")) {
            match Source::parse(path, tree.utf8(path)?) {
                Ok(source) => {
                    sources.insert(path.clone(), source);
                }
                Err(finding) => findings.push(finding),
            }
        }
        Ok((Self(sources), findings))
    }

    pub(super) fn get(&self, path: &str) -> Option<&Source> {
        self.0.get(path)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Source> {
        self.0.values()
    }
}

impl Source {
    fn parse(path: &str, text: String) -> Result<Self, Finding> {
        let at = |line, error: &dyn std::fmt::Display| {
            Finding::new(path, line, format!("this is not parsed as Rust: {error}"))
        };
        let tokens: TokenStream = text
            .parse()
            .map_err(|error: proc_macro2::LexError| at(error.span().start().line, &error))?;
        let syntax =
            syn::parse2(tokens.clone()).map_err(|error| at(error.span().start().line, &error))?;
        Ok(Self {
            path: path.to_owned(),
            text,
            tokens,
            syntax,
        })
    }
}

/// Whether these attributes keep an item out of all builds but those for tests.
pub(super) fn is_test(attributes: &[Attribute]) -> bool {
    attributes.iter().any(|attribute| {
        let path = attribute.path();
        path.is_ident("test")
            || path.is_ident("cfg")
                && attribute
                    .parse_args::<Meta>()
                    .is_ok_and(|condition| requires_test(&condition))
    })
}

fn requires_test(condition: &Meta) -> bool {
    match condition {
        Meta::Path(path) => path.is_ident("test"),
        Meta::List(list) => {
            let parts = list
                .parse_args_with(Punctuated::<Meta, Token![,]>::parse_terminated)
                .unwrap_or_default();
            if list.path.is_ident("all") {
                parts.iter().any(requires_test)
            } else {
                list.path.is_ident("any") && !parts.is_empty() && parts.iter().all(requires_test)
            }
        }
        Meta::NameValue(_) => false,
    }
}

/// What stands before an item.
pub(super) fn attributes(item: &Item) -> &[Attribute] {
    match item {
        Item::Const(item) => &item.attrs,
        Item::Enum(item) => &item.attrs,
        Item::ExternCrate(item) => &item.attrs,
        Item::Fn(item) => &item.attrs,
        Item::ForeignMod(item) => &item.attrs,
        Item::Impl(item) => &item.attrs,
        Item::Macro(item) => &item.attrs,
        Item::Mod(item) => &item.attrs,
        Item::Static(item) => &item.attrs,
        Item::Struct(item) => &item.attrs,
        Item::Trait(item) => &item.attrs,
        Item::TraitAlias(item) => &item.attrs,
        Item::Type(item) => &item.attrs,
        Item::Union(item) => &item.attrs,
        Item::Use(item) => &item.attrs,
        _ => &[],
    }
}

/// What stands before an item of an `impl`.
pub(super) fn impl_attributes(item: &ImplItem) -> &[Attribute] {
    match item {
        ImplItem::Const(item) => &item.attrs,
        ImplItem::Fn(item) => &item.attrs,
        ImplItem::Type(item) => &item.attrs,
        ImplItem::Macro(item) => &item.attrs,
        _ => &[],
    }
}

/// What stands before an item of a trait.
pub(super) fn trait_attributes(item: &TraitItem) -> &[Attribute] {
    match item {
        TraitItem::Const(item) => &item.attrs,
        TraitItem::Fn(item) => &item.attrs,
        TraitItem::Type(item) => &item.attrs,
        TraitItem::Macro(item) => &item.attrs,
        _ => &[],
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tidy::tree;

    #[test]
    fn what_only_tests_are_built_with_is_test_code() {
        for (attribute, expected) in [
            ("#[cfg(test)]", true),
            ("#[test]", true),
            ("#[cfg(all(test, unix))]", true),
            ("#[cfg(any(test))]", true),
            ("#[cfg(any(test, unix))]", false),
            ("#[cfg(not(test))]", false),
            ("#[cfg(feature = \"test\")]", false),
            ("#[cfg_attr(test, allow(unused))]", false),
        ] {
            let file = syn::parse_file(&format!("{attribute}\nfn f() {{}}")).expect("parse it");
            assert_eq!(is_test(attributes(&file.items[0])), expected, "{attribute}");
        }
    }

    #[test]
    fn what_is_no_rust_is_a_finding_at_its_line() {
        let small = tree::small(&[
            ("a.rs", "fn f() {}\nfn g( {}\n"),
            ("b.rs", "\n\nfn f() {\n"),
        ]);
        let (_, findings) = Sources::parse(&small.tree).expect("read the files");
        let places: Vec<_> = findings.iter().map(|it| (&*it.file, it.line)).collect();
        assert_eq!(places, [("a.rs", 2), ("b.rs", 3)]);
    }
}
