//! Sites that answer on some listeners alone.

use super::*;

const LISTENERS: &str = "workers = 2\nworker-header = true\n\
    [[listen]]\naddress = \"127.0.0.1:0\"\nname = \"public\"\n\
    [[listen]]\naddress = \"127.0.0.1:0\"\nname = \"admin\"\n\
    [[site]]\nrespond = { status = 200, body = \"public\" }\nlisten = [\"public\"]\n\
    [[site]]\nhosts = [\"admin.test\"]\nrespond = { status = 200, body = \"admin\" }\n\
    listen = [\"admin\"]\n\
    [[site]]\nhosts = [\"both.test\"]\nrespond = { status = 200, body = \"both\" }\n";

/// What both listeners answer for a host: a body, or the status.
fn answers(server: &Server, host: &str, lines: &str) -> [String; 2] {
    let of_listener = |nth: usize| {
        let response = get_with(server.addresses()[nth], host, "/", lines);
        match response.status() {
            200 => String::from_utf8(response.body).unwrap(),
            status => status.to_string(),
        }
    };
    [0, 1].map(of_listener)
}

#[test]
fn a_site_answers_on_its_listeners_alone() {
    let configured = Configured::start_listening(LISTENERS, &[], 2);
    let expect = |expected: &[(&str, [&str; 2])]| {
        // Plain requests are answered without hyper, those with a strange header by it.
        for lines in ["", "Connection: x\r\n"] {
            for (host, answer) in expected {
                assert_eq!(answers(&configured.server, host, lines), *answer, "{host}");
            }
        }
    };
    expect(&[
        ("admin.test", ["public", "admin"]),
        ("both.test", ["both", "both"]),
        ("other.test", ["public", "421"]),
    ]);
    let moved = LISTENERS.replace("listen = [\"public\"]", "listen = [\"admin\"]");
    configured.rewrite(&moved);
    let (said, succeeded) = configured.reload();
    assert!(succeeded, "{said}");
    expect(&[
        ("admin.test", ["421", "admin"]),
        ("both.test", ["both", "both"]),
        ("other.test", ["421", "public"]),
    ]);
}
