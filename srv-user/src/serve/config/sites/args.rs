//! The tables `[[site]]` and `[[site.route]]` as the file has them, each value with its position.
//! What the values mean is in `super::settle`.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde::de::value::MapAccessDeserializer;
use serde::de::{self, Deserializer, MapAccess, Visitor};
use toml::Spanned;

use super::values::TextBytes;
use crate::values::{Bytes, Count, scalar};
use access_log::AccessLogSwitch;
use fastcgi::FastCgiArgs;

pub(in crate::serve::config::sites) mod access_log;
pub(in crate::serve::config::sites) mod fastcgi;

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
                /// How texts are compressed.
                compress: Option<CompressArgs>,
                /// `Cache-Control` by pattern.
                cache_control: Option<Texts>,
                /// Pages by status.
                error_pages: Option<Texts>,
                /// Changes of response headers.
                headers: Option<HeaderArgs>,
                /// Addresses of the clients that are answered.
                allow: Option<Vec<Text>>,
                /// Addresses of clients that are refused.
                deny: Option<Vec<Text>>,
                /// Users and passwords, or `false`: none.
                auth: Option<AuthSwitch>,
                /// Where requests are logged, or `false`: nowhere.
                access_log: Option<Spanned<AccessLogSwitch>>,
                /// How many requests a client may make.
                rate: Option<RateArgs>,
                /// The limits that are other ones here.
                limits: Option<PlaceLimits>,
                /// Answers with a redirect.
                redirect: Option<Spanned<RedirectArgs>>,
                /// Answers with a status and a text.
                respond: Option<Spanned<RespondArgs>>,
                /// Answers by a script of a FastCGI application.
                fastcgi: Option<Spanned<FastCgiArgs>>,
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
    pub(super) compress: Option<&'a CompressArgs>,
    pub(super) cache_control: Option<&'a Texts>,
    pub(super) error_pages: Option<&'a Texts>,
    pub(super) headers: Option<&'a HeaderArgs>,
    pub(super) allow: Option<&'a Vec<Text>>,
    pub(super) deny: Option<&'a Vec<Text>>,
    pub(super) auth: Option<&'a AuthSwitch>,
    pub(super) access_log: Option<&'a Spanned<AccessLogSwitch>>,
    pub(super) rate: Option<&'a RateArgs>,
    pub(super) limits: Option<&'a PlaceLimits>,
    pub(super) redirect: Option<&'a Spanned<RedirectArgs>>,
    pub(super) respond: Option<&'a Spanned<RespondArgs>>,
    pub(super) fastcgi: Option<&'a Spanned<FastCgiArgs>>,
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
    /// The file with the authorities of clients.
    pub(super) client_ca: Option<Spanned<PathBuf>>,
    /// Whether a client needs a certificate.
    pub(super) client_certificate: Option<Text>,
}

/// `compress`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct CompressArgs {
    /// The codings, the preferred one first.
    pub(super) codings: Option<Vec<Text>>,
    /// The smallest text that is compressed.
    #[serde(deserialize_with = "scalar")]
    pub(super) min_bytes: Option<TextBytes>,
    /// The largest one.
    #[serde(deserialize_with = "scalar")]
    pub(super) max_bytes: Option<TextBytes>,
    /// From fast to small.
    #[serde(deserialize_with = "scalar")]
    pub(super) level: Option<Count<1, 9>>,
}

/// `auth`.
#[derive(Clone, Debug, PartialEq)]
pub enum AuthSwitch {
    /// `false`: a route asks for no password, although its site does.
    Off,
    /// A table.
    On(AuthArgs),
}

/// The table `auth`.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct AuthArgs {
    /// What a browser shows beside the question for the password.
    pub(super) realm: Text,
    /// The file of users.
    pub(super) users: Spanned<PathBuf>,
}

impl<'de> Deserialize<'de> for AuthSwitch {
    fn deserialize<D: Deserializer<'de>>(file: D) -> Result<Self, D::Error> {
        file.deserialize_any(AuthVisitor)
    }
}

struct AuthVisitor;

impl<'de> Visitor<'de> for AuthVisitor {
    type Value = AuthSwitch;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("false, or a table with the keys realm and users")
    }

    fn visit_bool<E: de::Error>(self, is_on: bool) -> Result<AuthSwitch, E> {
        match is_on {
            false => Ok(AuthSwitch::Off),
            true => Err(E::invalid_value(de::Unexpected::Bool(true), &self)),
        }
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<AuthSwitch, A::Error> {
        AuthArgs::deserialize(MapAccessDeserializer::new(map)).map(AuthSwitch::On)
    }
}

/// `rate`.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct RateArgs {
    /// In the long run.
    #[serde(deserialize_with = "scalar")]
    pub(super) per_second: Option<Count<1, 1_000_000>>,
    /// At once.
    #[serde(default, deserialize_with = "scalar")]
    pub(super) burst: Option<Count<1, 1_000_000>>,
}

/// `limits`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct PlaceLimits {
    /// The largest request body.
    #[serde(deserialize_with = "scalar")]
    pub(super) body_bytes: Option<Bytes<0>>,
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
            let own = [&mut tls.certificate, &mut tls.key].into_iter();
            for path in own.chain(&mut tls.client_ca) {
                *path.as_mut() = folder.join(path.as_ref());
            }
        }
        let routes = self.route.iter_mut();
        let logs = routes.map(|route| &mut route.as_mut().access_log);
        for log in std::iter::once(&mut self.access_log).chain(logs).flatten() {
            log.as_mut().relative_to(folder);
        }
        let routes = self.route.iter_mut();
        let auths = routes.map(|route| &mut route.as_mut().auth);
        for auth in std::iter::once(&mut self.auth).chain(auths).flatten() {
            if let AuthSwitch::On(AuthArgs { users, .. }) = auth {
                *users.as_mut() = folder.join(users.as_ref());
            }
        }
    }
}
