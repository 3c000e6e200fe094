//! The purger's metrics, by route.

use std::sync::atomic::AtomicU64;

use prometheus_client::{
    encoding::{EncodeLabelSet, text::encode},
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::{Registry, Unit},
};

use tidegate_shared::dead::Reason;

use crate::floor::Standing;

/// Upper bounds of the histogram buckets, in seconds.
const BUCKETS: [f64; 10] = [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.1, 0.25, 1.0, 2.5];

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByRoute {
    route: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByReason {
    route: String,
    reason: &'static str,
}

/// The metrics of one purger.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    removed: Family<ByRoute, Counter>,
    failures: Family<ByRoute, Counter>,
    purges: Family<ByRoute, Histogram>,
    floor_age: Family<ByRoute, Gauge<f64, AtomicU64>>,
    kept: Family<ByRoute, Gauge>,
    letters: Family<ByReason, Counter>,
    unswept: Family<ByRoute, Counter>,
}

impl Metrics {
    pub(crate) fn new() -> Self {
        let mut registry = Registry::with_prefix("tidegate_purger");
        let removed = Family::default();
        registry.register("removed_requests", "Acknowledged requests that were removed", removed.clone());
        let failures = Family::default();
        registry.register("failures", "Looks at a route or purges that failed", failures.clone());
        let histogram: fn() -> Histogram = || Histogram::new(BUCKETS);
        let purges = Family::new_with_constructor(histogram);
        registry.register_with_unit(
            "purge_duration",
            "How long one purge took",
            Unit::Seconds,
            purges.clone(),
        );
        let floor_age = Family::default();
        let help =
            "How long the oldest unfinished request has held the acknowledgement floor; 0 when none does";
        registry.register_with_unit("floor_age", help, Unit::Seconds, floor_age.clone());
        let kept = Family::default();
        let help = "Acknowledged requests that stay because an earlier request is not acknowledged";
        registry.register("kept_requests", help, kept.clone());
        let letters = Family::default();
        let help = "Dead letters of requests that were terminated, or delivered as often as allowed";
        registry.register("dead_letters", help, letters.clone());
        let unswept = Family::default();
        let help = "Tries to make such a dead letter that failed";
        registry.register("dead_letter_failures", help, unswept.clone());
        Self { registry, removed, failures, purges, floor_age, kept, letters, unswept }
    }

    /// Writes all metrics in the text format of Prometheus.
    pub fn render(&self) -> Result<String, std::fmt::Error> {
        let mut text = String::new();
        encode(&mut text, &self.registry)?;
        Ok(text)
    }

    pub(crate) fn purged(&self, route: &str, removed: u64, took: std::time::Duration) {
        self.removed.get_or_create(&by(route)).inc_by(removed);
        self.purges.get_or_create(&by(route)).observe(took.as_secs_f64());
    }

    pub(crate) fn failed(&self, route: &str) {
        self.failures.get_or_create(&by(route)).inc();
    }

    pub(crate) fn buried(&self, route: &str, reason: Reason) {
        let labels = ByReason { route: route.to_owned(), reason: reason.as_str() };
        self.letters.get_or_create(&labels).inc();
    }

    pub(crate) fn not_swept(&self, route: &str) {
        self.unswept.get_or_create(&by(route)).inc();
    }

    pub(crate) fn stands(&self, route: &str, standing: Standing) {
        self.floor_age.get_or_create(&by(route)).set(standing.age.as_secs_f64());
        self.kept.get_or_create(&by(route)).set(i64::try_from(standing.kept).unwrap_or(i64::MAX));
    }
}

fn by(route: &str) -> ByRoute {
    ByRoute { route: route.to_owned() }
}
