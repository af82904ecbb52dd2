//! From `precompressed` and `compress` to the settings.

use anyhow::{Result, bail};

use super::Compress;
use super::args::{CompressArgs, Text};
use super::settle::Settling;
use super::values::{Coding, CodingToken, TextBytes};

impl Settling<'_> {
    /// A list of codings, each once.
    pub(super) fn codings(
        &self,
        texts: &[Text],
        parse: impl Fn(&Text) -> Result<Coding>,
    ) -> Result<Vec<Coding>> {
        let mut list = Vec::new();
        for text in texts {
            let coding = parse(text)?;
            if list.contains(&coding) {
                bail!(
                    "{}: found `{text}` twice, expected each coding once",
                    self.places.at(text.span().start)
                );
            }
            list.push(coding);
        }
        Ok(list)
    }

    pub(super) fn compress(&self, args: &CompressArgs) -> Result<Compress> {
        let codings = match &args.codings {
            None => vec![Coding::Zstd, Coding::Brotli, Coding::Gzip],
            Some(texts) => self.codings(texts, |text| {
                self.parsed(text).map(|CodingToken(coding)| coding)
            })?,
        };
        Ok(Compress {
            codings,
            min_bytes: args.min_bytes.map_or(1 << 10, |TextBytes(bytes)| bytes),
            max_bytes: args.max_bytes.map_or(256 << 10, |TextBytes(bytes)| bytes),
            level: args.level.map_or(5, Into::into),
        })
    }
}
