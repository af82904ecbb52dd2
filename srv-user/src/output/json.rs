//! The envelope of what `--json` prints: which shape the fields have, and when they
//! were so. The fields themselves are each command's.

use std::time::SystemTime;

use serde::{Deserialize, Serialize};

/// Version of the fields of all commands together. It changes when a field is removed,
/// renamed, or means something else; a new field does not change it.
pub const SCHEMA: u32 = 1;

/// One answer.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Envelope<T> {
    /// [`SCHEMA`].
    pub schema: u32,
    /// When the answer was made: RFC 3339, UTC, with milliseconds.
    pub time: String,
    /// The command's own fields, beside these two.
    #[serde(flatten)]
    pub body: T,
}

impl<T> Envelope<T> {
    /// `body`, as it is now.
    pub fn now(body: T) -> Self {
        Self {
            schema: SCHEMA,
            time: humantime::format_rfc3339_millis(SystemTime::now()).to_string(),
            body,
        }
    }
}

/// Prints one answer, indented for people.
///
/// # Errors
/// `body` is nothing that JSON can say.
pub fn print(body: impl Serialize) -> anyhow::Result<()> {
    crate::println!("{}", serde_json::to_string_pretty(&Envelope::now(body))?);
    Ok(())
}

/// Prints one answer on a line of its own, for a stream of answers.
///
/// # Errors
/// As [`print()`].
pub fn print_line(body: impl Serialize) -> anyhow::Result<()> {
    crate::println!("{}", serde_json::to_string(&Envelope::now(body))?);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fields_lie_beside_schema_and_time() {
        #[derive(Serialize)]
        struct Body {
            sockets: Vec<u32>,
        }
        let body = Body { sockets: vec![7] };
        let value = serde_json::to_value(Envelope::now(body)).unwrap();
        assert_eq!(value["schema"], SCHEMA);
        assert_eq!(value["sockets"], serde_json::json!([7]));
        let time = value["time"].as_str().unwrap();
        assert!(humantime::parse_rfc3339(time).is_ok(), "{time}");
    }
}
