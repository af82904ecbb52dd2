//! A record as a line, in each form. What a client has said becomes printable ASCII without quotes
//! and backslashes that are not escaped, so that no client can begin a line, end a field, or have a
//! terminal do something. These functions are pure.

use std::io::Write as _;
use std::net::IpAddr;
use std::time::{Duration, UNIX_EPOCH};

use super::record::{Facts, Said};
use crate::values::AccessLogFormat;

/// Adds the line of a record that ended at `ended` after 1970.
pub(super) fn write(
    line: &mut Vec<u8>,
    format: AccessLogFormat,
    clock: &mut Clock,
    ended: Duration,
    record: (&Facts, &Said<'_>),
) {
    let (facts, said) = record;
    match format {
        AccessLogFormat::Common => common(line, clock, ended, facts, said),
        AccessLogFormat::Combined => {
            common(line, clock, ended, facts, said);
            for part in [said.referer, said.user_agent] {
                line.extend_from_slice(b" \"");
                escape(line, or_dash(part), b"");
                line.push(b'"');
            }
        }
        AccessLogFormat::Json => json(line, clock, ended, facts, said),
    }
    line.push(b'\n');
}

/// Renders times and addresses. It keeps the last second, which the next line has, too, as a rule.
#[derive(Default)]
pub(super) struct Clock {
    second: Option<u64>,
    /// As in `[10/Oct/2000:13:55:36 +0000]`.
    common: String,
    /// As in `2000-10-10T13:55:36`.
    rfc_3339: String,
    /// The last client, which the next line has, too, as a rule.
    client: Option<(IpAddr, String)>,
}

impl Clock {
    fn at(&mut self, time: Duration) -> &Self {
        let second = time.as_secs();
        if self.second != Some(second) {
            self.second = Some(second);
            let instant = UNIX_EPOCH + Duration::from_secs(second);
            // `Sun, 06 Nov 1994 08:49:37 GMT`
            let date = httpdate::fmt_http_date(instant);
            let (day, month, year) = (&date[5..7], &date[8..11], &date[12..16]);
            self.common = format!("[{day}/{month}/{year}:{} +0000]", &date[17..25]);
            let text = humantime::format_rfc3339_seconds(instant).to_string();
            self.rfc_3339 = text.trim_end_matches('Z').to_owned();
        }
        self
    }
}

impl Clock {
    fn client(&mut self, address: IpAddr) -> &str {
        match &mut self.client {
            Some((known, _)) if *known == address => {}
            last => *last = Some((address, address.to_string())),
        }
        self.client.as_ref().map_or("", |(_, text)| text)
    }
}

fn or_dash(part: &[u8]) -> &[u8] {
    match part {
        [] => b"-",
        part => part,
    }
}

/// `%h %l %u %t "%r" %>s %b`
fn common(line: &mut Vec<u8>, clock: &mut Clock, ended: Duration, facts: &Facts, said: &Said<'_>) {
    match facts.client {
        Some(address) => {
            line.extend_from_slice(clock.client(address).as_bytes());
            line.extend_from_slice(b" - ");
        }
        None => line.extend_from_slice(b"- - "),
    }
    escape(line, or_dash(said.user), b" ");
    line.push(b' ');
    line.extend_from_slice(clock.at(ended).common.as_bytes());
    line.extend_from_slice(b" \"");
    match facts.protocol.name() {
        Some(protocol) => {
            escape(line, said.method, b" ");
            line.push(b' ');
            escape(line, said.target, b" ");
            line.push(b' ');
            line.extend_from_slice(protocol.as_bytes());
            line.extend_from_slice(b"\" ");
        }
        None => line.extend_from_slice(b"-\" "),
    }
    match facts.status {
        0 => line.extend_from_slice(b"- "),
        status => {
            add_decimal(line, status.into());
            line.push(b' ');
        }
    }
    match facts.body_bytes {
        0 => line.push(b'-'),
        bytes => add_decimal(line, bytes),
    }
}

fn json(line: &mut Vec<u8>, clock: &mut Clock, ended: Duration, facts: &Facts, said: &Said<'_>) {
    let micros = ended.subsec_micros();
    add(
        line,
        format_args!("{{\"time\":\"{}.{micros:06}Z\"", clock.at(ended).rfc_3339),
    );
    add_name(
        line,
        "client",
        facts.client.map(|address| clock.client(address)),
    );
    for (key, part) in [
        ("user", said.user),
        ("method", said.method),
        ("target", said.target),
    ] {
        add_text(line, key, part);
    }
    add_name(line, "protocol", facts.protocol.name());
    add_name(line, "tls", facts.tls.name());
    add_text(line, "host", said.host);
    add_number(
        line,
        "status",
        Some(facts.status.into()).filter(|n| *n != 0),
    );
    add_number(line, "bytes", Some(facts.body_bytes));
    add_number(line, "duration_us", Some(facts.duration_us));
    let accept_delay_us = facts.accept_delay_us.map(u64::from);
    add_number(line, "accept_delay_us", accept_delay_us);
    add_number(line, "worker", Some(facts.slot.into()));
    add_text(line, "referer", said.referer);
    add_text(line, "user_agent", said.user_agent);
    line.push(b'}');
}

fn add(line: &mut Vec<u8>, text: std::fmt::Arguments<'_>) {
    // A vector takes all that is written.
    let _ = line.write_fmt(text);
}

fn add_number(line: &mut Vec<u8>, key: &str, number: Option<u64>) {
    match number {
        Some(number) => {
            add_key(line, key);
            add_decimal(line, number);
        }
        None => add_name(line, key, None),
    }
}

fn add_key(line: &mut Vec<u8>, key: &str) {
    line.extend_from_slice(b",\"");
    line.extend_from_slice(key.as_bytes());
    line.extend_from_slice(b"\":");
}

fn add_decimal(line: &mut Vec<u8>, mut number: u64) {
    const DIGITS_MAX: usize = 20;
    let mut digits = [b'0'; DIGITS_MAX];
    let mut from = DIGITS_MAX;
    loop {
        from -= 1;
        digits[from] += (number % 10) as u8;
        number /= 10;
        if number == 0 {
            return line.extend_from_slice(&digits[from..]);
        }
    }
}

fn add_name(line: &mut Vec<u8>, key: &str, name: Option<&str>) {
    add_key(line, key);
    match name {
        Some(name) => {
            line.push(b'"');
            line.extend_from_slice(name.as_bytes());
            line.push(b'"');
        }
        None => line.extend_from_slice(b"null"),
    }
}

/// A text as JSON has it, in ASCII. What is no UTF-8 becomes U+FFFD.
fn add_text(line: &mut Vec<u8>, key: &str, text: &[u8]) {
    if text.is_empty() {
        return add_name(line, key, None);
    }
    add_key(line, key);
    line.push(b'"');
    match text.iter().all(|byte| is_plain(*byte)) {
        true => line.extend_from_slice(text),
        false => {
            let mut units = [0; 2];
            for char in String::from_utf8_lossy(text).chars() {
                match u8::try_from(char).ok().filter(|byte| is_plain(*byte)) {
                    Some(byte) => line.push(byte),
                    None => char
                        .encode_utf16(&mut units)
                        .iter()
                        .for_each(|unit| add(line, format_args!("\\u{unit:04x}"))),
                }
            }
        }
    }
    line.push(b'"');
}

/// Whether a byte stands for itself in both kinds of lines.
fn is_plain(byte: u8) -> bool {
    matches!(byte, b' '..=b'~') && byte != b'"' && byte != b'\\'
}

/// As Apache does it: `\"`, `\\`, and `\xHH` for what is not printable, and for these `others`.
fn escape(line: &mut Vec<u8>, text: &[u8], others: &[u8]) {
    if text.iter().all(|byte| is_plain(*byte)) && !text.iter().any(|byte| others.contains(byte)) {
        return line.extend_from_slice(text);
    }
    for byte in text {
        match byte {
            b'"' | b'\\' => line.extend_from_slice(&[b'\\', *byte]),
            byte if is_plain(*byte) && !others.contains(byte) => line.push(*byte),
            byte => add(line, format_args!("\\x{byte:02x}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::serve::access_log::record::{Protocol, Tls};
    use crate::values::LogId;

    const FACTS: Facts = Facts {
        log: LogId(0),
        ended_ns: 0,
        duration_us: 1234,
        body_bytes: 2326,
        status: 200,
        protocol: Protocol::Http11,
        tls: Tls::None,
        slot: 3,
        accept_delay_us: None,
        client: Some(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST)),
    };
    const ENDED: Duration = Duration::from_micros(971_186_136_000_045);

    fn line(format: AccessLogFormat, facts: &Facts, said: &Said<'_>) -> String {
        let mut line = Vec::new();
        let mut clock = Clock::default();
        write(&mut line, format, &mut clock, ENDED, (facts, said));
        String::from_utf8(line).unwrap()
    }

    #[test]
    fn lines_read_like_this() {
        let said = Said {
            method: b"GET",
            target: b"/apache_pb.gif",
            host: b"a.test",
            referer: b"http://a.test/start",
            user_agent: b"Mozilla/4.08 [en]",
            user: b"frank",
        };
        let common = "127.0.0.1 - frank [10/Oct/2000:13:55:36 +0000] \"GET /apache_pb.gif HTTP/1.1\" 200 2326";
        assert_eq!(
            line(AccessLogFormat::Common, &FACTS, &said),
            format!("{common}\n")
        );
        assert_eq!(
            line(AccessLogFormat::Combined, &FACTS, &said),
            format!("{common} \"http://a.test/start\" \"Mozilla/4.08 [en]\"\n")
        );
        assert_eq!(
            line(AccessLogFormat::Json, &FACTS, &said),
            "{\"time\":\"2000-10-10T13:55:36.000045Z\",\"client\":\"127.0.0.1\",\"user\":\"frank\",\
             \"method\":\"GET\",\"target\":\"/apache_pb.gif\",\"protocol\":\"HTTP/1.1\",\"tls\":null,\
             \"host\":\"a.test\",\"status\":200,\"bytes\":2326,\"duration_us\":1234,\
             \"accept_delay_us\":null,\"worker\":3,\"referer\":\"http://a.test/start\",\
             \"user_agent\":\"Mozilla/4.08 [en]\"}\n"
        );
    }

    #[test]
    fn what_is_not_known_is_a_dash_or_null() {
        let facts = Facts {
            body_bytes: 0,
            status: 0,
            protocol: Protocol::Unknown,
            client: None,
            ..FACTS
        };
        let said = Said::default();
        assert_eq!(
            line(AccessLogFormat::Combined, &facts, &said),
            "- - - [10/Oct/2000:13:55:36 +0000] \"-\" - - \"-\" \"-\"\n"
        );
        let json: serde_json::Value =
            serde_json::from_str(&line(AccessLogFormat::Json, &facts, &said)).unwrap();
        assert!(json["status"].is_null() && json["client"].is_null() && json["host"].is_null());
    }

    #[test]
    fn nothing_that_a_client_says_ends_a_field_or_a_line() {
        let said = Said {
            method: b"GET",
            target: b"/\" 200 1\n\x1b[31m\\\xff\x7f\xc2\x9b \xf0\x9f\x98\x80",
            user: b"a b",
            ..Said::default()
        };
        assert_eq!(
            line(AccessLogFormat::Common, &FACTS, &said),
            "127.0.0.1 - a\\x20b [10/Oct/2000:13:55:36 +0000] \"GET /\\\"\\x20200\\x201\\x0a\\x1b[31m\
             \\\\\\xff\\x7f\\xc2\\x9b\\x20\\xf0\\x9f\\x98\\x80 HTTP/1.1\" 200 2326\n"
        );
        let json = line(AccessLogFormat::Json, &FACTS, &said);
        assert!(
            json.contains("\\u001b[31m\\u005c\\ufffd\\u007f\\u009b \\ud83d\\ude00"),
            "{json}"
        );
    }

    proptest! {
        #[test]
        fn any_bytes_make_one_line_of_ascii(parts: [Vec<u8>; 6]) {
            let [method, target, host, referer, user_agent, user] = &parts;
            let said = Said { method, target, host, referer, user_agent, user };
            for format in [AccessLogFormat::Combined, AccessLogFormat::Json] {
                let line = line(format, &FACTS, &said);
                let text = line.strip_suffix('\n').unwrap();
                prop_assert!(text.bytes().all(|byte| matches!(byte, b' '..=b'~')), "{}", text);
                match format {
                    AccessLogFormat::Json => {
                        let json: serde_json::Value = serde_json::from_str(text).unwrap();
                        let target = String::from_utf8_lossy(target);
                        prop_assert_eq!(json["target"].as_str().unwrap_or(""), target);
                    }
                    _ => {
                        let escaped = text.replace("\\\\", "").replace("\\\"", "");
                        prop_assert_eq!(escaped.matches('"').count(), 6, "{}", text);
                    }
                }
            }
        }
    }
}
