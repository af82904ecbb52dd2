//! A record: what the access log has of one request, as the words that a worker leaves in its ring.
//! Whatever the words are, reading them does not panic, and what it finds is bounded: a worker may be
//! compromised.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::values::LogId;

/// What is known of a request when it has ended, except what the client has said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Facts {
    /// The log that it belongs to.
    pub log: LogId,
    /// When it ended, ns of `CLOCK_MONOTONIC`.
    pub ended_ns: u64,
    /// How long it took, µs.
    pub duration_us: u64,
    /// How many bytes of the answer's body srv has sent, or given to what sends them.
    pub body_bytes: u64,
    /// The status of its answer; 0: it had none.
    pub status: u16,
    /// The version of HTTP.
    pub protocol: Protocol,
    /// The version of TLS.
    pub tls: Tls,
    /// The worker's slot.
    pub slot: u32,
    /// How long its connection waited to be accepted, µs, if that is known.
    pub accept_delay_us: Option<u32>,
    /// The client's address, if it has one.
    pub client: Option<IpAddr>,
}

/// A version of HTTP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Protocol {
    /// No request could be read.
    Unknown = 0,
    /// HTTP/1.0.
    Http10 = 1,
    /// HTTP/1.1.
    Http11 = 2,
    /// HTTP/2.
    Http2 = 3,
}

impl Protocol {
    /// As it is written in a request line.
    pub fn name(self) -> Option<&'static str> {
        match self {
            Self::Unknown => None,
            Self::Http10 => Some("HTTP/1.0"),
            Self::Http11 => Some("HTTP/1.1"),
            Self::Http2 => Some("HTTP/2.0"),
        }
    }

    fn from_number(number: u8) -> Self {
        match number {
            1 => Self::Http10,
            2 => Self::Http11,
            3 => Self::Http2,
            _ => Self::Unknown,
        }
    }
}

/// A version of TLS.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u8)]
pub enum Tls {
    /// The client speaks none.
    #[default]
    None = 0,
    /// TLS 1.2.
    V12 = 1,
    /// TLS 1.3.
    V13 = 2,
}

impl Tls {
    /// Its number, as people write it.
    pub fn name(self) -> Option<&'static str> {
        match self {
            Self::None => None,
            Self::V12 => Some("1.2"),
            Self::V13 => Some("1.3"),
        }
    }

    fn from_number(number: u8) -> Self {
        match number {
            1 => Self::V12,
            2 => Self::V13,
            _ => Self::None,
        }
    }
}

/// How many words the facts have.
pub const FACT_WORDS: usize = 8;

/// Where the kind of an address is, above the accept delay.
const IPV4: u64 = 4 << 32;
const IPV6: u64 = 6 << 32;

impl Facts {
    /// As words.
    pub fn words(&self) -> [u64; FACT_WORDS] {
        let (kind, address) = match self.client {
            None => (0, 0),
            Some(IpAddr::V4(address)) => (IPV4, u128::from(address.to_bits())),
            Some(IpAddr::V6(address)) => (IPV6, address.to_bits()),
        };
        [
            self.log.0,
            self.ended_ns,
            self.duration_us,
            self.body_bytes,
            u64::from(self.status)
                | (self.protocol as u64) << 16
                | (self.tls as u64) << 24
                | u64::from(self.slot) << 32,
            u64::from(self.accept_delay_us.unwrap_or(u32::MAX)) | kind,
            address as u64,
            (address >> 64) as u64,
        ]
    }

    /// What these words say.
    pub fn of(words: &[u64; FACT_WORDS]) -> Self {
        let address = u128::from(words[6]) | u128::from(words[7]) << 64;
        Self {
            log: LogId(words[0]),
            ended_ns: words[1],
            duration_us: words[2],
            body_bytes: words[3],
            status: words[4] as u16,
            protocol: Protocol::from_number((words[4] >> 16) as u8),
            tls: Tls::from_number((words[4] >> 24) as u8),
            slot: (words[4] >> 32) as u32,
            accept_delay_us: Some(words[5] as u32).filter(|delay_us| *delay_us != u32::MAX),
            client: match words[5] & !u64::from(u32::MAX) {
                IPV4 => Some(Ipv4Addr::from_bits(address as u32).into()),
                IPV6 => Some(Ipv6Addr::from_bits(address).into()),
                _ => None,
            },
        }
    }
}

/// What the client has said. Each part is cut off at its [`LIMITS`]; what it has not said is empty.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Said<'a> {
    /// The method.
    pub method: &'a [u8],
    /// The target, as it was sent; of HTTP/2, path and query.
    pub target: &'a [u8],
    /// The host.
    pub host: &'a [u8],
    /// `Referer`.
    pub referer: &'a [u8],
    /// `User-Agent`.
    pub user_agent: &'a [u8],
    /// The name of the user in `Authorization`, whether the password was right or not.
    pub user: &'a [u8],
}

/// The most bytes of each part, in the order of [`Said`].
pub const LIMITS: [usize; PARTS] = [32, 4096, 255, 1024, 512, 128];
const PARTS: usize = 6;
/// In front of the parts: the length of each.
const LENGTHS_BYTES: usize = 2 * PARTS;

/// The most bytes of what a client has said.
pub const SAID_BYTES_MAX: usize = {
    let mut sum = LENGTHS_BYTES;
    let mut nth = 0;
    while nth < PARTS {
        sum += LIMITS[nth];
        nth += 1;
    }
    sum
};

impl<'a> Said<'a> {
    fn parts(self) -> [&'a [u8]; PARTS] {
        [
            self.method,
            self.target,
            self.host,
            self.referer,
            self.user_agent,
            self.user,
        ]
    }

    /// Writes it behind what `bytes` has.
    pub fn write(self, bytes: &mut Vec<u8>) {
        let parts = self.parts();
        let mut cut = parts;
        for (part, limit) in cut.iter_mut().zip(LIMITS) {
            *part = &part[..part.len().min(limit)];
            bytes.extend_from_slice(&(part.len() as u16).to_le_bytes());
        }
        cut.iter().for_each(|part| bytes.extend_from_slice(part));
    }

    /// What these bytes say, which may be more than it. `None`: they are no such thing.
    pub fn read(bytes: &'a [u8]) -> Option<Self> {
        let (lengths, mut rest) = bytes.split_at_checked(LENGTHS_BYTES)?;
        let mut parts = [&[][..]; PARTS];
        for (nth, part) in parts.iter_mut().enumerate() {
            let length = u16::from_le_bytes([lengths[2 * nth], lengths[2 * nth + 1]]);
            (*part, rest) = rest.split_at_checked(length.into())?;
            if part.len() > LIMITS[nth] {
                return None;
            }
        }
        let [method, target, host, referer, user_agent, user] = parts;
        Some(Self {
            method,
            target,
            host,
            referer,
            user_agent,
            user,
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn facts_are_read_as_they_were_written() {
        let facts = Facts {
            log: LogId(u64::MAX),
            ended_ns: 1,
            duration_us: 2,
            body_bytes: 3,
            status: 404,
            protocol: Protocol::Http2,
            tls: Tls::V13,
            slot: 255,
            accept_delay_us: None,
            client: Some("2001:db8::1".parse().unwrap()),
        };
        let other = Facts {
            status: 0,
            protocol: Protocol::Unknown,
            tls: Tls::None,
            accept_delay_us: Some(7),
            client: Some("192.0.2.255".parse().unwrap()),
            ..facts
        };
        let third = Facts {
            client: None,
            ..other
        };
        for facts in [facts, other, third] {
            assert_eq!(Facts::of(&facts.words()), facts);
        }
    }

    #[test]
    fn long_parts_are_cut_off() {
        let long = [b'x'; 5000];
        let said = Said {
            method: &long,
            target: &long,
            host: &long,
            referer: &long,
            user_agent: &long,
            user: &long,
        };
        let mut bytes = Vec::new();
        said.write(&mut bytes);
        assert_eq!(bytes.len(), SAID_BYTES_MAX);
        let read = Said::read(&bytes).unwrap();
        assert_eq!(read.parts().map(<[u8]>::len), LIMITS);
    }

    proptest! {
        #[test]
        fn whatever_the_words_are_they_are_read_or_refused(
            words: [u64; FACT_WORDS],
            bytes: Vec<u8>,
            method in prop::collection::vec(any::<u8>(), 0..40),
            user in prop::collection::vec(any::<u8>(), 0..100),
        ) {
            Facts::of(&words);
            Said::read(&bytes);
            let said = Said { method: &method[..method.len().min(32)], user: &user, ..Said::default() };
            let mut written = Vec::new();
            said.write(&mut written);
            written.extend(bytes);
            prop_assert_eq!(Said::read(&written), Some(said));
        }
    }
}
