//! What sites and routes do to one another: hosts that two sites have, several defaults, and
//! routes that no path reaches.

use std::collections::BTreeMap;

use anyhow::{Result, bail};
use toml::Spanned;

use super::args::{RouteArgs, SiteArgs};
use super::pattern::Pattern;
use super::{Route, SiteSettings};
use crate::serve::config::keys::Places;

/// Checks all sites. `args` and `sites` are in the same order.
///
/// # Errors
/// The first conflict.
pub(super) fn check(
    places: &Places,
    args: &[Spanned<SiteArgs>],
    sites: &[SiteSettings],
) -> Result<()> {
    let mut hosts = BTreeMap::new();
    let mut default = None;
    for (args, site) in args.iter().zip(sites) {
        let site_at = args.span().start;
        let args = args.as_ref();
        let texts = args.hosts.iter().flat_map(|hosts| hosts.as_ref());
        for (text, host) in texts.zip(&site.hosts) {
            let at = text.span().start;
            if let Some(before) = hosts.insert(host, at) {
                bail!(
                    "{}: found host `{host}`, which {} has, expected each host in one site",
                    places.at(at),
                    places.at(before)
                );
            }
        }
        if site.is_default {
            let at = args
                .default
                .as_ref()
                .map_or(site_at, |key| key.span().start);
            if let Some(before) = default.replace(at) {
                bail!(
                    "{}: found a second default site, beside that of {}, expected one at most (a \
                     site without hosts is the default)",
                    places.at(at),
                    places.at(before)
                );
            }
        }
        check_routes(places, &args.route, &site.routes)?;
    }
    Ok(())
}

fn check_routes(places: &Places, args: &[Spanned<RouteArgs>], routes: &[Route]) -> Result<()> {
    let mut seen: BTreeMap<&Pattern, usize> = BTreeMap::new();
    let positions = args.iter().map(position);
    for (at, route) in positions.zip(routes) {
        if let Some(before) = seen.insert(&route.pattern, at) {
            bail!(
                "{}: found a route for {}, which {} has, expected each pattern once",
                places.at(at),
                route.pattern,
                places.at(before)
            );
        }
    }
    for (pattern, at) in &seen {
        let taken_by = |other: Pattern| seen.get_key_value(&other).map(|(other, at)| (*other, *at));
        let by = match pattern {
            Pattern::Suffix(_) => taken_by(Pattern::Prefix("/".into())),
            Pattern::Prefix(path) if !path.ends_with('/') => {
                let beneath = taken_by(Pattern::Prefix(format!("{path}/")));
                beneath.and(taken_by(Pattern::Exact(path.clone())))
            }
            Pattern::Exact(_) | Pattern::Prefix(_) => None,
        };
        if let Some((other, other_at)) = by {
            bail!(
                "{}: found a route for {pattern} that no path reaches, since {} has a route for \
                 {other}, expected a route that can be reached (exact comes before prefix, and \
                 prefix before suffix)",
                places.at(*at),
                places.at(other_at)
            );
        }
    }
    Ok(())
}

/// Where a route says what it is for.
fn position(route: &Spanned<RouteArgs>) -> usize {
    let args = route.as_ref();
    let keys = [&args.exact, &args.prefix, &args.suffix];
    let key = keys.into_iter().flatten().next();
    key.map_or(route.span().start, |key| key.span().start)
}
