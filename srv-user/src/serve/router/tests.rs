//! What a router answers, by settings that each test makes.

mod compressed;

use tempfile::TempDir;

use super::*;
use crate::serve::config::sites::{Candidate, Files, Fixed, Handler, Sites};

/// A site for all hosts.
fn only(place: Place) -> Router {
    let sites = Sites::from(vec![SiteSettings {
        tls: None,
        hosts: Vec::new(),
        is_default: true,
        listeners: None,
        place,
        routes: Vec::new(),
    }]);
    let serving = Serving {
        sites,
        ..Serving::default()
    };
    Router::new(&serving, None).unwrap()
}

/// A folder with these files, whose content is their name.
fn folder(names: &[&str]) -> (TempDir, Root) {
    let folder = TempDir::new().unwrap();
    for name in names {
        std::fs::write(folder.path().join(name), name).unwrap();
    }
    let root = Root::find(folder.path()).unwrap();
    (folder, root)
}

/// The status of an answer, and the length of its body.
fn asked(router: &Router, method: Method, target: &str) -> (u16, String) {
    let request = http::Request::builder().method(method).uri(target);
    let (request, ()) = request.body(()).unwrap().into_parts();
    let response = router.respond(&request, Client::default());
    let length = response.headers().get("content-length");
    let length = length.map_or("", |length| length.to_str().unwrap());
    (response.status().as_u16(), length.to_owned())
}

#[test]
fn a_file_of_the_settings_is_not_kept_as_the_answer_to_its_path() {
    let (_folder, root) = folder(&["a", "a.html"]);
    let candidates = ["{path}.html", "/a"].map(|text| text.parse().unwrap());
    let place = Place {
        files: Files {
            root: Some(root),
            candidates: candidates.into(),
            ..Files::default()
        },
        ..Place::default()
    };
    let [path, fallback] = [("/a", "6"), ("/other", "1")];
    for order in [[path, fallback], [fallback, path]] {
        let router = only(place.clone());
        for (target, length) in order {
            let expected = (200, length.to_owned());
            assert_eq!(asked(&router, Method::GET, target), expected, "{target}");
        }
    }
}

#[test]
fn an_error_page_that_is_hidden_stays_hidden() {
    let (_folder, root) = folder(&[".404.html"]);
    let router = only(Place {
        files: Files {
            root: Some(root),
            candidates: vec![Candidate::path()],
            ..Files::default()
        },
        error_pages: [(404, "/.404.html".to_owned())].into(),
        ..Place::default()
    });
    for target in ["/missing", "/.404.html"] {
        let page = (404, "9".to_owned());
        assert_eq!(asked(&router, Method::GET, target), page, "{target}");
    }
}

fn fixed(status: u16, body: &str) -> Place {
    Place {
        handler: Handler::Fixed(Fixed {
            status,
            body: body.into(),
            media: "text/plain".into(),
        }),
        ..Place::default()
    }
}

#[test]
fn an_error_without_a_body_has_the_built_in_text() {
    for (status, length) in [(401, "401 Unauthorized\n".len()), (200, 0)] {
        let router = only(fixed(status, ""));
        let expected = (status, length.to_string());
        assert_eq!(asked(&router, Method::GET, "/"), expected);
    }
}

#[test]
fn no_answer_makes_a_tunnel() {
    let router = only(fixed(200, "fixed"));
    assert_eq!(asked(&router, Method::GET, "/"), (200, "5".to_owned()));
    for target in ["/", "a.test:443"] {
        assert_eq!(asked(&router, Method::CONNECT, target).0, 405, "{target}");
    }
}
