//! What lines have, read by a program of others; and nothing that a client sends gets out of its field.

use std::path::Path;
use std::process::Command;

use serde_json::Value;

use super::{in_folder, lines, logging_to, until_settled};
use crate::client::Client;
use crate::configured::Configured;

/// Reads each line as Apache documents the format, or as JSON, and prints the fields as JSON.
const PARSER: &str = r#"
import json, re, sys
quoted = r'"((?:[^"\\]|\\.)*)"'
common = r'(\S+) (\S+) (\S+) \[(\d\d/\w{3}/\d{4}:\d\d:\d\d:\d\d \+0000)\] ' + quoted + r' (\d{3}|-) (\d+|-)'
form = {'common': common, 'combined': common + ' ' + quoted + ' ' + quoted}.get(sys.argv[1])
for line in open(sys.argv[2], 'rb').read().decode('ascii').split('\n')[:-1]:
    if form:
        found = re.fullmatch(form, line)
        assert found, line
        print(json.dumps(found.groups()))
    else:
        print(json.dumps(json.loads(line)))
"#;

fn parsed(format: &str, log: &Path) -> Vec<Value> {
    let mut python = Command::new("python3");
    let output = python
        .args(["-c", PARSER, format])
        .arg(log)
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    let text = String::from_utf8(output.stdout).unwrap();
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

const HOSTILE: &[u8] =
    b"GET /a\"b\\\xc3\xa9?c HTTP/1.1\r\nHost: a\r\nUser-Agent: \"x\\\" 200 1\xff\xc2\x9b\tz\r\n\
    Referer: \xf0\x9f\x98\x80\r\nAuthorization: Basic ZnI6YW5r\r\n\r\n";
const POST: &[u8] = b"POST /work?bytes=5 HTTP/1.1\r\nHost: b\r\nContent-Length: 2\r\n\r\nok";

#[test]
fn each_format_is_what_others_read() {
    for format in ["common", "combined", "json"] {
        let (_folder, log) = in_folder();
        let server = logging_to(&log, &["--access-log-format", format]);
        let mut client = Client::connect(server.address());
        for request in [HOSTILE, POST, b"nonsense\r\n\r\n"] {
            client.send(request);
            client.response();
        }
        assert_eq!(until_settled(&server), (3, 0));
        let found = parsed(format, &log);
        match format {
            "json" => {
                let one = &found[0];
                assert_eq!(one["target"], "/a\"b\\é?c");
                assert_eq!(one["user_agent"], "\"x\\\" 200 1\u{fffd}\u{9b}\tz");
                assert_eq!(
                    (&one["referer"], &one["user"]),
                    (&"😀".into(), &"fr".into())
                );
                assert_eq!(
                    (&one["host"], &one["client"]),
                    (&"a".into(), &"127.0.0.1".into())
                );
                assert!(one["tls"].is_null() && one["duration_us"].is_u64(), "{one}");
                assert!(one["worker"].as_u64() < Some(2), "{one}");
                let statuses: Vec<_> = found.iter().map(|line| &line["status"]).collect();
                assert_eq!(statuses, [404, 200, 400]);
                assert_eq!(
                    (&found[1]["bytes"], &found[1]["method"]),
                    (&5.into(), &"POST".into())
                );
                assert!(found[2]["method"].is_null() && found[2]["protocol"].is_null());
            }
            _ => {
                let field = |line: usize, nth: usize| found[line][nth].as_str().unwrap();
                assert_eq!((field(0, 0), field(0, 2)), ("127.0.0.1", "fr"));
                assert_eq!(field(0, 4), r#"GET /a\"b\\\xc3\xa9?c HTTP/1.1"#);
                assert_eq!(
                    (field(0, 5), field(1, 5), field(2, 5)),
                    ("404", "200", "400")
                );
                assert_eq!(
                    (field(1, 4), field(1, 6)),
                    ("POST /work?bytes=5 HTTP/1.1", "5")
                );
                assert_eq!((field(2, 4), field(2, 6)), ("-", "-"));
                if format == "combined" {
                    assert_eq!(field(0, 8), r#"\"x\\\" 200 1\xff\xc2\x9b\x09z"#);
                }
            }
        }
    }
}

/// A site and a route have logs of their own, or none, and a reload changes that.
#[test]
fn sites_and_routes_have_logs_of_their_own() {
    let (_folder, log) = in_folder();
    let site = |more: &str| {
        format!(
            "workers = 1\nno-bpf = true\naccess-log = \"{}\"\naccess-log-format = \"common\"\n\
             [[site]]\nhosts = [\"a\"]\nrespond = {{ status = 200, body = \"a\" }}\n\
             [[site.route]]\nexact = \"/health\"\naccess-log = false\nrespond = {{ status = 204 }}\n\
             [[site]]\ndefault = true\nrespond = {{ status = 200, body = \"b\" }}\n{more}",
            log.display()
        )
    };
    let own = log.with_file_name("b.log");
    let server = Configured::start(&site(&format!("access-log = \"{}\"\n", own.display())), &[]);
    let ask = |host: &str, path: &str| {
        let mut client = Client::connect(server.server.address());
        client.send(format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n"));
        assert!(client.response().status() < 300);
    };
    let targets = |log: &Path| -> Vec<String> {
        let target = |line: &String| line.split(' ').nth(6).unwrap().to_owned();
        lines(log).iter().map(target).collect()
    };
    for _ in 0..2 {
        ask("a", "/one");
        ask("a", "/health");
        ask("b", "/two");
    }
    server.rewrite(&site(""));
    assert!(server.reload().1);
    ask("b", "/three");
    ask("a", "/health");
    crate::probe::until("all is written", || {
        (super::log_status(&server.server).written == 5).then_some(())
    });
    assert_eq!(targets(&log), ["/one", "/one", "/three"]);
    assert_eq!(targets(&own), ["/two", "/two"]);
}
