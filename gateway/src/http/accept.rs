//! The accept loop: a limit on connections and a timer on handshakes, neither of which the HTTP library has by itself.

use std::{sync::Arc, time::Duration};

use axum::{Router, body::Body, http::Request};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tidegate_shared::lifecycle::Lifecycle;
use tokio::{
    io::AsyncWriteExt,
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{sleep, timeout},
};
use tower::ServiceExt;

/// What one listener allows.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    /// Sockets open at a time.
    pub(crate) connections: usize,
    /// How long a request's head may take.
    pub(crate) handshake: Duration,
}

/// One open socket's place among `connections`; requests carry it, and a WebSocket keeps it as long as it lives.
#[derive(Debug, Clone)]
pub(crate) struct Slot(#[expect(dead_code, reason = "held, never read")] Arc<OwnedSemaphorePermit>);

/// Serves `router` on `listener` until `until`. `busy` is called for each refused socket.
pub(crate) async fn serve(
    listener: TcpListener,
    router: Router,
    limits: Limits,
    lifecycle: Lifecycle,
    until: impl Future<Output = ()>,
    busy: impl Fn(),
) {
    let slots = Arc::new(Semaphore::new(limits.connections));
    tokio::pin!(until);
    loop {
        let accepted = tokio::select! {
            () = &mut until => return,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, _)) => {
                if let Ok(slot) = Arc::clone(&slots).try_acquire_owned() {
                    lifecycle.spawn(handle(stream, router.clone(), limits.handshake, Slot(Arc::new(slot))));
                } else {
                    busy();
                    lifecycle.spawn(turn_away(stream));
                }
            }
            Err(error) => {
                // Out of descriptors, most likely: give others time to close theirs.
                tracing::warn!(%error, "cannot accept a connection");
                sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

async fn handle(stream: TcpStream, router: Router, handshake: Duration, slot: Slot) {
    // Frames are gathered and flushed by us; waiting for more would only delay them.
    let _ = stream.set_nodelay(true);
    let service = service_fn(move |mut request: Request<Incoming>| {
        request.extensions_mut().insert(slot.clone());
        router.clone().oneshot(request.map(Body::new))
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(handshake)
        .max_buf_size(16 * 1024)
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades();
    if let Err(error) = connection.await {
        tracing::debug!(%error, "a handshake failed");
    }
}

async fn turn_away(mut stream: TcpStream) {
    let answer = b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\nconnection: close\r\nretry-after: 5\r\n\r\n";
    // Best effort: the client learns as much from a closed socket.
    let _ = timeout(Duration::from_secs(1), stream.write_all(answer)).await;
}
