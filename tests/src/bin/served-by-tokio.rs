//! A server as many are written with tokio, to be run unmodified under `srv run`: a thread for
//! each worker, with a runtime and a listening socket of its own. It answers each request with
//! `ok`, except that `/hold/N` first blocks its thread until another process has written the file
//! `hold-N` of the current folder, which is a named pipe. Knows nothing of srv.

use std::net::SocketAddr;

use anyhow::{Context as _, Result, bail};
use socket2::{Domain, Socket, Type};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [address, workers] = &arguments[..] else {
        bail!("usage: served-by-tokio ADDRESS WORKERS");
    };
    let address: SocketAddr = address.parse().context("read the address")?;
    let workers: usize = workers.parse().context("read the number of workers")?;
    let threads: Vec<_> = (0..workers)
        .map(|_| std::thread::spawn(move || work(address)))
        .collect();
    for thread in threads {
        let ended = thread.join();
        ended.map_err(|_| anyhow::anyhow!("a worker panicked"))??;
    }
    Ok(())
}

/// One worker, without an end.
fn work(address: SocketAddr) -> Result<()> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    socket.set_reuse_port(true)?;
    socket.set_nonblocking(true)?;
    socket
        .bind(&address.into())
        .with_context(|| format!("bind {address}"))?;
    socket.listen(1024)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .build()?;
    runtime.block_on(async {
        let listener = TcpListener::from_std(socket.into())?;
        loop {
            let (stream, _) = listener.accept().await.context("accept")?;
            // A client may leave at any time.
            tokio::spawn(async move { serve(stream).await.ok() });
        }
    })
}

/// One connection, until its client or a request closes it.
async fn serve(mut stream: TcpStream) -> Result<()> {
    let mut head = Vec::new();
    loop {
        while !head.ends_with(b"\r\n\r\n") {
            if stream.read_buf(&mut head).await? == 0 {
                return Ok(());
            }
        }
        let text = String::from_utf8_lossy(&head).to_lowercase();
        if let Some(held) = text.strip_prefix("get /hold/") {
            let nth: String = held.chars().take_while(char::is_ascii_digit).collect();
            std::fs::read(format!("hold-{nth}"))?;
        }
        let (connection, closes) = match text.contains("\r\nconnection: close") {
            true => ("close", true),
            false => ("keep-alive", false),
        };
        let answer =
            format!("HTTP/1.1 200 OK\r\nContent-Length: 3\r\nConnection: {connection}\r\n\r\nok\n");
        stream.write_all(answer.as_bytes()).await?;
        if closes {
            return Ok(());
        }
        head.clear();
    }
}
