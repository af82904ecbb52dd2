//! From `redirect` and `respond` to the settings.

use anyhow::{Result, anyhow, bail};

use super::args::{RedirectArgs, RespondArgs};
use super::pattern::Pattern;
use super::settle::Settling;
use super::values::{KeptPath, Target};
use super::{Fixed, Redirect};
use crate::values::FileType;

impl Settling<'_> {
    pub(super) fn redirect(&self, args: &RedirectArgs, of: Option<&Pattern>) -> Result<Redirect> {
        let status = args.status.as_ref().map_or(301, |status| *status.as_ref());
        if let Some(found) = &args.status
            && ![301, 302, 303, 307, 308].contains(&status)
        {
            bail!(
                "{}: found `{status}`, expected 301, 302, 303, 307 or 308",
                self.places.at(found.span().start)
            );
        }
        let Target(to) = self.parsed(&args.to)?;
        let path = match &args.path {
            None => KeptPath::Nothing,
            Some(path) => self.parsed(path)?,
        };
        let is_prefix = matches!(of, Some(Pattern::Prefix(_)));
        if let Some(found) = args
            .path
            .as_ref()
            .filter(|_| path == KeptPath::Rest && !is_prefix)
        {
            bail!(
                "{}: found `rest` without a prefix that it could be the rest of, expected whole or \
                 drop",
                self.places.at(found.span().start)
            );
        }
        let query = args.query.unwrap_or(true);
        if to.contains(['?', '#']) && (query || path != KeptPath::Nothing) {
            bail!(
                "{}: found `{to}`, expected a target without ? and #, since the request's path or \
                 query follows it (query = false leaves that out)",
                self.places.at(args.to.span().start)
            );
        }
        Ok(Redirect {
            status,
            to,
            path,
            query,
        })
    }

    pub(super) fn fixed(&self, args: &RespondArgs) -> Result<Fixed> {
        let status = *args.status.as_ref();
        if !(200..600).contains(&status) || [205, 206, 304, 416].contains(&status) {
            bail!(
                "{}: found `{status}`, expected a status from 200 to 599 that needs nothing else",
                self.places.at(args.status.span().start)
            );
        }
        if let Some(body) = args.body.as_ref().filter(|_| status == 204) {
            bail!(
                "{}: found a body, expected none with status 204",
                self.places.at(body.span().start)
            );
        }
        let media = match &args.media {
            None => "text/plain; charset=utf-8".to_owned(),
            Some(media) => {
                let file_type = FileType::new("x", media.as_ref());
                let place = || self.places.at(media.span().start);
                file_type
                    .map_err(|expected| anyhow!("{}: found `{media}`, {expected}", place()))?
                    .name
            }
        };
        let body = args.body.as_ref().map(|body| body.as_ref().clone());
        Ok(Fixed {
            status,
            body: body.unwrap_or_default(),
            media,
        })
    }
}
