//! The values that flags and the file share: one parser and one wording for
//! both. Knows nothing of which setting a value is for.

pub mod policies;

use std::fmt;
use std::marker::PhantomData;
use std::net::SocketAddr;
use std::str::FromStr;
use std::time::Duration;

use bytesize::ByteSize;
use serde::de::{self, Deserialize, DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use srv_common::Policy;

/// A value that did not parse: what was expected instead.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Expected(String);

impl fmt::Display for Expected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "expected {}", self.0)
    }
}

impl std::error::Error for Expected {}

fn expected<T>(what: impl Into<String>) -> Result<T, Expected> {
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
        // More than memory has is as good as no bound.
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

/// An address to listen on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ListenAddr(pub SocketAddr);

impl FromStr for ListenAddr {
    type Err = Expected;

    fn from_str(text: &str) -> Result<Self, Expected> {
        if let Ok(address) = text.parse() {
            return Ok(Self(address));
        }
        if let Some((scheme, rest)) = text.split_once("://") {
            let address = rest.split('/').next().unwrap_or_default();
            return match address.parse::<SocketAddr>() {
                Ok(address) => expected(format!("the address alone, {address}, not a URL")),
                Err(_) => expected(format!(
                    "an IP address and a port, such as 127.0.0.1:8080, without {scheme}://"
                )),
            };
        }
        if text.contains(',') {
            return expected(
                "one address; name each by a --listen of its own (in the file: listen = \
                 [\"127.0.0.1:8080\", \"[::1]:8080\"])",
            );
        }
        if let Some(port) = port_too_large(text) {
            return expected(format!("a port from 0 to 65535, not {port}"));
        }
        if text
            .trim_matches(['[', ']'])
            .parse::<std::net::IpAddr>()
            .is_ok()
        {
            return expected("a port after the address, as in 127.0.0.1:8080 or [::1]:8080");
        }
        let port = text.trim_start_matches(['*', ':']);
        if port.parse::<u16>().is_ok() {
            return expected(format!(
                "an address before the port: 0.0.0.0:{port} for every IPv4 address, \
                 [::]:{port} for every IPv6 address, 127.0.0.1:{port} for this machine alone"
            ));
        }
        if text.matches(':').count() > 1 && !text.starts_with('[') {
            return expected("brackets around an IPv6 address, as in [::1]:8080");
        }
        expected(
            "an IP address and a port, such as 127.0.0.1:8080 or [::]:80; names are not looked up",
        )
    }
}

/// The number that stands where a port should, if nothing else is wrong than its size.
fn port_too_large(text: &str) -> Option<&str> {
    let (address, port) = text.rsplit_once(':').unwrap_or(("*", text));
    let is_number = !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit());
    let is_address =
        ["", "*"].contains(&address) || format!("{address}:0").parse::<SocketAddr>().is_ok();
    (is_number && is_address && port.parse::<u16>().is_err()).then_some(port)
}

/// A steering policy, by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PolicyName(pub Policy);

impl FromStr for PolicyName {
    type Err = Expected;

    fn from_str(text: &str) -> Result<Self, Expected> {
        by_name(text, &Policy::NAMED).map(Self)
    }
}

/// A user by name or number; whether there is such a one shows later.
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
    fn new(extension: &str, name: &str) -> Result<Self, Expected> {
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

impl FromStr for LogFormat {
    type Err = Expected;

    fn from_str(text: &str) -> Result<Self, Expected> {
        by_name(text, &[("text", Self::Text), ("json", Self::Json)])
    }
}

pub(crate) fn by_name<T: Copy>(text: &str, named: &[(&str, T)]) -> Result<T, Expected> {
    if let Some((_, value)) = named.iter().find(|(name, _)| *name == text) {
        return Ok(*value);
    }
    let names: Vec<&str> = named.iter().map(|(name, _)| *name).collect();
    expected(format!("one of {}", names.join(", ")))
}

/// For serde: a string or a whole number, parsed as a flag's value would be.
///
/// # Errors
/// What was found and what was expected.
pub fn scalar<'de, D: Deserializer<'de>, T>(file: D) -> Result<Option<T>, D::Error>
where
    T: FromStr<Err: fmt::Display>,
{
    Scalar::deserialize(file).map(|Scalar(value)| Some(value))
}

/// For serde: one [`scalar`] or an array of them.
///
/// # Errors
/// What was found and what was expected.
pub fn list<'de, D: Deserializer<'de>, T>(file: D) -> Result<Option<Vec<T>>, D::Error>
where
    T: FromStr<Err = Expected>,
{
    file.deserialize_any(ListVisitor(PhantomData)).map(Some)
}

/// For serde: a table of extensions and their media types.
///
/// # Errors
/// What was found and what was expected.
pub fn table<'de, D: Deserializer<'de>>(file: D) -> Result<Option<Vec<FileType>>, D::Error> {
    file.deserialize_map(TableVisitor).map(Some)
}

struct TableVisitor;

impl<'de> Visitor<'de> for TableVisitor {
    type Value = Vec<FileType>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a table of extensions and their media types")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut table: A) -> Result<Vec<FileType>, A::Error> {
        let mut types = Vec::new();
        while let Some(extension) = table.next_key::<String>()? {
            types.push(table.next_value_seed(TypeOf(&extension))?);
        }
        Ok(types)
    }
}

/// The media type of this extension. A visitor, so that an error is at the value's line.
struct TypeOf<'a>(&'a str);

impl<'de> DeserializeSeed<'de> for TypeOf<'_> {
    type Value = FileType;

    fn deserialize<D: Deserializer<'de>>(self, file: D) -> Result<FileType, D::Error> {
        file.deserialize_str(self)
    }
}

impl Visitor<'_> for TypeOf<'_> {
    type Value = FileType;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a media type, as a string")
    }

    fn visit_str<E: de::Error>(self, name: &str) -> Result<FileType, E> {
        let Self(extension) = self;
        FileType::new(extension, name)
            .map_err(|expected| E::custom(format!("found `{extension} = {name}`, {expected}")))
    }
}

struct Scalar<T>(T);

impl<'de, T: FromStr<Err: fmt::Display>> Deserialize<'de> for Scalar<T> {
    fn deserialize<D: Deserializer<'de>>(file: D) -> Result<Self, D::Error> {
        file.deserialize_any(ScalarVisitor(PhantomData)).map(Self)
    }
}

struct ScalarVisitor<T>(PhantomData<T>);

impl<T: FromStr<Err: fmt::Display>> Visitor<'_> for ScalarVisitor<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string or a whole number")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<T, E> {
        text.parse()
            .map_err(|expected| E::custom(format!("found `{text}`, {expected}")))
    }

    fn visit_i64<E: de::Error>(self, number: i64) -> Result<T, E> {
        self.visit_str(&number.to_string())
    }
}

struct ListVisitor<T>(PhantomData<T>);

impl<'de, T: FromStr<Err = Expected>> Visitor<'de> for ListVisitor<T> {
    type Value = Vec<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string or an array of strings")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Vec<T>, E> {
        ScalarVisitor(PhantomData)
            .visit_str(text)
            .map(|one| vec![one])
    }

    fn visit_i64<E: de::Error>(self, number: i64) -> Result<Vec<T>, E> {
        self.visit_str(&number.to_string())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut array: A) -> Result<Vec<T>, A::Error> {
        let mut values = Vec::new();
        while let Some(Scalar(value)) = array.next_element()? {
            values.push(value);
        }
        Ok(values)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal<T: FromStr<Err = Expected> + fmt::Debug>(text: &str) -> String {
        text.parse::<T>().expect_err(text).to_string()
    }

    #[test]
    fn listen_addresses_of_both_families_parse() {
        for text in ["127.0.0.1:8080", "0.0.0.0:0", "[::]:80", "[fe80::1%2]:80"] {
            assert_eq!(text.parse(), Ok(ListenAddr(text.parse().unwrap())));
        }
    }

    #[test]
    fn a_listen_address_that_lacks_something_is_told_what() {
        for port_alone in ["8080", ":8080", "*:8080"] {
            let refusal = refusal::<ListenAddr>(port_alone);
            assert!(refusal.contains("0.0.0.0:8080"), "{port_alone}: {refusal}");
        }
        for no_port in ["127.0.0.1", "::1", "[::1]"] {
            assert!(
                refusal::<ListenAddr>(no_port).contains("a port after"),
                "{no_port}"
            );
        }
        assert!(refusal::<ListenAddr>("fe80::1:70000").contains("brackets"));
        for port in [
            "127.0.0.1:80000",
            "[::1]:80000",
            "80000",
            ":80000",
            "*:80000",
        ] {
            let refusal = refusal::<ListenAddr>(port);
            assert_eq!(refusal, "expected a port from 0 to 65535, not 80000");
        }
        let refusal_of_url = refusal::<ListenAddr>("http://127.0.0.1:80/index.html");
        assert!(
            refusal_of_url.contains("127.0.0.1:80, not a URL"),
            "{refusal_of_url}"
        );
        assert!(refusal::<ListenAddr>("http://localhost").contains("without http://"));
        let several = refusal::<ListenAddr>("127.0.0.1:80,127.0.0.1:81");
        assert!(several.contains("a --listen of its own"), "{several}");
        for nonsense in ["localhost:80", "", "[::1]:x"] {
            assert!(refusal::<ListenAddr>(nonsense).contains("names are not looked up"));
        }
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
