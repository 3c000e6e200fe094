//! What the stock handlers count of their calls. The worker's own metrics count requests: one request may make no call, because the
//! breaker is open, and one call may take long although the handler is quick.

use std::{sync::Arc, time::Instant};

use prometheus_client::{
    encoding::{EncodeLabelSet, text::encode},
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::{Registry, Unit},
};

/// Upper bounds of the histogram buckets, in seconds: from a database beside the worker to a back end that takes its time.
const BUCKETS: [f64; 11] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0, 30.0];

/// How a call ended: the label `outcome`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// The other system did its part.
    Ok,
    /// It refuses the request.
    Refused,
    /// It failed, was not reached or took too long.
    Failed,
    /// It asks for silence, or is gone.
    PutOff,
    /// The request's time was over before it answered, or the request was cancelled.
    CutOff,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByOutcome {
    route: String,
    handler: &'static str,
    outcome: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByRoute {
    route: String,
    handler: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByState {
    route: String,
    state: &'static str,
}

/// The metrics of all stock handlers of a worker.
#[derive(Debug)]
pub(crate) struct Metrics {
    registry: Registry,
    calls: Family<ByOutcome, Counter>,
    duration: Family<ByRoute, Histogram>,
    breaker: Family<ByState, Gauge>,
}

/// The metrics of one route.
#[derive(Debug, Clone)]
pub(crate) struct OfRoute {
    metrics: Arc<Metrics>,
    route: String,
    handler: &'static str,
}

/// A call under way. It is counted when it ends or is dropped.
#[derive(Debug)]
pub(crate) struct Call<'a> {
    of: &'a OfRoute,
    begun: Instant,
    outcome: Outcome,
}

impl Metrics {
    pub(crate) fn new() -> Self {
        let mut registry = Registry::with_prefix("tidegate_worker");
        let calls = Family::default();
        registry.register(
            "calls",
            "Calls of stock handlers to other systems, by how they ended",
            calls.clone(),
        );
        let histogram: fn() -> Histogram = || Histogram::new(BUCKETS);
        let duration = Family::new_with_constructor(histogram);
        let help = "How long one call of a stock handler took";
        registry.register_with_unit("call_duration", help, Unit::Seconds, duration.clone());
        let breaker = Family::default();
        registry.register("breaker", "1 for the state that the breaker of a webhook is in", breaker.clone());
        Self { registry, calls, duration, breaker }
    }

    /// Writes them in the text format of Prometheus.
    pub(crate) fn render(&self) -> String {
        let mut text = String::new();
        // A String takes everything.
        let _ = encode(&mut text, &self.registry);
        text
    }

    pub(crate) fn of(self: &Arc<Self>, route: &str, handler: &'static str) -> OfRoute {
        OfRoute { metrics: Arc::clone(self), route: route.to_owned(), handler }
    }
}

impl OfRoute {
    /// Begins to measure a call.
    pub(crate) fn call(&self) -> Call<'_> {
        Call { of: self, begun: Instant::now(), outcome: Outcome::CutOff }
    }

    /// Shows the state of the route's breaker, which is one of `states`.
    pub(crate) fn breaker(&self, states: &[&'static str], now: &str) {
        for state in states {
            let labels = ByState { route: self.route.clone(), state };
            self.metrics.breaker.get_or_create(&labels).set(i64::from(*state == now));
        }
    }
}

impl Call<'_> {
    /// Counts a call that has ended.
    pub(crate) fn ended(mut self, outcome: Outcome) {
        self.outcome = outcome;
    }
}

impl Drop for Call<'_> {
    fn drop(&mut self) {
        let OfRoute { metrics, route, handler } = self.of;
        let outcome = match self.outcome {
            Outcome::Ok => "ok",
            Outcome::Refused => "refused",
            Outcome::Failed => "failed",
            Outcome::PutOff => "put_off",
            Outcome::CutOff => "cut_off",
        };
        metrics.calls.get_or_create(&ByOutcome { route: route.clone(), handler, outcome }).inc();
        let labels = ByRoute { route: route.clone(), handler };
        metrics.duration.get_or_create(&labels).observe(self.begun.elapsed().as_secs_f64());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_and_the_state_of_a_breaker_are_lines_of_the_page() {
        let metrics = Arc::new(Metrics::new());
        let of = metrics.of("orders", "webhook");
        of.call().ended(Outcome::Failed);
        drop(of.call());
        of.breaker(&["closed", "open"], "open");
        let page = metrics.render();
        for line in [
            r#"tidegate_worker_calls_total{route="orders",handler="webhook",outcome="failed"} 1"#,
            r#"tidegate_worker_calls_total{route="orders",handler="webhook",outcome="cut_off"} 1"#,
            r#"tidegate_worker_call_duration_seconds_count{route="orders",handler="webhook"} 2"#,
            r#"tidegate_worker_breaker{route="orders",state="closed"} 0"#,
            r#"tidegate_worker_breaker{route="orders",state="open"} 1"#,
        ] {
            assert!(page.contains(line), "{line}\n{page}");
        }
    }
}
