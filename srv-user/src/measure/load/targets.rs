//! What a command line asks for: the targets of a run, from the URL or the file
//! of targets and the flags about requests.

use std::fs;
use std::sync::Arc;

use anyhow::{Context as _, Result, ensure};
use http::Method;

use super::Target;
use super::lookup::Lookup;
use super::targets_file::{self, Entry};
use super::url::Url;
use crate::measure::load::args::LoadArgs;

/// The targets of a run, and the first one's URL as written.
pub(super) struct Targets {
    pub(super) targets: Vec<Target>,
    pub(super) url: String,
}

impl Targets {
    /// Reads what there is to read, and looks up each server.
    pub(super) fn from(args: &LoadArgs) -> Result<Self> {
        let entries = match (&args.targets, &args.url) {
            (Some(path), _) => targets_file::read(path)?,
            (None, url) => vec![Entry {
                url: url.clone().context("say what to get: a URL or --targets")?,
                ..Entry::default()
            }],
        };
        let body = match (&args.body, &args.body_file) {
            (Some(text), _) => Some(text.as_bytes().into()),
            (None, Some(path)) => Some(
                fs::read(path)
                    .with_context(|| format!("read the body from {}", path.display()))?
                    .into(),
            ),
            (None, None) => None,
        };
        let mut lookup = Lookup::new(
            args.connect_to.clone(),
            args.unix_socket.clone(),
            args.insecure,
            args.resume,
        );
        let mut targets = Vec::with_capacity(entries.len());
        for entry in &entries {
            targets.push(target(entry, args, body.as_ref(), &mut lookup)?);
        }
        let [Entry { url, .. }, ..] = entries.as_slice() else {
            unreachable!("a file without a target was refused");
        };
        let url = url.clone();
        Ok(Self { targets, url })
    }

    /// Whether a target has a place for the service time.
    pub(super) fn has_place(&self) -> bool {
        let mut targets = self.targets.iter();
        targets.any(|target| target.path.contains("{us}"))
    }
}

/// The servers' addresses, each once.
pub(super) fn addresses(targets: &[Target]) -> Vec<String> {
    let mut addresses = Vec::new();
    for target in targets {
        let address = target.server.address.to_string();
        if !addresses.contains(&address) {
            addresses.push(address);
        }
    }
    addresses
}

fn target(
    entry: &Entry,
    args: &LoadArgs,
    body: Option<&Arc<[u8]>>,
    lookup: &mut Lookup,
) -> Result<Target> {
    let url = Url::parse(&entry.url)?;
    let body = match &entry.body_file {
        Some(path) => Some(
            fs::read(path)
                .with_context(|| format!("read the body for `{}` from {path}", entry.url))?
                .into(),
        ),
        None => body.cloned(),
    };
    let headers = args.header.iter().chain(&entry.headers);
    Ok(Target {
        server: lookup.server(&url)?,
        method: method(entry, args, body.is_some())?,
        host: url.host,
        path: url.path,
        headers: headers
            .map(|header| (header.name.clone(), header.value.clone()))
            .collect(),
        body,
    })
}

/// GET, or as with curl POST if there is a body and nothing else was said.
fn method(entry: &Entry, args: &LoadArgs, has_body: bool) -> Result<String> {
    let said = entry.method.as_ref().or(args.method.as_ref());
    let method = match said {
        Some(method) => method.as_str(),
        None if has_body => "POST",
        None => "GET",
    };
    Method::from_bytes(method.as_bytes()).with_context(|| format!("`{method}` is not a method"))?;
    ensure!(
        method != "CONNECT",
        "method CONNECT opens a tunnel, which is not supported"
    );
    Ok(method.to_owned())
}
