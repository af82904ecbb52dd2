//! The public API of srv-steer, one declaration after another: the snapshot in
//! `srv-steer/api.txt` has to be what the sources say, so that a change of the API is a change
//! that someone sees. Owns what counts as public; knows no other crate.

use std::collections::BTreeSet;

use anyhow::Result;
use syn::{
    Attribute, Fields, ImplItem, Item, ItemImpl, ItemTrait, Type, UseTree, Visibility, parse_quote,
};

use super::{
    Finding,
    source::{Sources, is_test},
    tree::Tree,
};

/// The snapshot.
pub(super) const SNAPSHOT: &str = "srv-steer/api.txt";
const SOURCES: &str = "srv-steer/src/";
const ROOT: &str = "srv-steer/src/lib.rs";
/// Attributes that are part of what a caller relies on.
const KEPT: [&str; 4] = ["non_exhaustive", "must_use", "derive", "cfg"];

/// Whether the snapshot is the API. A tree without srv-steer has none.
///
/// # Errors
/// If the snapshot cannot be read.
pub(super) fn check(tree: &Tree, sources: &Sources) -> Result<Vec<Finding>> {
    let Some(api) = describe(sources) else {
        return Ok(Vec::new());
    };
    let snapshot = match tree.has(SNAPSHOT) {
        true => tree.text(SNAPSHOT)?.unwrap_or_default(),
        false => String::new(),
    };
    let (mut said, mut is) = (snapshot.lines(), api.lines());
    let pairs = std::iter::from_fn(|| match (said.next(), is.next()) {
        (None, None) => None,
        pair => Some(pair),
    });
    let differs = (1..).zip(pairs).find(|(_, (said, is))| said != is);
    Ok(differs
        .map(|(line, (_, is))| {
            let text = format!(
                "the API of srv-steer is another (`{}`): if that is meant, \
                 `cargo xtask tidy --write-api` writes it down",
                is.unwrap_or("nothing more")
            );
            Finding::new(SNAPSHOT, line, text)
        })
        .into_iter()
        .collect())
}

/// The API; `None` if there is no srv-steer.
pub(super) fn describe(sources: &Sources) -> Option<String> {
    let root = sources.get(ROOT)?;
    let mut exported = Exported::default();
    root.syntax
        .items
        .iter()
        .for_each(|item| exported.read(item));
    let of_crate = || {
        let files = sources.iter();
        files.filter(|source| source.path.starts_with(SOURCES))
    };
    let items = of_crate().flat_map(|source| &source.syntax.items);
    let private_traits: BTreeSet<String> = items
        .filter_map(|item| match item {
            Item::Trait(item) if !is_public(&item.vis) => Some(item.ident.to_string()),
            _ => None,
        })
        .collect();
    let mut declarations = BTreeSet::new();
    for source in of_crate() {
        let is_public_module = exported.is_public(&source.path);
        for item in &source.syntax.items {
            let is_exported = |name: &str| {
                is_public_module && source.path != ROOT || exported.names.contains(name)
            };
            declarations.extend(declaration(item, &is_exported, &private_traits));
        }
    }
    let mut text: Vec<String> = exported.reexports.into_iter().collect();
    text.extend(declarations);
    Some(text.join("\n"))
}

/// What the root of the crate exports.
#[derive(Default)]
struct Exported {
    /// Items of its private modules.
    names: BTreeSet<String>,
    modules: BTreeSet<String>,
    /// Of other crates.
    reexports: BTreeSet<String>,
}

impl Exported {
    fn read(&mut self, item: &Item) {
        match item {
            Item::Use(item) if is_public(&item.vis) => self.read_use(&item.tree, ""),
            Item::Mod(module) if is_public(&module.vis) => {
                self.modules.insert(module.ident.to_string());
            }
            _ => {}
        }
    }

    fn read_use(&mut self, tree: &UseTree, path: &str) {
        match tree {
            UseTree::Path(part) => {
                self.read_use(&part.tree, &format!("{path}{}::", part.ident));
            }
            UseTree::Group(group) => {
                group
                    .items
                    .iter()
                    .for_each(|tree| self.read_use(tree, path));
            }
            UseTree::Name(name) => {
                if path.starts_with("srv_") {
                    self.reexports
                        .insert(format!("pub use {path}{};\n", name.ident));
                }
                self.names.insert(name.ident.to_string());
            }
            UseTree::Rename(_) | UseTree::Glob(_) => {}
        }
    }

    fn is_public(&self, path: &str) -> bool {
        let module = path
            .strip_prefix(SOURCES)
            .and_then(|file| file.strip_suffix(".rs"));
        module.is_some_and(|module| self.modules.contains(module))
    }
}

fn is_public(visibility: &Visibility) -> bool {
    matches!(visibility, Visibility::Public(_))
}

/// What a caller sees of an item, if it is public.
fn declaration(
    item: &Item,
    is_exported: &dyn Fn(&str) -> bool,
    private_traits: &BTreeSet<String>,
) -> Option<String> {
    let shown = match item.clone() {
        Item::Struct(mut item) if is_public(&item.vis) => {
            let name = is_exported(&item.ident.to_string());
            strip(&mut item.attrs);
            if let Fields::Named(fields) = &mut item.fields {
                let public = fields.named.iter().filter(|field| is_public(&field.vis));
                fields.named = public.cloned().collect();
                fields
                    .named
                    .iter_mut()
                    .for_each(|field| strip(&mut field.attrs));
            }
            name.then_some(Item::Struct(item))
        }
        Item::Enum(mut item) if is_public(&item.vis) => {
            strip(&mut item.attrs);
            for variant in &mut item.variants {
                strip(&mut variant.attrs);
                variant
                    .fields
                    .iter_mut()
                    .for_each(|field| strip(&mut field.attrs));
            }
            is_exported(&item.ident.to_string()).then_some(Item::Enum(item))
        }
        Item::Trait(item) if is_public(&item.vis) => {
            is_exported(&item.ident.to_string()).then(|| Item::Trait(without_bodies(item)))
        }
        Item::Fn(mut item) if is_public(&item.vis) => {
            strip(&mut item.attrs);
            *item.block = parse_quote!({});
            is_exported(&item.sig.ident.to_string()).then_some(Item::Fn(item))
        }
        Item::Const(mut item) if is_public(&item.vis) => {
            strip(&mut item.attrs);
            is_exported(&item.ident.to_string()).then_some(Item::Const(item))
        }
        Item::Type(mut item) if is_public(&item.vis) => {
            strip(&mut item.attrs);
            is_exported(&item.ident.to_string()).then_some(Item::Type(item))
        }
        Item::Impl(item) if !is_test(&item.attrs) => {
            implementation(item, is_exported, private_traits)
        }
        _ => None,
    }?;
    let file = syn::File {
        shebang: None,
        frontmatter: None,
        attrs: Vec::new(),
        items: vec![shown],
    };
    Some(prettyplease::unparse(&file))
}

fn without_bodies(mut item: ItemTrait) -> ItemTrait {
    strip(&mut item.attrs);
    for item in &mut item.items {
        if let syn::TraitItem::Fn(method) = item {
            strip(&mut method.attrs);
            method.default = method.default.as_ref().map(|_| parse_quote!({}));
        }
    }
    item
}

/// The public methods of a type that is exported, or that the type has a trait.
fn implementation(
    mut item: ItemImpl,
    is_exported: &dyn Fn(&str) -> bool,
    private_traits: &BTreeSet<String>,
) -> Option<Item> {
    let Type::Path(of) = &*item.self_ty else {
        return None;
    };
    let name = of.path.segments.last()?.ident.to_string();
    if !is_exported(&name) {
        return None;
    }
    strip(&mut item.attrs);
    if let Some((of, _)) = &item.trait_ {
        // A trait of the crate that it does not export is no part of the API.
        let name = of.segments.last()?.ident.to_string();
        if private_traits.contains(&name) {
            return None;
        }
        item.items.clear();
        return Some(Item::Impl(item));
    }
    let shown = item.items.into_iter().filter_map(|item| match item {
        ImplItem::Fn(mut method) if is_public(&method.vis) => {
            strip(&mut method.attrs);
            method.block = parse_quote!({});
            Some(ImplItem::Fn(method))
        }
        ImplItem::Const(mut constant) if is_public(&constant.vis) => {
            strip(&mut constant.attrs);
            Some(ImplItem::Const(constant))
        }
        _ => None,
    });
    item.items = shown.collect();
    (!item.items.is_empty()).then_some(Item::Impl(item))
}

fn strip(attributes: &mut Vec<Attribute>) {
    attributes.retain(|attribute| {
        let is_kept = |name: &&str| attribute.path().is_ident(name);
        KEPT.iter().any(is_kept)
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tidy::tree;

    const LIB: &str =
        "mod group;\npub mod balance;\npub use group::Group;\npub use srv_common::Policy;\n";
    const GROUP: &str = "pub(crate) trait Inner {}\nimpl Inner for Group {}\n/// Doc.\npub struct Group { pub a: u8, b: u8 }\n\
        impl Group { pub fn new() -> Self { todo!() } fn own(&self) {} }\n\
        pub struct Hidden;\n";
    const BALANCE: &str = "pub fn cv(counts: &[u64]) -> f64 { 0.0 }\nfn mean() {}\n";

    fn found(snapshot: &str) -> Vec<Finding> {
        let small = tree::small(&[
            (ROOT, LIB),
            ("srv-steer/src/group.rs", GROUP),
            ("srv-steer/src/balance.rs", BALANCE),
            (SNAPSHOT, snapshot),
        ]);
        let (sources, _) = Sources::parse(&small.tree).expect("parse");
        check(&small.tree, &sources).expect("check")
    }

    #[test]
    fn only_what_a_caller_sees_is_in_the_api() {
        let small = tree::small(&[
            (ROOT, LIB),
            ("srv-steer/src/group.rs", GROUP),
            ("srv-steer/src/balance.rs", BALANCE),
        ]);
        let (sources, _) = Sources::parse(&small.tree).expect("parse");
        let api = describe(&sources).expect("an API");
        for part in [
            "pub use srv_common::Policy",
            "pub a: u8",
            "pub fn new() -> Self",
            "pub fn cv(",
        ] {
            assert!(api.contains(part), "{part} in {api}");
        }
        for part in ["Doc", "b: u8", "own", "Hidden", "mean", "todo", "Inner"] {
            assert!(!api.contains(part), "{part} in {api}");
        }
        assert!(found(&api).is_empty());
    }

    #[test]
    fn a_change_that_the_snapshot_lacks_is_found_at_its_line() {
        let findings = found("pub use srv_common::Policy;\n");
        assert_eq!(findings.len(), 1);
        assert!(
            findings[0].to_string().contains("--write-api"),
            "{findings:?}"
        );
    }
}
