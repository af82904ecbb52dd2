//! The URL of a load: `http[s]://HOST[:PORT][/PATH]`, taken apart. What is not supported is
//! refused with what to write instead. Not with `http::Uri`: that does not tell which part of a
//! URL is wrong, and takes a port that is no number from 0 to 65535 for no port.

use anyhow::{Context as _, Result, bail, ensure};

/// Where requests go and what they ask for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Url {
    /// Whether it is https.
    pub(super) is_https: bool,
    /// Host and port as written, for `Host`.
    pub(super) host: String,
    /// The name or the address, without brackets.
    pub(super) name: String,
    /// The port, said or the scheme's.
    pub(super) port: u16,
    /// Path and query.
    pub(super) path: String,
}

impl Url {
    /// Takes `text` apart.
    pub(super) fn parse(text: &str) -> Result<Self> {
        Self::take_apart(text).with_context(|| format!("read URL `{text}`"))
    }

    fn take_apart(text: &str) -> Result<Self> {
        let Some((scheme, rest)) = text.split_once("://") else {
            bail!("there is no scheme; {}", with_scheme(text));
        };
        let is_https = scheme.eq_ignore_ascii_case("https");
        ensure!(
            is_https || scheme.eq_ignore_ascii_case("http"),
            "scheme `{scheme}` is not supported, http and https are; write http://HOST:PORT/PATH"
        );
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
            is_https,
            host: host.to_owned(),
            name,
            port: port.unwrap_or(if is_https { 443 } else { 80 }),
            path: format!("{slash}{path}"),
        })
    }
}

/// What to write instead of a URL without a scheme.
fn with_scheme(text: &str) -> String {
    let url = format!("http://{text}");
    match Url::take_apart(&url) {
        Ok(_) => format!("write {url}"),
        Err(_) => "write http://HOST:PORT/PATH".into(),
    }
}

/// Takes `HOST` or `HOST:PORT` apart; the host without brackets.
pub(super) fn name_and_port(host: &str) -> Result<(String, Option<u16>)> {
    ensure!(
        !host.contains('@'),
        "user and password are not sent; leave away what is before `@`"
    );
    let (name, port) = match host.rsplit_once(':') {
        Some((name, port)) if !port.ends_with(']') => (name, Some(port)),
        _ => (host, None),
    };
    // What looks like an IPv6 address without brackets has no port to complain of.
    ensure!(
        !name.contains(':') || name.starts_with('['),
        "an IPv6 address is written in brackets, as in http://[::1]:8080/"
    );
    let port = port.map(number).transpose()?;
    if let Some(address) = name
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'))
    {
        let parsed = address.parse::<std::net::Ipv6Addr>();
        parsed.with_context(|| format!("`{address}` is not an IPv6 address"))?;
        return Ok((address.to_owned(), port));
    }
    let is_known = |byte: u8| byte.is_ascii_alphanumeric() || b".-_".contains(&byte);
    ensure!(
        !name.is_empty() && name.bytes().all(is_known),
        "`{name}` is not a host; write http://HOST:PORT/PATH"
    );
    Ok((name.to_owned(), port))
}

/// Reads a port.
pub(super) fn number(port: &str) -> Result<u16> {
    let parsed = port.parse().ok().filter(|port| *port > 0);
    parsed.with_context(|| format!("port `{port}` is not a number from 1 to 65535"))
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
            ("https://a/x", "a", "a", 443, "/x"),
            ("HTTPS://a:8443", "a:8443", "a", 8443, "/"),
            ("HTTP://127.0.0.1", "127.0.0.1", "127.0.0.1", 80, "/"),
            ("http://[::1]:81?q", "[::1]:81", "::1", 81, "/?q"),
            ("http://[::1]/", "[::1]", "::1", 80, "/"),
        ] {
            let url = Url::parse(text).unwrap();
            let parts = (&*url.host, &*url.name, url.port, &*url.path);
            assert_eq!(parts, (host, name, port, path), "{text}");
        }
        assert!(Url::parse("https://a").unwrap().is_https);
    }

    #[test]
    fn what_is_not_spoken_is_refused_with_the_mend() {
        for (text, mend) in [
            (
                "ftp://a/",
                "scheme `ftp` is not supported, http and https are",
            ),
            ("unix:///run/x", "scheme `unix` is not supported"),
            ("localhost:8080", "no scheme; write http://localhost:8080"),
            (
                "127.0.0.1:8080/x",
                "no scheme; write http://127.0.0.1:8080/x",
            ),
            ("http:/a", "no scheme; write http://HOST:PORT/PATH"),
            ("", "no scheme"),
            ("http://", "not a host"),
            ("http://:80/", "not a host"),
            ("http://a b/", "not a host"),
            (
                "http://a:80000/",
                "port `80000` is not a number from 1 to 65535",
            ),
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
