//! `fastcgi`: which application a route asks, which of its scripts, and for how long. Knows no
//! protocol.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use toml::Table;

use crate::serve::config::tables::{put, put_some, text};
use crate::values::ApplicationAddr;

/// An application, and what is asked of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FastCgi {
    /// Where it listens.
    pub to: ApplicationAddr,
    /// What the name of a script ends in; empty: only `script` is one, or there is none.
    pub suffix: String,
    /// The script of a folder.
    pub index: Option<String>,
    /// The script for paths that lead to no other.
    pub script: Option<String>,
    /// Whether files that are no scripts are sent as they are.
    pub files: bool,
    /// More parameters.
    pub params: BTreeMap<String, String>,
    /// How long the application may take to accept a connection.
    pub connect_timeout: Duration,
    /// How long it may take to read on.
    pub send_timeout: Duration,
    /// How long it may take to say anything.
    pub read_timeout: Duration,
}

impl FastCgi {
    /// Whether it executes scripts, which are files, or answers all paths by itself.
    pub fn has_scripts(&self) -> bool {
        !self.suffix.is_empty() || self.script.is_some()
    }

    /// As the table that means the same.
    pub(super) fn printed(&self) -> Table {
        let mut table = Table::new();
        put(&mut table, "to", text(&self.to));
        put(&mut table, "suffix", self.suffix.clone());
        put_some(&mut table, "index", self.index.clone());
        put_some(&mut table, "script", self.script.clone());
        put(&mut table, "files", self.files);
        let params = self.params.iter();
        let params: Table = params
            .map(|(name, value)| (name.clone(), value.clone().into()))
            .collect();
        put(&mut table, "params", params);
        for (key, period) in [
            ("connect-timeout", self.connect_timeout),
            ("send-timeout", self.send_timeout),
            ("read-timeout", self.read_timeout),
        ] {
            put(
                &mut table,
                key,
                humantime::format_duration(period).to_string(),
            );
        }
        table
    }
}
