//! The meta-variables of a request (RFC 3875, 4.1), with those that applications expect beside them, as
//! the pairs that FastCGI sends. Knows no configuration: where a script is and which server answers, the
//! caller says.

use std::fmt;
use std::io::Write;
use std::net::SocketAddr;

use http::header::{
    AUTHORIZATION, CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, COOKIE, EXPECT, HOST, HeaderMap,
    HeaderName, HeaderValue, PROXY_AUTHORIZATION, TE, TRAILER, TRANSFER_ENCODING, UPGRADE,
};
use http::{Method, Version};

use super::pairs;
use super::script_path::ScriptPath;

/// More than any number or address takes as text, bytes.
const SHOWN_BYTES: usize = 64;

/// Headers that become no `HTTP_` variable. `Content-…` have variables of their own; the next are
/// about the connection with the client and what the server has seen to.
const NOT_PASSED: [HeaderName; 9] = [
    CONTENT_LENGTH,
    CONTENT_TYPE,
    CONNECTION,
    EXPECT,
    PROXY_AUTHORIZATION,
    TE,
    TRAILER,
    TRANSFER_ENCODING,
    UPGRADE,
];

/// The same, without a constant in `http`. `HTTP_PROXY` chooses the proxy of what a script itself
/// asks (httpoxy, CVE-2016-5385), and no client sends `Proxy` for another purpose.
const NOT_PASSED_EITHER: [&str; 3] = ["proxy", "proxy-connection", "keep-alive"];

/// A request, as an application sees it.
#[derive(Clone, Copy, Debug)]
pub struct Variables<'a> {
    /// `REQUEST_METHOD`
    pub method: &'a Method,
    /// `REQUEST_URI`: path and query as the client wrote them. `QUERY_STRING` comes of it.
    pub request_uri: &'a str,
    /// `SERVER_PROTOCOL`
    pub version: Version,
    /// `HTTP_…` and `CONTENT_TYPE`
    pub headers: &'a HeaderMap,
    /// `HTTP_HOST`, if the request line says it (`:authority`, or a target that is a URL) rather than
    /// the header `Host`.
    pub authority: Option<&'a str>,
    /// `CONTENT_LENGTH`; `None` if the request has no body.
    pub content_length: Option<u64>,
    /// `DOCUMENT_ROOT`, without a slash at its end
    pub document_root: &'a [u8],
    /// `SCRIPT_NAME` and `PATH_INFO`, decoded
    pub path: ScriptPath<'a>,
    /// `SCRIPT_FILENAME`
    pub script_file: &'a [u8],
    /// `REMOTE_ADDR` and `REMOTE_PORT`
    pub remote: SocketAddr,
    /// `SERVER_ADDR` and `SERVER_PORT`
    pub local: SocketAddr,
    /// `SERVER_NAME`: the host that the request addresses, without its port.
    pub server_name: &'a str,
    /// `HTTPS` and `REQUEST_SCHEME`
    pub is_tls: bool,
    /// `AUTH_TYPE` and `REMOTE_USER`, if the server has authenticated the client. Then the
    /// application does not see the password.
    pub user: Option<(&'a str, &'a str)>,
    /// `SERVER_SOFTWARE`
    pub software: &'a str,
}

impl Variables<'_> {
    /// Appends the pairs. If the caller appends more, an application takes the last of a name.
    pub fn put(&self, out: &mut Vec<u8>) {
        self.put_request(out);
        self.put_place(out);
        self.put_ends(out);
        self.put_headers(out);
    }

    fn put_request(&self, out: &mut Vec<u8>) {
        let query = self
            .request_uri
            .split_once('?')
            .map_or("", |(_, query)| query);
        put(out, "GATEWAY_INTERFACE", "CGI/1.1");
        put(out, "SERVER_SOFTWARE", self.software);
        put(out, "SERVER_PROTOCOL", protocol(self.version));
        put(out, "REQUEST_METHOD", self.method.as_str());
        put(out, "REQUEST_URI", self.request_uri);
        put(out, "QUERY_STRING", query);
        if let Some(length) = self.content_length {
            put_shown(out, "CONTENT_LENGTH", length);
        }
        if let Some(value) = self.headers.get(CONTENT_TYPE) {
            pairs::put(out, b"CONTENT_TYPE", value.as_bytes());
        }
        // php-cgi runs no script without it (its force-redirect).
        put(out, "REDIRECT_STATUS", "200");
    }

    fn put_place(&self, out: &mut Vec<u8>) {
        let ScriptPath { script, info } = self.path;
        pairs::put(out, b"DOCUMENT_ROOT", self.document_root);
        put_two(out, b"DOCUMENT_URI", script, info);
        pairs::put(out, b"SCRIPT_NAME", script);
        pairs::put(out, b"SCRIPT_FILENAME", self.script_file);
        pairs::put(out, b"PATH_INFO", info);
        if !info.is_empty() {
            put_two(out, b"PATH_TRANSLATED", self.document_root, info);
        }
    }

    fn put_ends(&self, out: &mut Vec<u8>) {
        let remote = self.remote.ip().to_canonical();
        put_shown(out, "REMOTE_ADDR", remote);
        // srv asks no resolver, and RFC 3875, 4.1.9, has the address stand in.
        put_shown(out, "REMOTE_HOST", remote);
        put_shown(out, "REMOTE_PORT", self.remote.port());
        put_shown(out, "SERVER_ADDR", self.local.ip().to_canonical());
        put_shown(out, "SERVER_PORT", self.local.port());
        put(out, "SERVER_NAME", self.server_name);
        put(
            out,
            "REQUEST_SCHEME",
            if self.is_tls { "https" } else { "http" },
        );
        if self.is_tls {
            put(out, "HTTPS", "on");
        }
        if let Some((kind, user)) = self.user {
            put(out, "AUTH_TYPE", kind);
            put(out, "REMOTE_USER", user);
        }
    }

    fn put_headers(&self, out: &mut Vec<u8>) {
        if let Some(authority) = self.authority {
            put(out, "HTTP_HOST", authority);
        }
        for name in self.headers.keys().filter(|name| self.is_passed(name)) {
            let mut values = self.headers.get_all(name).iter();
            match (values.next(), values.next()) {
                (None, _) => {}
                (Some(only), None) => put_header(out, name, only.as_bytes()),
                (Some(_), Some(_)) => {
                    let values = self.headers.get_all(name).iter();
                    let values: Vec<_> = values.map(HeaderValue::as_bytes).collect();
                    // RFC 9110, 5.3; Cookie is the exception (RFC 9113, 8.2.3).
                    let between: &[u8] = if name == COOKIE { b"; " } else { b", " };
                    put_header(out, name, &values.join(between));
                }
            }
        }
    }

    /// A name with other characters than these could be written as two different headers: `X_A` and
    /// `X-A` are both `HTTP_X_A`, and a proxy in front may have checked only one.
    fn is_passed(&self, name: &HeaderName) -> bool {
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
        let is_settled = match *name {
            AUTHORIZATION => self.user.is_some(),
            HOST => self.authority.is_some(),
            _ => NOT_PASSED.contains(name) || NOT_PASSED_EITHER.contains(&name.as_str()),
        };
        name.as_str().bytes().all(is_plain) && !is_settled
    }
}

fn put_header(out: &mut Vec<u8>, name: &HeaderName, value: &[u8]) {
    const BEFORE: &[u8] = b"HTTP_";
    let name = name.as_str().as_bytes();
    pairs::put_lengths(out, BEFORE.len() + name.len(), value.len());
    out.extend_from_slice(BEFORE);
    out.extend(name.iter().map(|letter| match letter {
        b'-' => b'_',
        letter => letter.to_ascii_uppercase(),
    }));
    out.extend_from_slice(value);
}

/// A pair whose value has two parts.
fn put_two(out: &mut Vec<u8>, name: &[u8], first: &[u8], second: &[u8]) {
    pairs::put_lengths(out, name.len(), first.len() + second.len());
    for part in [name, first, second] {
        out.extend_from_slice(part);
    }
}

fn protocol(version: Version) -> &'static str {
    match version {
        Version::HTTP_10 => "HTTP/1.0",
        Version::HTTP_2 => "HTTP/2.0",
        Version::HTTP_3 => "HTTP/3.0",
        _ => "HTTP/1.1",
    }
}

fn put(out: &mut Vec<u8>, name: &str, value: &str) {
    pairs::put(out, name.as_bytes(), value.as_bytes());
}

/// A number or an address, as text.
fn put_shown(out: &mut Vec<u8>, name: &str, value: impl fmt::Display) {
    // The longest u64 has 20 digits, the longest address 39.
    let mut text = [0; SHOWN_BYTES];
    let mut rest = &mut text[..];
    let written = write!(rest, "{value}").map(|()| SHOWN_BYTES - rest.len());
    let length = written.unwrap_or_default();
    pairs::put(out, name.as_bytes(), &text[..length]);
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    /// The variables of a request that `change` has changed.
    fn variables(
        headers: &[(&str, &str)],
        change: impl FnOnce(&mut Variables<'_>),
    ) -> BTreeMap<String, String> {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            let name = HeaderName::from_bytes(name.as_bytes()).unwrap();
            map.append(name, HeaderValue::from_bytes(value.as_bytes()).unwrap());
        }
        let mut request = Variables {
            method: &Method::POST,
            request_uri: "/a%20b.php/c%64?x=%20&y?",
            version: Version::HTTP_11,
            headers: &map,
            authority: None,
            content_length: Some(12),
            document_root: b"/srv/www",
            path: ScriptPath {
                script: b"/a b.php",
                info: b"/cd",
            },
            script_file: b"/srv/www/a b.php",
            remote: "[::ffff:192.0.2.1]:4711".parse().unwrap(),
            local: "[2001:db8::1]:8080".parse().unwrap(),
            server_name: "example.org",
            is_tls: false,
            user: None,
            software: "srv/0.1.0",
        };
        change(&mut request);
        let mut out = Vec::new();
        request.put(&mut out);
        let mut found = BTreeMap::new();
        for (name, value) in pairs::parse(out.into()).unwrap() {
            let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
            let before = found.insert(text(&name), text(&value));
            assert_eq!(before, None, "{name:?} is there twice");
        }
        found
    }

    fn nothing(_: &mut Variables<'_>) {}

    #[test]
    fn all_that_rfc_3875_names_is_there() {
        let found = variables(&[("content-type", "text/plain")], nothing);
        for (name, value) in [
            ("CONTENT_LENGTH", "12"),
            ("CONTENT_TYPE", "text/plain"),
            ("GATEWAY_INTERFACE", "CGI/1.1"),
            ("PATH_INFO", "/cd"),
            ("PATH_TRANSLATED", "/srv/www/cd"),
            ("QUERY_STRING", "x=%20&y?"),
            ("REMOTE_ADDR", "192.0.2.1"),
            ("REMOTE_HOST", "192.0.2.1"),
            ("REQUEST_METHOD", "POST"),
            ("SCRIPT_NAME", "/a b.php"),
            ("SERVER_NAME", "example.org"),
            ("SERVER_PORT", "8080"),
            ("SERVER_PROTOCOL", "HTTP/1.1"),
            ("SERVER_SOFTWARE", "srv/0.1.0"),
            ("DOCUMENT_ROOT", "/srv/www"),
            ("DOCUMENT_URI", "/a b.php/cd"),
            ("REDIRECT_STATUS", "200"),
            ("REMOTE_PORT", "4711"),
            ("REQUEST_SCHEME", "http"),
            ("REQUEST_URI", "/a%20b.php/c%64?x=%20&y?"),
            ("SCRIPT_FILENAME", "/srv/www/a b.php"),
            ("SERVER_ADDR", "2001:db8::1"),
        ] {
            assert_eq!(found.get(name).map(String::as_str), Some(value), "{name}");
        }
        // These have values only if the server has asked the client for them.
        let absent = ["AUTH_TYPE", "REMOTE_USER", "REMOTE_IDENT", "HTTPS"];
        assert!(
            absent.iter().all(|name| !found.contains_key(*name)),
            "{found:?}"
        );
        assert_eq!(found.len(), 22, "{found:?}");
    }

    #[test]
    fn what_is_not_there_is_said_as_the_rfc_says_it() {
        let found = variables(&[], |request| {
            request.content_length = None;
            request.request_uri = "/a.php";
            request.path = ScriptPath {
                script: b"/a.php",
                info: b"",
            };
        });
        assert_eq!(found["QUERY_STRING"], "");
        assert_eq!(found["PATH_INFO"], "");
        for name in ["CONTENT_LENGTH", "CONTENT_TYPE", "PATH_TRANSLATED"] {
            assert!(!found.contains_key(name), "{name}");
        }
        let empty = variables(&[], |request| request.content_length = Some(0));
        assert_eq!(empty["CONTENT_LENGTH"], "0");
    }

    #[test]
    fn headers_become_variables() {
        let found = variables(
            &[
                ("Host", "example.org:8080"),
                ("X-Forwarded-For", "a"),
                ("x-forwarded-for", "b"),
                ("Cookie", "a=1"),
                ("Cookie", "b=2"),
                ("Authorization", "Basic eA=="),
                ("DNT", "1"),
                ("X-1-B", ""),
            ],
            nothing,
        );
        for (name, value) in [
            ("HTTP_HOST", "example.org:8080"),
            ("HTTP_X_FORWARDED_FOR", "a, b"),
            ("HTTP_COOKIE", "a=1; b=2"),
            ("HTTP_AUTHORIZATION", "Basic eA=="),
            ("HTTP_DNT", "1"),
            ("HTTP_X_1_B", ""),
        ] {
            assert_eq!(found[name], value, "{name}");
        }
    }

    #[test]
    fn some_headers_do_not() {
        let found = variables(
            &[
                ("Proxy", "http://example.org/"),
                ("Proxy-Authorization", "Basic eA=="),
                ("X_Forwarded_For", "a"),
                ("X.Y", "a"),
                ("X~Y", "a"),
                ("Connection", "close"),
                ("Transfer-Encoding", "chunked"),
                ("Content-Length", "99"),
                ("Upgrade", "h2c"),
                ("Expect", "100-continue"),
                ("Keep-Alive", "1"),
            ],
            nothing,
        );
        let passed = found.keys().find(|name| name.starts_with("HTTP_"));
        assert_eq!(passed, None);
        assert_eq!(found["CONTENT_LENGTH"], "12", "as the server counts it");
    }

    #[test]
    fn the_servers_word_counts() {
        let headers = [("Host", "other"), ("Authorization", "Basic eA==")];
        let found = variables(&headers, |request| {
            request.is_tls = true;
            request.version = Version::HTTP_2;
            request.authority = Some("example.org");
            request.user = Some(("Basic", "alice"));
        });
        for (name, value) in [
            ("HTTPS", "on"),
            ("REQUEST_SCHEME", "https"),
            ("SERVER_PROTOCOL", "HTTP/2.0"),
            ("HTTP_HOST", "example.org"),
            ("AUTH_TYPE", "Basic"),
            ("REMOTE_USER", "alice"),
        ] {
            assert_eq!(found[name], value, "{name}");
        }
        assert!(!found.contains_key("HTTP_AUTHORIZATION"));
    }

    proptest! {
        #[test]
        fn no_header_takes_a_variables_place(name in "[!#$%&'*+.^_`|~0-9A-Za-z-]{1,12}", value in "[ -~]{0,10}", number: u64) {
            let plain = variables(&[], |request| request.content_length = Some(number));
            prop_assert_eq!(&plain["CONTENT_LENGTH"], &number.to_string());
            let found = variables(&[(&name, &value)], |request| request.content_length = Some(number));
            for (variable, value) in &plain {
                prop_assert_eq!(&found[variable], value);
            }
            for variable in found.keys().filter(|variable| !plain.contains_key(*variable)) {
                prop_assert!(variable.starts_with("HTTP_") || variable == "CONTENT_TYPE");
                prop_assert_ne!(variable, "HTTP_PROXY");
            }
        }
    }
}
