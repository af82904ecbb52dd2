//! The keys in which two configurations differ, and whether a reload can change them.

use super::Settings;
use super::keys::Reload;

/// The keys in which a configuration differs from the one in force.
#[derive(Debug, PartialEq, Eq)]
pub struct Changes {
    /// A running server cannot change these.
    pub fixed: Vec<String>,
    /// A reload changes these.
    pub live: Vec<String>,
}

impl Changes {
    /// The changes from `old` to `new`.
    pub fn between(old: &Settings, new: &Settings) -> Self {
        let compared = old.compared(new);
        let differing = |reload| {
            let differ = compared
                .iter()
                .filter(|(_, its, differs)| *differs && *its == reload);
            differ.map(|(key, ..)| key.clone()).collect()
        };
        Self {
            fixed: differing(Reload::Fixed),
            live: differing(Reload::Live),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::time::Duration;

    use clap::Args as _;

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
            fixed: vec!["backlog".into()],
            live: vec!["upgrade-within".into(), "limits".into()],
        };
        assert_eq!(Changes::between(&old, &new), expected);
    }

    /// The line of docs/serve.md that begins with `beginning`.
    fn documented(beginning: &str) -> String {
        let page = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/serve.md");
        let page = fs::read_to_string(page).unwrap();
        let mut lines = page.lines().filter(|line| line.starts_with(beginning));
        let line = lines.next().unwrap_or_else(|| panic!("{beginning:?}"));
        assert_eq!(lines.next(), None, "{beginning:?}");
        line.to_owned()
    }

    #[test]
    fn the_page_says_of_each_key_whether_a_reload_changes_it() {
        let live = documented("| takes over at a reload |");
        let fixed = documented("| refuses to change");
        let settings = settings(&ServeArgs::default()).unwrap();
        for (key, reload, _) in settings.compared(&settings) {
            let said = [&live, &fixed].map(|line| match key.as_str() {
                "limits" => line.contains("the limits"),
                key => line.contains(&format!("`{key}`")),
            });
            let is = [reload == Reload::Live, reload == Reload::Fixed];
            // `Unlisted` beside a listed field of the same key.
            assert!(
                reload == Reload::Unlisted || said == is,
                "{key}: {reload:?}"
            );
        }
    }

    #[test]
    fn the_page_has_each_key() {
        let page = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/serve.md");
        let page = fs::read_to_string(page).unwrap();
        let flags = ServeArgs::augment_args(clap::Command::new("serve"));
        for key in flags.get_arguments().filter_map(|arg| arg.get_long()) {
            let [as_key, as_flag] = [format!("`{key}`"), format!("`--{key}`")];
            assert!(page.contains(&as_key) || page.contains(&as_flag), "{key}");
        }
    }
}
