//! A server as its users write one with axum, to be run unmodified under `srv run --copies`: one
//! process with one thread, one listening socket and HTTP/1. It answers `/index.html` with `ok`,
//! and `/hold/N` likewise, except that this first blocks its thread until another process has
//! written the file `hold-N` of the current folder, which is a named pipe. Knows nothing of srv.

use anyhow::{Context as _, Result};
use axum::Router;
use axum::extract::Path;
use axum::routing::get;
use tokio::net::TcpListener;

async fn ok() -> &'static str {
    "ok\n"
}

async fn hold(Path(nth): Path<u32>) -> &'static str {
    // A test waits for this; if there is no such file, the answer comes at once.
    let _ = std::fs::read(format!("hold-{nth}"));
    "ok\n"
}

fn main() -> Result<()> {
    let address = std::env::args()
        .nth(1)
        .context("usage: served-by-axum ADDRESS")?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let routes = Router::new()
            .route("/index.html", get(ok))
            .route("/hold/{nth}", get(hold));
        let listener = TcpListener::bind(&address)
            .await
            .with_context(|| format!("listen on {address}"))?;
        axum::serve(listener, routes).await.context("serve")
    })
}
