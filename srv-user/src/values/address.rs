//! An address to listen on, and the messages for a text that is not one.

use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

use super::{Expected, expected};

/// An address to listen on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ListenAddr(pub SocketAddr);

impl FromStr for ListenAddr {
    type Err = Expected;

    fn from_str(text: &str) -> Result<Self, Expected> {
        if let Ok(address) = text.parse() {
            return Ok(Self(address));
        }
        if let Some((scheme, rest)) = text.split_once("://") {
            let address = rest.split('/').next().unwrap_or_default();
            return match address.parse::<SocketAddr>() {
                Ok(address) => expected(format!("the address alone, {address}, not a URL")),
                Err(_) => expected(format!(
                    "an IP address and a port, such as 127.0.0.1:8080, without {scheme}://"
                )),
            };
        }
        if text.contains(',') {
            return expected(
                "one address; name each by a --listen of its own (in the file: listen = \
                 [\"127.0.0.1:8080\", \"[::1]:8080\"])",
            );
        }
        if let Some(port) = port_too_large(text) {
            return expected(format!("a port from 0 to 65535, not {port}"));
        }
        if text.trim_matches(['[', ']']).parse::<IpAddr>().is_ok() {
            return expected("a port after the address, as in 127.0.0.1:8080 or [::1]:8080");
        }
        let port = text.trim_start_matches(['*', ':']);
        if port.parse::<u16>().is_ok() {
            return expected(format!(
                "an address before the port: 0.0.0.0:{port} for every IPv4 address, \
                 [::]:{port} for every IPv6 address, 127.0.0.1:{port} for this machine alone"
            ));
        }
        if text.matches(':').count() > 1 && !text.starts_with('[') {
            return expected("brackets around an IPv6 address, as in [::1]:8080");
        }
        expected(
            "an IP address and a port, such as 127.0.0.1:8080 or [::]:80; names are not looked up",
        )
    }
}

/// The number that stands where a port should, if nothing else is wrong than its size.
fn port_too_large(text: &str) -> Option<&str> {
    let (address, port) = text.rsplit_once(':').unwrap_or(("*", text));
    let is_number = !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit());
    let is_address =
        ["", "*"].contains(&address) || format!("{address}:0").parse::<SocketAddr>().is_ok();
    (is_number && is_address && port.parse::<u16>().is_err()).then_some(port)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(text: &str) -> String {
        text.parse::<ListenAddr>().expect_err(text).to_string()
    }

    #[test]
    fn listen_addresses_of_both_families_parse() {
        for text in ["127.0.0.1:8080", "0.0.0.0:0", "[::]:80", "[fe80::1%2]:80"] {
            assert_eq!(text.parse(), Ok(ListenAddr(text.parse().unwrap())));
        }
    }

    #[test]
    fn a_listen_address_that_lacks_something_is_told_what() {
        for port_alone in ["8080", ":8080", "*:8080"] {
            let said = refusal(port_alone);
            assert!(said.contains("0.0.0.0:8080"), "{port_alone}: {said}");
        }
        for no_port in ["127.0.0.1", "::1", "[::1]"] {
            assert!(refusal(no_port).contains("a port after"), "{no_port}");
        }
        assert!(refusal("fe80::1:70000").contains("brackets"));
        for port in [
            "127.0.0.1:80000",
            "[::1]:80000",
            "80000",
            ":80000",
            "*:80000",
        ] {
            let said = refusal(port);
            assert_eq!(said, "expected a port from 0 to 65535, not 80000");
        }
        let refusal_of_url = refusal("http://127.0.0.1:80/index.html");
        assert!(
            refusal_of_url.contains("127.0.0.1:80, not a URL"),
            "{refusal_of_url}"
        );
        assert!(refusal("http://localhost").contains("without http://"));
        let several = refusal("127.0.0.1:80,127.0.0.1:81");
        assert!(several.contains("a --listen of its own"), "{several}");
        for nonsense in ["localhost:80", "", "[::1]:x"] {
            assert!(refusal(nonsense).contains("names are not looked up"));
        }
    }
}
