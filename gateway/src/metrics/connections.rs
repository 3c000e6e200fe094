//! Metrics of connections: open, accepted, refused, closed by the gateway.

use prometheus_client::{
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Registry,
};

use super::{Code, Metrics, Reason};

/// The instruments of connections.
#[derive(Clone, Default)]
pub(super) struct ConnectionMetrics {
    open: Gauge,
    accepted: Counter,
    refused: Family<Reason, Counter>,
    disconnects: Family<Code, Counter>,
}

impl ConnectionMetrics {
    pub(super) fn register(registry: &mut Registry) -> Self {
        let this = Self::default();
        registry.register("connections", "Open WebSocket connections", this.open.clone());
        registry.register(
            "connections_accepted",
            "WebSocket handshakes that succeeded",
            this.accepted.clone(),
        );
        registry.register(
            "connections_refused",
            "Connections refused before the handshake ended",
            this.refused.clone(),
        );
        registry.register(
            "disconnects",
            "Connections the gateway ended, by close code",
            this.disconnects.clone(),
        );
        this
    }
}

/// One open connection in the gauge. Dropping it counts the connection as closed.
pub(crate) struct OpenConnection(Gauge);

impl Drop for OpenConnection {
    fn drop(&mut self) {
        self.0.dec();
    }
}

impl Metrics {
    pub(crate) fn opened(&self) -> OpenConnection {
        self.connections.open.inc();
        self.connections.accepted.inc();
        OpenConnection(self.connections.open.clone())
    }

    pub(crate) fn refused(&self, reason: &'static str) {
        self.connections.refused.get_or_create(&Reason { reason }).inc();
    }

    pub(crate) fn disconnected(&self, code: u16) {
        self.connections.disconnects.get_or_create(&Code { code: code.into() }).inc();
    }
}
