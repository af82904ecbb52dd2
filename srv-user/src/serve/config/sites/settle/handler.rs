//! What answers instead of files: `redirect`, `respond` or `fastcgi`, of which a route has one.

use anyhow::{Result, bail};

use super::Settling;
use crate::serve::config::sites::Handler;
use crate::serve::config::sites::args::PlaceArgs;
use crate::serve::config::sites::pattern::Pattern;

impl Settling<'_> {
    /// What answers, if that is no folder.
    ///
    /// # Errors
    /// A value is wrong, or two contradict each other.
    pub(super) fn handler(
        &self,
        args: &PlaceArgs<'_>,
        of: Option<&Pattern>,
    ) -> Result<Option<Handler>> {
        let redirect = args.redirect.map(|args| (args.span(), "redirect"));
        let respond = args.respond.map(|args| (args.span(), "respond"));
        let fastcgi = args.fastcgi.map(|args| (args.span(), "fastcgi"));
        let mut named = [redirect, respond, fastcgi].into_iter().flatten();
        if let (Some((_, one)), Some((at, other))) = (named.next(), named.next()) {
            bail!(
                "{}: found {other} beside {one}, expected one of the two",
                self.places.at(at.start)
            );
        }
        if let Some(args) = args.redirect {
            return Ok(Some(Handler::Redirect(self.redirect(args.as_ref(), of)?)));
        }
        if let Some(args) = args.respond {
            return Ok(Some(Handler::Fixed(self.fixed(args.as_ref())?)));
        }
        let fastcgi = args.fastcgi.map(|args| self.fastcgi(args.as_ref()));
        Ok(fastcgi.transpose()?.map(Handler::FastCgi))
    }
}
