//! Finds the site for a host: an exact host before a wildcard, and the longest wildcard. The cost
//! depends on the number of labels in the host, of which there are at most 127.

use std::collections::HashMap;
use std::net::Ipv6Addr;

use crate::serve::config::sites::{HOST_BYTES_MAX, HostPattern, SiteSettings};

/// Sites by host.
#[derive(Debug)]
pub struct Hosts {
    exact: HashMap<Box<[u8]>, usize>,
    beneath: HashMap<Box<[u8]>, usize>,
    default: Option<usize>,
}

/// For each listener to which a site refers, its sites by host, and behind them those for every
/// other listener.
pub fn by_listener(sites: &[SiteSettings]) -> Vec<Hosts> {
    let referred = sites.iter().flat_map(|site| &site.listeners);
    let others = referred.flatten().max().map_or(0, |last| last + 1);
    let of_listener = |listener| {
        let sites = sites.iter().enumerate();
        Hosts::new(sites.filter(|(_, site)| site.answers_at(listener)))
    };
    (0..=others).map(of_listener).collect()
}

impl Hosts {
    /// The hosts of these sites, each with its number.
    fn new<'a>(sites: impl Iterator<Item = (usize, &'a SiteSettings)>) -> Self {
        let mut hosts = Self {
            exact: HashMap::new(),
            beneath: HashMap::new(),
            default: None,
        };
        for (nth, site) in sites {
            if site.is_default {
                hosts.default = Some(nth);
            }
            for host in &site.hosts {
                let (by_name, name) = match host {
                    HostPattern::Exact(name) => (&mut hosts.exact, name),
                    HostPattern::Beneath(name) => (&mut hosts.beneath, name),
                };
                by_name.insert(name.as_bytes().into(), nth);
            }
        }
        hosts
    }

    /// The site for what a `Host` header says. Case, port and a dot at the end do not count.
    pub fn find(&self, host: &[u8]) -> Option<usize> {
        let mut name = [0; HOST_BYTES_MAX];
        let host = without_port(host);
        let host = host.strip_suffix(b".").unwrap_or(host);
        let address = as_address(host);
        let host = address.as_ref().map_or(host, String::as_bytes);
        // A host that is longer has no site of its own.
        let Some(name) = name.get_mut(..host.len()) else {
            return self.default;
        };
        name.copy_from_slice(host);
        name.make_ascii_lowercase();
        if let Some(site) = self.exact.get(&*name) {
            return Some(*site);
        }
        let mut rest = &*name;
        while let Some(dot) = rest.iter().position(|byte| *byte == b'.') {
            let label_bytes = dot;
            rest = &rest[dot + 1..];
            // The wildcard stands for one label at least, which is not empty.
            if let Some(site) = self.beneath.get(rest).filter(|_| label_bytes > 0) {
                return Some(*site);
            }
        }
        self.default
    }
}

/// An IPv6 address, which has several spellings, as the sites spell it.
fn as_address(host: &[u8]) -> Option<String> {
    let inner = host.strip_prefix(b"[")?.strip_suffix(b"]")?;
    let address: Ipv6Addr = std::str::from_utf8(inner).ok()?.parse().ok()?;
    Some(format!("[{address}]"))
}

fn without_port(host: &[u8]) -> &[u8] {
    let end = match host.first() {
        Some(b'[') => host.iter().position(|byte| *byte == b']').map(|at| at + 1),
        _ => host.iter().position(|byte| *byte == b':'),
    };
    &host[..end.unwrap_or(host.len())]
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::serve::config::sites::Place;

    fn sites(hosts: &[&[&str]], default: Option<usize>) -> Vec<SiteSettings> {
        let site = |(nth, hosts): (usize, &&[&str])| SiteSettings {
            hosts: hosts.iter().map(|host| host.parse().unwrap()).collect(),
            is_default: default == Some(nth),
            listeners: None,
            tls: None,
            place: Place::default(),
            routes: Vec::new(),
        };
        hosts.iter().enumerate().map(site).collect()
    }

    fn only(sites: &[SiteSettings]) -> Hosts {
        let mut by_listener = by_listener(sites);
        assert_eq!(by_listener.len(), 1);
        by_listener.remove(0)
    }

    #[test]
    fn a_site_answers_on_its_listeners_alone() {
        let mut sites = sites(&[&["a"], &["a", "b"], &["c"], &["d"]], Some(3));
        sites[0].listeners = Some([0].into());
        sites[1].listeners = Some([1, 2].into());
        sites[3].listeners = Some([1].into());
        let found = |listener: usize| {
            let by_listener = by_listener(&sites);
            let hosts = by_listener.get(listener).unwrap_or(&by_listener[3]);
            ["a", "b", "c", "x"].map(|host| hosts.find(host.as_bytes()))
        };
        assert_eq!(found(0), [Some(0), None, Some(2), None]);
        assert_eq!(found(1), [Some(1), Some(1), Some(2), Some(3)]);
        assert_eq!(found(2), [Some(1), Some(1), Some(2), None]);
        assert_eq!(found(3), [None, None, Some(2), None]);
        assert_eq!(found(9), found(3));
    }

    #[test]
    fn the_longest_match_wins_and_port_case_and_dot_do_not_count() {
        let hosts = only(&sites(
            &[
                &["example.org", "[::1]", "127.0.0.1"],
                &["*.example.org"],
                &["*.b.example.org", "x.a.example.org"],
                &["other.test"],
            ],
            Some(3),
        ));
        for (host, site) in [
            ("example.org", 0),
            ("EXAMPLE.org:8080", 0),
            ("example.org.", 0),
            ("example.org.:80", 0),
            ("[::1]:80", 0),
            ("[0:0::0:01]", 0),
            ("[::2]", 3),
            ("127.0.0.1:1", 0),
            ("a.example.org", 1),
            ("b.example.org", 1),
            ("y.a.example.org", 1),
            ("x.a.example.org", 2),
            ("z.b.example.org", 2),
            (".example.org", 3),
            ("notexample.org", 3),
            ("org", 3),
            ("", 3),
            (":80", 3),
        ] {
            assert_eq!(hosts.find(host.as_bytes()), Some(site), "{host}");
        }
        let long = format!("{}.example.org", "a.".repeat(200));
        assert_eq!(hosts.find(long.as_bytes()), Some(3));
    }

    #[test]
    fn without_a_default_an_unknown_host_has_no_site() {
        let hosts = only(&sites(&[&["a.test"]], None));
        assert_eq!(hosts.find(b"a.test"), Some(0));
        assert_eq!(hosts.find(b"b.test"), None);
    }

    /// The same by going through all hosts of all sites.
    fn slowly(sites: &[SiteSettings], host: &str) -> Option<usize> {
        let host = host.split(':').next()?.trim_end_matches('.').to_lowercase();
        let all = sites.iter().enumerate();
        let all = all.flat_map(|(nth, site)| site.hosts.iter().map(move |host| (nth, host)));
        let ranked = all.filter_map(|(nth, pattern)| match pattern {
            HostPattern::Exact(name) => (*name == host).then_some((usize::MAX, nth)),
            HostPattern::Beneath(name) => {
                let label = host.strip_suffix(name.as_str())?.strip_suffix('.')?;
                let last = label.rsplit('.').next()?;
                (!last.is_empty()).then_some((name.len(), nth))
            }
        });
        let best = ranked.max_by_key(|(rank, _)| *rank).map(|(_, nth)| nth);
        best.or_else(|| sites.iter().position(|site| site.is_default))
    }

    #[test]
    fn the_lookup_finds_what_a_search_of_all_hosts_finds() {
        let names = proptest::collection::btree_set("(\\*\\.)?([ab]{1,2}\\.){0,3}[ab]", 0..10);
        let asked = proptest::collection::vec("([abAB]{0,2}\\.){0,4}[aB](\\.)?(:80)?", 8);
        proptest!(|(names in names, asked in asked, default in proptest::option::of(0..10_usize))| {
            let lists: Vec<[&str; 1]> = names.iter().map(|name| [name.as_str()]).collect();
            let lists: Vec<&[&str]> = lists.iter().map(|list| &list[..]).collect();
            let sites = sites(&lists, default);
            let hosts = only(&sites);
            for host in asked {
                let found = hosts.find(host.as_bytes());
                prop_assert_eq!(found, slowly(&sites, &host), "{} {:?}", host, names);
            }
        });
    }
}
