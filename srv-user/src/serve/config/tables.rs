//! How values become TOML. Knows no key.

use std::fmt::Display;
use std::path::Path;

use anyhow::{Context, Result};
use toml::{Table, Value};

use super::Types;

/// Gives a key a value.
pub(super) fn put(table: &mut Table, key: &str, value: impl Into<Value>) {
    table.insert(key.to_owned(), value.into());
}

/// As [`put`], unless there is no value.
pub(super) fn put_some(table: &mut Table, key: &str, value: Option<impl Into<Value>>) {
    if let Some(value) = value {
        put(table, key, value);
    }
}

pub(super) fn text(value: impl Display) -> String {
    value.to_string()
}

pub(super) fn path(path: &Path) -> Result<String> {
    let text = path.to_str();
    let text = text.with_context(|| format!("print {}: it is not UTF-8", path.display()))?;
    Ok(text.to_owned())
}

pub(super) fn types(types: &Types) -> Table {
    let types = types.iter();
    types
        .map(|(extension, name)| (extension.clone(), name.clone().into()))
        .collect()
}
