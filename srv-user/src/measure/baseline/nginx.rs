//! A private nginx on a port of its own: the server that srv is compared with.
//! Debian's package, its configuration generated here, so that a report can
//! quote it; nothing outside a temporary folder is read or written.

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use super::child::Child;
use super::launch::{Complete, Launch};
use super::{BaselineServer, free_address, retry_if_in_use};

/// What nginx is to be.
#[derive(Clone, Debug)]
pub struct Options {
    /// Worker processes.
    pub workers: usize,
    /// `listen … reuseport`: a socket per worker, else one for all.
    pub reuseport: bool,
    /// `listen … deferred`: a connection is accepted with its first bytes, as srv does.
    pub deferred: bool,
    /// Further directives at `http` level.
    pub tuning: String,
    /// What it serves.
    pub content: Content,
}

/// What nginx serves.
#[derive(Clone, Debug)]
pub enum Content {
    /// The files of a folder.
    Files(PathBuf),
    /// `/work?sleep_us=N`, which *blocks* its worker, through the Lua module;
    /// answers carry `X-Worker`.
    Work,
}

const MODULES: &str = "/usr/lib/nginx/modules";
const LUA_MODULES: [&str; 2] = ["ndk_http_module.so", "ngx_http_lua_module.so"];
const MEND: &str = "`cargo xtask ab` installs it, or: \
     apt-get install nginx-light libnginx-mod-http-lua";

/// Starts nginx on a port of `host` and waits until all its workers have started.
///
/// # Errors
/// nginx or its Lua module is not installed, or it did not start; the
/// message carries what it said.
pub fn start(host: IpAddr, options: &Options, launch: Launch) -> Result<BaselineServer> {
    require(options)?;
    retry_if_in_use(|| {
        let folder = tempfile::tempdir().context("create a temporary folder")?;
        let address = free_address(host)?;
        let command = command(Command::new("nginx"), options, address, folder.path())?;
        let listeners = if options.reuseport {
            options.workers
        } else {
            1
        };
        let complete = Complete {
            listeners,
            processes: 1 + options.workers,
            acceptors: options.workers,
        };
        launch.start(command, address, folder, complete)
    })
}

/// Writes `nginx.conf` into `folder`, for `address`.
///
/// # Errors
/// The file cannot be written.
pub fn configure(options: &Options, address: SocketAddr, folder: &Path) -> Result<()> {
    let file = folder.join("nginx.conf");
    std::fs::write(&file, options.configuration(address, folder))
        .with_context(|| format!("write {}", file.display()))
}

/// Starts the command `nginx` with a configuration that it finds in `folder`.
///
/// # Errors
/// The configuration cannot be written, or there is no such command.
pub fn spawn(
    nginx: Command,
    options: &Options,
    address: SocketAddr,
    folder: &Path,
) -> Result<Child> {
    Child::spawn(&mut command(nginx, options, address, folder)?)
}

/// The command `nginx` with a configuration that it finds in `folder`.
fn command(
    mut nginx: Command,
    options: &Options,
    address: SocketAddr,
    folder: &Path,
) -> Result<Command> {
    configure(options, address, folder)?;
    nginx.arg("-p").arg(folder);
    nginx.arg("-c").arg(folder.join("nginx.conf"));
    nginx.args(["-e", "stderr"]);
    Ok(nginx)
}

impl Options {
    /// The configuration file for `address`, everything else within `folder`.
    fn configuration(&self, address: SocketAddr, folder: &Path) -> String {
        let Self {
            workers, tuning, ..
        } = self;
        let folder = folder.display();
        // If this is root, workers would become another user, which cannot read a private root.
        let user = if rustix::process::geteuid().is_root() {
            "user root;"
        } else {
            ""
        };
        let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
        let files = limit.maximum.unwrap_or(1 << 20);
        let reuseport = if self.reuseport { " reuseport" } else { "" };
        let deferred = if self.deferred { " deferred" } else { "" };
        let (modules, http, location) = self.content.configuration();
        format!(
            "{modules}{user}
daemon off;
worker_processes {workers};
worker_rlimit_nofile {files};
pid {folder}/pid;
error_log stderr notice;
events {{ worker_connections 12000; }}
http {{
  access_log off;
  sendfile on;
  tcp_nopush on;
  types_hash_max_size 2048;
  client_body_temp_path {folder}/body;
  proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi;
  scgi_temp_path {folder}/scgi;
  {tuning}
  {http}
  server {{
    listen {address} backlog=4096{reuseport}{deferred};
    {location}
  }}
}}
"
        )
    }
}

impl Content {
    /// What it adds at top level, at `http` level and in the server.
    fn configuration(&self) -> (String, &'static str, String) {
        match self {
            Self::Files(root) => {
                let location = format!("location / {{ root {}; }}", root.display());
                (String::new(), "", location)
            }
            Self::Work => {
                let load = |module: &str| format!("load_module {MODULES}/{module};\n");
                (LUA_MODULES.map(load).concat(), SLEEP, WORK.to_owned())
            }
        }
    }
}

const SLEEP: &str = "init_by_lua_block {
    local ffi = require 'ffi'
    ffi.cdef 'int usleep(unsigned int us);'
    blocking_sleep = function(us) ffi.C.usleep(us) end
  }";

const WORK: &str = "location = /work { content_by_lua_block {
      local us = tonumber(ngx.var.arg_sleep_us) or 0
      if us > 0 then blocking_sleep(us) end
      ngx.header['X-Worker'] = ngx.worker.id()
      ngx.header['Content-Length'] = 3
      ngx.print('ok\\n')
    } }";

/// Whether it can run here.
///
/// # Errors
/// nginx, or the module that it needs for this, is not installed.
pub fn require(options: &Options) -> Result<()> {
    let is_missing = |path: &Path| !path.exists();
    if let Err(error) = version() {
        bail!("{error:#}; {MEND}");
    }
    if let Content::Work = options.content
        && let Some(missing) = LUA_MODULES
            .map(|module| Path::new(MODULES).join(module))
            .into_iter()
            .find(|path| is_missing(path))
    {
        bail!(
            "nginx's Lua module is not installed ({} is missing); {MEND}",
            missing.display()
        );
    }
    Ok(())
}

/// nginx's version, as it says it.
///
/// # Errors
/// It is not installed.
pub fn version() -> Result<String> {
    let output = Command::new("nginx")
        .arg("-v")
        .output()
        .context("nginx is not installed")?;
    let said = String::from_utf8_lossy(&output.stderr);
    Ok(said.trim().trim_start_matches("nginx version: ").to_owned())
}
