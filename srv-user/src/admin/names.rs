//! Names of this machine. A page of another site can make its own name lead here (DNS rebinding), but it
//! cannot make a browser send another name than that.

use std::net::IpAddr;

/// Whether a host, with a port or without, is an IP address or `localhost`.
pub(super) fn is_local(host: &str) -> bool {
    let host = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    };
    let address = host.trim_start_matches('[').trim_end_matches(']');
    host.eq_ignore_ascii_case("localhost") || address.parse::<IpAddr>().is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_and_localhost_are_local_and_other_names_are_not() {
        for host in [
            "127.0.0.1:9000",
            "[::1]:9000",
            "[::1]",
            "localhost",
            "LOCALHOST:80",
        ] {
            assert!(is_local(host), "{host}");
        }
        for host in [
            "evil.test",
            "evil.test:9000",
            "localhost.evil.test",
            "1.2.3.4.evil.test",
            "",
        ] {
            assert!(!is_local(host), "{host}");
        }
    }
}
