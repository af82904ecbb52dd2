//! Texts that are compressed on the way.

use std::io::Read;

use flate2::read::GzDecoder;

use super::*;
use crate::serve::config::sites::{Coding, Compress};

struct Answer {
    status: u16,
    headers: http::HeaderMap,
    body: Vec<u8>,
}

impl Answer {
    fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().unwrap())
    }
}

fn get(router: &Router, target: &str, headers: &[(&str, &str)]) -> Answer {
    let mut request = http::Request::builder().uri(target);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let (request, ()) = request.body(()).unwrap().into_parts();
    let (head, body) = router.respond(&request, Client::default()).into_parts();
    Answer {
        status: head.status.as_u16(),
        headers: head.headers,
        body: body.collect().unwrap(),
    }
}

fn text() -> Vec<u8> {
    b"a { color: black; }\n".repeat(5000)
}

/// A site that compresses, with a text of 100 KB: more than the cache keeps of a plain one.
fn compressing() -> (TempDir, Router) {
    let (folder, root) = folder(&["tiny.css", "a.png"]);
    std::fs::write(folder.path().join("a.css"), text()).unwrap();
    let place = Place {
        files: Files {
            root: Some(root),
            compress: Some(Compress {
                codings: vec![Coding::Zstd, Coding::Gzip],
                min_bytes: 50,
                max_bytes: 200_000,
                level: 5,
            }),
            ..Files::default()
        },
        ..Place::default()
    };
    (folder, only(place))
}

#[test]
fn a_text_is_sent_in_the_coding_that_the_client_takes() {
    let (_folder, router) = compressing();
    let plain = get(&router, "/a.css", &[]);
    assert_eq!(
        (plain.body == text(), plain.header("content-encoding")),
        (true, None)
    );
    assert_eq!(plain.header("vary"), Some("accept-encoding"));
    let gzip = get(&router, "/a.css", &[("accept-encoding", "gzip, br")]);
    assert_eq!(gzip.header("content-encoding"), Some("gzip"));
    // All of the text was read, so its charset is known.
    assert_eq!(gzip.header("content-type"), Some("text/css; charset=utf-8"));
    assert_eq!(gzip.header("vary"), Some("accept-encoding"));
    let mut decoded = Vec::new();
    GzDecoder::new(&gzip.body[..])
        .read_to_end(&mut decoded)
        .unwrap();
    assert!(decoded == text() && gzip.body.len() < 1000);
    let zstd = get(&router, "/a.css", &[("accept-encoding", "gzip, zstd")]);
    assert_eq!(zstd.header("content-encoding"), Some("zstd"));
    let tags = [&plain, &gzip, &zstd].map(|answer| answer.header("etag").unwrap().to_owned());
    assert!(tags[0] != tags[1] && tags[1] != tags[2] && tags[0] != tags[2]);
    let lines = [
        ("accept-encoding", "gzip"),
        ("if-none-match", tags[1].as_str()),
    ];
    assert_eq!(get(&router, "/a.css", &lines).status, 304);
    let lines = [("accept-encoding", "gzip"), ("range", "bytes=2-5")];
    let part = get(&router, "/a.css", &lines);
    assert_eq!((part.status, &part.body[..]), (206, &gzip.body[2..6]));
}

#[test]
fn what_is_small_no_text_or_not_kept_is_not_compressed() {
    let (_folder, router) = compressing();
    let lines = [("accept-encoding", "zstd, gzip")];
    for path in ["/tiny.css", "/a.png"] {
        let answer = get(&router, path, &lines);
        assert_eq!(
            (answer.status, answer.header("content-encoding")),
            (200, None)
        );
        assert_eq!(answer.header("vary"), None, "{path}");
    }
    for path in ["//a.css", "/%61.css", "/b/../a.css"] {
        let answer = get(&router, path, &lines);
        assert_eq!(
            (answer.status, answer.header("content-encoding")),
            (200, None)
        );
        assert_eq!(answer.header("vary"), Some("accept-encoding"), "{path}");
    }
}
