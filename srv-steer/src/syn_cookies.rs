//! Whether the kernel begins each handshake with a SYN cookie, in the network namespace of this
//! process. Knows no listener group.

/// Whether each handshake begins with a SYN cookie: `net.ipv4.tcp_syncookies` is 2, which holds for
/// IPv6, too. If the setting cannot be read, the answer is no, as for the kernel's default.
pub(crate) fn begin_each_handshake() -> bool {
    std::fs::read_to_string("/proc/sys/net/ipv4/tcp_syncookies").is_ok_and(|text| is_always(&text))
}

fn is_always(text: &str) -> bool {
    text.trim() == "2"
}

#[cfg(test)]
mod tests {
    use super::is_always;

    #[test]
    fn only_2_means_always() {
        let settings = ["0\n", "1\n", "2\n", ""].map(is_always);
        assert_eq!(settings, [false, false, true, false]);
    }
}
