//! The configuration files in the documentation are valid: `srv check` takes each of them, with the
//! paths of this machine for those of the page.

use std::path::Path;
use std::process::Command;

use srv_tests::server::binary;
use tempfile::TempDir;

/// Keys whose value is a path that must be there, and whether that is a folder.
const PATHS: [(&str, bool); 4] = [
    ("root = ", true),
    ("certificate = ", false),
    ("key = ", false),
    ("users = ", false),
];

/// The TOML files of a page.
fn files_of(page: &str) -> Vec<String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../docs")
        .join(page);
    let page = std::fs::read_to_string(path).unwrap();
    let parts = page.split("```toml\n").skip(1);
    let files = parts.map(|part| part.split("```").next().unwrap().to_owned());
    files.collect()
}

/// `line` with a path that is there instead of the one that it names.
fn with_a_path(line: &str, folder: &TempDir) -> String {
    let Some((key, is_folder)) = PATHS.iter().find(|(key, _)| line.contains(key)) else {
        return line.to_owned();
    };
    let (before, value) = line.split_once(key).unwrap();
    let (path, after) = value[1..].split_once('"').unwrap();
    let name = match *key {
        "certificate = " => "certificate.pem",
        "key = " => "key.pem",
        _ => path.rsplit('/').next().unwrap(),
    };
    let made = folder.path().join(name);
    if *is_folder {
        std::fs::create_dir_all(&made).unwrap();
    }
    format!("{before}{key}\"{}\"{after}", made.display())
}

#[test]
fn the_files_of_the_pages_are_valid() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
    let names = ["example.org", "www.example.org"].map(str::to_owned);
    let made = rcgen::generate_simple_self_signed(names).unwrap();
    write("certificate.pem", &made.cert.pem());
    write("key.pem", &made.signing_key.serialize_pem());
    for users in ["statistics.users", "git.users"] {
        let line = "a:$5$xsalt$Dy.IpmrkNE/dmz218jEYb2An35C9KIvCDp3ma4O25H2\n";
        write(users, line);
    }
    let mut checked = 0;
    for page in ["sites.md", "cgi.md", "serve.md"] {
        for file in files_of(page) {
            let lines = file.lines().map(|line| with_a_path(line, &folder) + "\n");
            let mut text: String = lines.collect();
            if text.starts_with("[[site.route]]") {
                let root = folder.path().display();
                text = format!("[[site]]\nroot = \"{root}\"\n{text}");
            }
            write("srv.toml", &text);
            let mut check = Command::new(binary().unwrap());
            check
                .args(["check", "--config"])
                .arg(folder.path().join("srv.toml"));
            let output = check.output().unwrap();
            assert!(output.status.success(), "{page}:\n{text}\n{output:?}");
            checked += 1;
        }
    }
    assert!(checked >= 10, "{checked} files are there");
}
