//! The hosts of a site, as the file names them. The matching itself is in `serve/router/hosts.rs`.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::values::{Expected, expected};

/// The longest name of a host, bytes (RFC 1035, 2.3.4).
pub const HOST_BYTES_MAX: usize = 253;

/// A host, or all hosts beneath a name. Lower case, without a port and without a dot at the end.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum HostPattern {
    /// This host alone: a name or an IP address, IPv6 in brackets.
    Exact(String),
    /// Every host with this name and at least one label before it: `*.` is left out.
    Beneath(String),
}

impl FromStr for HostPattern {
    type Err = Expected;

    fn from_str(text: &str) -> Result<Self, Expected> {
        if !text.is_ascii() {
            return expected(
                "a name in ASCII: write an international name by its A-labels, such as \
                 xn--bcher-kva.example",
            );
        }
        if text.starts_with('[') {
            return address(text);
        }
        let name = text.strip_suffix('.').unwrap_or(text).to_ascii_lowercase();
        let (is_wildcard, name) = match name.strip_prefix("*.") {
            Some(rest) => (true, rest.to_owned()),
            None => (false, name),
        };
        if name.contains('*') {
            return expected("a * as the whole first label only, as in *.example.org");
        }
        if let Some((_, port)) = name.split_once(':') {
            return expected(format!(
                "a host without a port (:{port}), since the port of a request's host does not count"
            ));
        }
        if name.len() > HOST_BYTES_MAX || !name.split('.').all(is_label) {
            return expected(
                "a host such as example.org, *.example.org, 192.0.2.1 or [2001:db8::1]",
            );
        }
        Ok(match is_wildcard {
            true => Self::Beneath(name),
            false => Self::Exact(name),
        })
    }
}

fn address(text: &str) -> Result<HostPattern, Expected> {
    let inner = text
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'));
    match inner.map(str::parse::<std::net::Ipv6Addr>) {
        // One of the spellings of the address, which requests are brought to, too.
        Some(Ok(address)) => Ok(HostPattern::Exact(format!("[{address}]"))),
        _ => expected("an IPv6 address in brackets and nothing else, such as [2001:db8::1]"),
    }
}

fn is_label(label: &str) -> bool {
    let is_known = |byte: u8| byte.is_ascii_alphanumeric() || b"-_".contains(&byte);
    (1..=63).contains(&label.len()) && label.bytes().all(is_known)
}

impl fmt::Display for HostPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(host) => f.write_str(host),
            Self::Beneath(name) => write!(f, "*.{name}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_are_normalised() {
        for (text, is) in [
            ("Example.ORG", "example.org"),
            ("example.org.", "example.org"),
            ("*.Example.org", "*.example.org"),
            ("192.0.2.1", "192.0.2.1"),
            ("[2001:DB8::1]", "[2001:db8::1]"),
            ("[2001:db8:0:0::01]", "[2001:db8::1]"),
            ("localhost", "localhost"),
            ("xn--bcher-kva.example", "xn--bcher-kva.example"),
        ] {
            assert_eq!(text.parse::<HostPattern>().unwrap().to_string(), is);
        }
    }

    #[test]
    fn what_is_no_host_is_told_why() {
        for (text, why) in [
            ("bücher.example", "A-labels"),
            ("www.*.org", "first label"),
            ("*example.org", "first label"),
            ("*.*.org", "first label"),
            ("example.org:80", "without a port"),
            ("", "such as example.org"),
            ("a..b", "such as example.org"),
            ("a/b", "such as example.org"),
            ("*", "first label"),
            ("[::1]:80", "in brackets"),
        ] {
            let error = text.parse::<HostPattern>().expect_err(text).to_string();
            assert!(error.contains(why), "{text}: {error}");
        }
    }
}
