//! Metrics of schedules.

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family},
    registry::Registry,
};

use super::Metrics;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Firing {
    kind: &'static str,
    outcome: &'static str,
}

/// What became of a delivered firing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Done {
    /// Its request or publication was stored.
    Stored,
    /// It was left out because an earlier one is not done.
    Skipped,
    /// It was stored before, by a gateway that ended.
    Repeated,
    /// Its schedule was changed or removed, or the broker fired twice.
    Outdated,
    /// It could not be stored, and is tried again.
    Failing,
}

/// The instruments of schedules.
#[derive(Clone, Default)]
pub(super) struct FiringMetrics {
    firings: Family<Firing, Counter>,
}

impl FiringMetrics {
    pub(super) fn register(registry: &mut Registry) -> Self {
        let this = Self::default();
        registry.register("firings", "Firings of schedules, by what became of them", this.firings.clone());
        this
    }
}

impl Metrics {
    pub(crate) fn fired(&self, kind: &'static str, done: Done) {
        let outcome = match done {
            Done::Stored => "stored",
            Done::Skipped => "skipped",
            Done::Repeated => "repeated",
            Done::Outdated => "outdated",
            Done::Failing => "failing",
        };
        self.firings.firings.get_or_create(&Firing { kind, outcome }).inc();
    }
}
