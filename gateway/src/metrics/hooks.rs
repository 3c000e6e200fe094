//! Metrics of the decisions of back ends.

use std::time::Duration;

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, histogram::Histogram},
    registry::{Registry, Unit},
};

use super::{Metrics, seconds};

/// The instruments of hooks.
#[derive(Clone)]
pub(super) struct HookMetrics {
    outcomes: Family<Hook, Counter>,
    answer: Histogram,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Hook {
    event: &'static str,
    outcome: &'static str,
}

impl HookMetrics {
    pub(super) fn register(registry: &mut Registry) -> Self {
        let outcomes = Family::default();
        let answer = seconds();
        registry.register("hooks", "Decisions asked from back ends, by event and outcome", outcomes.clone());
        registry.register_with_unit(
            "hook_answer",
            "Time from asking a back end to its decision or the deadline",
            Unit::Seconds,
            answer.clone(),
        );
        Self { outcomes, answer }
    }
}

impl Metrics {
    /// Counts a decision. `took` is `None` for a cached one.
    pub(crate) fn hook(&self, event: &'static str, outcome: &'static str, took: Option<Duration>) {
        if let Some(took) = took {
            self.hooks.answer.observe(took.as_secs_f64());
        }
        self.hooks.outcomes.get_or_create(&Hook { event, outcome }).inc();
    }
}
