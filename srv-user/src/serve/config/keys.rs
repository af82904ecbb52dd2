//! How a key is declared: the macro [`keys`], and [`Said`], from which a key's rule makes its
//! value. This module knows no key.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Result;

/// What a reload does if a key has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reload {
    /// The reload takes over the new value.
    Live,
    /// The reload is refused: a running server cannot change this key.
    Fixed,
    /// The reload ignores it: only a flag sets the field, or it says how the value of a key came
    /// about.
    Unlisted,
}

/// Declares [`ServeArgs`](super::args::ServeArgs), [`Settings`](super::Settings) and
/// [`Serving`](super::Serving) together. A key is one entry:
///
/// ```text
/// /// Its help, with [default: …]
/// #[arg(…)] #[serde(…)]
/// KEY: TYPE                                    the flag, and the key of the file
///     => Settings.FIELD: TYPE = RULE, RELOAD   what follows from it, if the master needs it
///     => Serving.FIELD: TYPE = RULE, RELOAD;   what follows from it, if workers need it
/// ```
///
/// `RULE` makes the value of the field from what was [`Said`] and from the fields of other
/// keys. The usual rule is [`or`]. `RELOAD` is a variant of [`Reload`].
macro_rules! keys {
    (
        $(#[$($args_attribute:tt)*])*
        pub struct ServeArgs {$(
            $(#[$($attribute:tt)*])*
            $key:ident: $type:ty
            $(=> Settings.$setting:ident: $set:ty = $rule:expr, $reload:ident)*
            $(=> Serving.$serving:ident: $served:ty = $serving_rule:expr, $serving_reload:ident)*;
        )*}
    ) => {
        $(#[$($args_attribute)*])*
        pub struct ServeArgs {
            $($(#[$($attribute)*])* pub $key: $type,)*
        }

        /// All settings of `srv serve`, with the defaults.
        #[derive(Clone, Debug)]
        pub struct Settings {
            $($(
                #[doc = concat!("What follows from [`ServeArgs::", stringify!($key), "`].")]
                pub $setting: $set,
            )*)*
            /// What the workers need to know.
            pub serving: Serving,
            /// Where the file has the keys that no flag overrules.
            pub places: Places,
        }

        /// The settings that the master sends to a worker over its channel.
        #[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
        pub struct Serving {
            $($(
                #[doc = concat!("What follows from [`ServeArgs::", stringify!($key), "`].")]
                pub $serving: $served,
            )*)*
        }

        impl Asked<'_> {
            /// Applies the rules of all keys.
            pub(crate) fn settle(&self) -> Result<Settings> {
                let mut places = self.places.clone();
                $(
                    if self.said(stringify!($key), |args| &args.$key).is_flag() {
                        places.forget(stringify!($key));
                    }
                )*
                Ok(Settings {
                    $($($setting: self.$setting()?,)*)*
                    serving: Serving { $($($serving: self.$serving()?,)*)* },
                    places,
                })
            }

            $($(
                fn $setting(&self) -> Result<$set> {
                    self.said(stringify!($key), |args| &args.$key).settle(self, $rule)
                }
            )*
            $(
                fn $serving(&self) -> Result<$served> {
                    self.said(stringify!($key), |args| &args.$key).settle(self, $serving_rule)
                }
            )*)*
        }

        impl Settings {
            /// For each field: its key, what a reload does, and whether `next` has another value.
            pub(super) fn compared(&self, next: &Self) -> Vec<(String, Reload, bool)> {
                let (old, new) = (&self.serving, &next.serving);
                vec![$(
                    $((
                        name(stringify!($key)),
                        Reload::$reload,
                        self.$setting != next.$setting,
                    ),)*
                    $((
                        name(stringify!($key)),
                        Reload::$serving_reload,
                        old.$serving != new.$serving,
                    ),)*
                )*]
            }
        }
    };
}

pub(super) use keys;

/// A key as users write it, from the name of its field.
pub(super) fn name(field: &str) -> String {
    field.replace('_', "-")
}

/// What flag and file say about one key. `T` is the type that its flag has.
pub(super) struct Said<'a, T> {
    field: &'static str,
    by_flag: &'a T,
    in_file: &'a T,
    places: &'a Places,
}

impl<'a, T: Default + PartialEq> Said<'a, T> {
    /// `field` names the field of a key.
    pub(super) fn new(
        field: &'static str,
        by_flag: &'a T,
        in_file: &'a T,
        places: &'a Places,
    ) -> Self {
        Self {
            field,
            by_flag,
            in_file,
            places,
        }
    }

    /// The flag.
    pub(super) fn by_flag(&self) -> &'a T {
        self.by_flag
    }

    /// The key of the file.
    pub(super) fn in_file(&self) -> &'a T {
        self.in_file
    }

    /// Whether the flag was given.
    pub(super) fn is_flag(&self) -> bool {
        *self.by_flag != T::default()
    }

    /// How an error names the key: by its flag, or by file, line and key.
    pub(super) fn place(&self) -> String {
        let key = name(self.field);
        match self.is_flag() {
            true => format!("--{key}"),
            false => self.places.of(&key),
        }
    }

    /// The value that `rule` makes of this and of the other keys in `asked`.
    ///
    /// # Errors
    /// If the rule refuses it.
    pub(super) fn settle<A, S>(
        &self,
        asked: &A,
        rule: impl FnOnce(&Self, &A) -> Result<S>,
    ) -> Result<S> {
        rule(self, asked)
    }
}

impl<T: Clone> Said<'_, Option<T>> {
    /// The flag's value, or, if there is none, the file's.
    pub(super) fn value(&self) -> Option<T> {
        self.by_flag.as_ref().or(self.in_file.as_ref()).cloned()
    }
}

/// The usual rule: the value that flag or file have, or this default.
pub(super) fn or<T: Clone + Into<S>, S, A>(
    default: S,
) -> impl FnOnce(&Said<'_, Option<T>>, &A) -> Result<S> {
    move |said, _| Ok(said.value().map_or(default, Into::into))
}

/// The rule of a field that says whether its key was set, by flag or file.
///
/// # Errors
/// None.
pub(super) fn is_said<T: Clone, A>(said: &Said<'_, Option<T>>, _: &A) -> Result<bool> {
    Ok(said.value().is_some())
}

/// Where a file has its keys, for messages.
#[derive(Clone, Debug, Default)]
pub struct Places {
    /// The file.
    pub file: PathBuf,
    /// Its text.
    pub(super) text: Arc<str>,
    /// Where each top-level key begins, bytes from the start of the text.
    pub(super) offsets: BTreeMap<String, usize>,
}

impl Places {
    /// How a message names a key: by file, line, column and key, or, if the file does not have it,
    /// by its flag.
    pub fn of(&self, key: &str) -> String {
        match self.offsets.get(key) {
            Some(offset) => format!("{}: {key}", self.at(*offset)),
            None => format!("--{key}"),
        }
    }

    /// File, line and column of a byte of the text. Lines and characters are counted from 1.
    pub fn at(&self, offset: usize) -> String {
        let bytes = self.text.as_bytes();
        let before = &bytes[..offset.min(bytes.len())];
        let line = 1 + before.iter().filter(|byte| **byte == b'\n').count();
        let start = before.iter().rposition(|byte| *byte == b'\n');
        let of_line = &before[start.map_or(0, |newline| newline + 1)..];
        let column = 1 + String::from_utf8_lossy(of_line).chars().count();
        format!("{}:{line}:{column}", self.file.display())
    }

    /// Forgets the key of this field, since a flag overrules it.
    pub fn forget(&mut self, field: &str) {
        self.offsets.remove(&name(field));
    }
}
