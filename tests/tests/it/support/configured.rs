//! A server with a configuration file that is rewritten while it runs.

use std::path::PathBuf;

use srv_tests::server::Server;
use tempfile::TempDir;

/// A server with a configuration file that can be rewritten.
pub(crate) struct Configured {
    pub server: Server,
    pub file: PathBuf,
    _folder: TempDir,
}

impl Configured {
    /// Starts a server whose file says `text`.
    pub(crate) fn start(text: &str, flags: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("srv.toml");
        std::fs::write(&file, text).unwrap();
        let config = ["--config", file.to_str().unwrap()];
        let server = Server::start(config.iter().chain(flags)).unwrap();
        Self {
            server,
            file,
            _folder: folder,
        }
    }

    /// As [`Self::start`], where the file names `addresses` addresses.
    pub(crate) fn start_listening(text: &str, flags: &[&str], addresses: usize) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("srv.toml");
        std::fs::write(&file, text).unwrap();
        let config = ["--config", file.to_str().unwrap()];
        let server = Server::start_listening(config.iter().chain(flags), addresses).unwrap();
        Self {
            server,
            file,
            _folder: folder,
        }
    }

    /// From the next reload on the file says `text`.
    pub(crate) fn rewrite(&self, text: &str) {
        std::fs::write(&self.file, text).unwrap();
    }

    /// What `srv reload` says, and whether it succeeded.
    pub(crate) fn reload(&self) -> (String, bool) {
        let output = self.server.srv(&["reload"]).unwrap();
        let said = [output.stdout, output.stderr].concat();
        (
            String::from_utf8_lossy(&said).into_owned(),
            output.status.success(),
        )
    }
}
