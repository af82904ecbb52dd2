//! Files of users and hashed passwords, as `htpasswd -B` and `openssl passwd -6` make them. The
//! master reads them; workers get what they say.

use std::collections::BTreeSet;
use std::fmt;
use std::fs::File;
use std::io::Read;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use serde::{Deserialize, Serialize};
use sha_crypt::{PasswordVerifier, ShaCrypt};

/// The largest file, bytes. Its content goes to each worker.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// The most work for one password: 2 to the power of this for bcrypt. A worker does nothing else
/// meanwhile, for about 100 ms.
const BCRYPT_COST_MAX: u32 = 10;
/// The same for SHA-crypt: how often it hashes.
const SHA_ROUNDS_MAX: u32 = 100_000;

/// A user.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct User {
    /// The name.
    pub name: String,
    /// The password.
    pub hash: PasswordHash,
}

/// A hashed password. It is in no log line.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PasswordHash(String);

impl fmt::Debug for PasswordHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PasswordHash")
    }
}

impl PasswordHash {
    fn new(text: &str) -> Result<Self> {
        let how = "make one by `htpasswd -B -C 10` or `openssl passwd -6`";
        let (scheme, rest) = text
            .strip_prefix('$')
            .and_then(|text| text.split_once('$'))
            .unwrap_or_default();
        match scheme {
            "2a" | "2b" | "2y" => {
                let parts: bcrypt::HashParts = text.parse().ok().with_context(|| {
                    format!("found a bcrypt hash that is not well formed, expected one: {how}")
                })?;
                let cost = parts.get_cost();
                ensure!(
                    cost <= BCRYPT_COST_MAX,
                    "found a bcrypt hash of cost {cost}, expected {BCRYPT_COST_MAX} at most, since \
                     a worker does nothing else meanwhile: {how}"
                );
            }
            "5" | "6" => {
                let rounds = rest
                    .strip_prefix("rounds=")
                    .and_then(|rest| rest.split_once('$'));
                let rounds = rounds.map_or(Ok(5000), |(rounds, _)| rounds.parse::<u32>());
                ensure!(
                    rounds.is_ok_and(|rounds| (1000..=SHA_ROUNDS_MAX).contains(&rounds)),
                    "found a SHA-crypt hash with other rounds, expected 1000 to {SHA_ROUNDS_MAX}, \
                     since a worker does nothing else meanwhile: {how}"
                );
                use sha_crypt::password_hash::Error;
                let tried = ShaCrypt::default().verify_password(b"", text);
                ensure!(
                    matches!(tried, Ok(()) | Err(Error::PasswordInvalid)),
                    "found a SHA-crypt hash that is not well formed, expected one: {how}"
                );
            }
            _ => bail!("found a password that is hashed neither by bcrypt nor by SHA-crypt: {how}"),
        }
        Ok(Self(text.to_owned()))
    }

    /// Whether this is the hash of `password`. It takes up to 100 ms, and compares in constant time.
    pub fn is_of(&self, password: &[u8]) -> bool {
        match self.0.starts_with("$2") {
            true => bcrypt::verify(password, &self.0).unwrap_or(false),
            false => ShaCrypt::default()
                .verify_password(password, self.0.as_str())
                .is_ok(),
        }
    }
}

/// Reads a file of users: a line `NAME:HASH` for each, empty lines and lines that begin with `#`.
///
/// # Errors
/// What cannot be read, or the line that says something else. It does not repeat a hash.
pub(in crate::serve) fn read(path: &Path) -> Result<Vec<User>> {
    let mut text = String::new();
    let file = File::open(path).context("open the file")?;
    file.take(FILE_BYTES_MAX + 1)
        .read_to_string(&mut text)
        .context("read the file")?;
    ensure!(
        text.len() as u64 <= FILE_BYTES_MAX,
        "found a file of more than {FILE_BYTES_MAX} bytes, expected fewer users"
    );
    let mut users = Vec::new();
    let mut names = BTreeSet::new();
    for (nth, line) in text.lines().enumerate() {
        if line.trim().is_empty() || line.starts_with('#') {
            continue;
        }
        let user = user(line).with_context(|| format!("line {}", nth + 1))?;
        ensure!(
            names.insert(user.name.clone()),
            "line {}: found a user who is there already, expected each once",
            nth + 1
        );
        users.push(user);
    }
    ensure!(!users.is_empty(), "found no user, expected lines NAME:HASH");
    Ok(users)
}

fn user(line: &str) -> Result<User> {
    let (name, hash) = line
        .split_once(':')
        .context("found no colon, expected NAME:HASH")?;
    ensure!(!name.is_empty(), "found no name, expected NAME:HASH");
    Ok(User {
        name: name.to_owned(),
        hash: PasswordHash::new(hash.trim_end())?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of the password `secret`, by `htpasswd -nbB -C 4` and `openssl passwd`.
    const GOOD: &str = "# users\n\
        a:$2y$04$qNDqPbcfxMQb5k8dRAbPn.p6IhZvxyYRDRvB8l6IFCik0Pi2U0ozm\n\n\
        b:$6$xsalt$Q3ysJYLNJjQ2usRSE1x37gJJ9.ZUNSWvvmO1Ph2SiOoyvNRsEb3N/fr4TFn1ncYLuzEi2faSOBSWq9xW65WXv.\n\
        c:$5$xsalt$Dy.IpmrkNE/dmz218jEYb2An35C9KIvCDp3ma4O25H2\n";

    fn read_text(text: &str) -> Result<Vec<User>> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        read(file.path())
    }

    #[test]
    fn what_is_refused_names_its_line_and_no_hash() {
        for (text, why) in [
            ("", "found no user"),
            ("a\n", "line 1: found no colon"),
            ("#\n:x", "line 2: found no name"),
            (
                "a:secret",
                "line 1: found a password that is hashed neither",
            ),
            (
                "a:{SHA}secret",
                "line 1: found a password that is hashed neither",
            ),
            ("a:$2y$04$secret", "line 1: found a bcrypt hash that is not"),
            (
                "a:$2y$11$qNDqPbcfxMQb5k8dRAbPn.p6IhZvxyYRDRvB8l6IFCik0Pi2U0ozm",
                "line 1: found a bcrypt hash of cost 11",
            ),
            ("a:$6$secret", "line 1: found a SHA-crypt hash that is not"),
            (
                "a:$6$rounds=100001$x$secret",
                "line 1: found a SHA-crypt hash with",
            ),
        ] {
            let error = format!("{:#}", read_text(text).unwrap_err());
            assert!(error.starts_with(why), "{text}: {error}");
            assert!(!error.contains("secret"), "{error}");
        }
        let twice = GOOD.replace("b:", "a:");
        let error = format!("{:#}", read_text(&twice).unwrap_err());
        assert!(error.starts_with("line 4: found a user who"), "{error}");
    }

    #[test]
    fn passwords_are_verified() {
        for user in read_text(GOOD).unwrap() {
            assert!(user.hash.is_of(b"secret"), "{}", user.name);
            for other in ["", "Secret", "secret "] {
                assert!(!user.hash.is_of(other.as_bytes()), "{}", user.name);
            }
            assert!(!format!("{user:?}").contains('$'));
        }
    }
}
