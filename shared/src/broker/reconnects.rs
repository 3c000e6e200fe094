//! Waiting until a lost connection to NATS is back.

use tokio::sync::watch;

/// Reports each return of a lost connection. Created by [`Broker::reconnects`](super::Broker::reconnects).
#[derive(Debug)]
pub struct Reconnects(pub(super) watch::Receiver<bool>);

impl Reconnects {
    /// Completes when the connection was lost and is back. A loss since the last call counts. The future can be dropped while it
    /// waits: a connection that is away at that moment still counts when it is back.
    pub async fn next(&mut self) {
        let changed = self.0.changed().await;
        if changed.is_err() || self.0.wait_for(|up| *up).await.is_err() {
            // The broker was dropped, so its connection does not come back.
            std::future::pending::<()>().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    #[test]
    fn a_connection_that_was_lost_and_is_back_is_noticed_once() {
        let connected = watch::Sender::new(true);
        let mut reconnects = Reconnects(connected.subscribe());
        assert!(reconnects.next().now_or_never().is_none());
        connected.send_replace(false);
        assert!(reconnects.next().now_or_never().is_none(), "still away");
        connected.send_replace(true);
        assert!(reconnects.next().now_or_never().is_some());
        assert!(reconnects.next().now_or_never().is_none());
    }

    #[test]
    fn a_loss_before_the_wait_counts() {
        let connected = watch::Sender::new(true);
        let mut reconnects = Reconnects(connected.subscribe());
        connected.send_replace(false);
        connected.send_replace(true);
        assert!(reconnects.next().now_or_never().is_some());
    }
}
