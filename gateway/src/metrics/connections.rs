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
    held: Family<Reason, Counter>,
    buffered: Gauge,
    shed: Counter,
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
            "held",
            "Times that a socket was not read for a while, because of the rate of its connection or its user",
            this.held.clone(),
        );
        registry.register("buffered_bytes", "Bytes that wait for all clients", this.buffered.clone());
        registry.register(
            "shed",
            "Outputs and bodies refused because gateway.limits.buffered_total is nearly used up",
            this.shed.clone(),
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

    /// A connection's commands exceed a rate: its own, or its user's.
    pub(crate) fn held(&self, whose: &'static str) {
        self.connections.held.get_or_create(&Reason { reason: whose }).inc();
    }

    /// The bytes that wait for all clients, and how often something was refused for them.
    pub(crate) fn buffered(&self) -> (Gauge, Counter) {
        (self.connections.buffered.clone(), self.connections.shed.clone())
    }

    pub(crate) fn disconnected(&self, code: u16) {
        self.connections.disconnects.get_or_create(&Code { code: code.into() }).inc();
    }
}
