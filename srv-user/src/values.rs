//! The values that flags and the file share: one parser and one wording for
//! both. Knows nothing of which setting a value is for.

mod access_log;
mod address;
mod admin;
mod application;
mod from_file;
pub mod policies;
pub mod reported;

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use bytesize::ByteSize;
use serde::{Deserialize, Serialize};
use srv_common::{Policy, State};

pub use access_log::{AccessLog, AccessLogFormat, AccessLogTo, LogId};
pub use address::ListenAddr;
pub use admin::{AdminAddr, is_admin_socket};
pub use application::ApplicationAddr;
pub use from_file::{scalar, table};
use reported::Named;

/// A value that did not parse: what was expected instead.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Expected(String);

impl fmt::Display for Expected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "expected {}", self.0)
    }
}

impl std::error::Error for Expected {}

pub(crate) fn expected<T>(what: impl Into<String>) -> Result<T, Expected> {
    Err(Expected(what.into()))
}

/// A whole number from `MIN` to `MAX`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Count<const MIN: u32, const MAX: u32>(pub u32);

impl<const MIN: u32, const MAX: u32> FromStr for Count<MIN, MAX> {
    type Err = Expected;

    fn from_str(text: &str) -> Result<Self, Expected> {
        match text.parse() {
            Ok(number) if (MIN..=MAX).contains(&number) => Ok(Self(number)),
            _ => expected(format!("a whole number from {MIN} to {MAX}")),
        }
    }
}

impl<const MIN: u32, const MAX: u32> From<Count<MIN, MAX>> for u32 {
    fn from(count: Count<MIN, MAX>) -> Self {
        count.0
    }
}

/// At least `MIN` bytes, with or without a unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bytes<const MIN: u64>(pub u64);

impl<const MIN: u64> FromStr for Bytes<MIN> {
    type Err = Expected;

    fn from_str(text: &str) -> Result<Self, Expected> {
        match text.parse::<ByteSize>() {
            Ok(ByteSize(bytes)) if bytes < MIN => expected(format!("at least {MIN} bytes")),
            Ok(ByteSize(bytes)) => Ok(Self(bytes)),
            Err(_) => expected("a number of bytes, such as 16384, 16KiB or 1MiB"),
        }
    }
}

impl<const MIN: u64> From<Bytes<MIN>> for u64 {
    fn from(bytes: Bytes<MIN>) -> Self {
        bytes.0
    }
}

impl<const MIN: u64> From<Bytes<MIN>> for usize {
    fn from(bytes: Bytes<MIN>) -> Self {
        // A number that is larger than memory has the same effect as no bound.
        Self::try_from(bytes.0).unwrap_or(Self::MAX)
    }
}

/// Longest period that can be asked for: clocks have room for sums of these.
const LONGEST: Duration = Duration::from_secs(365 * 24 * 60 * 60);

/// A time span of at least `MIN_MS` milliseconds, written with its unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Period<const MIN_MS: u64>(pub Duration);

impl<const MIN_MS: u64> FromStr for Period<MIN_MS> {
    type Err = Expected;

    fn from_str(text: &str) -> Result<Self, Expected> {
        match humantime::parse_duration(text) {
            Ok(period) if period < Duration::from_millis(MIN_MS) => {
                expected(format!("at least {MIN_MS}ms"))
            }
            Ok(period) if period > LONGEST => expected("at most 365days"),
            Ok(period) => Ok(Self(period)),
            Err(_) => expected("a duration with its unit, such as 100ms, 10s or 5min"),
        }
    }
}

impl<const MIN_MS: u64> From<Period<MIN_MS>> for Duration {
    fn from(period: Period<MIN_MS>) -> Self {
        period.0
    }
}

/// A steering policy, by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PolicyName(pub Policy);

impl Named for PolicyName {
    fn name(&self) -> &str {
        self.0.name()
    }
}

impl FromStr for PolicyName {
    type Err = Expected;

    fn from_str(text: &str) -> Result<Self, Expected> {
        by_name(text, &Policy::NAMED).map(Self)
    }
}

/// The state of a worker's slot, by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StateName(pub State);

impl Named for StateName {
    fn name(&self) -> &str {
        self.0.name()
    }
}

impl FromStr for StateName {
    type Err = Expected;

    fn from_str(text: &str) -> Result<Self, Expected> {
        by_name(text, &State::NAMED).map(Self)
    }
}

/// A user by name or number. Whether it exists is checked later.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UserName(pub String);

impl FromStr for UserName {
    type Err = Expected;

    fn from_str(text: &str) -> Result<Self, Expected> {
        if text.is_empty() || text.starts_with('-') {
            return expected("a user's name, UID or UID:GID, such as nobody or 65534:65534");
        }
        Ok(Self(text.to_owned()))
    }
}

/// The media type of files with an extension.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileType {
    /// In lower case, without the dot.
    pub extension: String,
    /// The media type, as `Content-Type` has it.
    pub name: String,
}

impl FileType {
    pub(crate) fn new(extension: &str, name: &str) -> Result<Self, Expected> {
        let extension = extension.strip_prefix('.').unwrap_or(extension);
        if extension.is_empty() || extension.contains(['.', '/']) {
            return expected("what follows the last dot of a file's name, such as wasm");
        }
        if name.parse::<mime_guess::Mime>().is_err() || !name.bytes().all(is_visible) {
            return expected(
                "a media type, such as application/wasm or \"text/plain; charset=utf-8\"",
            );
        }
        Ok(Self {
            extension: extension.to_ascii_lowercase(),
            name: name.to_owned(),
        })
    }
}

fn is_visible(byte: u8) -> bool {
    (b' '..=b'~').contains(&byte)
}

impl FromStr for FileType {
    type Err = Expected;

    fn from_str(text: &str) -> Result<Self, Expected> {
        match text.split_once('=') {
            Some((extension, name)) => Self::new(extension, name),
            None => expected("an extension and its media type, such as wasm=application/wasm"),
        }
    }
}

/// Format of the log on stderr.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// Lines for people.
    Text,
    /// One JSON object a line.
    Json,
}

impl LogFormat {
    /// The format, by whether it is JSON.
    pub fn of(is_json: bool) -> Self {
        match is_json {
            true => Self::Json,
            false => Self::Text,
        }
    }

    /// Its name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Text => "text",
            Self::Json => "json",
        }
    }
}

impl FromStr for LogFormat {
    type Err = Expected;

    fn from_str(text: &str) -> Result<Self, Expected> {
        by_name(text, &[("text", Self::Text), ("json", Self::Json)])
    }
}

/// Which connections may speak HTTP/2.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Http2 {
    /// Those with TLS, if the client offers it.
    #[default]
    Tls,
    /// Others, too, if the client begins with it.
    Always,
    /// None.
    Never,
}

impl Http2 {
    const NAMED: [(&'static str, Self); 3] = [
        ("tls", Self::Tls),
        ("always", Self::Always),
        ("never", Self::Never),
    ];

    /// Its name on the command line.
    pub fn name(self) -> &'static str {
        Self::NAMED[self as usize].0
    }
}

impl FromStr for Http2 {
    type Err = Expected;

    fn from_str(text: &str) -> Result<Self, Expected> {
        by_name(text, &Self::NAMED)
    }
}

pub(crate) fn by_name<T: Copy>(text: &str, named: &[(&str, T)]) -> Result<T, Expected> {
    if let Some((_, value)) = named.iter().find(|(name, _)| *name == text) {
        return Ok(*value);
    }
    let names: Vec<&str> = named.iter().map(|(name, _)| *name).collect();
    expected(format!("one of {}", names.join(", ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal<T: FromStr<Err = Expected> + fmt::Debug>(text: &str) -> String {
        text.parse::<T>().expect_err(text).to_string()
    }

    #[test]
    fn counts_have_both_bounds() {
        assert_eq!("1".parse(), Ok(Count::<1, 256>(1)));
        assert_eq!("256".parse(), Ok(Count::<1, 256>(256)));
        for text in ["0", "257", "-1", "4.0", "many", "99999999999"] {
            assert_eq!(
                refusal::<Count<1, 256>>(text),
                "expected a whole number from 1 to 256"
            );
        }
    }

    #[test]
    fn bytes_take_units() {
        for (text, bytes) in [
            ("16384", 16384),
            ("16KiB", 16384),
            ("1 MiB", 1 << 20),
            ("1kB", 1000),
        ] {
            assert_eq!(text.parse(), Ok(Bytes::<0>(bytes)));
        }
        assert_eq!(
            refusal::<Bytes<8192>>("8191"),
            "expected at least 8192 bytes"
        );
        assert!(refusal::<Bytes<0>>("-1").contains("16KiB"));
        assert!(refusal::<Bytes<0>>("big").contains("16KiB"));
    }

    #[test]
    fn periods_need_a_unit_and_stay_in_bounds() {
        assert_eq!("100ms".parse(), Ok(Period::<1>(Duration::from_millis(100))));
        assert_eq!("0s".parse(), Ok(Period::<0>(Duration::ZERO)));
        assert!(refusal::<Period<0>>("10").contains("with its unit"));
        assert!(refusal::<Period<0>>("-1s").contains("with its unit"));
        assert_eq!(refusal::<Period<1>>("0s"), "expected at least 1ms");
        assert_eq!(refusal::<Period<1>>("2years"), "expected at most 365days");
    }

    #[test]
    fn unknown_names_are_answered_with_the_known_ones() {
        assert_eq!(
            refusal::<PolicyName>("lest"),
            format!("expected one of {}", policies::all().join(", "))
        );
        assert_eq!(refusal::<LogFormat>("xml"), "expected one of text, json");
    }
}
