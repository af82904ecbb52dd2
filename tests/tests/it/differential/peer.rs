//! nginx as the server beside srv: the same folder, and no option that changes what it accepts.

use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::Command;

use srv_tests::child::Child;
use srv_tests::free_address;

use crate::agent::LOCALHOST;
use crate::probe::until;

/// A running nginx; it ends when this is dropped.
pub(super) struct Nginx {
    pub address: SocketAddr,
    _child: Child,
}

impl Nginx {
    /// Starts it in `folder`, to serve `root`. Like srv, it follows no link out of the root.
    pub(super) fn start(folder: &Path, root: &Path) -> Self {
        let address = free_address(LOCALHOST).unwrap();
        let (at, root) = (folder.display(), root.display());
        let configuration = format!(
            "daemon off; worker_processes 1; pid {at}/pid; error_log stderr crit; user root;
             events {{ worker_connections 64; }}
             http {{
                 access_log off; client_body_temp_path {at}/body; fastcgi_temp_path {at}/fastcgi;
                 proxy_temp_path {at}/proxy; scgi_temp_path {at}/scgi; uwsgi_temp_path {at}/uwsgi;
                 server {{ listen {address}; root {root}; disable_symlinks on; }}
             }}"
        );
        let file = folder.join("nginx.conf");
        std::fs::write(&file, configuration).unwrap();
        let mut command = Command::new("nginx");
        command.args(["-e", "stderr", "-c"]).arg(&file);
        let child = Child::spawn(&mut command).unwrap();
        until("nginx listens", || TcpStream::connect(address).ok());
        Self {
            address,
            _child: child,
        }
    }
}
