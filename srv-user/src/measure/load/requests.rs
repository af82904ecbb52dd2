//! The bytes of a run's requests, made once per target and service time. Knows
//! nothing of when they are sent.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;

use crate::measure::load::{Connections, Load, Target};

/// One request. The body is the target's, not a copy: it may be large, and
/// there are as many requests as service times.
#[derive(Debug)]
pub(crate) struct Request {
    head: Box<[u8]>,
    body: Arc<[u8]>,
    is_head: bool,
}

impl Request {
    /// Length, bytes.
    pub(crate) fn len(&self) -> usize {
        self.head.len() + self.body.len()
    }

    /// Its head and its body, from this byte on.
    pub(crate) fn from(&self, byte: usize) -> (&[u8], &[u8]) {
        match byte.checked_sub(self.head.len()) {
            None => (&self.head[byte..], &self.body),
            Some(byte) => (&[], &self.body[byte..]),
        }
    }

    /// Whether its method is HEAD.
    pub(crate) fn is_head(&self) -> bool {
        self.is_head
    }
}

/// Requests by target and service time.
#[derive(Debug)]
pub(crate) struct Requests(Vec<OfTarget>);

#[derive(Debug)]
struct OfTarget {
    target: Target,
    /// From the version to the empty line.
    rest: String,
    made: BTreeMap<u32, Rc<Request>>,
}

impl Requests {
    pub(crate) fn of(load: &Load) -> Self {
        let of_target = |target: &Target| OfTarget {
            target: target.clone(),
            rest: rest(target, load.connections),
            made: BTreeMap::new(),
        };
        Self(load.targets.iter().map(of_target).collect())
    }

    /// The request for this much work, to the target of this number.
    pub(crate) fn get(&mut self, target: usize, service_us: u32) -> Rc<Request> {
        let OfTarget { target, rest, made } = &mut self.0[target];
        let make = || {
            let path = target.path.replace("{us}", &service_us.to_string());
            Rc::new(Request {
                head: format!("{} {path}{rest}", target.method)
                    .into_bytes()
                    .into(),
                body: target.body.clone().unwrap_or_default(),
                is_head: target.method == "HEAD",
            })
        };
        Rc::clone(made.entry(service_us).or_insert_with(make))
    }
}

fn rest(target: &Target, connections: Connections) -> String {
    let has = |name: &str| {
        let mut headers = target.headers.iter();
        headers.any(|(known, _)| known.eq_ignore_ascii_case(name))
    };
    let mut rest = " HTTP/1.1\r\n".to_owned();
    let mut add = |name: &str, value: &str| rest += &format!("{name}: {value}\r\n");
    if !has("host") {
        add("Host", &target.host);
    }
    for (name, value) in &target.headers {
        add(name, value);
    }
    let takes_body = matches!(&*target.method, "POST" | "PUT" | "PATCH");
    match &target.body {
        None if takes_body => add("Content-Length", "0"),
        None => {}
        Some(body) => add("Content-Length", &body.len().to_string()),
    }
    if connections == Connections::PerRequest && !has("connection") {
        add("Connection", "close");
    }
    rest + "\r\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    fn made(target: Target, connections: Connections) -> String {
        let load = Load {
            targets: vec![target],
            connections,
            ..Load::get("127.0.0.1:80".parse().unwrap(), "/")
        };
        let request = Requests::of(&load).get(0, 7);
        let (head, body) = request.from(0);
        let whole = [head, body].concat();
        for byte in 0..request.len() {
            let (head, body) = request.from(byte);
            assert_eq!([head, body].concat(), whole[byte..], "from byte {byte}");
        }
        String::from_utf8(whole).unwrap()
    }

    fn target(path: &str) -> Target {
        let load = Load::get("127.0.0.1:80".parse().unwrap(), path);
        load.targets.into_iter().next().unwrap()
    }

    #[test]
    fn service_time_and_host_are_filled_in() {
        let target = Target {
            host: "example:80".into(),
            ..target("/work?sleep_us={us}&again={us}")
        };
        let expected = "GET /work?sleep_us=7&again=7 HTTP/1.1\r\nHost: example:80\r\nConnection: close\r\n\r\n";
        assert_eq!(made(target, Connections::PerRequest), expected);
    }

    #[test]
    fn own_headers_take_the_place_of_usual_ones() {
        let header = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        let target = Target {
            headers: vec![header("host", "other"), header("Connection", "keep-alive")],
            ..target("/")
        };
        let expected = "GET / HTTP/1.1\r\nhost: other\r\nConnection: keep-alive\r\n\r\n";
        assert_eq!(made(target, Connections::PerRequest), expected);
    }

    #[test]
    fn a_body_comes_with_its_length() {
        let with = |method: &str, body: Option<&str>| {
            let target = Target {
                method: method.into(),
                body: body.map(|body| body.as_bytes().into()),
                ..target("/")
            };
            made(target, Connections::Pool(1))
        };
        let expected = "PUT / HTTP/1.1\r\nHost: 127.0.0.1:80\r\nContent-Length: 2\r\n\r\nhi";
        assert_eq!(with("PUT", Some("hi")), expected);
        assert!(with("POST", None).ends_with("Content-Length: 0\r\n\r\n"));
        assert!(!with("DELETE", None).contains("Content-Length"));
    }
}
