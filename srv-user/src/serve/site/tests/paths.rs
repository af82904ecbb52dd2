//! Paths and links: none of them leads out of the root.

use super::*;

/// This holds for both system calls.
const OPENERS: [Opener; 2] = [Opener::Openat2, Opener::Openat];

#[test]
fn links_stay_inside() {
    OPENERS.into_iter().for_each(links_stay_inside_by);
}

fn links_stay_inside_by(opener: Opener) {
    let fixture = Fixture::by(opener);
    let outside = fixture.outer.path().join("outside");
    symlink("digits.txt", fixture.path("inside")).unwrap();
    symlink("../digits.txt", fixture.path("folder/up")).unwrap();
    symlink("folder", fixture.path("linked")).unwrap();
    assert_eq!(fixture.get("/inside").body, b"0123456789");
    assert_eq!(fixture.get("/folder/up").body, b"0123456789");
    assert_eq!(fixture.get("/linked/").body, b"<p>folder</p>");
    symlink(outside.join("secret"), fixture.path("absolute")).unwrap();
    symlink("../outside/secret", fixture.path("relative")).unwrap();
    symlink("../outside", fixture.path("out")).unwrap();
    symlink("/proc/self/root", fixture.path("magic")).unwrap();
    symlink(fixture.path("digits.txt"), fixture.path("long way")).unwrap();
    assert_eq!(fixture.get("/long%20way").body, b"0123456789");
    symlink(
        fixture.path("../outside/secret"),
        fixture.path("roundabout"),
    )
    .unwrap();
    for target in [
        "/absolute",
        "/relative",
        "/out",
        "/out/",
        "/out/secret",
        "/magic/",
        "/roundabout",
        "/folder/../../outside/secret",
        "/%2e%2e/outside/secret",
        "/..%2foutside%2fsecret",
        "/%2e%2e%2foutside/secret",
        "/..%5coutside%5csecret",
        "/%252e%252e/outside/secret",
        "/folder/%2e%2e/%2e%2e/outside/secret",
        "/out%2fsecret",
    ] {
        assert_eq!(fixture.get(target).status, 404, "{target}");
    }
}

/// A link changes between a folder inside and one outside while requests come in.
#[test]
fn no_race_leads_out() {
    OPENERS.into_iter().for_each(no_race_leads_out_by);
}

fn no_race_leads_out_by(opener: Opener) {
    let fixture = Fixture::by(opener);
    std::fs::write(fixture.path("folder/secret"), "harmless").unwrap();
    let [door, next] = ["door", "next"].map(|name| fixture.path(name));
    symlink("folder", &door).unwrap();
    let site = &fixture.site;
    std::thread::scope(|scope| {
        let turning = scope.spawn(|| {
            for target in ["../outside", "folder"].repeat(2000) {
                symlink(target, &next).unwrap();
                std::fs::rename(&next, &door).unwrap();
            }
        });
        while !turning.is_finished() {
            let answer = ask(site, "GET", "/door/secret", &[]);
            assert!(answer.status == 404 || answer.body == b"harmless");
            pass_time();
        }
    });
}

#[test]
fn fifos_do_not_block() {
    let fixture = Fixture::new();
    let kind = rustix::fs::FileType::Fifo;
    let mode = rustix::fs::Mode::RUSR;
    rustix::fs::mknodat(rustix::fs::CWD, fixture.path("fifo"), kind, mode, 0).unwrap();
    assert_eq!(fixture.get("/fifo").status, 404);
}

#[test]
fn dotfiles_are_hidden_unless_asked_for() {
    let mut fixture = Fixture::new();
    std::fs::create_dir_all(fixture.path(".git")).unwrap();
    std::fs::create_dir_all(fixture.path(".well-known")).unwrap();
    std::fs::write(fixture.path(".git/config"), "git").unwrap();
    std::fs::write(fixture.path("folder/.env"), "env").unwrap();
    std::fs::write(fixture.path(".well-known/security.txt"), "contact").unwrap();
    let hidden = [
        "/.git/config",
        "/.git",
        "/%2egit/config",
        "/./.git/config",
        "/folder/.env",
    ];
    for target in hidden {
        assert_eq!(fixture.get(target).status, 404, "{target}");
    }
    assert_eq!(fixture.get("/.well-known/security.txt").body, b"contact");
    fixture.site.files.dotfiles = true;
    assert_eq!(fixture.get("/.git/config").body, b"git");
    assert_eq!(fixture.get("/.git").status, 301);
    assert_eq!(fixture.get("/folder/.env").body, b"env");
}

#[test]
fn dot_segments_lead_to_the_same_files() {
    let fixture = Fixture::new();
    for target in ["/./digits.txt", "/folder/../digits.txt", "/%2e/digits.txt"] {
        assert_eq!(fixture.get(target).body, b"0123456789", "{target}");
    }
    assert_eq!(fixture.get("/folder/.").body, b"<p>folder</p>");
    assert_eq!(fixture.get("/folder/..").body, PAGE.as_bytes());
}

/// Pieces of paths that could lead out of the root, and any bytes between them.
fn nasty_target() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop_oneof![
        6 => proptest::sample::select(vec![
            "..", ".", "%2e%2e", ".%2E", "/", "/", "/", "//", "%2f", "%2F", "\\", "%5c", "%00",
            "%252e%252e", "%25", "%", "outside", "secret", "root", "folder", "out", "absolute",
            "relative", "door", "?", "#", "http://any.example", "proc/self/root", "tmp",
        ]).prop_map(|piece| piece.as_bytes().to_vec()),
        1 => proptest::collection::vec(any::<u8>(), 1..4),
    ];
    proptest::collection::vec(piece, 0..12).prop_map(|pieces| {
        let mut target = b"/".to_vec();
        target.extend(pieces.concat());
        target
    })
}

#[test]
fn no_path_leads_out() {
    OPENERS.into_iter().for_each(no_path_leads_out_by);
}

fn no_path_leads_out_by(opener: Opener) {
    let fixture = Fixture::by(opener);
    let outside = fixture.outer.path().join("outside");
    symlink(&outside, fixture.path("absolute")).unwrap();
    symlink("../outside", fixture.path("out")).unwrap();
    symlink("../../outside", fixture.path("folder/out")).unwrap();
    symlink("../outside/secret", fixture.path("relative")).unwrap();
    symlink("../root/folder", fixture.path("door")).unwrap();
    symlink("..", fixture.path("folder/root")).unwrap();
    let config = ProptestConfig {
        cases: 2000,
        failure_persistence: None,
        ..Default::default()
    };
    proptest!(config, |(target in nasty_target())| {
        let Ok(uri) = http::Uri::try_from(target) else {
            return Ok(()); // hyper refuses it
        };
        let (mut parts, ()) = Request::new(()).into_parts();
        parts.uri = uri;
        let response = fixture.site.respond(&parts);
        let location = response.headers().get(LOCATION).map(|value| value.as_bytes().to_vec());
        if let Some(location) = location {
            prop_assert!(location.starts_with(b"/") && !location.starts_with(b"//"));
        }
        let body = response.into_body().collect().unwrap();
        let leaked = body.windows(SECRET.len()).any(|window| window == SECRET.as_bytes());
        prop_assert!(!leaked);
    });
}
