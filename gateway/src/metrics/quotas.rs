//! Metrics of the fill of routes' streams and of quotas.

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Registry,
};

use super::Metrics;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByRoute {
    route: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByHolder {
    route: String,
    holder: &'static str,
}

/// The instruments of routes' streams.
#[derive(Clone, Default)]
pub(super) struct QuotaMetrics {
    bytes: Family<ByRoute, Gauge>,
    max_bytes: Family<ByRoute, Gauge>,
    refused: Family<ByHolder, Counter>,
}

impl QuotaMetrics {
    pub(super) fn register(registry: &mut Registry) -> Self {
        let this = Self::default();
        registry.register("route_bytes", "The size of the requests in a route's stream", this.bytes.clone());
        registry.register(
            "route_max_bytes",
            "The size at which a route's stream refuses requests",
            this.max_bytes.clone(),
        );
        registry.register(
            "over_quota",
            "Requests refused because their user, or anonymous clients together, have too many unfinished ones",
            this.refused.clone(),
        );
        this
    }
}

impl Metrics {
    pub(crate) fn filled(&self, route: &str, bytes: u64, max_bytes: u64) {
        let route = ByRoute { route: route.to_owned() };
        let signed = |bytes| i64::try_from(bytes).unwrap_or(i64::MAX);
        self.quotas.bytes.get_or_create(&route).set(signed(bytes));
        self.quotas.max_bytes.get_or_create(&route).set(signed(max_bytes));
    }

    pub(crate) fn over_quota(&self, route: &str, holder: &'static str) {
        self.quotas.refused.get_or_create(&ByHolder { route: route.to_owned(), holder }).inc();
    }
}
