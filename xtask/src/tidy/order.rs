//! The order of srv-user's folders: which of them may import which. Owns the table; how
//! imports are found is known to [`super::modules`].

use std::collections::BTreeSet;

use super::{Finding, modules::Crate};

/// Where the table is.
const HERE: &str = "xtask/src/tidy/order.rs";

/// A folder, or single file, at the top of the crate, and those that it may import.
pub(super) struct Rule {
    pub folder: &'static str,
    pub may_import: &'static [&'static str],
}

/// From the bottom to the top. The root of the crate, which only declares, and the binary,
/// which is a crate of its own, may import all of them.
#[rustfmt::skip]
pub(super) const ORDER: [Rule; 15] = [
    Rule { folder: "values", may_import: &[] },
    Rule { folder: "logging", may_import: &[] },
    Rule { folder: "output", may_import: &["logging"] },
    Rule { folder: "kernel", may_import: &[] },
    Rule { folder: "fastcgi", may_import: &[] },
    Rule { folder: "control", may_import: &["values", "logging", "output", "kernel"] },
    // Siblings: neither imports the other.
    Rule { folder: "serve", may_import: &["values", "logging", "output", "kernel", "fastcgi", "control"] },
    Rule { folder: "attach", may_import: &["values", "logging", "output", "kernel", "control"] },
    Rule { folder: "run", may_import: &["values", "logging", "output", "kernel", "control"] },
    // Siblings, too.
    Rule { folder: "admin", may_import: &["values", "logging", "kernel", "control", "serve"] },
    Rule { folder: "cgi", may_import: &["values", "logging", "kernel", "fastcgi", "serve"] },
    Rule { folder: "doctor", may_import: &["values", "logging", "output", "kernel", "control", "serve", "attach"] },
    Rule { folder: "measure", may_import: &["values", "logging", "output", "kernel", "control", "serve", "attach"] },
    Rule { folder: "top", may_import: &["values", "logging", "output", "control", "attach"] },
    Rule { folder: "cli", may_import: &["values", "logging", "output", "kernel", "control", "serve", "attach", "run", "admin", "cgi", "doctor", "measure", "top"] },
];

/// The imports that the order does not allow, and the folders that it does not know or
/// that are not there.
pub(super) fn check(krate: &Crate<'_>, order: &[Rule]) -> Vec<Finding> {
    let rule = |folder: &str| order.iter().find(|rule| rule.folder == folder);
    let mut findings = Vec::new();
    let mut folders = BTreeSet::new();
    for (from, module) in krate.modules.iter().enumerate() {
        let Some(folder) = module.path.first() else {
            continue;
        };
        let is_new = folders.insert(folder.as_str());
        let Some(rule) = rule(folder) else {
            if is_new {
                let text =
                    format!("{folder} is not in the order: say in {HERE} what it may import");
                findings.push(Finding::new(module.file, module.line, text));
            }
            continue;
        };
        for import in &module.imports {
            let target = krate.target(from, import);
            let Some(target) = target.and_then(|it| krate.modules[it].path.first()) else {
                continue;
            };
            if target != folder && !rule.may_import.contains(&target.as_str()) {
                let text = format!(
                    "{folder} imports {target} ({}): {folder} may import {}",
                    import.path.join("::"),
                    list(rule.may_import)
                );
                findings.push(Finding::new(module.file, import.line, text));
            }
        }
    }
    let missing = order.iter().filter(|it| !folders.contains(it.folder));
    findings.extend(missing.map(|it| {
        let text = format!(
            "{} is in the order of {HERE}, but not in the crate",
            it.folder
        );
        Finding::new(&krate.root, 1, text)
    }));
    findings
}

fn list(folders: &[&str]) -> String {
    match folders {
        [] => "no other folder".into(),
        [one] => (*one).into(),
        [some @ .., last] => format!("{} and {last}", some.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tidy::{source::Sources, tree};

    const RULES: [Rule; 3] = [
        Rule {
            folder: "kernel",
            may_import: &[],
        },
        Rule {
            folder: "control",
            may_import: &["kernel"],
        },
        Rule {
            folder: "serve",
            may_import: &["kernel", "control"],
        },
    ];

    /// The findings in a crate with `text` in a module within control.
    fn findings(root: &str, text: &str) -> Vec<String> {
        let small = tree::small(&[
            ("srv-user/src/lib.rs", root),
            ("srv-user/src/kernel.rs", ""),
            ("srv-user/src/control.rs", "mod group;"),
            ("srv-user/src/control/group.rs", text),
            (
                "srv-user/src/serve.rs",
                "pub mod config;\nuse crate::control::Group;",
            ),
            ("srv-user/src/serve/config.rs", "use super::super::kernel;"),
            ("srv-user/src/attach.rs", ""),
        ]);
        let (sources, _) = Sources::parse(&small.tree).expect("read the files");
        let (krate, unread) = Crate::load(&sources, "srv-user/src/lib.rs");
        assert_eq!(unread, []);
        let findings = check(&krate, &RULES);
        findings.iter().map(ToString::to_string).collect()
    }

    const ROOT: &str = "mod kernel;\nmod control;\nmod serve;\n";

    #[test]
    fn a_back_import_is_found_in_each_notation() {
        for (line, text, path) in [
            (
                2,
                "\nuse crate::serve::config::Settings;",
                "crate::serve::config::Settings",
            ),
            (
                3,
                "use crate::{\n    kernel,\n    serve::config::{self as c, *},\n};",
                "crate::serve::config",
            ),
            (1, "use crate::serve;", "crate::serve"),
            (
                2,
                "fn f() {\n    crate::serve::run()\n}",
                "crate::serve::run",
            ),
            (
                1,
                "struct S(super::super::serve::Master);",
                "super::super::serve::Master",
            ),
            (
                2,
                "fn f() {\n    println!(\"{}\", crate::serve::X);\n}",
                "crate::serve::X",
            ),
            (
                1,
                "macro_rules! m { () => { $crate::serve::X } }",
                "crate::serve::X",
            ),
            (
                1,
                "#[serde(with = \"crate::serve::text\")] struct S;",
                "crate::serve::text",
            ),
        ] {
            let findings = findings(ROOT, text);
            let expected = format!(
                "srv-user/src/control/group.rs:{line}: control imports serve ({path}): control may import kernel"
            );
            assert_eq!(findings.first(), Some(&expected), "{text}");
        }
    }

    #[test]
    fn what_the_order_allows_is_not_found_nor_what_only_tests_import() {
        let text = "use crate::kernel::Clock;\nuse super::group;\nuse crate::control::Group;
#[cfg(test)]\nmod tests {\n    use crate::serve::run;\n}\n#[cfg(test)]\nuse crate::serve::X;\n";
        assert_eq!(findings(ROOT, text), [""; 0]);
    }

    #[test]
    fn a_folder_that_is_not_in_the_order_is_found_once() {
        assert_eq!(
            findings(&format!("{ROOT}mod attach;"), "use crate::attach;"),
            [
                "srv-user/src/control/group.rs:1: control imports attach (crate::attach): \
                 control may import kernel",
                "srv-user/src/attach.rs:1: attach is not in the order: say in \
                 xtask/src/tidy/order.rs what it may import",
            ]
        );
    }

    #[test]
    fn a_folder_that_is_not_there_is_found() {
        assert_eq!(
            findings("mod kernel; mod control;", ""),
            [
                "srv-user/src/lib.rs:1: serve is in the order of xtask/src/tidy/order.rs, but not \
              in the crate"
            ]
        );
    }
}
