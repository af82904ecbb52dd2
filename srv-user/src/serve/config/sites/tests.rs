//! Files with sites: what is refused, where, and what routes inherit.

use crate::serve::config::args::ServeArgs;
use crate::serve::config::sites::{Handler, HeaderChange, Place};
use crate::serve::config::{Settings, settings};

fn read(text: &str) -> anyhow::Result<Settings> {
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("www")).unwrap();
    std::fs::create_dir(folder.path().join("b")).unwrap();
    std::fs::write(
        folder.path().join("users"),
        "a:$2y$04$Te3J32w/XMDSlBKMJSRZ0uC.awqR.8P12EQkkquU71sonERqe/mQC",
    )
    .unwrap();
    let path = folder.path().join("srv.toml");
    std::fs::write(&path, text).unwrap();
    settings(&ServeArgs {
        config: Some(path),
        ..ServeArgs::default()
    })
}

/// Files, and how the refusal continues after the file's name.
const REFUSED: &[(&str, &str)] = &[
    ("[[site]]\nrot = \"www\"", "2:1: unknown key `rot`"),
    ("[[site]]\nroot = 3", "2:8: invalid type: integer `3`"),
    ("[[site]]\nroot = \"no\"", "2:8: found `"),
    (
        "[[site]]\nhosts = [\"a.test\"]",
        "1:1: found a site without an answer",
    ),
    (
        "[[site]]\nroot = \"www\"\nhosts = []",
        "3:9: found an empty list",
    ),
    (
        "[[site]]\nroot = \"www\"\nhosts = [\"a\", \"*b\"]",
        "3:15: found `*b`, expected a * as",
    ),
    (
        "[[site]]\nroot = \"www\"\nhosts = [\"a\", \"A.\"]",
        "3:15: found host `a`, which ",
    ),
    (
        "[[site]]\nroot = \"www\"\nhosts = [\"[::1]\", \"[0:0::1]\"]",
        "3:19: found host `[::1]`, which ",
    ),
    (
        "[[site]]\nroot = \"www\"\ndefault = false",
        "3:11: found default = false",
    ),
    (
        "[[site]]\nroot = \"www\"\nhosts = [\"a\"]\n[[site]]\nroot = \"b\"\nhosts = [\"b\", \"a\"]",
        "6:15: found host `a`, which ",
    ),
    (
        "[[site]]\nroot = \"www\"\nlisten = [\"127.0.0.1:8080\", \"other\"]",
        "3:29: found `other`, expected a listener: one of 127.0.0.1:8080",
    ),
    (
        "[[site]]\nroot = \"www\"\nlisten = []",
        "3:10: found an empty list, expected a listener",
    ),
    (
        "listen = [\"127.0.0.1:1\", { address = \"127.0.0.1:2\", name = \"b\" }]\n[[site]]\nroot = \"www\"\n\
         listen = [\"b\", \"127.0.0.1:2\"]",
        "4:16: found `127.0.0.1:2`, a listener that is in the list already",
    ),
    (
        "listen = [\"127.0.0.1:1\", { address = \"127.0.0.1:2\", name = \"b\" }]\n[[site]]\nroot = \"www\"\n\
         hosts = [\"x\"]\nlisten = [\"b\"]\n[[site]]\nroot = \"b\"\nhosts = [\"x\"]",
        "8:10: found host `x`, which ",
    ),
    (
        "listen = [{ address = \"127.0.0.1:2\", name = \"1b\" }]",
        "1:45: found `1b`, expected a name",
    ),
    (
        "[[site]]\nroot = \"www\"\n[[site]]\nroot = \"b\"",
        "3:1: found a second default site",
    ),
    (
        "root = \"www\"\n[[site]]\nroot = \"b\"",
        "1:1: root: found a root beside ",
    ),
    (
        "[[site]]\nroot = \"www\"\nindex = [\"a/b\"]",
        "3:10: found `a/b`, expected the name",
    ),
    (
        "[[site]]\nroot = \"www\"\nindex = \"a\"",
        "3:9: invalid type",
    ),
    (
        "[[site]]\nroot = \"www\"\ncharset = \"a b\"",
        "3:11: found `a b`, expected auto",
    ),
    (
        "[[site]]\nroot = \"www\"\nprecompressed = [\"lz\"]",
        "3:18: found `lz`, expected one of br",
    ),
    (
        "[[site]]\nroot = \"www\"\nprecompressed = [\"br\", \"br\"]",
        "3:24: found `br` twice",
    ),
    (
        "[[site]]\nroot = \"www\"\ncompress = { codings = [\"br\", \"gz\"] }",
        "3:31: found `gz`, expected one of br, zstd, gzip",
    ),
    (
        "[[site]]\nroot = \"www\"\ncompress = { max-bytes = \"2MiB\" }",
        "3:26: found `2MiB`, expected at most 1MiB",
    ),
    (
        "[[site]]\nroot = \"www\"\ncompress = { level = 10 }",
        "3:22: found `10`, expected a whole number from 1 to 9",
    ),
    (
        "[[site]]\nroot = \"www\"\ntypes = { a = \"b\" }",
        "3:15: found `a = b`, expected a media",
    ),
    (
        "[[site]]\nroot = \"www\"\nfastcgi = \"localhost:9000\"",
        "3:11: found `localhost:9000`, expected unix: and",
    ),
    (
        "[[site]]\nfastcgi = \"unix:/a\"",
        "1:1: found a site without an answer",
    ),
    (
        "[[site]]\nroot = \"www\"\nfastcgi = { too = \"unix:/a\" }",
        "3:13: unknown key `too`",
    ),
    (
        "[[site]]\nroot = \"www\"\n[site.fastcgi]\nto = \"127.0.0.1:1\"\nread-timeout = \"0s\"",
        "5:16: found `0s`, expected a time",
    ),
    (
        "[[site]]\nroot = \"www\"\n[site.fastcgi]\nto = \"127.0.0.1:1\"\nparams = { HTTP_PROXY = \"x\" }",
        "5:12: found `HTTP_PROXY`, expected another",
    ),
    (
        "[[site]]\nroot = \"www\"\nerror-pages = { 404 = \"/404.php\" }\nfastcgi = \"127.0.0.1:1\"",
        "4:11: found `/404.php` in index, ",
    ),
    (
        "[[site]]\nroot = \"www\"\nrespond = { status = 403 }\nfastcgi = \"127.0.0.1:1\"",
        "4:11: found fastcgi beside respond",
    ),
    (
        "[[site]]\nroot = \"www\"\nfallback = \"x\"",
        "3:12: found `x`, expected a path",
    ),
    (
        "[[site]]\nroot = \"www\"\ntry-files = [\"=404\", \"{path}\"]",
        "3:14: found `=404` before others",
    ),
    (
        "[[site]]\nroot = \"www\"\nfallback = \"/x\"\ntry-files = [\"{path}\"]",
        "3:12: found fallback beside try-files",
    ),
    (
        "[[site]]\nroot = \"www\"\nerror-pages = { 200 = \"/x\" }",
        "3:17: found `200`, expected a status from 400",
    ),
    (
        "[[site]]\nroot = \"www\"\ncache-control = { \"a\" = \"x\" }",
        "3:19: found `a`, expected a pattern",
    ),
    (
        "[[site]]\nroot = \"www\"\ncache-control = { \"*\" = \"x\", \"/*\" = \"y\" }",
        "3:30: found `/*`, which is here by another spelling",
    ),
    (
        "[[site]]\nroot = \"www\"\nheaders = { set = { Date = \"x\" } }",
        "3:21: found `Date`, expected a header that does not",
    ),
    (
        "[[site]]\nroot = \"www\"\nheaders = { remove = [\"a\"], set = { A = \"x\" } }",
        "3:37: found `A` in set, expected it once",
    ),
    (
        "[[site]]\nroot = \"www\"\nallow = [\"10.0.0.0/8\", \"10.0.0.1/8\"]",
        "3:24: found `10.0.0.1/8`, expected a network without bits behind its prefix, which would \
         be 10.0.0.0/8",
    ),
    (
        "[[site]]\nroot = \"www\"\ndeny = [\"all\"]",
        "3:9: found `all`, expected an address or a network",
    ),
    (
        "[[site]]\nroot = \"www\"\nauth = true",
        "3:8: invalid value: boolean `true`, expected false, or a table",
    ),
    (
        "[[site]]\nroot = \"www\"\nauth = { realm = \"a\\\"\", users = \"users\" }",
        "3:18: found `a\"`, expected 1 to 200 visible",
    ),
    (
        "[[site]]\nroot = \"www\"\nauth = { realm = \"a\", users = \"no\" }",
        "3:31: found `",
    ),
    (
        "[[site]]\nroot = \"www\"\nrate = { per-second = 0 }",
        "3:23: found `0`, expected a whole number from 1",
    ),
    (
        "[[site]]\nroot = \"www\"\nlimits = { body-bytes = \"x\" }",
        "3:25: found `x`, expected a number of bytes",
    ),
    (
        "[[site]]\nredirect = { to = \"//a\" }",
        "2:19: found `//a`, expected a URL",
    ),
    (
        "[[site]]\nredirect = { to = \"/\", status = 300 }",
        "2:33: found `300`, expected 301",
    ),
    (
        "[[site]]\nredirect = { to = \"/\", path = \"rest\" }",
        "2:31: found `rest` without a prefix",
    ),
    (
        "[[site]]\nredirect = { to = \"/?a\" }",
        "2:19: found `/?a`, expected a target without ?",
    ),
    (
        "[[site]]\nredirect = { to = \"/\" }\nrespond = { status = 200 }",
        "3:11: found respond beside redirect",
    ),
    (
        "[[site]]\nrespond = { status = 304 }",
        "2:22: found `304`, expected a status",
    ),
    (
        "[[site]]\nrespond = { status = 204, body = \"x\" }",
        "2:34: found a body",
    ),
    (
        "[[site]]\nroot = \"www\"\n[[site.route]]\n",
        "3:1: found a route with none of",
    ),
    (
        "[[site]]\nroot = \"www\"\n[[site.route]]\nexact = \"/a\"\nprefix = \"/a\"",
        "3:1: found a route with more than one of",
    ),
    (
        "[[site]]\nroot = \"www\"\n[[site.route]]\nprefix = \"/a/../b\"",
        "4:10: found `/a/../b`, expected a path without",
    ),
    (
        "[[site]]\nroot = \"www\"\n[[site.route]]\nprefix = \"/a%20b\"",
        "4:10: found `/a%20b`, expected a decoded path",
    ),
    (
        "[[site]]\nroot = \"www\"\n[[site.route]]\nexact = \"/a?b\"",
        "4:9: found `/a?b`, expected a path without a query",
    ),
    (
        "[[site]]\nroot = \"www\"\n[[site.route]]\nhosts = [\"a\"]",
        "4:1: unknown key `hosts`",
    ),
    (
        "[[site]]\nrespond = { status = 404 }\n[[site.route]]\nprefix = \"/a\"",
        "3:1: found a route without an answer",
    ),
    (
        "[[site]]\nroot = \"www\"\n[[site.route]]\nprefix = \"/a\"\n[[site.route]]\nprefix = \"/a\"",
        "6:10: found a route for prefix = \"/a\", which ",
    ),
    (
        "[[site]]\nroot = \"www\"\n[[site.route]]\nsuffix = \".a\"\n[[site.route]]\nprefix = \"/\"",
        "4:10: found a route for suffix = \".a\" that no path reaches",
    ),
    (
        "[[site]]\nroot = \"www\"\n[[site.route]]\nprefix = \"/a\"\n[[site.route]]\nprefix = \"/a/\"\n\
         [[site.route]]\nexact = \"/a\"",
        "4:10: found a route for prefix = \"/a\" that no path reaches",
    ),
];

#[test]
fn what_is_refused_is_refused_at_its_place() {
    for (text, refusal) in REFUSED {
        let error = format!("{:#}", read(text).expect_err(text));
        let (_, said) = error.split_once("srv.toml:").unwrap_or(("", &error));
        assert!(said.starts_with(refusal), "{text}\n{said}\n{refusal}");
        assert!(
            error.contains("expected") || error.contains("unknown"),
            "{error}"
        );
    }
}

#[test]
fn each_listener_has_its_hosts_and_its_default() {
    let file = "[[listen]]\naddress = \"127.0.0.1:0\"\nname = \"public\"\n\
                [[listen]]\naddress = \"127.0.0.1:0\"\nname = \"admin\"\n\
                [[site]]\nroot = \"www\"\nlisten = [\"public\"]\n\
                [[site]]\nroot = \"b\"\nlisten = [\"admin\"]\n\
                [[site]]\nroot = \"b\"\nhosts = [\"a\"]";
    let sites = read(file).unwrap().serving.sites;
    let listeners = sites.list().iter().map(|site| site.listeners.clone());
    let listeners: Vec<_> = listeners.collect();
    assert_eq!(listeners, [Some([0].into()), Some([1].into()), None]);
    assert!(sites.list()[0].answers_at(0) && !sites.list()[1].answers_at(0));
    let error = read(&file.replace("\"admin\"", "\"public\"")).unwrap_err();
    let why = "1:3: listen: two listeners are named public";
    assert!(format!("{error:#}").contains(why), "{error:#}");
}

#[test]
fn routes_inherit_rules_for_clients() {
    let settings = read(
        "[[site]]\nroot = \"www\"\nallow = [\"10.0.0.0/8\", \"::1\"]\nrate = { per-second = 3 }\n\
         auth = { realm = \"r\", users = \"www/../users\" }\nlimits = { body-bytes = \"1KiB\" }\n\
         [[site.route]]\nprefix = \"/same\"\n\
         [[site.route]]\nprefix = \"/open\"\nauth = false\ndeny = [\"10.0.0.1\"]\n\
         rate = { per-second = 5, burst = 9 }\nlimits = { body-bytes = 7 }",
    );
    let sites = settings.unwrap().serving.sites;
    let site = &sites.list()[0];
    let rules = |nth: usize| &site.routes[nth].place.access;
    assert_eq!(*rules(0), site.place.access);
    let of_site = &site.place.access;
    assert_eq!(of_site.auth.as_ref().unwrap().users.len(), 1);
    let rate = of_site.rate.unwrap();
    assert_eq!((rate.per_second, rate.burst), (3, 3));
    let open = rules(1);
    assert!(open.auth.is_none() && open.allow.is_empty());
    assert_eq!(open.deny, ["10.0.0.1/32".parse().unwrap()]);
    assert_eq!((open.rate.unwrap().burst, open.body_bytes), (9, Some(7)));
}

#[test]
fn a_response_has_a_bounded_number_of_changes() {
    let file = |changes: usize| {
        let changes = (0..changes).map(|nth| format!("x-{nth} = \"\"\n"));
        let changes = changes.collect::<String>();
        format!(
            "[[site]]\nroot = \"www\"\nheaders = {{ remove = [\"server\"] }}\n\
             [[site.route]]\nprefix = \"/a\"\n[site.route.headers.set]\n{changes}"
        )
    };
    read(&file(99)).unwrap();
    let error = format!("{:#}", read(&file(100)).unwrap_err());
    let why = "found `x-99` as the last of 101 changes of headers";
    assert!(error.contains(why), "{error}");
}

#[test]
fn routes_inherit_all_but_the_answer() {
    let settings = read(
        "types = { a = \"a/b\" }\n[[site]]\nroot = \"www\"\nredirect = { to = \"/x\" }\n\
         index = [\"i\"]\ntypes = { c = \"c/d\" }\nerror-pages = { 404 = \"/404\" }\n\
         headers = { set = { A = \"1\" } }\n\
         [[site.route]]\nprefix = \"/p\"\nroot = \"b\"\nheaders = { remove = [\"a\"] }\n\
         error-pages = { 500 = \"/500\" }\n[[site.route]]\nprefix = \"/q\"\n",
    );
    let settings = settings.unwrap();
    let site = &settings.serving.sites.list()[0];
    assert!(site.is_default && matches!(site.place.handler, Handler::Redirect(_)));
    let [p, q] = [0, 1].map(|nth| &site.routes[nth].place);
    assert_eq!((&p.handler, &q.handler), (&Handler::Files, &Handler::Files));
    let roots = |place: &Place| place.files.root.clone().unwrap().path;
    assert!(roots(p).ends_with("b") && roots(q).ends_with("www"));
    assert_eq!(p.files.index, ["i"]);
    assert_eq!(p.files.types.keys().collect::<Vec<_>>(), ["a", "c"]);
    assert_eq!(p.error_pages.keys().collect::<Vec<_>>(), [&404, &500]);
    let set = HeaderChange::Set("a".into(), "1".into());
    assert_eq!(p.headers, [set, HeaderChange::Remove("a".into())]);
    assert_eq!(settings.serving.roots().len(), 2);
}

#[test]
fn an_application_is_an_address_or_a_table_and_is_not_inherited() {
    let text = "[[site]]\nroot = \"www\"\nfastcgi = \"unix:/run/a.sock\"\n\
        [[site.route]]\nprefix = \"/files\"\n\
        [[site.route]]\nprefix = \"/app\"\n\
        fastcgi = { to = \"[::1]:9\", suffix = \"\", params = { A = \"b\" }, read-timeout = \"5m\" }\n";
    let settings = read(text).unwrap();
    let site = &settings.serving.sites.list()[0];
    let Handler::FastCgi(short) = &site.place.handler else {
        panic!("{site:?}");
    };
    assert_eq!(short.index.as_deref(), Some("index.php"));
    assert_eq!(site.routes[0].place.handler, Handler::Files);
    let Handler::FastCgi(long) = &site.routes[1].place.handler else {
        panic!("{site:?}");
    };
    assert!(!long.has_scripts());
    let applications = settings.serving.sites.applications();
    assert_eq!(applications.len(), 2);
    let printed = settings.to_toml().unwrap();
    assert!(printed.contains("to = \"[::1]:9\""), "{printed}");
    assert!(printed.contains("read-timeout = \"5m\""), "{printed}");
}
