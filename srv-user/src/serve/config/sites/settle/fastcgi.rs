//! From the file's `fastcgi` to the settings: what holds by default, and what contradicts what.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Result, bail};

use super::Settling;
use crate::serve::config::sites::args::fastcgi::FastCgiArgs;
use crate::serve::config::sites::args::{PlaceArgs, Text};
use crate::serve::config::sites::pattern::SitePath;
use crate::serve::config::sites::values::Candidate;
use crate::serve::config::sites::{FastCgi, Handler, Place};
use crate::values::{Expected, expected};

impl Settling<'_> {
    /// The application of a route.
    ///
    /// # Errors
    /// A value is wrong.
    pub(super) fn fastcgi(&self, FastCgiArgs(args): &FastCgiArgs) -> Result<FastCgi> {
        let suffix = args.suffix.as_ref().map(|text| self.parsed(text));
        let ScriptSuffix(suffix) = suffix
            .transpose()?
            .unwrap_or_else(|| ScriptSuffix(".php".into()));
        let script = args.script.as_ref().map(|text| self.parsed(text));
        let script = script.transpose()?.map(|SitePath(path)| path);
        let index = match (&args.index, suffix.is_empty()) {
            (Some(name), _) => Some(self.index(name)?),
            (None, true) => None,
            (None, false) => Some(format!("index{suffix}")),
        };
        Ok(FastCgi {
            to: self.parsed(&args.to)?,
            index: index.filter(|name| name.ends_with(&suffix)),
            suffix,
            script,
            files: args.files,
            params: params(&args.params, self)?,
            connect_timeout: timeout(&args.connect_timeout, 5, self)?,
            send_timeout: timeout(&args.send_timeout, 60, self)?,
            read_timeout: timeout(&args.read_timeout, 60, self)?,
        })
    }

    /// What a site finds by itself it sends as it is, and a script's text may have passwords in it.
    ///
    /// # Errors
    /// It would be a script.
    pub(super) fn ensure_no_script_is_sent(
        &self,
        args: &PlaceArgs<'_>,
        place: &Place,
    ) -> Result<()> {
        let (Some(args), Handler::FastCgi(fastcgi)) = (args.fastcgi, &place.handler) else {
            return Ok(());
        };
        let candidates = place.files.candidates.iter().map(|one| match one {
            Candidate::OfPath { after, .. } => after,
            Candidate::This(path) => path,
            Candidate::Status(_) => &fastcgi.suffix,
        });
        let found = place.files.index.iter().chain(candidates);
        let found = found.filter(|_| fastcgi.files);
        let mut sent = found.chain(place.error_pages.values());
        let is_script =
            |name: &&String| name.len() > fastcgi.suffix.len() && name.ends_with(&fastcgi.suffix);
        if let Some(name) = sent.find(is_script).filter(|_| !fastcgi.suffix.is_empty()) {
            bail!(
                "{}: found `{name}` in index, try-files, fallback or error-pages, which would send the \
                 script itself, expected files that do not end in {} (fastcgi has index and script \
                 of its own)",
                self.places.at(args.span().start),
                fastcgi.suffix
            );
        }
        Ok(())
    }
}

fn timeout(text: &Option<Text>, default_s: u64, settling: &Settling<'_>) -> Result<Duration> {
    let text = text.as_ref().map(|text| settling.parsed(text));
    let found = text.transpose()?;
    Ok(found.map_or(Duration::from_secs(default_s), |Timeout(period)| period))
}

fn params(
    args: &BTreeMap<Text, Text>,
    settling: &Settling<'_>,
) -> Result<BTreeMap<String, String>> {
    let params = args.iter().map(|(name, value)| {
        let ParamName(parsed) = settling.parsed(name)?;
        Ok((parsed, value.as_ref().clone()))
    });
    params.collect()
}

/// What scripts end in.
struct ScriptSuffix(String);

impl std::str::FromStr for ScriptSuffix {
    type Err = Expected;

    fn from_str(text: &str) -> Result<Self, Expected> {
        let is_visible = text.bytes().all(|byte| byte.is_ascii_graphic());
        if !is_visible || text.contains('/') {
            return expected("the end of a file's name, such as .php");
        }
        Ok(Self(text.to_owned()))
    }
}

/// The name of a parameter.
struct ParamName(String);

impl std::str::FromStr for ParamName {
    type Err = Expected;

    fn from_str(text: &str) -> Result<Self, Expected> {
        let is_name = |byte: u8| byte.is_ascii_uppercase() || byte.is_ascii_digit() || byte == b'_';
        match text {
            // httpoxy: a script would use it as its own proxy.
            "HTTP_PROXY" => expected("another parameter than HTTP_PROXY"),
            _ if text.is_empty() || !text.bytes().all(is_name) => {
                expected("the name of a parameter, such as APP_ENV")
            }
            _ => Ok(Self(text.to_owned())),
        }
    }
}

/// A time that is more than none.
struct Timeout(Duration);

impl std::str::FromStr for Timeout {
    type Err = Expected;

    fn from_str(text: &str) -> Result<Self, Expected> {
        match humantime::parse_duration(text) {
            Ok(period) if !period.is_zero() => Ok(Self(period)),
            _ => expected("a time such as 60s or 5m"),
        }
    }
}

#[cfg(test)]
impl FastCgi {
    /// What a table of this text means.
    pub(in crate::serve) fn of_table(text: &str) -> Self {
        use serde::Deserialize as _;

        use crate::serve::config::sites::Files;
        use crate::serve::config::sites::args::fastcgi::FastCgiTable;
        use crate::values::AccessLogFormat;

        let args = FastCgiTable::deserialize(toml::Deserializer::parse(text).unwrap()).unwrap();
        let settling = Settling {
            places: &crate::serve::config::Places::default(),
            listeners: Vec::new(),
            note: &|_| {},
            base: Files::default(),
            access_log: None,
            access_log_format: AccessLogFormat::default(),
        };
        settling.fastcgi(&FastCgiArgs(args)).unwrap()
    }
}
