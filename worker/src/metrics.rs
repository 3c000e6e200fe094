//! The worker's metrics.

use std::{sync::atomic::AtomicU64, time::Duration};

use prometheus_client::{
    encoding::{EncodeLabelSet, text::encode},
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::{Registry, Unit},
};
use tidegate_shared::fault::Fault;

/// Upper bounds of the histogram buckets, in seconds: from a handler that echoes to one that waits for a slow service.
const BUCKETS: [f64; 13] =
    [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.1, 0.25, 1.0, 2.5, 10.0, 60.0, 600.0];

/// How one delivery of a request ended: the label `outcome`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ending {
    /// Answered.
    Ok,
    /// Answered with the application's error.
    Reject,
    /// The handler failed; the request waits for its next attempt.
    Retry,
    /// The handler panicked; the request waits for its next attempt.
    Panic,
    /// The handler took longer than the route's timeout; the request waits for its next attempt.
    Timeout,
    /// The request waits and has used no attempt.
    Snooze,
    /// The request became a dead letter.
    Dead,
    /// An earlier delivery had stored the answer.
    AlreadyAnswered,
    /// A copy of the request waits for its next attempt, so this one did not run.
    AlreadyParked,
    /// The worker drained or ended first; another worker gets the request.
    Returned,
}

impl Ending {
    fn label(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Reject => "reject",
            Self::Retry => "retry",
            Self::Panic => "panic",
            Self::Timeout => "timeout",
            Self::Snooze => "snooze",
            Self::Dead => "dead",
            Self::AlreadyAnswered => "already_answered",
            Self::AlreadyParked => "already_parked",
            Self::Returned => "returned",
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByRoute {
    route: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByEnding {
    route: String,
    outcome: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByFault {
    place: String,
    problem: &'static str,
}

/// The metrics of one worker, by route.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    requests: Family<ByEnding, Counter>,
    in_flight: Family<ByRoute, Gauge>,
    handling: Family<ByRoute, Histogram>,
    waiting: Family<ByRoute, Histogram>,
    handler_delay: Gauge<f64, AtomicU64>,
    faults: Family<ByFault, Gauge>,
    unstored: Gauge,
    unconfirmed: Gauge,
}

impl Metrics {
    pub(crate) fn new() -> Self {
        let mut registry = Registry::with_prefix("tidegate_worker");
        let requests = Family::default();
        registry.register("requests", "Deliveries of requests, by how they ended", requests.clone());
        let in_flight = Family::default();
        registry.register("in_flight", "Requests being handled now", in_flight.clone());
        let histogram: fn() -> Histogram = || Histogram::new(BUCKETS);
        let handling = Family::new_with_constructor(histogram);
        let help = "How long one run of a handler took";
        registry.register_with_unit("handler_duration", help, Unit::Seconds, handling.clone());
        let waiting = Family::new_with_constructor(histogram);
        let help = "How long a request waited from its acceptance to its first run";
        registry.register_with_unit("queue_wait", help, Unit::Seconds, waiting.clone());
        let handler_delay = Gauge::default();
        let help = "How long the handlers' runtime took to begin a task when it was last checked";
        registry.register_with_unit("handler_delay", help, Unit::Seconds, handler_delay.clone());
        let faults = Family::default();
        registry.register("faults", "Open faults of the broker, by where and what", faults.clone());
        let unstored = Gauge::default();
        let help = "Answers that wait because the result cache is full";
        registry.register("unstored_answers", help, unstored.clone());
        let unconfirmed = Gauge::default();
        let help = "Answers to plain requests that no gateway has confirmed yet";
        registry.register("unconfirmed_answers", help, unconfirmed.clone());
        Self {
            registry,
            requests,
            in_flight,
            handling,
            waiting,
            handler_delay,
            faults,
            unstored,
            unconfirmed,
        }
    }

    /// Writes all metrics in the text format of Prometheus.
    pub fn render(&self) -> Result<String, std::fmt::Error> {
        let mut text = String::new();
        encode(&mut text, &self.registry)?;
        Ok(text)
    }

    pub(crate) fn ended(&self, route: &str, outcome: Ending) {
        let labels = ByEnding { route: route.to_owned(), outcome: outcome.label() };
        self.requests.get_or_create(&labels).inc();
    }

    pub(crate) fn waited(&self, route: &str, wait: Duration) {
        self.waiting.get_or_create(&by(route)).observe(wait.as_secs_f64());
    }

    pub(crate) fn handlers_began(&self, delay: Duration) {
        self.handler_delay.set(delay.as_secs_f64());
    }

    /// Shows these faults, and no others.
    pub(crate) fn faults(&self, open: &[Fault]) {
        self.faults.clear();
        for fault in open {
            let labels = ByFault { place: fault.place.label().to_owned(), problem: fault.problem.label() };
            self.faults.get_or_create(&labels).inc();
        }
    }

    pub(crate) fn unstored(&self, answers: usize) {
        self.unstored.set(i64::try_from(answers).unwrap_or(i64::MAX));
    }

    /// Counts an answer as unconfirmed until the returned value is dropped.
    pub(crate) fn unconfirmed(&self) -> Unconfirmed {
        self.unconfirmed.inc();
        Unconfirmed(self.unconfirmed.clone())
    }

    /// Counts a handler as running, and times it, until the returned value is dropped.
    pub(crate) fn handling(&self, route: &str) -> Handling {
        let labels = by(route);
        let in_flight = self.in_flight.get_or_create(&labels).clone();
        in_flight.inc();
        let duration = self.handling.get_or_create(&labels).clone();
        Handling { in_flight, duration, begun: tokio::time::Instant::now() }
    }
}

fn by(route: &str) -> ByRoute {
    ByRoute { route: route.to_owned() }
}

/// An answer that no gateway has confirmed.
#[derive(Debug)]
pub(crate) struct Unconfirmed(Gauge);

impl Drop for Unconfirmed {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// A handler that is running.
#[derive(Debug)]
pub(crate) struct Handling {
    in_flight: Gauge,
    duration: Histogram,
    begun: tokio::time::Instant,
}

impl Drop for Handling {
    fn drop(&mut self) {
        self.in_flight.dec();
        self.duration.observe(self.begun.elapsed().as_secs_f64());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_page_has_a_line_per_route_and_outcome() {
        let metrics = Metrics::new();
        metrics.ended("orders", Ending::AlreadyAnswered);
        let guard = metrics.handling("orders");
        metrics.waited("orders", Duration::from_millis(3));
        let page = metrics.render().unwrap();
        for line in [
            r#"tidegate_worker_requests_total{route="orders",outcome="already_answered"} 1"#,
            r#"tidegate_worker_in_flight{route="orders"} 1"#,
            r#"tidegate_worker_queue_wait_seconds_count{route="orders"} 1"#,
        ] {
            assert!(page.contains(line), "{line}\n{page}");
        }
        drop(guard);
        let page = metrics.render().unwrap();
        assert!(page.contains(r#"tidegate_worker_in_flight{route="orders"} 0"#), "{page}");
        assert!(
            page.contains(r#"tidegate_worker_handler_duration_seconds_count{route="orders"} 1"#),
            "{page}"
        );
    }
}
