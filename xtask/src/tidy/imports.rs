//! The paths that code writes: in `use`, in expressions, types and patterns, in macros and
//! in attributes. Owns their spelling; what they lead to is known to [`super::modules`].
//! Tests and the modules within are left out.

use proc_macro2::{Ident, TokenStream, TokenTree};
use syn::{
    Attribute, ImplItem, Item, ItemUse, Macro, Path, Stmt, TraitItem, UseTree, Visibility,
    visit::{self, Visit},
};

use super::source::{attributes, impl_attributes, is_test, trait_attributes};

/// A path of two or more names, or the name of a macro with its `!`, as it is written.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Import {
    pub line: usize,
    pub path: Vec<String>,
}

/// What one branch of a `use` brings.
pub(super) struct Use {
    pub path: Vec<String>,
    pub line: usize,
    /// What it is called here; none for a glob and for `_`.
    pub name: Option<String>,
}

/// The paths that a module writes outside of its modules.
pub(super) fn of(items: &[Item]) -> Vec<Import> {
    let mut found = Paths::default();
    for item in items {
        found.visit_item(item);
    }
    found.imports
}

/// The branches of a `use`; none if it names a crate by a leading `::`.
pub(super) fn branches(item: &ItemUse) -> Vec<Use> {
    let mut found = Vec::new();
    if item.leading_colon.is_none() {
        branch(&item.tree, &[], &mut found);
    }
    found
}

fn branch(tree: &UseTree, before: &[String], found: &mut Vec<Use>) {
    let mut leaf = |ident: &Ident, name: Option<&Ident>| {
        let mut path = before.to_vec();
        // `use a::{self}` is `use a`.
        if ident != "self" || before.is_empty() {
            path.push(ident.to_string());
        }
        let name = match name {
            Some(name) => Some(name.to_string()),
            None => path.last().cloned(),
        };
        found.push(Use {
            path,
            line: ident.span().start().line,
            name: name.filter(|name| name != "_"),
        });
    };
    match tree {
        UseTree::Path(path) => {
            let mut before = before.to_vec();
            before.push(path.ident.to_string());
            branch(&path.tree, &before, found);
        }
        UseTree::Name(name) => leaf(&name.ident, None),
        UseTree::Rename(renamed) => leaf(&renamed.ident, Some(&renamed.rename)),
        UseTree::Glob(glob) => found.push(Use {
            path: [before, &["*".to_owned()]].concat(),
            line: glob.star_token.span.start().line,
            name: None,
        }),
        UseTree::Group(group) => {
            for tree in &group.items {
                branch(tree, before, found);
            }
        }
    }
}

#[derive(Default)]
struct Paths {
    imports: Vec<Import>,
    in_attribute: bool,
}

impl Paths {
    fn add(&mut self, line: usize, path: Vec<String>) {
        if path.len() > 1 {
            self.imports.push(Import { line, path });
        }
    }

    /// A macro that is called by its mere name.
    fn add_call(&mut self, name: &Ident) {
        let line = name.span().start().line;
        let path = vec![format!("{name}!")];
        self.imports.push(Import { line, path });
    }

    /// The paths in tokens, whatever they are to a macro.
    fn scan(&mut self, tokens: &[TokenTree]) {
        let mut rest = tokens;
        while let [first, after @ ..] = rest {
            rest = match first {
                TokenTree::Ident(ident) => {
                    if let [next, TokenTree::Group(_), ..] = after
                        && is_punct(next, '!')
                    {
                        self.add_call(ident);
                    }
                    self.scan_path(vec![ident.to_string()], ident.span().start().line, after)
                }
                TokenTree::Group(group) => {
                    self.scan(&group.stream().into_iter().collect::<Vec<_>>());
                    after
                }
                TokenTree::Literal(literal) if self.in_attribute => {
                    // `#[serde(with = "crate::values::text")]`
                    let text = literal.to_string();
                    let names = text.trim_matches('"').split("::").map(str::to_owned);
                    self.add(literal.span().start().line, names.collect());
                    after
                }
                TokenTree::Literal(_) | TokenTree::Punct(_) => after,
            };
        }
    }

    /// Goes on with a path, the branches of a `use` included; gives what is behind it.
    fn scan_path<'t>(
        &mut self,
        mut path: Vec<String>,
        line: usize,
        mut rest: &'t [TokenTree],
    ) -> &'t [TokenTree] {
        while let Some(after) = behind_colons(rest) {
            match after {
                [TokenTree::Ident(ident), after @ ..] => {
                    path.push(ident.to_string());
                    rest = after;
                }
                [TokenTree::Group(group), after @ ..] => {
                    let tokens: Vec<_> = group.stream().into_iter().collect();
                    for part in tokens.split(|token| is_punct(token, ',')) {
                        if let [TokenTree::Ident(ident), after @ ..] = part {
                            let mut path = path.clone();
                            if ident != "self" {
                                path.push(ident.to_string());
                            }
                            self.scan_path(path, ident.span().start().line, after);
                        }
                    }
                    return after;
                }
                // `*`, or the `<` of type arguments.
                _ => break,
            }
        }
        self.add(line, path);
        rest
    }
}

fn is_punct(token: &TokenTree, wanted: char) -> bool {
    matches!(token, TokenTree::Punct(punct) if punct.as_char() == wanted)
}

fn behind_colons(tokens: &[TokenTree]) -> Option<&[TokenTree]> {
    match tokens {
        [first, second, rest @ ..] if is_punct(first, ':') && is_punct(second, ':') => Some(rest),
        _ => None,
    }
}

impl<'ast> Visit<'ast> for Paths {
    fn visit_item(&mut self, item: &'ast Item) {
        if !is_test(attributes(item)) && !matches!(item, Item::Mod(_)) {
            visit::visit_item(self, item);
        }
    }

    fn visit_impl_item(&mut self, item: &'ast ImplItem) {
        if !is_test(impl_attributes(item)) {
            visit::visit_impl_item(self, item);
        }
    }

    fn visit_trait_item(&mut self, item: &'ast TraitItem) {
        if !is_test(trait_attributes(item)) {
            visit::visit_trait_item(self, item);
        }
    }

    fn visit_stmt(&mut self, statement: &'ast Stmt) {
        let attributes: &[_] = match statement {
            Stmt::Local(local) => &local.attrs,
            Stmt::Macro(call) => &call.attrs,
            Stmt::Item(_) | Stmt::Expr(..) => &[],
        };
        if !is_test(attributes) {
            visit::visit_stmt(self, statement);
        }
    }

    fn visit_item_use(&mut self, item: &'ast ItemUse) {
        for Use { path, line, .. } in branches(item) {
            self.add(line, path);
        }
    }

    /// `pub(in crate::a)` says from where an item may be used: it imports nothing.
    fn visit_visibility(&mut self, _: &'ast Visibility) {}

    fn visit_attribute(&mut self, attribute: &'ast Attribute) {
        // Documentation may point at anything.
        if !attribute.path().is_ident("doc") {
            self.in_attribute = true;
            visit::visit_attribute(self, attribute);
            self.in_attribute = false;
        }
    }

    fn visit_path(&mut self, path: &'ast Path) {
        if let (None, Some(first)) = (&path.leading_colon, path.segments.first()) {
            let names = path.segments.iter().map(|part| part.ident.to_string());
            self.add(first.ident.span().start().line, names.collect());
        }
        visit::visit_path(self, path);
    }

    fn visit_macro(&mut self, call: &'ast Macro) {
        if let Some(name) = call.path.get_ident() {
            self.add_call(name);
        }
        visit::visit_macro(self, call);
    }

    fn visit_token_stream(&mut self, tokens: &'ast TokenStream) {
        self.scan(&tokens.clone().into_iter().collect::<Vec<_>>());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(text: &str) -> Vec<String> {
        let file = syn::parse_file(text).expect("parse the text");
        of(&file.items)
            .iter()
            .map(|import| format!("{} {}", import.line, import.path.join("::")))
            .collect()
    }

    #[test]
    fn each_branch_of_a_use_is_a_path() {
        let text = "use crate::a;\nuse crate::{b::{self, C as D}, e::*};\nuse super::f as _;\n";
        assert_eq!(
            found(text),
            [
                "1 crate::a",
                "2 crate::b",
                "2 crate::b::C",
                "2 crate::e::*",
                "3 super::f"
            ]
        );
        assert_eq!(found("use ::std::fmt;"), [""; 0]);
    }

    #[test]
    fn paths_are_found_where_they_are_written() {
        let text = "fn f(x: crate::a::A<super::b::B>) {\n    crate::c::d();\n    use crate::e::E;\n}
#[derive(Debug)]\n#[serde(with = \"crate::g\")]\nstruct S(#[arg(value_parser = crate::h::parse)] u8);\n";
        assert_eq!(
            found(text),
            [
                "1 crate::a::A",
                "1 super::b::B",
                "2 crate::c::d",
                "3 crate::e::E",
                "6 crate::g",
                "7 crate::h::parse"
            ]
        );
    }

    #[test]
    fn paths_are_found_in_macros() {
        let text = "macro_rules! m {\n    ($x:tt) => { $crate::a::b($x) };\n}
fn f() {\n    println!(concat!(\"{}\"), [crate::c::D::<crate::e::F>::new()]);\n}
m! { use crate::{g::{self, H}, i::J}; }\n";
        assert_eq!(
            found(text),
            [
                "1 macro_rules!",
                "2 crate::a::b",
                "5 println!",
                "5 concat!",
                "5 crate::c::D",
                "5 crate::e::F",
                "7 m!",
                "7 crate::g",
                "7 crate::g::H",
                "7 crate::i::J"
            ]
        );
    }

    #[test]
    fn tests_modules_documentation_and_visibility_bring_no_path() {
        let text = "//! [`crate::a::A`]\n#[cfg(test)]\nuse crate::b::B;\nmod m { use crate::c::C; }
/// [`crate::d::D`]\n#[cfg(test)]\nfn f() { crate::e::e() }\nimpl S {\n    #[cfg(test)]\n    fn g() { crate::f::f() }
}\npub(in crate::h) fn h() {\n    #[cfg(test)]\n    let x = crate::i::i();\n    #[cfg(test)]\n    use crate::j::j;\n}\n";
        assert_eq!(found(text), [""; 0]);
    }
}
