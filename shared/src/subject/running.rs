//! What gateways and workers say to each other about requests that run, and about the clients that wait for them.

use super::Subjects;
use crate::id::{ClientId, GatewayId, RequestId};

impl Subjects {
    /// The question to all workers which of them runs a request.
    pub fn running(&self, id: &RequestId) -> String {
        format!("{}.running.{id}", self.prefix)
    }

    /// All such questions.
    pub fn all_running(&self) -> String {
        format!("{}.running.*.*", self.prefix)
    }

    /// The order to the worker that runs a request to end it: it is cancelled.
    pub fn cancel(&self, id: &RequestId) -> String {
        format!("{}.cancel.{id}", self.prefix)
    }

    /// All such orders.
    pub fn all_cancels(&self) -> String {
        format!("{}.cancel.*.*", self.prefix)
    }

    /// The question to the gateway of a client whether it is connected.
    pub fn connected(&self, client: &ClientId) -> String {
        format!("{}.connected.{client}", self.prefix)
    }

    /// All such questions about the clients of one gateway.
    pub fn all_connected(&self, gateway: &GatewayId) -> String {
        format!("{}.connected.{}.*", self.prefix, gateway.as_str())
    }

    /// What a gateway tells all workers: a client's connection has ended.
    pub fn gone(&self, client: &ClientId) -> String {
        format!("{}.gone.{client}", self.prefix)
    }

    /// All such messages.
    pub fn all_gone(&self) -> String {
        format!("{}.gone.*.*", self.prefix)
    }
}
