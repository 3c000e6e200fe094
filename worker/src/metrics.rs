//! The worker's metrics.

use std::{sync::atomic::AtomicU64, time::Duration};

use prometheus_client::{
    encoding::{EncodeLabelSet, text::encode},
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::{Registry, Unit},
};
use tidegate_shared::{dead::Reason, fault::Fault};

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
    /// It was due and waits in its route's stream again.
    Queued,
    /// Its caller is gone, and the route cancels such requests.
    Cancelled,
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
            Self::Queued => "queued",
            Self::Cancelled => "cancelled",
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
struct ByReason {
    route: String,
    reason: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByFault {
    place: String,
    problem: &'static str,
}

/// The metrics of one worker, by route.
#[derive(Debug)]
pub(crate) struct Metrics {
    registry: Registry,
    requests: Family<ByEnding, Counter>,
    dead_letters: Family<ByReason, Counter>,
    in_flight: Family<ByRoute, Gauge>,
    handling: Family<ByRoute, Histogram>,
    waiting: Family<ByRoute, Histogram>,
    /// Nanoseconds, for the registration alone: histograms do not say their sums.
    worked: Family<ByRoute, Counter>,
    redeliveries: Family<ByRoute, Counter>,
    queued: Family<ByRoute, Gauge>,
    unacknowledged: Family<ByRoute, Gauge>,
    oldest: Family<ByRoute, Gauge<f64, AtomicU64>>,
    handler_delay: Gauge<f64, AtomicU64>,
    faults: Family<ByFault, Gauge>,
    unstored: Gauge,
    unconfirmed: Gauge,
    gates: Family<ByRoute, Gauge>,
}

impl Metrics {
    pub(crate) fn new() -> Self {
        let mut registry = Registry::with_prefix("tidegate_worker");
        let requests = Family::default();
        registry.register("requests", "Deliveries of requests, by how they ended", requests.clone());
        let dead_letters = Family::default();
        registry.register("dead_letters", "Dead letters stored, by reason", dead_letters.clone());
        let in_flight = Family::default();
        registry.register("in_flight", "Requests being handled now", in_flight.clone());
        let histogram: fn() -> Histogram = || Histogram::new(BUCKETS);
        let handling = Family::new_with_constructor(histogram);
        let help = "How long one run of a handler took";
        registry.register_with_unit("handler_duration", help, Unit::Seconds, handling.clone());
        let waiting = Family::new_with_constructor(histogram);
        let help = "How long a request waited from its acceptance to its first run";
        registry.register_with_unit("queue_wait", help, Unit::Seconds, waiting.clone());
        let redeliveries = Family::default();
        let help = "Deliveries of requests that were delivered before and not settled";
        registry.register("redeliveries", help, redeliveries.clone());
        let queued = Family::default();
        let help = "Requests that no worker has pulled, those that are due again included";
        registry.register("waiting", help, queued.clone());
        let unacknowledged = Family::default();
        let help = "Requests that workers have pulled and not acknowledged";
        registry.register("unacknowledged", help, unacknowledged.clone());
        let oldest = Family::default();
        let help = "How long ago the oldest unfinished request was stored";
        registry.register_with_unit("oldest_age", help, Unit::Seconds, oldest.clone());
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
        let gates = Family::default();
        registry.register("gate_closed", "Whether a handler has stopped its route for a time", gates.clone());
        Self {
            registry,
            requests,
            dead_letters,
            in_flight,
            handling,
            waiting,
            worked: Family::default(),
            redeliveries,
            queued,
            unacknowledged,
            oldest,
            handler_delay,
            faults,
            unstored,
            unconfirmed,
            gates,
        }
    }

    /// Writes all metrics in the text format of Prometheus.
    pub(crate) fn render(&self) -> Result<String, std::fmt::Error> {
        let mut text = String::new();
        encode(&mut text, &self.registry)?;
        Ok(text)
    }

    pub(crate) fn ended(&self, route: &str, outcome: Ending) {
        let labels = ByEnding { route: route.to_owned(), outcome: outcome.label() };
        self.requests.get_or_create(&labels).inc();
    }

    pub(crate) fn buried(&self, route: &str, reason: Reason) {
        let labels = ByReason { route: route.to_owned(), reason: reason.as_str() };
        self.dead_letters.get_or_create(&labels).inc();
    }

    pub(crate) fn waited(&self, route: &str, wait: Duration) {
        self.waiting.get_or_create(&by(route)).observe(wait.as_secs_f64());
    }

    pub(crate) fn redelivered(&self, route: &str) {
        self.redeliveries.get_or_create(&by(route)).inc();
    }

    /// Shows what waits for a route, or nothing if that is not known.
    pub(crate) fn backlog(&self, route: &str, backlog: Option<Backlog>) {
        let labels = by(route);
        let Some(backlog) = backlog else {
            self.queued.remove(&labels);
            self.unacknowledged.remove(&labels);
            self.oldest.remove(&labels);
            return;
        };
        let number = |count: u64| i64::try_from(count).unwrap_or(i64::MAX);
        self.queued.get_or_create(&labels).set(number(backlog.waiting));
        self.unacknowledged.get_or_create(&labels).set(number(backlog.unacknowledged));
        self.oldest.get_or_create(&labels).set(backlog.oldest.as_secs_f64());
    }

    /// What a route has done, for the registration: the deliveries that have ended, how many of them failed, and nanoseconds.
    pub(crate) fn totals(&self, route: &str) -> Totals {
        let count = |endings: &[Ending]| -> u64 {
            let of = |ending: &Ending| {
                let labels = ByEnding { route: route.to_owned(), outcome: ending.label() };
                self.requests.get(&labels).map_or(0, |counter| counter.get())
            };
            endings.iter().map(of).sum()
        };
        let failed = [Ending::Retry, Ending::Panic, Ending::Timeout, Ending::Dead];
        let errors = count(&failed);
        let requests = errors + count(&[Ending::Ok, Ending::Reject]);
        let nanos = self.worked.get(&by(route)).map_or(0, |counter| counter.get());
        Totals { requests, errors, nanos }
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

    /// Shows whether the gate of a route is open.
    pub(crate) fn gate(&self, route: &str, open: bool) {
        self.gates.get_or_create(&by(route)).set(i64::from(!open));
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
        let worked = self.worked.get_or_create(&labels).clone();
        Handling { in_flight, duration, worked, begun: tokio::time::Instant::now() }
    }
}

/// What waits for one route.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct Backlog {
    /// Requests that no worker has pulled.
    pub(crate) waiting: u64,
    /// Requests that workers have pulled and not acknowledged.
    pub(crate) unacknowledged: u64,
    /// How long ago the oldest of both was stored, without those that wait for their next attempt.
    pub(crate) oldest: Duration,
}

/// What a route has done since its worker started.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Totals {
    pub(crate) requests: u64,
    pub(crate) errors: u64,
    pub(crate) nanos: u64,
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
    worked: Counter,
    begun: tokio::time::Instant,
}

impl Drop for Handling {
    fn drop(&mut self) {
        self.in_flight.dec();
        let worked = self.begun.elapsed();
        self.duration.observe(worked.as_secs_f64());
        self.worked.inc_by(u64::try_from(worked.as_nanos()).unwrap_or(u64::MAX));
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
        metrics.redelivered("orders");
        let backlog = Backlog { waiting: 3, unacknowledged: 2, oldest: Duration::from_millis(1500) };
        metrics.backlog("orders", Some(backlog));
        let page = metrics.render().unwrap();
        for line in [
            r#"tidegate_worker_requests_total{route="orders",outcome="already_answered"} 1"#,
            r#"tidegate_worker_in_flight{route="orders"} 1"#,
            r#"tidegate_worker_queue_wait_seconds_count{route="orders"} 1"#,
            r#"tidegate_worker_redeliveries_total{route="orders"} 1"#,
            r#"tidegate_worker_waiting{route="orders"} 3"#,
            r#"tidegate_worker_unacknowledged{route="orders"} 2"#,
            r#"tidegate_worker_oldest_age_seconds{route="orders"} 1.5"#,
        ] {
            assert!(page.contains(line), "{line}\n{page}");
        }
        drop(guard);
        metrics.backlog("orders", None);
        let page = metrics.render().unwrap();
        assert!(!page.contains("tidegate_worker_waiting{"), "what is not known is not shown");
        assert!(page.contains(r#"tidegate_worker_in_flight{route="orders"} 0"#), "{page}");
        assert!(
            page.contains(r#"tidegate_worker_handler_duration_seconds_count{route="orders"} 1"#),
            "{page}"
        );
    }
}
