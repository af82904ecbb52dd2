//! A browser, driven by WebDriver over chromedriver. Knows how to open a page and to ask it by a script.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::process::Command;
use std::time::Duration;

use anyhow::Result;
use serde_json::{Value, json};
use srv_tests::child::Child;
use srv_tests::free_address;
use tempfile::TempDir;

use crate::agent::LOCALHOST;
use crate::probe::until;
use crate::unmodified::in_path;

/// An answer that takes longer is none: a browser takes seconds to start.
const PATIENCE: Duration = Duration::from_secs(60);

/// A browser with one window; both end when this is dropped.
pub(crate) struct Browser {
    driver: SocketAddr,
    session: String,
    _child: Child,
    _profile: TempDir,
}

/// Whether there is one.
pub(crate) fn installed() -> Result<()> {
    in_path("chromium")
        .and_then(|_| in_path("chromedriver"))
        .map(drop)
}

impl Browser {
    /// Starts one that shows nothing yet, in a window of this size.
    pub(crate) fn start(width: u32, height: u32) -> Self {
        let driver = free_address(LOCALHOST).unwrap();
        let mut command = Command::new("chromedriver");
        command.arg(format!("--port={}", driver.port()));
        let child = Child::spawn(&mut command).unwrap();
        until("chromedriver listens", || TcpStream::connect(driver).ok());
        let profile = tempfile::tempdir().unwrap();
        let options = json!({ "args": [
            "--headless=new", "--no-sandbox", "--disable-gpu",
            format!("--window-size={width},{height}"),
            format!("--user-data-dir={}", profile.path().display()),
        ]});
        let wanted = json!({ "capabilities": { "alwaysMatch": {
            "goog:chromeOptions": options, "goog:loggingPrefs": { "browser": "ALL" },
        }}});
        let answer = ask(driver, "POST", "/session", &wanted).unwrap();
        Self {
            driver,
            session: answer["sessionId"].as_str().expect("a session").to_owned(),
            _child: child,
            _profile: profile,
        }
    }

    /// Opens a page.
    pub(crate) fn open(&self, url: &str) {
        self.post("url", &json!({ "url": url }));
    }

    /// What a function with this body returns in the page.
    pub(crate) fn run(&self, body: &str) -> Value {
        self.post("execute/sync", &json!({ "script": body, "args": [] }))
    }

    /// What the console of the page says, and what it has not told before.
    pub(crate) fn console(&self) -> Vec<Value> {
        let log = self.post("se/log", &json!({ "type": "browser" }));
        log.as_array().expect("lines").clone()
    }

    fn post(&self, command: &str, order: &Value) -> Value {
        let path = format!("/session/{}/{command}", self.session);
        ask(self.driver, "POST", &path, order).unwrap()
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        let path = format!("/session/{}", self.session);
        let _ = ask(self.driver, "DELETE", &path, &json!({}));
    }
}

fn ask(driver: SocketAddr, method: &str, path: &str, order: &Value) -> Result<Value> {
    let mut stream = TcpStream::connect(driver)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let order = order.to_string();
    write!(
        stream,
        "{method} {path} HTTP/1.1\r\nHost: {driver}\r\nConnection: close\r\n\
         Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{order}",
        order.len()
    )?;
    // It keeps the connection, whatever the request says.
    let mut answer = BufReader::new(stream);
    let (mut head, mut length) = (String::new(), 0);
    while !head.ends_with("\r\n\r\n") {
        let from = head.len();
        anyhow::ensure!(
            answer.read_line(&mut head)? > 0,
            "{path}: an answer ended early"
        );
        let field = head[from..].to_ascii_lowercase();
        if let Some(value) = field.strip_prefix("content-length:") {
            length = value.trim().parse()?;
        }
    }
    let mut body = vec![0; length];
    answer.read_exact(&mut body)?;
    let body = String::from_utf8(body)?;
    anyhow::ensure!(head.starts_with("HTTP/1.1 200"), "{method} {path}: {body}");
    Ok(serde_json::from_str::<Value>(&body)?["value"].take())
}
