//! Metrics of gaps and recoveries.

use prometheus_client::{
    metrics::{counter::Counter, family::Family},
    registry::Registry,
};

use super::{Metrics, Reason};

/// The instruments of gaps and recoveries.
#[derive(Clone, Default)]
pub(super) struct RecoveryMetrics {
    gaps: Family<Reason, Counter>,
    reads: Counter,
    outcomes: Family<Reason, Counter>,
}

impl RecoveryMetrics {
    pub(super) fn register(registry: &mut Registry) -> Self {
        let this = Self::default();
        registry.register("gaps", "Gaps found in channels, by whether they were filled", this.gaps.clone());
        registry.register(
            "recovery_reads",
            "Reads of a stream for clients that came back",
            this.reads.clone(),
        );
        registry.register(
            "recoveries",
            "Subscriptions that asked to recover, by outcome",
            this.outcomes.clone(),
        );
        this
    }
}

impl Metrics {
    pub(crate) fn healed(&self, complete: bool) {
        self.recovery.gaps.get_or_create(&Reason { reason: if complete { "filled" } else { "told" } }).inc();
    }

    pub(crate) fn window_read(&self) {
        self.recovery.reads.inc();
    }

    pub(crate) fn resumed(&self, recovered: bool) {
        self.recovery
            .outcomes
            .get_or_create(&Reason { reason: if recovered { "recovered" } else { "not_recovered" } })
            .inc();
    }
}
