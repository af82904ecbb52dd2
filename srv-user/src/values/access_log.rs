//! An access log: where its lines go, and their form.

use std::fmt;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use anyhow::{Context as _, ensure};
use serde::{Deserialize, Serialize};

use super::{Expected, by_name, expected};

/// Where the lines of an access log go.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum AccessLogTo {
    /// To the end of a file, or into a named pipe.
    File(PathBuf),
    /// To standard output.
    StandardOutput,
    /// To the syslog daemon of this machine.
    Syslog,
}

impl AccessLogTo {
    /// Makes a relative path one below this folder.
    pub fn relative_to(&mut self, folder: &Path) {
        if let Self::File(path) = self {
            *path = folder.join(&path);
        }
    }
}

impl FromStr for AccessLogTo {
    type Err = Expected;

    fn from_str(text: &str) -> Result<Self, Expected> {
        match text {
            "-" => Ok(Self::StandardOutput),
            "syslog" => Ok(Self::Syslog),
            "" => expected("the path of a file, `-` for standard output, or `syslog`"),
            path => Ok(Self::File(path.into())),
        }
    }
}

impl fmt::Display for AccessLogTo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => write!(f, "{}", path.display()),
            Self::StandardOutput => f.write_str("-"),
            Self::Syslog => f.write_str("syslog"),
        }
    }
}

/// The form of the lines.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub enum AccessLogFormat {
    /// The Common Log Format.
    Common,
    /// The same with `Referer` and `User-Agent`.
    #[default]
    Combined,
    /// One JSON object a line.
    Json,
}

impl AccessLogFormat {
    const NAMED: [(&'static str, Self); 3] = [
        ("common", Self::Common),
        ("combined", Self::Combined),
        ("json", Self::Json),
    ];

    /// Its name on the command line.
    pub fn name(self) -> &'static str {
        Self::NAMED[self as usize].0
    }
}

impl FromStr for AccessLogFormat {
    type Err = Expected;

    fn from_str(text: &str) -> Result<Self, Expected> {
        by_name(text, &Self::NAMED)
    }
}

/// A log: where its lines go, and how they are written.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct AccessLog {
    /// Where they go.
    pub to: AccessLogTo,
    /// Their form.
    pub format: AccessLogFormat,
}

/// The number by which records name their log. The same log has the same number in every process of
/// a server, before and after a reload.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct LogId(pub u64);

impl AccessLog {
    /// A log at this place. Its path becomes absolute.
    ///
    /// # Errors
    /// It is a folder, or the current directory does not exist any more.
    pub fn settle(mut to: AccessLogTo, format: AccessLogFormat) -> anyhow::Result<Self> {
        if let AccessLogTo::File(path) = &mut to {
            *path = std::path::absolute(&path).context("make its path absolute")?;
            ensure!(
                !path.is_dir(),
                "found the folder `{}`, expected the path of a file",
                path.display()
            );
        }
        Ok(Self { to, format })
    }

    /// Its number.
    pub fn id(&self) -> LogId {
        // With the same keys in every process of a binary.
        let mut hasher = DefaultHasher::new();
        self.hash(&mut hasher);
        LogId(hasher.finish())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_is_what_is_read() {
        for text in ["/var/log/access.log", "-", "syslog", "./syslog", "a"] {
            assert_eq!(text.parse::<AccessLogTo>().unwrap().to_string(), text);
        }
        assert!("".parse::<AccessLogTo>().is_err());
        for (name, format) in AccessLogFormat::NAMED {
            assert_eq!((name.parse(), format.name()), (Ok(format), name));
        }
    }
}
