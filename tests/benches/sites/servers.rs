//! The servers of `bench sites`: srv and nginx with the same files, certificate and PHP, at an
//! address for plain HTTP and one for TLS.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};
use rustix::process::Pid;
use rustls::pki_types::CertificateDer;
use srv::measure::baseline::retry_if_in_use;
use srv_tests::child::Child;
use srv_tests::free_address;
use srv_tests::nginx::{Content, Nginx, Options};
use srv_tests::server::Server;
use tempfile::TempDir;

/// The file that is asked for.
pub(crate) const FILE: &str = "/1k.bin";
/// The name in the certificate.
pub(crate) const NAME: &str = "localhost";
/// The script that is asked for.
pub(crate) const SCRIPT: &str = "/hello.php";

/// Which server runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// srv.
    Srv,
    /// nginx as Debian sets it up.
    Nginx,
    /// nginx that keeps files open, and connections for ever.
    NginxTuned,
}

/// A running server; dropping it stops it.
pub(crate) struct Running {
    server: AnyServer,
    /// Where it speaks HTTP.
    pub(crate) plain: SocketAddr,
    /// Where it speaks HTTPS.
    pub(crate) tls: SocketAddr,
}

enum AnyServer {
    Srv(Server),
    Nginx(Nginx),
}

/// What all servers serve.
pub(crate) struct Material {
    folder: TempDir,
    /// The certificate of all servers.
    pub(crate) certificate: CertificateDer<'static>,
    /// Ends with this value.
    _php: Child,
}

const TUNING: &str = "open_file_cache max=1000 inactive=60s; open_file_cache_valid 1s; \
     keepalive_requests 1000000000; http2_max_requests 1000000000; ";

impl Material {
    /// Makes the files and the certificate, and starts PHP.
    ///
    /// # Errors
    /// PHP's FPM is not installed, or does not start.
    pub(crate) fn make() -> Result<Self> {
        let folder = tempfile::tempdir().context("create a folder to serve")?;
        let at = |name: &str| folder.path().join(name);
        std::fs::create_dir(at("root"))?;
        std::fs::write(at("root").join(&FILE[1..]), [b'x'; 1024])?;
        std::fs::write(at("root").join(&SCRIPT[1..]), "<?php echo 'hello';\n")?;
        // Of the kind that most sites have now: ECDSA with P-256.
        let made = rcgen::generate_simple_self_signed([NAME.to_owned()]);
        let made = made.context("make a certificate")?;
        std::fs::write(at("certificate.pem"), made.cert.pem())?;
        std::fs::write(at("key.pem"), made.signing_key.serialize_pem())?;
        Ok(Self {
            certificate: made.cert.der().clone(),
            _php: fpm(folder.path())?,
            folder,
        })
    }

    fn at(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Starts a server.
    ///
    /// # Errors
    /// It does not start.
    pub(crate) fn start(&self, kind: Kind) -> Result<Running> {
        match kind {
            Kind::Srv => self.srv(),
            Kind::Nginx => self.nginx(""),
            Kind::NginxTuned => self.nginx(TUNING),
        }
    }

    fn srv(&self) -> Result<Running> {
        let config = self.at("srv.toml");
        let text = format!(
            "workers = 2\n\
             [[listen]]\naddress = \"127.0.0.1:0\"\n\
             [[listen]]\naddress = \"127.0.0.1:0\"\ntls = true\n\
             [[site]]\nroot = \"root\"\n\
             [site.tls]\ncertificate = \"certificate.pem\"\nkey = \"key.pem\"\n\
             [[site.route]]\nsuffix = \".php\"\nfastcgi = \"unix:{}\"\n",
            self.at("php.sock").display()
        );
        std::fs::write(&config, text).context("write srv's configuration")?;
        let server = Server::start_listening([Path::new("--config"), &config], 2)?;
        let (plain, tls) = (server.addresses()[0], server.addresses()[1]);
        Ok(Running {
            server: AnyServer::Srv(server),
            plain,
            tls,
        })
    }

    fn nginx(&self, tuning: &str) -> Result<Running> {
        retry_if_in_use(|| {
            let free = || free_address(Ipv4Addr::LOCALHOST.into());
            let (plain, tls) = (free()?, free()?);
            let options = Options {
                workers: 2,
                reuseport: false,
                deferred: !tuning.is_empty(),
                tuning: format!("{tuning}{}", self.sites_of_nginx(plain, tls)),
                content: Content::Files(self.at("root")),
            };
            let nginx = Nginx::start(Ipv4Addr::LOCALHOST.into(), &options)?;
            Ok(Running {
                plain,
                tls,
                server: AnyServer::Nginx(nginx),
            })
        })
    }

    /// A server beside the one of nginx's options, which has neither TLS nor PHP.
    fn sites_of_nginx(&self, plain: SocketAddr, tls: SocketAddr) -> String {
        let folder = self.folder.path().display();
        let parameters = PARAMETERS.map(|(name, value)| format!("fastcgi_param {name} {value}; "));
        format!(
            "server {{ listen {plain} backlog=4096; listen {tls} backlog=4096 ssl http2; \
             ssl_certificate {folder}/certificate.pem; ssl_certificate_key {folder}/key.pem; \
             ssl_protocols TLSv1.2 TLSv1.3; \
             location / {{ root {folder}/root; }} \
             location ~ \\.php$ {{ root {folder}/root; {} fastcgi_pass unix:{folder}/php.sock; }} }}",
            parameters.concat()
        )
    }
}

/// What PHP needs; Debian's file `fastcgi_params` has some more.
const PARAMETERS: [(&str, &str); 16] = [
    ("SCRIPT_FILENAME", "$document_root$fastcgi_script_name"),
    ("QUERY_STRING", "$query_string"),
    ("REQUEST_METHOD", "$request_method"),
    ("CONTENT_TYPE", "$content_type"),
    ("CONTENT_LENGTH", "$content_length"),
    ("SCRIPT_NAME", "$fastcgi_script_name"),
    ("REQUEST_URI", "$request_uri"),
    ("DOCUMENT_ROOT", "$document_root"),
    ("SERVER_PROTOCOL", "$server_protocol"),
    ("REQUEST_SCHEME", "$scheme"),
    ("GATEWAY_INTERFACE", "CGI/1.1"),
    ("REMOTE_ADDR", "$remote_addr"),
    ("REMOTE_PORT", "$remote_port"),
    ("SERVER_ADDR", "$server_addr"),
    ("SERVER_NAME", "$server_name"),
    ("REDIRECT_STATUS", "200"),
];

impl Running {
    /// The process id of the master.
    pub(crate) fn pid(&self) -> Pid {
        match &self.server {
            AnyServer::Srv(server) => server.pid(),
            AnyServer::Nginx(nginx) => nginx.pid(),
        }
    }
}

/// PHP's process manager with four processes, in the foreground.
fn fpm(folder: &Path) -> Result<Child> {
    let folder_shown = folder.display();
    let text = format!(
        "[global]\nerror_log = /proc/self/fd/2\ndaemonize = no\n\
         [www]\nlisten = {folder_shown}/php.sock\nlisten.backlog = 4096\nlisten.mode = 0666\n\
         user = root\npm = static\npm.max_children = 4\n"
    );
    let file = folder.join("fpm.conf");
    std::fs::write(&file, text).context("write PHP's configuration")?;
    // Debian's command has the version in its name.
    let mut command = Command::new("sh");
    command.args([
        "-c",
        "exec $(ls /usr/sbin/php-fpm* | head -n 1) \"$@\"",
        "sh",
    ]);
    command.args(["--nodaemonize", "--allow-to-run-as-root", "--fpm-config"]);
    let mut child = Child::spawn(command.arg(&file))?;
    child
        .await_line("ready to handle connections")
        .context("start PHP's FPM (apt-get install php-fpm)")?;
    Ok(child)
}
