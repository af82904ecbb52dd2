//! Reading values from the configuration file: each is parsed as the value of a flag is, and an
//! error is at the line of the value.

use std::fmt;
use std::marker::PhantomData;
use std::str::FromStr;

use serde::de::{self, Deserialize, DeserializeSeed, Deserializer, MapAccess, Visitor};

use super::FileType;

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
