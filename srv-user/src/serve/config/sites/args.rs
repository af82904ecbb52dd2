//! The tables `[[site]]` and `[[site.route]]` as the file has them, each value with its position.
//! What the values mean is in `super::settle`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use toml::Spanned;

/// A text with its position.
pub(crate) type Text = Spanned<String>;
/// A table of texts.
pub(crate) type Texts = BTreeMap<Text, Text>;

/// Declares a table: its own keys, and those that sites and routes have in common.
macro_rules! tables {
    ($(
        $(#[$about:meta])*
        $name:ident { $($(#[$attribute:meta])* $own:ident: $own_type:ty,)* }
    )*) => {$(
        tables! {
            @table
            $(#[$about])*
            $name { $($(#[$attribute])* $own: $own_type,)* }
            common {
                /// The folder to serve.
                root: Option<Spanned<PathBuf>>,
                /// The files that a folder is answered with.
                index: Option<Spanned<Vec<Text>>>,
                /// What is tried for a path, in this order.
                try_files: Option<Spanned<Vec<Text>>>,
                /// What is served if there is no file.
                fallback: Option<Text>,
                /// Whether names that begin with a dot are served.
                dotfiles: Option<bool>,
                /// Media types by extension.
                types: Option<Texts>,
                /// The charset of texts.
                charset: Option<Text>,
                /// Codings of files that lie beside the files.
                precompressed: Option<Vec<Text>>,
                /// `Cache-Control` by pattern.
                cache_control: Option<Texts>,
                /// Pages by status.
                error_pages: Option<Texts>,
                /// Changes of response headers.
                headers: Option<HeaderArgs>,
                /// Answers with a redirect.
                redirect: Option<Spanned<RedirectArgs>>,
                /// Answers with a status and a text.
                respond: Option<Spanned<RespondArgs>>,
            }
        }
    )*};
    (
        @table
        $(#[$about:meta])*
        $name:ident { $($(#[$attribute:meta])* $own:ident: $own_type:ty,)* }
        common { $($(#[$doc:meta])* $key:ident: $type:ty,)* }
    ) => {
        $(#[$about])*
        #[derive(Clone, Debug, Default, PartialEq, Deserialize)]
        #[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
        pub struct $name {
            $($(#[$attribute])* pub(crate) $own: $own_type,)*
            $($(#[$doc])* pub(crate) $key: $type,)*
        }

        impl $name {
            /// The keys that sites and routes have in common.
            pub(super) fn place(&self) -> PlaceArgs<'_> {
                PlaceArgs { $($key: self.$key.as_ref(),)* }
            }
        }
    };
}

tables! {
    /// One `[[site]]`.
    SiteArgs {
        /// The hosts of the site.
        hosts: Option<Spanned<Vec<Text>>>,
        /// Whether the site answers requests for hosts that no site has.
        default: Option<Spanned<bool>>,
        /// The listeners where the site answers.
        listen: Option<Spanned<Vec<Text>>>,
        /// The certificate of the site.
        tls: Option<Spanned<TlsArgs>>,
        /// The routes.
        route: Vec<Spanned<RouteArgs>>,
    }

    /// One `[[site.route]]`.
    RouteArgs {
        /// This path.
        exact: Option<Text>,
        /// This path and what is beneath it.
        prefix: Option<Text>,
        /// Paths that end in this.
        suffix: Option<Text>,
    }
}

/// The keys that sites and routes have in common.
pub(super) struct PlaceArgs<'a> {
    pub(super) root: Option<&'a Spanned<PathBuf>>,
    pub(super) index: Option<&'a Spanned<Vec<Text>>>,
    pub(super) try_files: Option<&'a Spanned<Vec<Text>>>,
    pub(super) fallback: Option<&'a Text>,
    pub(super) dotfiles: Option<&'a bool>,
    pub(super) types: Option<&'a Texts>,
    pub(super) charset: Option<&'a Text>,
    pub(super) precompressed: Option<&'a Vec<Text>>,
    pub(super) cache_control: Option<&'a Texts>,
    pub(super) error_pages: Option<&'a Texts>,
    pub(super) headers: Option<&'a HeaderArgs>,
    pub(super) redirect: Option<&'a Spanned<RedirectArgs>>,
    pub(super) respond: Option<&'a Spanned<RespondArgs>>,
}

/// `headers`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct HeaderArgs {
    /// The usual security headers.
    pub(super) security: bool,
    /// Headers that a response does not have.
    pub(super) remove: Vec<Text>,
    /// Headers that a response has with this value alone.
    pub(super) set: Texts,
    /// Headers that a response has with this value, too.
    pub(super) add: Texts,
}

/// `tls`.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct TlsArgs {
    /// The file of the certificate.
    pub(super) certificate: Spanned<PathBuf>,
    /// The file of its key.
    pub(super) key: Spanned<PathBuf>,
}

/// `redirect`.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct RedirectArgs {
    /// Where to.
    pub(super) to: Text,
    /// The status.
    pub(super) status: Option<Spanned<u16>>,
    /// What of the request's path follows `to`.
    pub(super) path: Option<Text>,
    /// Whether the request's query is kept.
    pub(super) query: Option<bool>,
}

/// `respond`.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct RespondArgs {
    /// The status.
    pub(super) status: Spanned<u16>,
    /// The body.
    pub(super) body: Option<Text>,
    /// The media type of the body.
    #[serde(rename = "type")]
    pub(super) media: Option<Text>,
}

impl SiteArgs {
    /// Makes the paths, which are relative to this folder, relative to the current directory, or
    /// absolute.
    pub(crate) fn relative_to(&mut self, folder: &Path) {
        let routes = self.route.iter_mut();
        let roots = routes.map(|route| &mut route.as_mut().root);
        for root in std::iter::once(&mut self.root).chain(roots).flatten() {
            *root.as_mut() = folder.join(root.as_ref());
        }
        if let Some(tls) = &mut self.tls {
            let tls = tls.as_mut();
            for path in [&mut tls.certificate, &mut tls.key] {
                *path.as_mut() = folder.join(path.as_ref());
            }
        }
    }
}
