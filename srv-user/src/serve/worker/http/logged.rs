//! What a request leaves for the access log: what the client has said is kept from the request on, and
//! the rest is known at its end. Nothing here waits: a record for which there is no room is dropped and
//! counted.

use std::borrow::Cow;
use std::cell::RefCell;
use std::io::Write as _;
use std::rc::Rc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::header::{AUTHORIZATION, HOST, HeaderName, REFERER, USER_AGENT};
use http::{Version, request};
use srv_steer::Load;

use super::plain::Plain;
use crate::serve::access_log::record::{Facts, Protocol, SAID_BYTES_MAX, Said};
use crate::serve::access_log::ring::Records;
use crate::serve::router::Client;
use crate::values::LogId;

/// The longest `Authorization` header of which the name of the user is read, bytes.
const CREDENTIALS_BYTES_MAX: usize = 512;

/// The worker's end of its ring.
pub struct Log {
    /// `None`: the worker has no ring, and every record is dropped.
    records: RefCell<Option<Records>>,
    published: Rc<Load>,
}

/// A request that is to be logged when it has ended.
pub struct Entry<'a> {
    pub(super) log: LogId,
    pub(super) client: Client,
    pub(super) protocol: Protocol,
    /// As [`Said::write`] has made it.
    pub(super) said: Cow<'a, [u8]>,
}

impl Log {
    /// The log of a worker.
    pub fn new(records: Option<Records>, published: Rc<Load>) -> Self {
        Self {
            records: RefCell::new(records),
            published,
        }
    }

    /// Leaves a record, or counts that there is no room for it.
    pub(super) fn push(&self, facts: &Facts, said: &[u8]) {
        let mut records = self.records.borrow_mut();
        let is_there = records
            .as_mut()
            .is_some_and(|records| records.push(facts, said));
        if !is_there {
            self.published.publish(|figures| figures.unlogged.bump(1));
        }
    }

    /// The worker's slot.
    pub(super) fn slot(&self) -> u32 {
        self.published.slot()
    }
}

impl<'a> Entry<'a> {
    /// A request that hyper has read.
    pub(super) fn of(log: LogId, client: Client, head: &request::Parts) -> Self {
        let header = |name: HeaderName| head.headers.get(name).map_or(&b""[..], |it| it.as_bytes());
        let authority = head
            .uri
            .authority()
            .map(|authority| authority.as_str().as_bytes());
        let mut target = Vec::new();
        // A vector takes all that is written.
        let _ = match (head.version, head.uri.path_and_query()) {
            (Version::HTTP_2, Some(target_of)) => write!(target, "{target_of}"),
            _ => write!(target, "{}", head.uri),
        };
        let user = user(header(AUTHORIZATION));
        let mut said = Vec::with_capacity(SAID_BYTES_MAX / 8);
        let all = Said {
            method: head.method.as_str().as_bytes(),
            target: &target,
            host: authority.unwrap_or_else(|| header(HOST)),
            referer: header(REFERER),
            user_agent: header(USER_AGENT),
            user: &user,
        };
        all.write(&mut said);
        Self {
            log,
            client,
            protocol: match head.version {
                Version::HTTP_2 => Protocol::Http2,
                Version::HTTP_10 => Protocol::Http10,
                _ => Protocol::Http11,
            },
            said: said.into(),
        }
    }

    /// What is no request that could be read.
    pub(super) fn unread(log: LogId, client: Client) -> Self {
        let mut said = Vec::new();
        Said::default().write(&mut said);
        Self {
            log,
            client,
            protocol: Protocol::Unknown,
            said: said.into(),
        }
    }
}

impl<'a> Entry<'a> {
    /// A plain request, of which [`write_said`] has written what the client has said.
    pub(super) fn plain(log: LogId, client: Client, is_http_11: bool, said: &'a [u8]) -> Self {
        Self {
            log,
            client,
            protocol: match is_http_11 {
                true => Protocol::Http11,
                false => Protocol::Http10,
            },
            said: said.into(),
        }
    }
}

/// Writes what the client has said in a plain request.
pub(super) fn write_said(plain: &Plain<'_, '_>, bytes: &mut Vec<u8>) {
    bytes.clear();
    let mut said = Said {
        method: match plain.is_head {
            true => b"HEAD",
            false => b"GET",
        },
        target: plain.target.as_bytes(),
        ..Said::default()
    };
    let mut credentials = &b""[..];
    for header in plain.headers {
        let is = |name: &str| header.name.eq_ignore_ascii_case(name);
        match header.name.len() {
            4 if is("host") => said.host = header.value,
            7 if is("referer") && said.referer.is_empty() => said.referer = header.value,
            10 if is("user-agent") && said.user_agent.is_empty() => said.user_agent = header.value,
            13 if is("authorization") && credentials.is_empty() => credentials = header.value,
            _ => {}
        }
    }
    let user = user(credentials);
    said.user = &user;
    said.write(bytes);
}

/// The name of the user in an `Authorization` header (RFC 7617, 2), whether the password is right or
/// not; empty if there is none.
fn user(credentials: &[u8]) -> Vec<u8> {
    let decoded = credentials
        .split_at_checked(6)
        .filter(|(scheme, _)| scheme.eq_ignore_ascii_case(b"basic "))
        .filter(|_| credentials.len() <= CREDENTIALS_BYTES_MAX)
        .and_then(|(_, rest)| STANDARD.decode(rest.trim_ascii()).ok());
    let mut decoded = decoded.unwrap_or_default();
    let end = decoded.iter().position(|byte| *byte == b':').unwrap_or(0);
    decoded.truncate(end);
    decoded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_user_is_named_without_the_password() {
        for (credentials, name) in [
            ("Basic ZnJhbms6c2VjcmV0", "frank"),
            ("basic  ZnJhbms6", "frank"),
            ("Basic ZnJhbms=", ""),
            ("Bearer ZnJhbms6", ""),
            ("Basic", ""),
            ("", ""),
        ] {
            assert_eq!(
                user(credentials.as_bytes()),
                name.as_bytes(),
                "{credentials}"
            );
        }
    }
}
