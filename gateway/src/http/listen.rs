//! The accept loop, with a limit on connections and a time limit on handshakes, which the HTTP library does not have.

use std::{io::Write, sync::Arc, time::Duration};

use axum::{Router, body::Body, http::Request};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tidegate_shared::{lifecycle::Lifecycle, sparse::Sparse};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    time::{sleep, timeout},
};
use tower::ServiceExt;

use crate::connection::permit::SocketPermit;

/// The limits of one listener.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    /// Sockets open at a time.
    pub(crate) connections: usize,
    /// How long a request's head may take.
    pub(crate) handshake: Duration,
}

/// How long the last writes on a socket may take when its stream has ended.
const LAST_WRITES: Duration = Duration::from_secs(1);

/// Serves `router` on `listener` until `until`. `busy` is called for each refused socket.
pub(crate) async fn serve(
    listener: TcpListener,
    router: Router,
    limits: Limits,
    lifecycle: Lifecycle,
    until: impl Future<Output = ()>,
    busy: impl Fn(),
) {
    let permits = Arc::new(Semaphore::new(limits.connections));
    tokio::pin!(until);
    loop {
        let accepted = tokio::select! {
            () = &mut until => return,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, _)) => {
                if let Ok(permit) = Arc::clone(&permits).try_acquire_owned() {
                    let draining = lifecycle.clone();
                    let draining = async move { draining.draining().await };
                    lifecycle.spawn(handle(
                        stream,
                        router.clone(),
                        limits.handshake,
                        SocketPermit::new(permit),
                        draining,
                    ));
                } else {
                    busy();
                    turn_away(stream);
                }
            }
            Err(error) => {
                // Most likely out of file descriptors: wait until other sockets close.
                static REFUSED: Sparse = Sparse::new();
                if let Some(skipped) = REFUSED.due() {
                    tracing::warn!(%error, skipped, "cannot accept a connection");
                }
                sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

async fn handle(
    stream: TcpStream,
    router: Router,
    handshake: Duration,
    permit: SocketPermit,
    draining: impl Future<Output = ()>,
) {
    // The gateway batches and flushes frames itself; Nagle's algorithm would only delay them.
    let _ = stream.set_nodelay(true);
    let held = permit.clone();
    let service = service_fn(move |mut request: Request<Incoming>| {
        request.extensions_mut().insert(held.clone());
        router.clone().oneshot(request.map(Body::new))
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(handshake)
        .max_buf_size(16 * 1024)
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades();
    tokio::pin!(connection);
    let ended = tokio::select! {
        served = connection.as_mut() => return say(served),
        () = draining => false,
        () = permit.ended() => true,
    };
    // Running requests go on; keep-alive ends, so that further requests go to another gateway.
    connection.as_mut().graceful_shutdown();
    if !ended {
        tokio::select! {
            served = connection.as_mut() => return say(served),
            () = permit.ended() => {}
        }
    }
    if let Ok(served) = timeout(LAST_WRITES, connection).await {
        say(served);
    }
}

fn say(served: hyper::Result<()>) {
    if let Err(error) = served {
        tracing::debug!(%error, "a socket ended before its request did");
    }
}

/// Answers without a task: however many sockets are refused, none of them is held.
fn turn_away(stream: TcpStream) {
    let answer = b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\nconnection: close\r\nretry-after: 5\r\n\r\n";
    // Best effort: the answer fits into an empty send buffer, and a closed socket tells the client the same.
    if let Ok(mut stream) = stream.into_std() {
        let _ = stream.write(answer);
    }
}
