//! What differs between two configurations, by key. The settings are taken apart without
//! `..`: the compiler refuses a new setting that this list does not know.

use super::{Serving, Settings};

/// The keys in which a configuration differs from the one in force.
#[derive(Debug, PartialEq, Eq)]
pub struct Changes {
    /// A running server cannot change these.
    pub fixed: Vec<&'static str>,
    /// A reload changes these.
    pub live: Vec<&'static str>,
}

impl Changes {
    /// From `old` to `new`.
    pub fn between(old: &Settings, new: &Settings) -> Self {
        let Settings {
            listen,
            workers,
            policy,
            // How the policy and the user came about, not what they are.
            policy_is_explicit: _,
            user_is_explicit: _,
            backlog,
            fast_open,
            v6_only,
            bpf,
            // A flag only, and so the same for as long as the server runs.
            join: _,
            control,
            grace,
            upgrade_within,
            hang_after,
            hang_kill,
            user,
            log_json,
            serving,
        } = old;
        let Serving {
            accept,
            root,
            dotfiles,
            types,
            synthetic,
            worker_header,
            limits,
        } = serving;
        Self {
            fixed: differing([
                ("listen", *listen != new.listen),
                ("accept", *accept != new.serving.accept),
                ("backlog", *backlog != new.backlog),
                ("fast-open", *fast_open != new.fast_open),
                ("v6-only", *v6_only != new.v6_only),
                ("no-bpf", *bpf != new.bpf),
                ("control", *control != new.control),
                ("user", *user != new.user),
                ("log", *log_json != new.log_json),
            ]),
            live: differing([
                ("workers", *workers != new.workers),
                ("policy", *policy != new.policy),
                ("root", *root != new.serving.root),
                ("dotfiles", *dotfiles != new.serving.dotfiles),
                ("types", *types != new.serving.types),
                ("synthetic", *synthetic != new.serving.synthetic),
                ("worker-header", *worker_header != new.serving.worker_header),
                ("limits", *limits != new.serving.limits),
                ("grace", *grace != new.grace),
                ("upgrade-within", *upgrade_within != new.upgrade_within),
                ("hang-after", *hang_after != new.hang_after),
                ("hang-kill", *hang_kill != new.hang_kill),
            ]),
        }
    }
}

fn differing<const N: usize>(keys: [(&'static str, bool); N]) -> Vec<&'static str> {
    let differing = keys.into_iter().filter(|(_, differs)| *differs);
    differing.map(|(key, _)| key).collect()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::serve::config::args::ServeArgs;
    use crate::serve::config::settings;

    #[test]
    fn each_key_is_named_and_told_apart() {
        let old = settings(&ServeArgs::default()).unwrap();
        let mut new = old.clone();
        new.upgrade_within += Duration::from_secs(1);
        new.serving.limits.body_bytes += 1;
        new.backlog += 1;
        let expected = Changes {
            fixed: vec!["backlog"],
            live: vec!["limits", "upgrade-within"],
        };
        assert_eq!(Changes::between(&old, &new), expected);
    }
}
