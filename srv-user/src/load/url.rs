//! The URL of a load: `http://HOST[:PORT][/PATH]`, taken apart and looked up.
//! What the generator does not speak is refused with what to write instead.

use std::net::{SocketAddr, ToSocketAddrs as _};

use anyhow::{Context as _, Result, bail, ensure};

/// Where requests go and what they ask for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Url {
    /// Host and port as written, for `Host`.
    pub(super) host: String,
    /// The name or the address, without brackets.
    name: String,
    port: u16,
    /// Path and query.
    pub(super) path: String,
}

impl Url {
    /// Takes `text` apart.
    pub(super) fn parse(text: &str) -> Result<Self> {
        Self::take_apart(text).with_context(|| format!("read URL `{text}`"))
    }

    fn take_apart(text: &str) -> Result<Self> {
        let rest = match text.split_once("://") {
            Some((scheme, rest)) if scheme.eq_ignore_ascii_case("http") => rest,
            Some((scheme, _)) if scheme.eq_ignore_ascii_case("https") => {
                bail!("TLS is not spoken here; name the server's plain port, with http://")
            }
            Some((scheme, _)) => {
                bail!("`{scheme}` is not spoken here; write http://HOST:PORT/PATH")
            }
            None => bail!("there is no scheme; write http://HOST:PORT/PATH"),
        };
        let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
        let (host, path) = rest.split_at(end);
        let (name, port) = name_and_port(host)?;
        ensure!(
            path.bytes().all(|byte| byte.is_ascii_graphic()),
            "a space or a character beyond ASCII is in the path; write it percent-encoded"
        );
        ensure!(
            !path.contains('#'),
            "a server never sees what follows `#`; leave that away or write %23"
        );
        let slash = if path.starts_with('/') { "" } else { "/" };
        Ok(Self {
            host: host.to_owned(),
            name,
            port,
            path: format!("{slash}{path}"),
        })
    }

    /// The first address of the host.
    pub(super) fn resolve(&self) -> Result<SocketAddr> {
        let addresses = (self.name.as_str(), self.port).to_socket_addrs();
        addresses
            .map_err(anyhow::Error::from)
            .and_then(|mut addresses| addresses.next().context("it has no address"))
            .with_context(|| {
                format!(
                    "look up `{}` (check the name, or write an address)",
                    self.name
                )
            })
    }
}

fn name_and_port(host: &str) -> Result<(String, u16)> {
    ensure!(
        !host.contains('@'),
        "user and password are not sent; leave away what is before `@`"
    );
    let (name, port) = match host.rsplit_once(':') {
        Some((name, port)) if !port.ends_with(']') => (name, Some(port)),
        _ => (host, None),
    };
    let port = match port {
        Some(port) => port.parse().ok().filter(|port| *port > 0),
        None => Some(80),
    };
    let port = port.context("the port is not a number from 1 to 65535")?;
    if let Some(address) = name
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'))
    {
        let parsed = address.parse::<std::net::Ipv6Addr>();
        parsed.with_context(|| format!("`{address}` is not an IPv6 address"))?;
        return Ok((address.to_owned(), port));
    }
    ensure!(
        !name.contains(':'),
        "an IPv6 address is written in brackets, as in http://[::1]:8080/"
    );
    let is_known = |byte: u8| byte.is_ascii_alphanumeric() || b".-_".contains(&byte);
    ensure!(
        !name.is_empty() && name.bytes().all(is_known),
        "`{name}` is not a host; write http://HOST:PORT/PATH"
    );
    Ok((name.to_owned(), port))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_taken_apart() {
        for (text, host, name, port, path) in [
            (
                "http://a.b:8080/x?y={us}",
                "a.b:8080",
                "a.b",
                8080,
                "/x?y={us}",
            ),
            ("HTTP://127.0.0.1", "127.0.0.1", "127.0.0.1", 80, "/"),
            ("http://[::1]:81?q", "[::1]:81", "::1", 81, "/?q"),
            ("http://[::1]/", "[::1]", "::1", 80, "/"),
        ] {
            let url = Url::parse(text).unwrap();
            let parts = (&*url.host, &*url.name, url.port, &*url.path);
            assert_eq!(parts, (host, name, port, path), "{text}");
        }
        let url = Url::parse("http://[::1]:81/").unwrap();
        assert_eq!(url.resolve().unwrap().to_string(), "[::1]:81");
    }

    #[test]
    fn what_is_not_spoken_is_refused_with_the_mend() {
        for (text, mend) in [
            ("https://a/", "http://"),
            ("ftp://a/", "write http://HOST:PORT/PATH"),
            ("localhost:8080", "no scheme"),
            ("", "no scheme"),
            ("http://", "not a host"),
            ("http://:80/", "not a host"),
            ("http://a b/", "not a host"),
            ("http://a:0/", "from 1 to 65535"),
            ("http://a:65536/", "from 1 to 65535"),
            ("http://a:/", "from 1 to 65535"),
            ("http://::1/", "in brackets"),
            ("http://[::g]/", "not an IPv6 address"),
            ("http://me:pw@a/", "before `@`"),
            ("http://a/b c", "percent-encoded"),
            ("http://a/b\r\nX: y", "percent-encoded"),
            ("http://a/é", "percent-encoded"),
            ("http://a/b#c", "%23"),
        ] {
            let error = format!("{:#}", Url::parse(text).expect_err(text));
            assert!(error.starts_with("read URL"), "{error}");
            assert!(error.contains(mend), "{text}: {error}");
        }
    }
}
