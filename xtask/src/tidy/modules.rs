//! The modules of one crate, as rustc finds them from its root file, and which of them a
//! path leads to. Test modules are left out, and a re-export by `*` is not followed: what it
//! names is not written there. Knows no rule about imports.

use std::collections::BTreeMap;

use syn::{Attribute, Item, ItemMod};

use super::{
    Finding,
    folders::Folders,
    imports::{self, Import},
    source::{Sources, attributes, is_test},
};

/// How many re-exports a path is followed through: more than there are, and a bound for
/// those that lead to themselves.
const RE_EXPORTS: usize = 16;

/// A crate: a library or a binary.
pub(super) struct Crate<'a> {
    /// Its root file.
    pub root: String,
    /// The root module is the first.
    pub modules: Vec<Module<'a>>,
    /// The modules of the macros that all of the crate may call by their mere names.
    macros: BTreeMap<String, usize>,
}

/// A module, whether it has a file of its own or not.
pub(super) struct Module<'a> {
    /// Its names from the root, which has none.
    pub path: Vec<String>,
    pub file: &'a str,
    /// Where it is declared; for the root, the first line.
    pub line: usize,
    pub items: &'a [Item],
    pub imports: Vec<Import>,
    /// Whether `#[macro_use]` gives its macros to what is declared behind it.
    gives_macros: bool,
    parent: usize,
    children: BTreeMap<String, usize>,
    /// What `use` names here, and the path that it stands for.
    names: BTreeMap<String, Vec<String>>,
}

impl<'a> Crate<'a> {
    /// Follows the declarations of modules from `root`. One without a file is a finding.
    pub(super) fn load(sources: &'a Sources, root: &str) -> (Self, Vec<Finding>) {
        let mut loader = Loader {
            sources,
            modules: Vec::new(),
            findings: Vec::new(),
        };
        if let Some(source) = sources.get(root) {
            let place = (source.path.as_str(), 1);
            loader.add(None, place, &source.syntax.items, &Folders::of_root(root));
        }
        let mut krate = Self {
            root: root.to_owned(),
            modules: loader.modules,
            macros: BTreeMap::new(),
        };
        krate.export_macros();
        (krate, loader.findings)
    }

    /// `#[macro_export]` puts a macro beside the root's own items.
    fn export_macros(&mut self) {
        let mut exported = Vec::new();
        for (index, module) in self.modules.iter().enumerate().skip(1) {
            for name in macros_of(module) {
                if module.gives_macros {
                    self.macros.insert(format!("{name}!"), index);
                }
                let mut path = vec!["crate".to_owned()];
                path.extend(module.path.iter().chain([&name]).cloned());
                exported.push((name, path));
            }
        }
        if let Some(root) = self.modules.first_mut() {
            root.names.extend(exported);
        }
    }

    /// The module that has what an import of `from`'s names, re-exports followed; none if
    /// that is another crate's. A path that begins with another name than `crate`, `self`
    /// or `super` counts only if the name is a module's here: else its `use` has been counted.
    pub(super) fn target(&self, from: usize, import: &Import) -> Option<usize> {
        let first = import.path.first()?;
        if let Some(module) = self.macros.get(first) {
            return Some(*module);
        }
        if !["crate", "self", "super"].contains(&first.as_str()) {
            let bound = self.modules[from].names.get(first)?;
            let (_, unread) = self.walk(from, bound, RE_EXPORTS)?;
            if unread > 0 {
                return None;
            }
        }
        let (module, _) = self.walk(from, &import.path, RE_EXPORTS)?;
        Some(module)
    }

    /// The module at which a path ends, and how many of its names are behind that.
    fn walk(&self, from: usize, path: &[String], more: usize) -> Option<(usize, usize)> {
        let (first, mut rest) = path.split_first()?;
        let mut module = match first.as_str() {
            "crate" => 0,
            "self" => from,
            "super" => self.modules[from].parent,
            _ => {
                rest = path;
                from
            }
        };
        while let [name, behind @ ..] = rest {
            if name == "super" {
                module = self.modules[module].parent;
            } else if let Some(child) = self.modules[module].children.get(name) {
                module = *child;
            } else {
                break;
            }
            rest = behind;
        }
        let re_export = rest
            .split_first()
            .and_then(|(name, behind)| Some((self.modules[module].names.get(name)?, behind)));
        if let (Some((bound, behind)), true) = (re_export, more > 0)
            && let Some(end) = self.walk(module, &[bound, behind].concat(), more - 1)
        {
            return Some(end);
        }
        // The name of another crate, or of something in this module.
        (rest.len() < path.len()).then_some((module, rest.len()))
    }
}

struct Loader<'a> {
    sources: &'a Sources,
    modules: Vec<Module<'a>>,
    findings: Vec<Finding>,
}

impl<'a> Loader<'a> {
    /// Adds a module and all within.
    fn add(
        &mut self,
        of: Option<(usize, String)>,
        (file, line): (&'a str, usize),
        items: &'a [Item],
        folders: &Folders,
    ) {
        let this = self.modules.len();
        let mut path = Vec::new();
        let mut parent = this;
        if let Some((above, name)) = of {
            parent = above;
            path.clone_from(&self.modules[above].path);
            path.push(name.clone());
            self.modules[above].children.insert(name, this);
        }
        self.modules.push(Module {
            path,
            file,
            line,
            items,
            imports: imports::of(items),
            gives_macros: false,
            parent,
            children: BTreeMap::new(),
            names: names(items),
        });
        for item in items {
            if let Item::Mod(item) = item
                && !is_test(&item.attrs)
                && item.ident != "tests"
            {
                self.add_declared(this, item, folders);
            }
        }
    }

    fn add_declared(&mut self, parent: usize, item: &'a ItemMod, folders: &Folders) {
        let this = self.modules.len();
        self.add_from_file_or_block(parent, item, folders);
        if let Some(added) = self.modules.get_mut(this) {
            added.gives_macros = has(&item.attrs, "macro_use");
        }
    }

    fn add_from_file_or_block(&mut self, parent: usize, item: &'a ItemMod, folders: &Folders) {
        let name = item.ident.to_string();
        let here = self.modules[parent].file;
        let line = item.mod_token.span.start().line;
        if let Some((_, items)) = &item.content {
            let inner = folders.of_inline(item);
            return self.add(Some((parent, name)), (here, line), items, &inner);
        }
        for (file, owns_folder) in folders.candidates(item) {
            let Some(source) = self.sources.get(&file) else {
                continue;
            };
            if is_test(&source.syntax.attrs) {
                return;
            }
            let inner = if owns_folder {
                Folders::of_root(&source.path)
            } else {
                Folders::of_named(&source.path)
            };
            let items = &source.syntax.items;
            return self.add(Some((parent, name)), (&source.path, 1), items, &inner);
        }
        let text = format!("the module {name} has no file that can be read");
        self.findings.push(Finding::new(here, line, text));
    }
}

/// What a module's `use` items name, for the module and for those that look into it.
fn names(items: &[Item]) -> BTreeMap<String, Vec<String>> {
    items
        .iter()
        .filter(|item| !is_test(attributes(item)))
        .filter_map(|item| match item {
            Item::Use(item) => Some(imports::branches(item)),
            _ => None,
        })
        .flatten()
        .filter_map(|branch| Some((branch.name?, branch.path)))
        .collect()
}

/// The macros that a module exports.
fn macros_of(module: &Module<'_>) -> Vec<String> {
    let exported = module.items.iter().filter_map(|item| match item {
        Item::Macro(item) if has(&item.attrs, "macro_export") => item.ident.as_ref(),
        _ => None,
    });
    exported.map(ToString::to_string).collect()
}

fn has(attributes: &[Attribute], name: &str) -> bool {
    attributes.iter().any(|it| it.path().is_ident(name))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tidy::tree;

    /// The modules of a small crate with their files, and the findings.
    fn modules(files: &[(&str, &str)]) -> (Vec<String>, Vec<String>) {
        let small = tree::small(files);
        let (sources, _) = Sources::parse(&small.tree).expect("read the files");
        let (krate, findings) = Crate::load(&sources, files[0].0);
        let modules = krate.modules.iter();
        (
            modules
                .map(|it| format!("{} {}", it.path.join("::"), it.file))
                .collect(),
            findings.iter().map(ToString::to_string).collect(),
        )
    }

    /// What each import of a small crate's leads to.
    fn targets(files: &[(&str, &str)]) -> Vec<String> {
        let small = tree::small(files);
        let (sources, _) = Sources::parse(&small.tree).expect("read the files");
        let (krate, findings) = Crate::load(&sources, files[0].0);
        assert_eq!(findings, []);
        let mut targets = Vec::new();
        for (from, module) in krate.modules.iter().enumerate() {
            for import in &module.imports {
                if let Some(target) = krate.target(from, import) {
                    let target = krate.modules[target].path.join("::");
                    targets.push(format!("{} -> {target}", import.path.join("::")));
                }
            }
        }
        targets
    }

    #[test]
    fn modules_are_found_where_rustc_finds_them() {
        let (modules, findings) = modules(&[
            ("c/src/lib.rs", "mod a;\nmod b;\nmod inline { mod deep; }\n"),
            (
                "c/src/a.rs",
                "mod x;\n#[path = \"../../t/gate.rs\"]\nmod gate;\n",
            ),
            ("c/src/a/x.rs", "#[path = \"y.rs\"] mod y;"),
            ("c/src/a/y.rs", ""),
            ("c/src/b/mod.rs", "mod z;"),
            ("c/src/b/z.rs", "mod within { #[path = \"p.rs\"] mod p; }"),
            ("c/src/b/z/within/p.rs", ""),
            ("c/src/inline/deep.rs", ""),
            ("t/gate.rs", "mod more;"),
            ("t/more.rs", ""),
        ]);
        assert_eq!(findings, [""; 0]);
        assert_eq!(
            modules,
            [
                " c/src/lib.rs",
                "a c/src/a.rs",
                "a::x c/src/a/x.rs",
                "a::x::y c/src/a/y.rs",
                "a::gate t/gate.rs",
                "a::gate::more t/more.rs",
                "b c/src/b/mod.rs",
                "b::z c/src/b/z.rs",
                "b::z::within c/src/b/z.rs",
                "b::z::within::p c/src/b/z/within/p.rs",
                "inline c/src/lib.rs",
                "inline::deep c/src/inline/deep.rs",
            ]
        );
    }

    #[test]
    fn tests_are_no_modules_and_a_module_without_a_file_is_a_finding() {
        let (modules, findings) = modules(&[
            (
                "c/src/lib.rs",
                "mod tests;\n#[cfg(test)]\nmod posed;\nmod only;\nmod gone;\n",
            ),
            ("c/src/tests.rs", ""),
            ("c/src/posed.rs", ""),
            ("c/src/only.rs", "#![cfg(test)]"),
        ]);
        assert_eq!(modules, [" c/src/lib.rs"]);
        assert_eq!(
            findings,
            ["c/src/lib.rs:5: the module gone has no file that can be read"]
        );
    }

    #[test]
    fn a_path_leads_to_the_module_that_has_its_last_name() {
        let targets = targets(&[
            ("c/src/lib.rs", "mod a;\nmod b;\n"),
            (
                "c/src/a.rs",
                "mod x { use super::super::b::B; use self::C; use crate::a; use std::fmt; }\n",
            ),
            (
                "c/src/b.rs",
                "mod y;\nuse y::{Y, deep};\nuse crate::a as other;\nfn f() { other::x::g() }",
            ),
            ("c/src/b/y.rs", "use super::y::Z; use crate::b::y;"),
        ]);
        assert_eq!(
            targets,
            [
                "super::super::b::B -> b",
                "self::C -> a::x",
                "crate::a -> a",
                "crate::a -> a",
                "other::x::g -> a::x",
                "super::y::Z -> b::y",
                "crate::b::y -> b::y",
            ]
        );
    }

    #[test]
    fn re_exports_and_exported_macros_lead_to_what_they_stand_for() {
        let targets = targets(&[
            ("c/src/lib.rs", "mod a;\nmod b;\nmod d;\npub use a::A as B;"),
            (
                "c/src/a.rs",
                "pub use crate::d::y as z;\n#[macro_export]\nmacro_rules! say { () => {} }",
            ),
            (
                "c/src/b.rs",
                "use crate::B; use crate::say; use crate::a::z::Z; use super::a::missing::M;",
            ),
            (
                "c/src/d.rs",
                "pub mod y;\npub use self::e::e;\nuse e::f;\nuse f::e;",
            ),
            ("c/src/d/y.rs", "use super::e; use std::fmt; use fmt::x;"),
        ]);
        assert_eq!(
            targets,
            [
                "crate::d::y -> d::y",
                "crate::B -> a",
                "crate::say -> a",
                "crate::a::z::Z -> d::y",
                "super::a::missing::M -> a",
                "self::e::e -> d",
                "super::e -> d",
            ]
        );
    }
    #[test]
    fn macros_for_all_of_the_crate_are_imports_where_they_are_called() {
        let files = [
            ("c/src/lib.rs", "#[macro_use]\nmod a;\nmod b;\nmod d;\n"),
            (
                "c/src/a.rs",
                "#[macro_export]\nmacro_rules! say { () => {} }\nmacro_rules! own { () => {} }",
            ),
            (
                "c/src/b.rs",
                "fn f() { say!(); own!(); vec![say!()]; print!() }",
            ),
            (
                "c/src/d.rs",
                "#[macro_export]\nmacro_rules! print { () => {} }",
            ),
        ];
        assert_eq!(targets(&files), ["say! -> a", "say! -> a"]);
    }
}
