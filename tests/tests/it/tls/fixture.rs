//! An authority that makes certificates, a server that has them, and a client that trusts the
//! authority.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use std::{fs, io};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{
    ALL_VERSIONS, ClientConfig, ClientConnection, RootCertStore, StreamOwned,
    SupportedProtocolVersion,
};
use srv::serve::config::identity::provider;
use srv_tests::server::Server;
use tempfile::TempDir;

/// An answer that takes longer than this is none.
const PATIENCE: Duration = Duration::from_secs(30);

/// An authority.
pub(super) struct Authority(CertifiedIssuer<'static, KeyPair>);

/// A certificate and its key, in PEM.
pub(super) struct Made {
    pub(super) certificate: String,
    pub(super) key: String,
}

impl Authority {
    pub(super) fn new() -> Self {
        let mut params = CertificateParams::default();
        // openssl takes a certificate for its own authority's if both have the same name.
        params
            .distinguished_name
            .push(DnType::CommonName, "an authority");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        Self(CertifiedIssuer::self_signed(params, key).unwrap())
    }

    /// Makes a certificate for these names.
    pub(super) fn certify(&self, names: &[&str]) -> Made {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        self.sign(CertificateParams::new(names).unwrap())
    }

    /// The same, valid from a month ago until so many days from now.
    pub(super) fn certify_until(&self, names: &[&str], days: i64) -> Made {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut params = CertificateParams::new(names).unwrap();
        let now = SystemTime::now();
        let day = Duration::from_secs(24 * 60 * 60);
        params.not_before = (now - 30 * day).into();
        params.not_after = match days {
            0.. => (now + days as u32 * day).into(),
            _ => (now - days.unsigned_abs() as u32 * day).into(),
        };
        self.sign(params)
    }

    fn sign(&self, params: CertificateParams) -> Made {
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.0).unwrap();
        Made {
            certificate: certificate.pem(),
            key: key.serialize_pem(),
        }
    }

    pub(super) fn pem(&self) -> String {
        self.0.pem()
    }

    /// What a client trusts.
    pub(super) fn trusted(&self) -> RootCertStore {
        let mut roots = RootCertStore::empty();
        roots.add(self.0.der().clone()).unwrap();
        roots
    }

    /// A client that speaks every version of TLS.
    pub(super) fn client(&self) -> ClientConfig {
        self.client_of(ALL_VERSIONS)
    }

    /// A client that speaks these versions alone.
    pub(super) fn client_of(&self, versions: &[&'static SupportedProtocolVersion]) -> ClientConfig {
        let builder = ClientConfig::builder_with_provider(provider());
        let builder = builder.with_protocol_versions(versions).unwrap();
        builder
            .with_root_certificates(self.trusted())
            .with_no_client_auth()
    }

    /// A client that has this certificate.
    pub(super) fn client_with(&self, made: &Made) -> ClientConfig {
        let builder = ClientConfig::builder_with_provider(provider());
        let builder = builder.with_protocol_versions(ALL_VERSIONS).unwrap();
        let certificate = CertificateDer::from_pem_slice(made.certificate.as_bytes()).unwrap();
        let key = PrivateKeyDer::from_pem_slice(made.key.as_bytes()).unwrap();
        builder
            .with_root_certificates(self.trusted())
            .with_client_auth_cert(vec![certificate], key)
            .unwrap()
    }
}

/// A server whose file names the files beside it.
pub(super) struct Https {
    pub(super) server: Server,
    pub(super) authority: Authority,
    folder: TempDir,
}

impl Https {
    /// Starts a server with this file and these files beside it, and `NAME.pem` and `NAME.key` for
    /// each certificate: its name, and those that it is for.
    #[track_caller]
    pub(super) fn start(
        text: &str,
        files: &[(&str, &[u8])],
        certificates: &[(&str, &[&str])],
        flags: &[&str],
    ) -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::set_permissions(folder.path(), PermissionsExt::from_mode(0o755)).unwrap();
        let authority = Authority::new();
        let write = |name: &str, content: &[u8]| write(&folder.path().join(name), content);
        for (name, content) in files {
            write(name, content);
        }
        for (name, names) in certificates {
            put(folder.path(), name, &authority.certify(names));
        }
        write("ca.pem", authority.pem().as_bytes());
        write("srv.toml", text.as_bytes());
        let file = folder.path().join("srv.toml");
        let config = ["--config", file.to_str().unwrap()];
        let addresses = text.matches("address = ").count();
        let server = Server::start_listening(config.iter().chain(flags), addresses).unwrap();
        Self {
            server,
            authority,
            folder,
        }
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.server.address()
    }

    /// Connects by a client of this configuration that asks for `name`.
    pub(super) fn connect(&self, config: &Arc<ClientConfig>, name: &str) -> Https1 {
        Https1::connect(self.address(), config, name)
    }
}

/// Writes the certificate as `NAME.pem`, and the key as `NAME.key`, which its owner alone reads.
pub(super) fn put(folder: &Path, name: &str, made: &Made) {
    write(
        &folder.join(format!("{name}.pem")),
        made.certificate.as_bytes(),
    );
    let key = folder.join(format!("{name}.key"));
    write(&key, made.key.as_bytes());
    fs::set_permissions(key, PermissionsExt::from_mode(0o600)).unwrap();
}

fn write(path: &Path, content: &[u8]) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, content).unwrap();
}

/// A connection of a client that speaks HTTP/1.1 over TLS.
pub(super) struct Https1(pub(super) StreamOwned<ClientConnection, TcpStream>);

impl Https1 {
    pub(super) fn connect(to: SocketAddr, config: &Arc<ClientConfig>, name: &str) -> Self {
        let stream = TcpStream::connect(to).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        stream.set_nodelay(true).unwrap();
        let name = ServerName::try_from(name.to_owned()).unwrap();
        let client = ClientConnection::new(config.clone(), name).unwrap();
        Self(StreamOwned::new(client, stream))
    }

    /// Sends this, and reads until the server ends the session in an orderly way.
    pub(super) fn ask(&mut self, request: &str) -> io::Result<String> {
        self.0.write_all(request.as_bytes())?;
        let mut answer = Vec::new();
        self.0.read_to_end(&mut answer)?;
        Ok(String::from_utf8_lossy(&answer).into_owned())
    }

    /// Gets a path as the last request of the connection.
    pub(super) fn get(&mut self, host: &str, path: &str) -> io::Result<String> {
        self.ask(&format!(
            "GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n"
        ))
    }
}
