//! The user that workers run as: finds it by its name, and changes a process to it.

use std::fs;
use std::str::FromStr;

use anyhow::{Context, ensure};
use rustix::io::Errno;
use rustix::process::{Gid, Uid, getgid, getgroups, getuid};
use rustix::thread::{set_thread_groups, set_thread_res_gid, set_thread_res_uid};
use serde::{Deserialize, Serialize};

/// The user that owns no files. Its numbers hold even if `/etc/passwd` does not exist, as in
/// an image that holds one binary.
const NOBODY: User = User {
    uid: 65_534,
    gid: 65_534,
};

/// A user with its group, by number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct User {
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
}

impl User {
    /// The user `nobody`.
    pub fn nobody() -> Self {
        let passwd = fs::read_to_string(PASSWD).unwrap_or_default();
        in_passwd(&passwd, "nobody").unwrap_or(NOBODY)
    }

    /// The user that `name` means: a name in `/etc/passwd`, a number, or `UID:GID`. A number
    /// alone gets the group of that user in `/etc/passwd`; if there is no such user, the group
    /// has the same number.
    ///
    /// # Errors
    /// There is no user with this name.
    pub fn named(name: &str) -> anyhow::Result<Self> {
        let passwd = fs::read_to_string(PASSWD).unwrap_or_default();
        if let Some(user) = in_passwd(&passwd, name) {
            return Ok(user);
        }
        if let Ok(user) = name.parse() {
            return Ok(user);
        }
        ensure!(
            name == "nobody",
            "there is no user {name} in {PASSWD}: pass UID or UID:GID, which need no entry there"
        );
        Ok(NOBODY)
    }

    /// Changes this thread to this user for good, without any other group. It changes this
    /// thread only, so the process must have no other thread.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn become_it(self) -> anyhow::Result<()> {
        let (uid, gid) = (Uid::from_raw(self.uid), Gid::from_raw(self.gid));
        let change = || {
            match set_thread_groups(&[]) {
                Err(Errno::PERM) if getgroups()?.iter().all(|group| *group == gid) => {}
                changed => changed?,
            }
            set_thread_res_gid(gid, gid, gid)?;
            set_thread_res_uid(uid, uid, uid)
        };
        change().with_context(|| {
            format!(
                "become user {} of group {} (needs CAP_SETUID and CAP_SETGID, and both numbers \
                 in this user namespace)",
                self.uid, self.gid
            )
        })
    }

    /// Whether this process is this user.
    pub fn is_current(self) -> bool {
        (getuid().as_raw(), getgid().as_raw()) == (self.uid, self.gid)
    }
}

/// Reads `UID` or `UID:GID`.
impl FromStr for User {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> anyhow::Result<Self> {
        let (uid, gid) = text.split_once(':').unwrap_or((text, text));
        let (uid, gid) = (uid.parse()?, gid.parse()?);
        ensure!(
            uid != u32::MAX && gid != u32::MAX,
            "4294967295 (-1) is not a user or group id: pass a lower number"
        );
        Ok(Self { uid, gid })
    }
}

const PASSWD: &str = "/etc/passwd";

/// The user with that name or number. srv reads the file itself: the C library's lookup needs
/// shared libraries for its other sources, and a static binary has none.
fn in_passwd(passwd: &str, name: &str) -> Option<User> {
    passwd.lines().find_map(|line| {
        let mut fields = line.split(':');
        let known = fields.next()?;
        let (uid, gid) = (fields.nth(1)?, fields.next()?);
        let is_it = known == name || uid == name;
        is_it.then_some(User {
            uid: uid.parse().ok()?,
            gid: gid.parse().ok()?,
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOME: &str = "root:x:0:0:root:/root:/bin/bash\nwww:x:33:34:www:/:/bin/false\n";

    #[test]
    fn users_are_found_by_name_and_by_number() {
        let www = Some(User { uid: 33, gid: 34 });
        assert_eq!(in_passwd(SOME, "www"), www);
        assert_eq!(in_passwd(SOME, "33"), www);
        assert_eq!(in_passwd(SOME, "x"), None);
        assert_eq!(in_passwd("no passwd file", "www"), None);
    }

    #[test]
    fn numbers_need_no_file() {
        assert_eq!("7".parse::<User>().unwrap(), User { uid: 7, gid: 7 });
        assert_eq!("7:8".parse::<User>().unwrap(), User { uid: 7, gid: 8 });
        for nonsense in ["", "7:", ":8", "-1", "4294967295", "7:8:9"] {
            assert!(nonsense.parse::<User>().is_err(), "{nonsense}");
        }
    }

    #[test]
    fn an_unknown_name_is_told_what_does_without_one() {
        let refusal = User::named("srv-no-such-user").unwrap_err().to_string();
        assert!(refusal.contains("UID:GID"), "{refusal}");
    }
}
