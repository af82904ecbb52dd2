//! What sites and routes do to one another: hosts that two sites have, several defaults, and
//! routes that no path reaches.

use std::collections::BTreeMap;

use anyhow::{Result, bail};
use toml::Spanned;

use super::args::{RouteArgs, SiteArgs};
use super::pattern::Pattern;
use super::{Route, SiteSettings};
use crate::serve::config::keys::Places;

/// Checks all sites. `args` and `sites` are in the same order. There are so many listeners.
///
/// # Errors
/// The first conflict.
pub(super) fn check(
    places: &Places,
    args: &[Spanned<SiteArgs>],
    sites: &[SiteSettings],
    listeners: usize,
) -> Result<()> {
    // By listener: each has its own hosts and its own default.
    let mut hosts = BTreeMap::new();
    let mut defaults = BTreeMap::new();
    for (args, site) in args.iter().zip(sites) {
        let site_at = args.span().start;
        let args = args.as_ref();
        let its_listeners = (0..listeners).filter(|listener| site.answers_at(*listener));
        let texts = args.hosts.iter().flat_map(|hosts| hosts.as_ref());
        for (text, host) in texts.zip(&site.hosts) {
            let at = text.span().start;
            for listener in its_listeners.clone() {
                if let Some(before) = hosts.insert((listener, host), at) {
                    bail!(
                        "{}: found host `{host}`, which {} has, expected each host in one site (of \
                         each listener)",
                        places.at(at),
                        places.at(before)
                    );
                }
            }
        }
        if site.is_default {
            let at = args
                .default
                .as_ref()
                .map_or(site_at, |key| key.span().start);
            for listener in its_listeners {
                if let Some(before) = defaults.insert(listener, at) {
                    bail!(
                        "{}: found a second default site, beside that of {}, expected one at most \
                         for each listener (a site without hosts is the default)",
                        places.at(at),
                        places.at(before)
                    );
                }
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
