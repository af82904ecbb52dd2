//! A site as the table of the file that means the same. A route's table has what differs from what
//! it inherits.

use anyhow::Result;
use toml::{Table, Value};

use super::access::Written;
use super::{
    Access, Files, Fixed, Handler, HeaderChange, Pattern, Place, Redirect, Route, SiteSettings,
};
use crate::serve::config::sites::pattern::Glob;
use crate::serve::config::tables::{path, put, put_some, text, types};
use crate::serve::config::tls::Tls;

/// A `[[site]]`. `listener` names a listener by its number.
///
/// # Errors
/// A path is not UTF-8.
pub(in crate::serve::config) fn site(
    site: &SiteSettings,
    listener: &dyn Fn(usize) -> String,
) -> Result<Table> {
    let mut table = place(&site.place, 0)?;
    let hosts = site.hosts.iter().map(text).collect::<Vec<_>>();
    if !hosts.is_empty() {
        put(&mut table, "hosts", hosts);
        put(&mut table, "default", site.is_default);
    }
    let listeners = site.listeners.iter().flatten();
    let listeners: Vec<_> = listeners.map(|number| listener(*number)).collect();
    put_some(
        &mut table,
        "listen",
        Some(listeners).filter(|listeners| !listeners.is_empty()),
    );
    if let Some(its) = &site.tls {
        put(&mut table, "tls", tls(its)?);
    }
    let inherited = site.place.headers.len();
    let routes = site.routes.iter().map(|one| route(one, inherited));
    let routes = routes.collect::<Result<Vec<_>>>()?;
    put_some(
        &mut table,
        "route",
        Some(routes).filter(|routes| !routes.is_empty()),
    );
    Ok(table)
}

fn tls(tls: &Tls) -> Result<Table> {
    let mut table = Table::new();
    put(&mut table, "certificate", path(&tls.identity.certificate)?);
    put(&mut table, "key", path(&tls.identity.key)?);
    if let Some(clients) = &tls.clients {
        put(&mut table, "client-ca", path(&clients.file)?);
        let asked = match clients.is_required {
            true => "required",
            false => "optional",
        };
        put(&mut table, "client-certificate", asked);
    }
    Ok(table)
}

/// A `[[site.route]]`, which inherits so many changes of headers.
fn route(route: &Route, inherited: usize) -> Result<Table> {
    let mut table = place(&route.place, inherited)?;
    let key = match &route.pattern {
        Pattern::Exact(_) => "exact",
        Pattern::Prefix(_) => "prefix",
        Pattern::Suffix(_) => "suffix",
    };
    put(&mut table, key, route.pattern.text());
    Ok(table)
}

fn place(place: &Place, inherited: usize) -> Result<Table> {
    let mut table = files(&place.files)?;
    let pages = place.error_pages.iter();
    let pages: Table = pages
        .map(|(status, page)| (text(status), page.clone().into()))
        .collect();
    put(&mut table, "error-pages", pages);
    put(&mut table, "headers", headers(&place.headers[inherited..]));
    access(&mut table, &place.access)?;
    match &place.access_log {
        None => put(&mut table, "access-log", false),
        Some(log) => put(&mut table, "access-log", text(&log.to)),
    }
    match &place.handler {
        Handler::Files => {}
        Handler::Redirect(to) => put(&mut table, "redirect", redirect(to)),
        Handler::Fixed(answer) => put(&mut table, "respond", respond(answer)),
        Handler::FastCgi(to) => put(&mut table, "fastcgi", to.printed()),
    }
    Ok(table)
}

fn files(files: &Files) -> Result<Table> {
    let mut table = Table::new();
    let root = files.root.as_ref().map(|root| path(&root.asked));
    put_some(&mut table, "root", root.transpose()?);
    put(&mut table, "index", files.index.clone());
    let candidates = files.candidates.iter().map(text);
    put(&mut table, "try-files", candidates.collect::<Vec<_>>());
    put(&mut table, "dotfiles", files.dotfiles);
    put(&mut table, "types", types(&files.types));
    put(&mut table, "charset", text(&files.charset));
    let codings = files.precompressed.iter().map(|coding| coding.extension());
    put(&mut table, "precompressed", codings.collect::<Vec<_>>());
    if let Some(compress) = &files.compress {
        let mut figures = Table::new();
        let codings = compress.codings.iter().map(|coding| coding.token());
        put(&mut figures, "codings", codings.collect::<Vec<_>>());
        put(&mut figures, "min-bytes", text(compress.min_bytes));
        put(&mut figures, "max-bytes", text(compress.max_bytes));
        put(&mut figures, "level", i64::from(compress.level));
        put(&mut table, "compress", figures);
    }
    let values = files.cache_control.iter();
    let values: Table = values
        .map(|(pattern, value)| (text(Glob(pattern.clone())), value.clone().into()))
        .collect();
    put(&mut table, "cache-control", values);
    Ok(table)
}

fn access(table: &mut Table, access: &Access) -> Result<()> {
    for (key, networks) in [("allow", &access.allow), ("deny", &access.deny)] {
        let networks = networks.iter().map(|network| text(Written(network)));
        put(table, key, networks.collect::<Vec<_>>());
    }
    match &access.auth {
        None => put(table, "auth", false),
        Some(auth) => {
            let mut users = Table::new();
            put(&mut users, "realm", auth.realm.clone());
            put(&mut users, "users", path(&auth.file)?);
            put(table, "auth", users);
        }
    }
    if let Some(rate) = access.rate {
        let mut figures = Table::new();
        put(&mut figures, "per-second", i64::from(rate.per_second));
        put(&mut figures, "burst", i64::from(rate.burst));
        put(table, "rate", figures);
    }
    if let Some(most) = access.body_bytes {
        let mut limits = Table::new();
        put(
            &mut limits,
            "body-bytes",
            i64::try_from(most).unwrap_or(i64::MAX),
        );
        put(table, "limits", limits);
    }
    Ok(())
}

fn headers(changes: &[HeaderChange]) -> Table {
    let [mut set, mut add] = [Table::new(), Table::new()];
    let mut remove: Vec<Value> = Vec::new();
    for change in changes {
        match change {
            HeaderChange::Remove(name) => remove.push(name.clone().into()),
            HeaderChange::Set(name, value) => put(&mut set, name, value.clone()),
            HeaderChange::Add(name, value) => put(&mut add, name, value.clone()),
        }
    }
    let mut table = Table::new();
    put(&mut table, "remove", remove);
    put(&mut table, "set", set);
    put(&mut table, "add", add);
    table
}

fn redirect(redirect: &Redirect) -> Table {
    let mut table = Table::new();
    put(&mut table, "to", redirect.to.clone());
    put(&mut table, "status", i64::from(redirect.status));
    put(&mut table, "path", redirect.path.name());
    put(&mut table, "query", redirect.query);
    table
}

fn respond(fixed: &Fixed) -> Table {
    let mut table = Table::new();
    put(&mut table, "status", i64::from(fixed.status));
    if fixed.status != 204 {
        put(&mut table, "body", fixed.body.clone());
    }
    put(&mut table, "type", fixed.media.clone());
    table
}
