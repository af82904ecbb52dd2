//! `srv check`: whether a configuration file is valid, and whether the applications that it names can
//! be reached now. An application that cannot is said and is no error: it may be started later.

use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use crate::serve::config;
use crate::serve::config::args::ServeArgs;
use crate::values::ApplicationAddr;

/// How long an application may take to accept a connection.
const PATIENCE: Duration = Duration::from_secs(1);

/// The arguments of `srv check`.
#[derive(Debug, Args)]
pub struct CheckArgs {
    /// The file to test
    #[arg(long, value_name = "FILE")]
    pub config: PathBuf,
}

impl CheckArgs {
    /// Checks the file and prints what it found.
    ///
    /// # Errors
    /// The file is not valid.
    pub fn run(self) -> anyhow::Result<()> {
        let flags = ServeArgs {
            config: Some(self.config.clone()),
            ..ServeArgs::default()
        };
        let settings = config::settings(&flags)?;
        for doubt in settings.doubts_of_certificates() {
            eprintln!("warning: {doubt}");
        }
        let sites = settings.serving.sites;
        println!(
            "{}: the file is valid, sites: {}",
            self.config.display(),
            sites.list().len()
        );
        for application in sites.applications() {
            if let Err(error) = connect(application) {
                println!(
                    "connect to the application at {application}: {error}: start it; until then, \
                     its requests are answered with 502"
                );
            }
        }
        Ok(())
    }
}

fn connect(application: &ApplicationAddr) -> std::io::Result<()> {
    match application {
        ApplicationAddr::Unix(path) => UnixStream::connect(path).map(drop),
        ApplicationAddr::Tcp(address) => TcpStream::connect_timeout(address, PATIENCE).map(drop),
    }
}
