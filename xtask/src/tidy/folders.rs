//! Where rustc looks for the file of a module, and how paths of files are written. Knows no
//! file's content.

use std::path::{Component, Path, PathBuf};

use syn::{Expr, ExprLit, ItemMod, Lit, Meta};

/// Where the files of a module's own modules are looked for.
pub(super) struct Folders {
    /// By name.
    names: PathBuf,
    /// By `#[path]`.
    paths: PathBuf,
}

impl Folders {
    /// For a file that owns its folder, as a root does.
    pub(super) fn of_root(file: &str) -> Self {
        let folder = Path::new(file).parent().unwrap_or(Path::new(""));
        Self {
            names: folder.to_owned(),
            paths: folder.to_owned(),
        }
    }

    /// For a file that was found by its name.
    pub(super) fn of_named(file: &str) -> Self {
        let folders = Self::of_root(file);
        match Path::new(file).file_stem() {
            Some(stem) if stem != "mod" => Self {
                names: folders.names.join(stem),
                ..folders
            },
            _ => folders,
        }
    }

    /// For `mod name { … }`.
    pub(super) fn of_inline(&self, item: &ItemMod) -> Self {
        let folder = match path_attribute(item) {
            Some(path) => self.paths.join(path),
            None => self.names.join(item.ident.to_string()),
        };
        Self {
            names: folder.clone(),
            paths: folder,
        }
    }

    /// The files that a declared module may be in, and whether each owns its folder.
    pub(super) fn candidates(&self, item: &ItemMod) -> Vec<(String, bool)> {
        let name = item.ident.to_string();
        match path_attribute(item) {
            Some(path) => vec![(normal(&self.paths.join(path)), true)],
            None => vec![
                (normal(&self.names.join(format!("{name}.rs"))), false),
                (normal(&self.names.join(name).join("mod.rs")), false),
            ],
        }
    }
}

/// The text of `#[path = "text"]`.
fn path_attribute(item: &ItemMod) -> Option<String> {
    item.attrs
        .iter()
        .find_map(|attribute| match &attribute.meta {
            Meta::NameValue(pair) if pair.path.is_ident("path") => match &pair.value {
                Expr::Lit(ExprLit {
                    lit: Lit::Str(text),
                    ..
                }) => Some(text.value()),
                _ => None,
            },
            _ => None,
        })
}

/// `a/b/../c` is `a/c`, by name: what git lists has no links in its folders.
pub(super) fn normal(path: &Path) -> String {
    let mut names: Vec<&str> = Vec::new();
    for part in path.components() {
        match part {
            Component::Normal(name) => names.push(name.to_str().unwrap_or_default()),
            // Above the root there is nothing to be found.
            Component::ParentDir if names.last().is_none_or(|name| *name == "..") => {
                names.push("..");
            }
            Component::ParentDir => {
                names.pop();
            }
            Component::CurDir | Component::RootDir | Component::Prefix(_) => {}
        }
    }
    names.join("/")
}
