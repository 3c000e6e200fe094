//! The extractor with which a handler notices that its request is cancelled.

use tokio_util::sync::CancellationToken;

/// Says when the request is cancelled: by its user, by a service, or, on a route with `cancel_when_gone`, because its client's
/// connection has ended. The handler may then end early: whatever it returns, the caller has got error 1005, or is gone. A handler
/// that goes on is dropped two seconds later, at its next `.await`.
#[derive(Debug, Clone)]
pub struct Cancel(pub(crate) CancellationToken);

impl Cancel {
    /// Completes when the request is cancelled.
    pub async fn cancelled(&self) {
        self.0.cancelled().await;
    }

    /// Whether the request is cancelled.
    pub fn is_cancelled(&self) -> bool {
        self.0.is_cancelled()
    }
}
