//! The accept loop, with limits on connections and a time limit on handshakes, which the HTTP library does not have.

use std::{
    convert::Infallible,
    future::pending,
    io::Write,
    pin::pin,
    sync::{
        Arc, Once,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use axum::{
    Router,
    body::Body,
    http::{HeaderValue, Request, StatusCode, header},
    response::{IntoResponse, Response},
};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tidegate_shared::{lifecycle::Lifecycle, sparse::Sparse};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    time::{Instant, sleep, timeout},
};
use tower::ServiceExt;

use super::{first_head, head, tls::Tls};
use crate::{
    connection::permit::SocketPermit,
    metrics::Metrics,
    policy::{
        address::{AddressGroup, ClientAddress, Proxies},
        crowd::{Crowd, Seat},
    },
};

/// The limits of one listener.
pub(crate) struct Limits {
    /// Sockets open at a time.
    pub(crate) connections: usize,
    /// How long a request's head may take.
    pub(crate) handshake: Duration,
    /// The longest head of a request.
    pub(crate) header_bytes: usize,
    /// The networks whose word on a client's address counts.
    pub(crate) proxies: Proxies,
    /// The connections of each address. `None` if they are not limited.
    pub(crate) addresses: Option<Arc<Crowd<AddressGroup>>>,
    /// `None` if it speaks no TLS.
    pub(crate) tls: Option<Tls>,
    /// Counts what is refused.
    pub(crate) metrics: Metrics,
}

/// How long the last writes on a socket may take when its stream has ended.
const LAST_WRITES: Duration = Duration::from_secs(1);
/// How long a gateway that drains waits for a request on a socket that has brought none yet.
const LAST_HEAD: Duration = Duration::from_millis(500);
/// What the head of a request may take however long the TLS handshake before it took.
const LEAST_HANDSHAKE: Duration = Duration::from_millis(100);
/// Where proxies write from which address they were reached.
const FORWARDED: &str = "x-forwarded-for";
/// The least bytes that the HTTP library reads a head into.
const LEAST_BUFFER: usize = 8192;
/// What the library reads beyond the longest head, so that a longer one is measured here and answered.
const MARGIN: usize = 4096;

/// Why a socket is refused.
#[derive(Debug, Clone, Copy)]
enum Refusal {
    Full,
    Address,
}

/// Serves `router` on `listener` until `until`.
pub(crate) async fn serve(
    listener: TcpListener,
    router: Router,
    limits: Limits,
    lifecycle: Lifecycle,
    until: impl Future<Output = ()>,
) {
    let (permits, limits) = (Arc::new(Semaphore::new(limits.connections)), Arc::new(limits));
    tokio::pin!(until);
    loop {
        let accepted = tokio::select! {
            () = &mut until => return,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, peer)) => match limits.admit(&permits, ClientAddress::of(peer.ip())) {
                Ok(permit) => {
                    let draining = lifecycle.clone();
                    // The gateway batches and flushes frames itself; Nagle's algorithm would only delay them.
                    let _ = stream.set_nodelay(true);
                    lifecycle.spawn(begin(stream, router.clone(), Arc::clone(&limits), permit, draining));
                }
                Err(refusal) => {
                    limits.metrics.refused(refusal.reason());
                    turn_away(stream, refusal, limits.tls.is_some());
                }
            },
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

impl Limits {
    /// Takes the seats of a socket.
    fn admit(&self, permits: &Arc<Semaphore>, peer: ClientAddress) -> Result<SocketPermit, Refusal> {
        let permit = Arc::clone(permits).try_acquire_owned().map_err(|_| Refusal::Full)?;
        Ok(SocketPermit::new(permit, peer, self.enter(peer)?))
    }

    /// Takes a seat of an address. A trusted proxy needs none: its clients do.
    fn enter(&self, client: ClientAddress) -> Result<Option<Seat<AddressGroup>>, Refusal> {
        let Some(addresses) = self.addresses.as_ref().filter(|_| !self.proxies.trust(client)) else {
            return Ok(None);
        };
        let seat = addresses.enter(client.group());
        if seat.is_none() {
            static CROWDED: Sparse = Sparse::new();
            if let Some(skipped) = CROWDED.due() {
                tracing::warn!(
                    address = %client,
                    skipped,
                    "an address has gateway.limits.connections_per_address connections, further ones are refused; \
                     if it is a proxy of yours, add it to gateway.trusted_proxies"
                );
            }
        }
        seat.map(Some).ok_or(Refusal::Address)
    }

    /// The permit of a request: that of its socket, or of the client behind a proxy.
    fn permit_of(&self, request: &Request<Incoming>, socket: &SocketPermit) -> Result<SocketPermit, Refusal> {
        let forwarded = request.headers().get_all(FORWARDED).iter();
        self.warn_of_a_strange_proxy(request, socket.client());
        let client = self.proxies.client(socket.client(), forwarded.map(HeaderValue::as_bytes));
        if client == socket.client() {
            return Ok(socket.clone());
        }
        Ok(socket.forwarded(client, self.enter(client)?))
    }
}

impl Limits {
    /// Once: a proxy that nobody named would share one limit among all clients behind it.
    fn warn_of_a_strange_proxy(&self, request: &Request<Incoming>, peer: ClientAddress) {
        static WARNED: Once = Once::new();
        let ignored = self.addresses.is_some() && request.headers().contains_key(FORWARDED);
        if ignored && !self.proxies.trust(peer) {
            WARNED.call_once(|| {
                tracing::warn!(
                    address = %peer,
                    "this address sends X-Forwarded-For, which is ignored: if it is a proxy of yours, add it to \
                     gateway.trusted_proxies"
                );
            });
        }
    }
}

impl Refusal {
    /// The reason in the metric.
    fn reason(self) -> &'static str {
        match self {
            Self::Full => "full",
            Self::Address => "address",
        }
    }

    fn status(self) -> StatusCode {
        match self {
            Self::Full => StatusCode::SERVICE_UNAVAILABLE,
            Self::Address => StatusCode::TOO_MANY_REQUESTS,
        }
    }
}

/// Makes the TLS handshake, if there is one, and serves the socket. Without TLS it costs no more than this task until the head of a
/// request is there: what serves it, and its buffers, are made then.
async fn begin(
    stream: TcpStream,
    router: Router,
    limits: Arc<Limits>,
    permit: SocketPermit,
    lifecycle: Lifecycle,
) {
    let (begun, handshake) = (Instant::now(), limits.handshake);
    let Some(tls) = &limits.tls else {
        let arrived = {
            let mut arriving = pin!(timeout(handshake, first_head::arrived(&stream)));
            tokio::select! {
                biased;
                arrived = arriving.as_mut() => arrived.is_ok(),
                // What has come already is answered, and what is on its way.
                () = lifecycle.draining() => timeout(LAST_HEAD, arriving).await.is_ok_and(|arrived| arrived.is_ok()),
            }
        };
        if arrived {
            let left = handshake.saturating_sub(begun.elapsed()).max(LEAST_HANDSHAKE);
            let draining = async move { lifecycle.draining().await };
            Box::pin(handle(stream, router, limits, permit, draining, left)).await;
        }
        return;
    };
    match Box::pin(tls.accept(stream, handshake)).await {
        // One time limit for both handshakes.
        Some(stream) => {
            let left = handshake.saturating_sub(begun.elapsed()).max(LEAST_HANDSHAKE);
            let draining = async move { lifecycle.draining().await };
            Box::pin(handle(stream, router, limits, permit, draining, left)).await;
        }
        None => limits.metrics.refused("tls"),
    }
}

async fn handle<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(
    stream: S,
    router: Router,
    limits: Arc<Limits>,
    permit: SocketPermit,
    draining: impl Future<Output = ()>,
    first_head: Duration,
) {
    let (longest, next_head) = (limits.header_bytes, limits.handshake);
    let held = permit.clone();
    let asked = Arc::new(AtomicBool::new(false));
    let asks = Arc::clone(&asked);
    let service = service_fn(move |request| {
        asks.store(true, Ordering::Relaxed);
        answer(request, router.clone(), Arc::clone(&limits), held.clone())
    });
    // What is left is for the first request alone. The next ones on a socket that is kept have time of their own.
    let late = async move {
        sleep(first_head).await;
        if asked.load(Ordering::Relaxed) {
            pending::<()>().await;
        }
    };
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(next_head)
        .max_buf_size(longest.saturating_add(MARGIN).max(LEAST_BUFFER))
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades();
    tokio::pin!(connection);
    // The connection first: a request that has come is read before keep-alive ends, which would close a socket without one.
    let ended = tokio::select! {
        biased;
        served = connection.as_mut() => return say(served),
        () = draining => false,
        () = permit.ended() => true,
        () = late => return,
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

/// Answers one request.
async fn answer(
    mut request: Request<Incoming>,
    router: Router,
    limits: Arc<Limits>,
    socket: SocketPermit,
) -> Result<Response, Infallible> {
    if head::len(&request) > limits.header_bytes {
        limits.metrics.refused("head");
        let answer = (
            StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            [(header::CONNECTION, "close")],
            "the request's first line and headers are longer than gateway.limits.header_bytes\n",
        );
        return Ok(answer.into_response());
    }
    match limits.permit_of(&request, &socket) {
        Ok(permit) => request.extensions_mut().insert(permit),
        Err(refusal) => {
            limits.metrics.refused(refusal.reason());
            let retry = [(header::RETRY_AFTER, "5")];
            return Ok((refusal.status(), retry, "this address has too many connections\n").into_response());
        }
    };
    router.oneshot(request.map(Body::new)).await
}

fn say(served: hyper::Result<()>) {
    if let Err(error) = served {
        tracing::debug!(%error, "a socket ended before its request did");
    }
}

/// Answers without a task: however many sockets are refused, none of them is held.
fn turn_away(stream: TcpStream, refusal: Refusal, tls: bool) {
    // An answer without TLS would be no answer.
    if tls {
        return;
    }
    let status = refusal.status();
    let answer =
        format!("HTTP/1.1 {status}\r\ncontent-length: 0\r\nconnection: close\r\nretry-after: 5\r\n\r\n");
    // Best effort: the answer fits into an empty send buffer, and a closed socket tells the client the same.
    if let Ok(mut stream) = stream.into_std() {
        let _ = stream.write(answer.as_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_socket_that_says_nothing_costs_a_small_task() {
        fn size_of_result<A, R>(_: impl Fn(A) -> R) -> usize {
            size_of::<R>()
        }
        let task =
            |(stream, router, limits, permit, lifecycle)| begin(stream, router, limits, permit, lifecycle);
        assert!(size_of_result(task) <= 2048, "{}", size_of_result(task));
    }
}
