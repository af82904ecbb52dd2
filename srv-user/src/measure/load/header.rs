//! A header field as it is said on the command line or in a file of targets.

use std::str::FromStr;

use anyhow::{Context as _, Result, ensure};
use http::{HeaderName, HeaderValue};

/// A name and a value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    pub(super) name: String,
    pub(super) value: String,
}

impl FromStr for Header {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let (name, value) = text
            .split_once(':')
            .context("expected a header field, such as `Accept: text/html`")?;
        let (name, value) = (name.trim(), value.trim());
        HeaderName::from_str(name).with_context(|| format!("`{name}` is not a field's name"))?;
        HeaderValue::from_bytes(value.as_bytes())
            .with_context(|| format!("`{}` is not a field's value", value.escape_debug()))?;
        let frames = ["content-length", "transfer-encoding"];
        ensure!(
            !frames.contains(&&*name.to_ascii_lowercase()),
            "{name} follows from the body and is set with it; leave it away"
        );
        Ok(Self {
            name: name.to_owned(),
            value: value.to_owned(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_read_and_what_would_break_a_request_is_refused() {
        let header: Header = "Accept:  text/html ".parse().unwrap();
        assert_eq!((&*header.name, &*header.value), ("Accept", "text/html"));
        assert_eq!("X:".parse::<Header>().unwrap().value, "");
        for (text, expected) in [
            ("Accept", "such as `Accept: text/html`"),
            ("A b: c", "`A b` is not a field's name"),
            (": c", "`` is not a field's name"),
            ("A: b\r\nC: d", "`b\\r\\nC: d` is not a field's value"),
            ("content-length: 1", "follows from the body"),
            ("Transfer-Encoding: chunked", "follows from the body"),
        ] {
            let error = text.parse::<Header>().expect_err(text).to_string();
            assert!(error.contains(expected), "{text}: {error}");
        }
    }
}
