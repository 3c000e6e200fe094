//! Metrics of the server API.

use std::time::Duration;

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, histogram::Histogram},
    registry::{Registry, Unit},
};

use super::{Metrics, seconds};

/// The instruments of the server API.
#[derive(Clone)]
pub(super) struct ApiMetrics {
    commands: Family<ApiCommand, Counter>,
    duration: Family<ApiMethod, Histogram, fn() -> Histogram>,
    redrives: Family<Redrive, Counter>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ApiCommand {
    method: &'static str,
    code: u32,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ApiMethod {
    method: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Redrive {
    outcome: &'static str,
}

impl ApiMetrics {
    pub(super) fn register(registry: &mut Registry) -> Self {
        let this = Self {
            commands: Family::default(),
            duration: Family::new_with_constructor(seconds),
            redrives: Family::default(),
        };
        registry.register(
            "redrives",
            "Dead letters that were to be redriven, by outcome",
            this.redrives.clone(),
        );
        registry.register(
            "api_commands",
            "Methods of the server API, by error code; 0 for success",
            this.commands.clone(),
        );
        registry.register_with_unit(
            "api_command_duration",
            "Time a method of the server API took",
            Unit::Seconds,
            this.duration.clone(),
        );
        this
    }
}

impl Metrics {
    pub(crate) fn redriven(&self, outcome: &'static str) {
        self.api.redrives.get_or_create(&Redrive { outcome }).inc();
    }

    pub(crate) fn api_command(&self, method: &'static str, code: u32, took: Duration) {
        self.api.commands.get_or_create(&ApiCommand { method, code }).inc();
        self.api.duration.get_or_create(&ApiMethod { method }).observe(took.as_secs_f64());
    }
}
