//! Readiness probes over HTTP.

use std::{net::SocketAddr, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::{sleep, timeout},
};

/// The pause between two probes.
const PAUSE: Duration = Duration::from_millis(20);
/// The timeout of one probe.
const LIMIT: Duration = Duration::from_secs(1);

/// Returns when `GET path` at `address` answers 200.
pub(crate) async fn until_healthy(address: SocketAddr, path: &str) {
    while !timeout(LIMIT, healthy(address, path)).await.is_ok_and(|answer| answer.unwrap_or(false)) {
        sleep(PAUSE).await;
    }
}

/// One HTTP request by hand: it is three lines, and a client library would add proxies and redirects.
async fn healthy(address: SocketAddr, path: &str) -> std::io::Result<bool> {
    let mut stream = TcpStream::connect(address).await?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut status = [0; 12];
    stream.read_exact(&mut status).await?;
    Ok(status.ends_with(b" 200"))
}
