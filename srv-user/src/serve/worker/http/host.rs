//! The `Host` header (RFC 9110, 7.2): `uri-host [ ":" port ]`, by the grammar of RFC 3986, 3.2.2.
//! These functions are pure.

use std::net::Ipv6Addr;

/// Whether a `Host` header may have this value. It may be empty. The grammar allows a comma in a
/// name, but srv refuses it: no host has one, and two headers that an intermediary joined do.
pub(super) fn is_valid(value: &[u8]) -> bool {
    match value.strip_prefix(b"[") {
        Some(rest) => {
            let Some(end) = rest.iter().position(|byte| *byte == b']') else {
                return false;
            };
            is_address(&rest[..end]) && is_port(&rest[end + 1..])
        }
        None => {
            let name = value.iter().position(|byte| *byte == b':');
            let (name, port) = value.split_at(name.unwrap_or(value.len()));
            is_name(name) && is_port(port)
        }
    }
}

/// Whether this is a `reg-name`, which includes IPv4 addresses.
fn is_name(mut name: &[u8]) -> bool {
    loop {
        name = match name {
            [] => return true,
            [b'%', high, low, rest @ ..] if high.is_ascii_hexdigit() && low.is_ascii_hexdigit() => {
                rest
            }
            [byte, rest @ ..] if is_unreserved(*byte) || b"!$&'()*+;=".contains(byte) => rest,
            _ => return false,
        }
    }
}

fn is_unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-._~".contains(&byte)
}

/// Whether this may stand in brackets: an IPv6 address, or one of a later version (`IPvFuture`).
fn is_address(address: &[u8]) -> bool {
    let text = std::str::from_utf8(address).unwrap_or_default();
    if let Some(future) = text.strip_prefix(['v', 'V']) {
        let (version, rest) = future.split_once('.').unwrap_or_default();
        let is_number = !version.is_empty() && version.bytes().all(|byte| byte.is_ascii_hexdigit());
        let is_known = |byte| is_unreserved(byte) || b"!$&'()*+,;=:".contains(&byte);
        return is_number && !rest.is_empty() && rest.bytes().all(is_known);
    }
    text.parse::<Ipv6Addr>().is_ok()
}

/// Whether this is empty, or a colon and any number of digits, also none.
fn is_port(port: &[u8]) -> bool {
    match port.split_first() {
        None => true,
        Some((colon, digits)) => *colon == b':' && digits.iter().all(u8::is_ascii_digit),
    }
}

#[cfg(test)]
mod tests {
    use super::is_valid;

    #[test]
    fn hosts_with_and_without_a_port() {
        for host in [
            "",
            "a",
            "a.example",
            "a.example:80",
            "a.example:",
            ":80",
            "127.0.0.1:8080",
            "[::1]",
            "[::1]:80",
            "[::ffff:127.0.0.1]",
            "[v1.fe80::a+en1]",
            "xn--bcher-kva.example",
            "under_score",
            "a%20b",
            "a*b",
        ] {
            assert!(is_valid(host.as_bytes()), "{host}");
        }
    }

    #[test]
    fn what_is_no_host() {
        for host in [
            "a b",
            "a/b",
            "a@b",
            "a,b",
            "a, b",
            "[::1",
            "::1",
            "[::1]80",
            "[::1]:80:80",
            "[1.2.3.4]",
            "[fe80::1%25eth0]",
            "[]",
            "[v.a]",
            "[v1.]",
            "a:80:80",
            "a:b",
            "a:-1",
            "a:80 ",
            "<script>",
            "a%2",
            "a%zz",
            "a?b",
            "a#b",
            "a\\b",
            "\"a\"",
            "http://a",
            "b\u{fc}cher.example",
        ] {
            assert!(!is_valid(host.as_bytes()), "{host}");
        }
        assert!(!is_valid(b"\xff"));
    }
}
