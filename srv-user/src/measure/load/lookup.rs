//! From a URL to the server that a run connects to: `--connect-to`,
//! `--unix-socket`, the name's addresses, and the one of these that listens.

use std::net::{SocketAddr, TcpStream, ToSocketAddrs as _};
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use rustls::ClientConfig;

use super::url::{Url, number};
use super::{Address, Endpoint, tls};

/// If one of several addresses does not take a connection in this time, the next is tried.
const TIMEOUT: Duration = Duration::from_secs(2);

/// How servers are found; a name is looked up once.
pub(super) struct Lookup {
    connect_to: Vec<ConnectTo>,
    unix_socket: Option<PathBuf>,
    is_insecure: bool,
    resumes: bool,
    config: Option<Arc<ClientConfig>>,
    known: Vec<((String, u16), SocketAddr)>,
}

impl Lookup {
    pub(super) fn new(
        connect_to: Vec<ConnectTo>,
        unix_socket: Option<PathBuf>,
        is_insecure: bool,
        resumes: bool,
    ) -> Self {
        Self {
            connect_to,
            unix_socket,
            is_insecure,
            resumes,
            config: None,
            known: Vec::new(),
        }
    }

    /// The server of `url`.
    pub(super) fn server(&mut self, url: &Url) -> Result<Endpoint> {
        let address = match &self.unix_socket {
            Some(path) => Address::Unix(path.clone()),
            None => Address::Tcp(self.address(url)?),
        };
        let tls = match url.is_https {
            true => Some(tls::to(&url.name, self.config()?)?),
            false => None,
        };
        Ok(Endpoint { address, tls })
    }

    fn config(&mut self) -> Result<&Arc<ClientConfig>> {
        let config = match self.config.take() {
            Some(config) => config,
            None => tls::config(self.is_insecure, self.resumes)?,
        };
        Ok(self.config.insert(config))
    }

    fn address(&mut self, url: &Url) -> Result<SocketAddr> {
        let (name, port) = (&url.name, url.port);
        let mut rules = self.connect_to.iter();
        let found = rules.find_map(|rule| rule.apply(name, port));
        let place = found.unwrap_or_else(|| (name.clone(), port));
        if let Some((_, address)) = self.known.iter().find(|(known, _)| *known == place) {
            return Ok(*address);
        }
        let address = look_up(&place.0, place.1)?;
        self.known.push((place, address));
        Ok(address)
    }
}

/// The first address of the name that takes a connection. `localhost` is `::1`
/// and `127.0.0.1`, and many servers listen on one of these only. A single
/// address is not tried: the run itself says what is wrong there.
fn look_up(name: &str, port: u16) -> Result<SocketAddr> {
    let addresses: Vec<SocketAddr> = (name, port)
        .to_socket_addrs()
        .with_context(|| format!("look up `{name}` (check the name, or write an address)"))?
        .collect();
    let listens = |address: &SocketAddr| TcpStream::connect_timeout(address, TIMEOUT).is_ok();
    match addresses[..] {
        [] => bail!("look up `{name}`: it has no address (check the name, or write an address)"),
        [only] => Ok(only),
        [first, ..] => Ok(addresses.into_iter().find(listens).unwrap_or(first)),
    }
}

/// `--connect-to HOST:PORT:TO:PORT`: requests for the first host and port go to the
/// second. An empty host or port means any, and in the second place the same.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConnectTo {
    host: String,
    port: Option<u16>,
    to_host: String,
    to_port: Option<u16>,
}

impl ConnectTo {
    fn apply(&self, name: &str, port: u16) -> Option<(String, u16)> {
        let is_host = self.host.is_empty() || self.host.eq_ignore_ascii_case(name);
        if !is_host || self.port.is_some_and(|own| own != port) {
            return None;
        }
        let to_host = match &*self.to_host {
            "" => name,
            to_host => to_host,
        };
        Some((to_host.to_owned(), self.to_port.unwrap_or(port)))
    }
}

impl FromStr for ConnectTo {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let fields = fields(text);
        let [host, port, to_host, to_port] = fields[..] else {
            bail!(
                "expected HOST:PORT:TO:PORT as with curl, such as example.org:443:[::1]:8443; \
                 each of these may be empty"
            );
        };
        let port_of = |field: &str| match field {
            "" => Ok(None),
            field => number(field).map(Some),
        };
        let bare = |host: &str| host.trim_matches(['[', ']']).to_owned();
        Ok(Self {
            host: bare(host),
            port: port_of(port)?,
            to_host: bare(to_host),
            to_port: port_of(to_port)?,
        })
    }
}

/// What is between the colons, except for those in brackets.
fn fields(text: &str) -> Vec<&str> {
    let mut is_in_brackets = false;
    text.split(|character| {
        match character {
            '[' => is_in_brackets = true,
            ']' => is_in_brackets = false,
            _ => {}
        }
        character == ':' && !is_in_brackets
    })
    .collect()
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn a_rule_applies_as_curls_does() {
        for (rule, host, port, expected) in [
            ("a:80:b:81", "a", 80, Some(("b", 81))),
            ("A:80:b:81", "a", 80, Some(("b", 81))),
            ("a:80:b:81", "a", 8080, None),
            ("a:80:b:81", "c", 80, None),
            ("::b:81", "any", 1, Some(("b", 81))),
            (":80::81", "a", 80, Some(("a", 81))),
            ("a::b:", "a", 7, Some(("b", 7))),
            ("[::1]:80:[::2]:81", "::1", 80, Some(("::2", 81))),
        ] {
            let parsed: ConnectTo = rule.parse().unwrap();
            let expected = expected.map(|(host, port)| (host.to_owned(), port));
            assert_eq!(
                parsed.apply(host, port),
                expected,
                "{rule} for {host}:{port}"
            );
        }
        for text in ["", "a:80", "a:80:b", "a:80:b:81:c", "::1:80:b:81"] {
            let error = text.parse::<ConnectTo>().expect_err(text).to_string();
            assert!(error.contains("HOST:PORT:TO:PORT"), "{text}: {error}");
        }
        let error = "a:x:b:81".parse::<ConnectTo>().unwrap_err().to_string();
        assert!(error.contains("port `x`"), "{error}");
    }

    /// `localhost` has both addresses on most machines, in either order.
    #[test]
    fn the_address_that_listens_is_found() {
        for host in ["127.0.0.1:0", "[::1]:0"] {
            let Ok(listener) = TcpListener::bind(host) else {
                // This machine has no IPv6.
                continue;
            };
            let address = listener.local_addr().unwrap();
            let addresses = ("localhost", address.port()).to_socket_addrs().unwrap();
            if addresses.into_iter().any(|known| known == address) {
                assert_eq!(look_up("localhost", address.port()).unwrap(), address);
            }
        }
    }
}
