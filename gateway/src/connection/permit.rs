//! The permit of one open socket, counted against `gateway.limits.connections`, and of the address behind it.

use std::sync::Arc;

use tokio::sync::{Notify, OwnedSemaphorePermit};

use crate::policy::{
    address::{AddressGroup, ClientAddress},
    crowd::Seat,
};

/// The permit of one open socket. HTTP requests carry it, and a connection keeps it while it lives.
#[derive(Debug, Clone)]
pub(crate) struct SocketPermit(Arc<Permit>);

#[derive(Debug)]
struct Permit {
    client: ClientAddress,
    _seat: Option<Seat<AddressGroup>>,
    of: PermitOf,
}

/// What a permit is for.
#[derive(Debug)]
enum PermitOf {
    Socket {
        _permit: OwnedSemaphorePermit,
        ended: Notify,
    },
    /// A request of another client than the one whose address the socket has: through a proxy.
    Request(SocketPermit),
}

impl SocketPermit {
    pub(crate) fn new(
        permit: OwnedSemaphorePermit,
        client: ClientAddress,
        seat: Option<Seat<AddressGroup>>,
    ) -> Self {
        let of = PermitOf::Socket { _permit: permit, ended: Notify::new() };
        Self(Arc::new(Permit { client, _seat: seat, of }))
    }

    /// The permit of a request that came through a proxy.
    pub(crate) fn forwarded(&self, client: ClientAddress, seat: Option<Seat<AddressGroup>>) -> Self {
        Self(Arc::new(Permit { client, _seat: seat, of: PermitOf::Request(self.clone()) }))
    }

    /// The address of the client.
    pub(crate) fn client(&self) -> ClientAddress {
        self.0.client
    }

    /// Closes the socket after a short time for the last writes. Its stream has ended, and a client that does not read
    /// would keep it open forever.
    pub(crate) fn end(&self) {
        self.ending().notify_one();
    }

    /// Completes once `end` was called.
    pub(crate) async fn ended(&self) {
        self.ending().notified().await;
    }

    fn ending(&self) -> &Notify {
        match &self.0.of {
            PermitOf::Socket { ended, .. } => ended,
            PermitOf::Request(socket) => socket.ending(),
        }
    }
}
