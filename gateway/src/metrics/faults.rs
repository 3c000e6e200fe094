//! Metrics of open faults of the broker.

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{family::Family, gauge::Gauge},
    registry::Registry,
};
use tidegate_shared::fault::Fault;

#[derive(Clone)]
pub(super) struct FaultMetrics(Family<ByFault, Gauge>);

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByFault {
    place: String,
    problem: &'static str,
}

impl FaultMetrics {
    pub(super) fn register(registry: &mut Registry) -> Self {
        let faults = Family::default();
        registry.register("faults", "Open faults of the broker, by where and what", faults.clone());
        Self(faults)
    }

    /// Shows these, and no others.
    pub(super) fn show(&self, open: &[Fault]) {
        self.0.clear();
        for fault in open {
            let labels = ByFault { place: fault.place.label().to_owned(), problem: fault.problem.label() };
            self.0.get_or_create(&labels).inc();
        }
    }
}
