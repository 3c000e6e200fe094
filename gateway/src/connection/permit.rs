//! The permit of one open socket, counted against `gateway.limits.connections`.

use std::sync::Arc;

use tokio::sync::{Notify, OwnedSemaphorePermit};

/// The permit of one open socket. HTTP requests carry it, and a connection keeps it while it lives.
#[derive(Debug, Clone)]
pub(crate) struct SocketPermit(Arc<OpenSocket>);

#[derive(Debug)]
struct OpenSocket {
    _permit: OwnedSemaphorePermit,
    ended: Notify,
}

impl SocketPermit {
    pub(crate) fn new(permit: OwnedSemaphorePermit) -> Self {
        Self(Arc::new(OpenSocket { _permit: permit, ended: Notify::new() }))
    }

    /// Closes the socket after a short time for the last writes. Its stream has ended, and a client that does not read
    /// would keep it open forever.
    pub(crate) fn end(&self) {
        self.0.ended.notify_one();
    }

    /// Completes once `end` was called.
    pub(crate) async fn ended(&self) {
        self.0.ended.notified().await;
    }
}
