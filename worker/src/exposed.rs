//! The requests of a worker that are exposed: if the worker ended now, this would count an attempt of theirs.
//!
//! A request that may end its worker begins only when no other one is exposed. A request is exposed from the moment it is pulled,
//! when nothing may have begun with it yet, until it is settled.

use std::sync::Arc;

use tokio::sync::watch;

/// How many requests are exposed.
#[derive(Debug, Clone, Default)]
pub(crate) struct Exposed(Arc<watch::Sender<usize>>);

/// One of them, until this is dropped.
#[derive(Debug)]
pub(crate) struct ExposedRequest(Exposed);

impl Exposed {
    pub(crate) fn enter(&self) -> ExposedRequest {
        self.0.send_modify(|count| *count += 1);
        ExposedRequest(self.clone())
    }

    /// Completes when no request is exposed but `own`.
    pub(crate) async fn none_but(&self, own: Option<&ExposedRequest>) {
        let most = usize::from(own.is_some());
        // It fails when the sender is gone, which this has.
        let _ = self.0.subscribe().wait_for(|count| *count <= most).await;
    }
}

impl Drop for ExposedRequest {
    fn drop(&mut self) {
        self.0.0.send_modify(|count| *count -= 1);
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    #[test]
    fn whoever_is_tried_alone_waits_for_all_others_that_are_exposed() {
        let exposed = Exposed::default();
        let is_alone = |own: Option<&ExposedRequest>| exposed.none_but(own).now_or_never().is_some();
        assert!(is_alone(None));
        let own = exposed.enter();
        assert!(is_alone(Some(&own)) && !is_alone(None));
        let other = exposed.enter();
        assert!(!is_alone(Some(&own)));
        drop(other);
        assert!(is_alone(Some(&own)));
        drop(own);
        assert!(is_alone(None));
    }
}
