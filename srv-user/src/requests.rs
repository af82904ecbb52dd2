//! The bytes of a run's requests, made once per service time. Knows nothing of
//! when they are sent.

use std::collections::BTreeMap;
use std::rc::Rc;

use crate::load::{Connections, Load};

/// Requests by service time.
#[derive(Debug)]
pub(crate) struct Requests {
    path: String,
    /// From the version to the empty line.
    rest: String,
    made: BTreeMap<u32, Rc<[u8]>>,
}

impl Requests {
    pub(crate) fn of(load: &Load) -> Self {
        let host = load.host.clone().unwrap_or_else(|| load.target.to_string());
        let close = match load.connections {
            Connections::PerRequest => "Connection: close\r\n",
            Connections::Pool(_) => "",
        };
        Self {
            path: load.path.clone(),
            rest: format!(" HTTP/1.1\r\nHost: {host}\r\n{close}\r\n"),
            made: BTreeMap::new(),
        }
    }

    /// The request for this much work.
    pub(crate) fn get(&mut self, service_us: u32) -> Rc<[u8]> {
        let make = || {
            let path = self.path.replace("{us}", &service_us.to_string());
            format!("GET {path}{}", self.rest).into_bytes().into()
        };
        Rc::clone(self.made.entry(service_us).or_insert_with(make))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn service_time_and_host_are_filled_in() {
        let load = Load {
            target: "127.0.0.1:80".parse().unwrap(),
            host: Some("example:80".into()),
            path: "/work?sleep_us={us}&again={us}".into(),
            connections: Connections::PerRequest,
            timeout: std::time::Duration::from_secs(1),
        };
        let request = Requests::of(&load).get(7);
        let expected = "GET /work?sleep_us=7&again=7 HTTP/1.1\r\nHost: example:80\r\nConnection: close\r\n\r\n";
        assert_eq!(std::str::from_utf8(&request), Ok(expected));
    }
}
