//! An HTTP client that sends exactly the bytes it is told to, and sees how the
//! connection ends. Knows just enough HTTP to tell one response from the next.

use std::io::{self, Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, Type};
use srv::measure::load::response::{self, Head};

/// An answer that takes longer than this is none.
const PATIENCE: Duration = Duration::from_secs(30);

/// A connection to a server.
#[derive(Debug)]
pub(crate) struct Client {
    stream: TcpStream,
    unread: Vec<u8>,
}

/// A complete response.
#[derive(Debug)]
pub(crate) struct Response {
    /// What the head says.
    pub head: Head,
    /// The head itself.
    pub text: String,
    /// The body.
    pub body: Vec<u8>,
}

impl Response {
    /// The status code.
    pub(crate) fn status(&self) -> u16 {
        self.head.status
    }

    /// The value of a header.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let lines = self.text.lines().filter_map(|line| line.split_once(':'));
        let mut values = lines.filter(|(key, _)| key.eq_ignore_ascii_case(name));
        values.next().map(|(_, value)| value.trim())
    }
}

impl Client {
    /// Connects.
    pub(crate) fn connect(target: SocketAddr) -> Self {
        Self::over(TcpStream::connect(target).unwrap())
    }

    /// Connects from this address of the machine's.
    pub(crate) fn connect_from(source: IpAddr, target: SocketAddr) -> Self {
        let socket = Socket::new(
            Domain::for_address(target),
            Type::STREAM,
            Some(Protocol::TCP),
        )
        .unwrap();
        socket.bind(&SocketAddr::new(source, 0).into()).unwrap();
        socket.connect(&target.into()).unwrap();
        Self::over(socket.into())
    }

    /// Over a connection that is made in a particular way.
    pub(crate) fn over(stream: TcpStream) -> Self {
        stream.set_nodelay(true).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        Self {
            stream,
            unread: Vec::new(),
        }
    }

    /// The connection itself.
    pub(crate) fn stream(&self) -> &TcpStream {
        &self.stream
    }

    /// Sends.
    pub(crate) fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.stream.write_all(bytes.as_ref()).unwrap();
    }

    /// Sends a GET that keeps the connection.
    pub(crate) fn get(&mut self, path: &str) {
        self.send(format!("GET {path} HTTP/1.1\r\nHost: test\r\n\r\n"));
    }

    /// Receives a response to anything but HEAD.
    pub(crate) fn response(&mut self) -> Response {
        self.try_response(true).unwrap()
    }

    /// Receives a response to HEAD.
    pub(crate) fn response_to_head(&mut self) -> Response {
        self.try_response(false).unwrap()
    }

    /// Receives a response to anything but HEAD, or how the connection ended instead.
    pub(crate) fn ended_or_response(&mut self) -> io::Result<Response> {
        self.try_response(true)
    }

    fn try_response(&mut self, has_body: bool) -> io::Result<Response> {
        let head = loop {
            let parsed = response::parse(&self.unread);
            match parsed.map_err(|error| io::Error::other(format!("{error:#}")))? {
                Some(head) => break head,
                None => self.receive()?,
            }
        };
        let text = self.unread.drain(..head.head_bytes).collect();
        let text = String::from_utf8(text).map_err(io::Error::other)?;
        let body_bytes = if has_body {
            head.body_bytes().unwrap_or(0) as usize
        } else {
            0
        };
        while self.unread.len() < body_bytes {
            self.receive()?;
        }
        let body = self.unread.drain(..body_bytes).collect();
        Ok(Response { head, text, body })
    }

    /// Waits for bytes.
    fn receive(&mut self) -> io::Result<()> {
        let mut chunk = [0; 65_536];
        match self.stream.read(&mut chunk)? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            count => {
                self.unread.extend_from_slice(&chunk[..count]);
                Ok(())
            }
        }
    }

    /// Waits until the server closes; what it still sent.
    ///
    /// # Errors
    /// It reset the connection, or did not close.
    pub(crate) fn rest(mut self) -> io::Result<Vec<u8>> {
        self.stream.read_to_end(&mut self.unread)?;
        Ok(self.unread)
    }

    /// Waits until the server closes, without another byte and without a reset.
    pub(crate) fn assert_closed(self) {
        let rest = self.rest().expect("the server closes in order");
        assert!(
            rest.is_empty(),
            "before closing it sent {:?}",
            String::from_utf8_lossy(&rest)
        );
    }
}

/// Gets `path` over a connection of its own, which the server closes.
pub(crate) fn get(target: SocketAddr, path: &str) -> Response {
    get_over(Client::connect(target), path)
}

/// Gets `path` and waits until the server closes.
pub(crate) fn get_over(mut client: Client, path: &str) -> Response {
    client.send(format!(
        "GET {path} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n"
    ));
    let response = client.response();
    client.assert_closed();
    response
}

/// Gets `/` this often, one connection after the other; who answered, with `X-Worker`.
pub(crate) fn get_many(target: SocketAddr, count: usize) -> Vec<u16> {
    let answered = |_| {
        let response = get(target, "/");
        assert_eq!(response.status(), 200);
        response.head.worker.expect("--worker-header")
    };
    (0..count).map(answered).collect()
}
