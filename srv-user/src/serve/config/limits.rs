//! The limits: their flags, the file's table `[limits]`, and what follows from both. A limit is
//! one entry here. A reload can change each of them.

use std::time::Duration;

use clap::Args;
use serde::{Deserialize, Serialize};

use crate::values::{Bytes, Count, Period, scalar};

/// The smallest read buffer that hyper accepts.
pub const HEADER_BYTES_MIN: u64 = 8 << 10;

/// Declares [`LimitArgs`] and [`Limits`] together. A limit is one entry: its help,
/// `KEY: TYPE OF THE FLAG => TYPE OF THE LIMIT = DEFAULT;`.
macro_rules! limits {
    ($(
        $(#[$($attribute:tt)*])*
        $key:ident: $said:ty => $limit:ty = $default:expr;
    )*) => {
        /// The flags that are limits, which are also the file's `[limits]` table. `None`: the
        /// limit is not set.
        #[derive(Debug, Default, PartialEq, Args, Deserialize)]
        #[serde(
            default,
            deny_unknown_fields,
            rename_all = "kebab-case",
            expecting = "a table of limits"
        )]
        #[command(next_help_heading = "Limits (in the file: table [limits])")]
        pub struct LimitArgs {
            $(
                $(#[$($attribute)*])*
                #[serde(deserialize_with = "scalar")]
                pub $key: Option<$said>,
            )*
        }

        /// Bounds on what a client may do.
        #[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
        pub struct Limits {
            $(
                #[doc = concat!("See [`LimitArgs::", stringify!($key), "`].")]
                pub $key: $limit,
            )*
        }

        impl Default for Limits {
            fn default() -> Self {
                Self { $($key: $default,)* }
            }
        }

        impl Limits {
            /// Each flag overrules the file, and the file overrules the default.
            pub(super) fn settle(by_flag: &LimitArgs, in_file: &LimitArgs) -> Self {
                let default = Self::default();
                Self {
                    $($key: by_flag.$key.or(in_file.$key).map_or(default.$key, Into::into),)*
                }
            }
        }
    };
}

limits! {
    /// Largest request line and header together, at least 8KiB; srv also refuses more than
    /// 100 header lines [default: 16KiB]
    #[arg(long, value_name = "BYTES")]
    header_bytes: Bytes<HEADER_BYTES_MIN> => usize = 16 << 10;

    /// Largest request body [default: 1MiB]
    #[arg(long, value_name = "BYTES")]
    body_bytes: Bytes<0> => u64 = 1 << 20;

    /// Most open connections per worker [default: 16384]
    #[arg(long, value_name = "N")]
    connections: Count<1, { i32::MAX as u32 }> => u32 = 16 << 10;

    /// Most requests at a time on one HTTP/2 connection [default: 128]
    #[arg(long, value_name = "N")]
    streams: Count<1, 1000> => u32 = 128;

    /// Longest time from the accept, or from a request's first byte, to the end of its header
    /// [default: 10s]
    #[arg(long, value_name = "TIME")]
    header_timeout: Period<1> => Duration = Duration::from_secs(10);

    /// Longest time between two reads of a request body [default: 30s]
    #[arg(long, value_name = "TIME")]
    read_timeout: Period<1> => Duration = Duration::from_secs(30);

    /// Longest time between two requests on one connection [default: 75s]
    #[arg(long, value_name = "TIME")]
    idle_timeout: Period<1> => Duration = Duration::from_secs(75);

    /// Longest time in which the client receives no byte of a response [default: 30s]
    #[arg(long, value_name = "TIME")]
    write_timeout: Period<1> => Duration = Duration::from_secs(30);

    /// How old an HTTP/2 connection becomes, up to a tenth more or less. srv then asks the client
    /// to end it, so that its next one goes to the worker that can serve it soonest [default: 1h]
    #[arg(long, value_name = "TIME")]
    connection_age: Period<1> => Duration = Duration::from_secs(3600);
}
