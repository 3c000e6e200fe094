//! Metrics of answers and of the result cache.

use prometheus_client::{
    metrics::{counter::Counter, gauge::Gauge},
    registry::Registry,
};

use super::Metrics;

/// The instruments of answers.
#[derive(Clone)]
pub(super) struct RequestMetrics {
    late_answers: Counter,
    cache_bytes: Gauge,
    cache_max_bytes: Gauge,
}

impl RequestMetrics {
    pub(super) fn register(registry: &mut Registry) -> Self {
        let late_answers = Counter::default();
        let help = "Answers that came after their call had timed out";
        registry.register("late_answers", help, late_answers.clone());
        let cache_bytes = Gauge::default();
        registry.register("result_cache_bytes", "Bytes of stored answers", cache_bytes.clone());
        let cache_max_bytes = Gauge::default();
        let help = "Bytes of stored answers that there may be";
        registry.register("result_cache_max_bytes", help, cache_max_bytes.clone());
        Self { late_answers, cache_bytes, cache_max_bytes }
    }
}

impl Metrics {
    pub(crate) fn late_answer(&self) {
        self.answers.late_answers.inc();
    }

    pub(crate) fn result_cache(&self, bytes: u64, max_bytes: u64) {
        let count = |bytes: u64| i64::try_from(bytes).unwrap_or(i64::MAX);
        self.answers.cache_bytes.set(count(bytes));
        self.answers.cache_max_bytes.set(count(max_bytes));
    }
}
