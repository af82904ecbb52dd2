//! The settings as a TOML file that means the same, for `srv serve --print-config`. Defaults are
//! written out, and paths are absolute.

use std::time::Duration;

use anyhow::{Context, Result};
use toml::Table;

use super::sites::print::site;
use super::tables::{path, put, put_some, text, types};
use super::{Limits, Settings, SocketOptions};

impl Settings {
    /// A file that means these settings. It leaves out what only a flag says (`--join`).
    ///
    /// # Errors
    /// A path is not UTF-8, which TOML cannot express.
    pub fn to_toml(&self) -> Result<String> {
        let serving = &self.serving;
        let mut file = Table::new();
        put(&mut file, "listen", self.listeners());
        put(&mut file, "workers", i64::from(self.workers));
        // With --join, the policy is the other server's.
        put_some(
            &mut file,
            "policy",
            (!self.join).then(|| self.policy.name()),
        );
        put(&mut file, "accept", serving.accept.name());
        let root = serving.root.as_ref().map(|root| path(&root.asked));
        put_some(&mut file, "root", root.transpose()?);
        put(&mut file, "dotfiles", serving.dotfiles);
        put(&mut file, "types", types(&serving.types));
        let listener = |number: usize| match &self.listener_names[number] {
            Some(name) => name.clone(),
            None => text(self.listen[number]),
        };
        let sites = serving.sites.list().iter();
        let sites = sites.map(|one| site(one, &listener));
        let sites = sites.collect::<Result<Vec<_>>>()?;
        put_some(
            &mut file,
            "site",
            Some(sites).filter(|sites| !sites.is_empty()),
        );
        if let Some(tls) = &serving.tls {
            put(
                &mut file,
                "tls-certificate",
                path(&tls.identity.certificate)?,
            );
            put(&mut file, "tls-key", path(&tls.identity.key)?);
        }
        put(&mut file, "http2", serving.http2.name());
        let user = self.user.map(|user| format!("{}:{}", user.uid, user.gid));
        put_some(&mut file, "user", user);
        put(&mut file, "synthetic", serving.synthetic);
        put(&mut file, "worker-header", serving.worker_header);
        let control = self.control.as_deref().map(path);
        put_some(&mut file, "control", control.transpose()?);
        put_some(&mut file, "admin", self.admin.as_ref().map(text));
        put(&mut file, "backlog", i64::from(self.backlog));
        put(&mut file, "fast-open", i64::from(self.fast_open));
        put(&mut file, "v6-only", self.v6_only);
        put(&mut file, "no-bpf", !self.bpf);
        put(&mut file, "grace", period(self.grace));
        put(&mut file, "drain-wait", period(self.drain_wait));
        put(&mut file, "upgrade-within", period(self.upgrade_within));
        put(&mut file, "hang-after", period(self.hang_after));
        put(&mut file, "hang-kill", period(self.hang_kill));
        self.put_logs(&mut file);
        put(&mut file, "limits", limits(&serving.limits));
        toml::to_string(&file).context("write the settings as TOML")
    }

    fn put_logs(&self, file: &mut Table) {
        let access_log = self.serving.access_log.as_ref();
        put_some(file, "access-log", access_log.map(|log| text(&log.to)));
        put(file, "access-log-format", self.access_log_format.name());
        put(file, "log", if self.log_json { "json" } else { "text" });
    }

    fn listeners(&self) -> Vec<Table> {
        let listen = self.listen.iter().zip(&self.sockets);
        let listen = listen.zip(&self.listener_names).zip(&self.serving.https);
        listen
            .map(|(((address, options), name), tls)| socket(text(address), name, options, *tls))
            .collect()
    }
}

fn socket(address: String, name: &Option<String>, options: &SocketOptions, tls: bool) -> Table {
    let mut table = Table::new();
    put(&mut table, "address", address);
    put_some(&mut table, "name", name.clone());
    put(&mut table, "backlog", i64::from(options.backlog));
    put(&mut table, "fast-open", i64::from(options.fast_open));
    put(&mut table, "v6-only", options.v6_only);
    put(&mut table, "tls", tls);
    table
}

fn limits(limits: &Limits) -> Table {
    let mut table = Table::new();
    put(&mut table, "header-bytes", text(limits.header_bytes));
    put(&mut table, "body-bytes", text(limits.body_bytes));
    put(&mut table, "connections", i64::from(limits.connections));
    put(&mut table, "header-timeout", period(limits.header_timeout));
    put(&mut table, "read-timeout", period(limits.read_timeout));
    put(&mut table, "idle-timeout", period(limits.idle_timeout));
    put(&mut table, "write-timeout", period(limits.write_timeout));
    put(&mut table, "streams", i64::from(limits.streams));
    put(&mut table, "connection-age", period(limits.connection_age));
    table
}

fn period(period: Duration) -> String {
    humantime::format_duration(period).to_string()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use proptest::sample::subsequence;

    use crate::serve::config::args::ServeArgs;
    use crate::serve::config::{Places, Settings, settings};

    const USERS: &str = "a:$2y$04$Te3J32w/XMDSlBKMJSRZ0uC.awqR.8P12EQkkquU71sonERqe/mQC";

    /// Keys outside of a site, inside of one, and inside of a route.
    const OUTSIDE: [&str; 11] = [
        "access-log = \"log\"",
        "access-log-format = \"json\"",
        "listen = [\"127.0.0.1:81\", { address = \"[::1]:82\", name = \"admin\", backlog = 5, v6-only = false }]",
        "backlog = 77",
        "workers = 3",
        "policy = \"p2c\"",
        "grace = \"1500ms\"",
        "log = \"json\"",
        "dotfiles = true",
        "types = { foo = \"a/b; c=d\" }",
        "limits = { body-bytes = \"3MiB\", idle-timeout = \"61s\" }",
    ];
    const PLACE: [&str; 16] = [
        "access-log = \"syslog\"",
        "index = [\"a.html\", \"b\"]",
        "try-files = [\"{path}\", \"{path}.html\", \"/c{path}/\", \"/x\", \"=410\"]",
        "dotfiles = false",
        "types = { bar = \"text/x-bar\", \"f-o\" = \"a/b\" }",
        "charset = \"utf-8\"",
        "precompressed = [\"gz\", \"br\"]",
        "compress = { codings = [\"gzip\", \"zstd\"], min-bytes = 7, max-bytes = \"1MiB\" }",
        "cache-control = { \"*\" = \"no-cache\", \"*.css\" = \"public\", \"/a/*\" = \"x\", \"/b\" = \"y\" }",
        "error-pages = { 404 = \"/404.html\", 503 = \"/a b\" }",
        "headers = { security = true, remove = [\"referrer-policy\"], set = { B = \"1\", a = \"\\\"\" }, add = { C = \"2\" } }",
        "allow = [\"10.0.0.0/8\", \"2001:db8::1\"]\ndeny = [\"10.0.0.1\"]",
        "auth = { realm = \"a b\", users = \"users\" }",
        "rate = { per-second = 5, burst = 9 }",
        "limits = { body-bytes = 12345 }",
        "redirect = { to = \"https://a.test\", path = \"whole\", query = false, status = 308 }",
    ];

    /// A site with the keys, and a route of it for each pattern.
    fn site(
        nth: usize,
        has_listeners: bool,
        keys: &[&str],
        routes: &[(String, Vec<&str>)],
    ) -> String {
        let listen = match has_listeners {
            true => "listen = [\"admin\", \"127.0.0.1:81\"]",
            false => "listen = [\"127.0.0.1:8080\"]",
        };
        let hosts = match nth {
            0 => String::new(),
            nth => format!("hosts = [\"h{nth}.test\", \"*.h{nth}.test\"]\n{listen}\n"),
        };
        let mut text = format!("[[site]]\n{hosts}root = \".\"\n{}\n", keys.join("\n"));
        for (pattern, keys) in routes {
            text += &format!("[[site.route]]\n{pattern}\n{}\n", keys.join("\n"));
        }
        text
    }

    fn routes() -> impl Strategy<Value = Vec<(String, Vec<&'static str>)>> {
        let patterns = ["exact = \"/a\"", "prefix = \"/a b/\"", "suffix = \".php\""];
        let patterns = patterns.map(str::to_owned).to_vec();
        let chosen = subsequence(patterns, 0..=3);
        (
            chosen,
            proptest::collection::vec(subsequence(PLACE.to_vec(), 0..=16), 3),
        )
            .prop_map(|(patterns, keys)| patterns.into_iter().zip(keys).collect())
    }

    fn read(folder: &tempfile::TempDir, text: &str) -> Settings {
        let path = folder.path().join("srv.toml");
        std::fs::write(folder.path().join("users"), USERS).unwrap();
        std::fs::write(&path, text).unwrap();
        let flags = ServeArgs {
            config: Some(path),
            ..ServeArgs::default()
        };
        let mut settings = settings(&flags).unwrap_or_else(|error| panic!("{error:#}: {text}"));
        // These say how a value came about, and where.
        settings.policy_is_explicit = true;
        settings.user_is_explicit = true;
        settings.places = Places::default();
        settings
    }

    #[test]
    fn what_is_printed_means_the_same() {
        let folder = tempfile::tempdir().unwrap();
        let sites =
            proptest::collection::vec((subsequence(PLACE.to_vec(), 0..=16), routes()), 0..4);
        let input = (subsequence(OUTSIDE.to_vec(), 0..=11), sites);
        proptest!(|((outside, sites) in input)| {
            let sites = sites.iter().enumerate();
            let has_listeners = outside.contains(&OUTSIDE[2]);
            let sites = sites.map(|(nth, (keys, routes))| site(nth, has_listeners, keys, routes));
            let text = format!("{}\n{}", outside.join("\n"), sites.collect::<String>());
            let before = read(&folder, &text);
            let printed = before.to_toml().unwrap();
            let after = read(&folder, &printed);
            prop_assert_eq!(format!("{before:?}"), format!("{after:?}"), "{}\n{}", text, printed);
            prop_assert_eq!(after.to_toml().unwrap(), printed);
        });
    }
}
