//! Which status codes count as a success. Written as a list of codes, ranges
//! and classes: `200`, `200-204`, `2xx`.

use std::fmt;
use std::str::FromStr;

use anyhow::{Context as _, Result, ensure};

/// A set of status codes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Statuses {
    /// First and last of each element of the list.
    ranges: Vec<(u16, u16)>,
    written: String,
}

impl Statuses {
    /// 200 alone.
    pub fn ok() -> Self {
        Self {
            ranges: vec![(200, 200)],
            written: "200".into(),
        }
    }

    /// Whether `status` is among them.
    pub fn contains(&self, status: u16) -> bool {
        let mut ranges = self.ranges.iter();
        ranges.any(|(first, last)| (*first..=*last).contains(&status))
    }
}

impl FromStr for Statuses {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let ranges: Result<_> = text.split(',').map(range).collect();
        Ok(Self {
            ranges: ranges.context("expected statuses such as 200, 200-204 or 2xx,404")?,
            written: text.into(),
        })
    }
}

impl fmt::Display for Statuses {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.written)
    }
}

fn range(text: &str) -> Result<(u16, u16)> {
    let code = |text: &str| -> Result<u16> {
        let code = text.parse().ok().filter(|code| (200..=599).contains(code));
        code.with_context(|| format!("`{text}` is not a status from 200 to 599"))
    };
    if let Some(class) = text.strip_suffix("xx") {
        let first = code(&format!("{class}00"))?;
        return Ok((first, first + 99));
    }
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let (first, last) = (code(first)?, code(last)?);
    ensure!(first <= last, "`{text}` ends before it begins");
    Ok((first, last))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_ranges_and_classes_are_read() {
        let statuses: Statuses = "2xx,301-303,404".parse().unwrap();
        for (status, expected) in [
            (199, false),
            (200, true),
            (299, true),
            (300, false),
            (302, true),
            (304, false),
            (404, true),
            (500, false),
        ] {
            assert_eq!(statuses.contains(status), expected, "{status}");
        }
        assert_eq!(statuses.to_string(), "2xx,301-303,404");
    }

    #[test]
    fn what_is_not_a_status_is_refused() {
        for text in [
            "", "2xx,", "ok", "xx", "1xx", "6xx", "100", "600", "204-200", "200-", "20x",
        ] {
            let error = format!("{:#}", text.parse::<Statuses>().expect_err(text));
            assert!(error.contains("expected statuses"), "{text}: {error}");
        }
    }
}
