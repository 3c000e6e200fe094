//! Metrics of presence.

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Registry,
};

use super::Metrics;

/// The instruments of presence.
#[derive(Clone, Default)]
pub(super) struct PresenceMetrics {
    members: Gauge,
    gateways: Gauge,
    changes: Family<Change, Counter>,
    reads: Counter,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Change {
    change: &'static str,
}

impl PresenceMetrics {
    pub(super) fn register(registry: &mut Registry) -> Self {
        let this = Self::default();
        registry.register(
            "presence_members",
            "Memberships in channels that this gateway keeps in the broker",
            this.members.clone(),
        );
        registry.register("presence_gateways", "Live gateways, this one included", this.gateways.clone());
        registry.register(
            "presence_changes",
            "Changes of members by this gateway, by kind of change",
            this.changes.clone(),
        );
        registry.register("presence_reads", "Channels whose members were read", this.reads.clone());
        this
    }
}

impl Metrics {
    pub(crate) fn presence_members(&self, members: usize) {
        self.presence.members.set(i64::try_from(members).unwrap_or(i64::MAX));
    }

    pub(crate) fn presence_gateways(&self, gateways: usize) {
        self.presence.gateways.set(i64::try_from(gateways).unwrap_or(i64::MAX));
    }

    pub(crate) fn presence_changed(&self, change: &'static str) {
        self.presence.changes.get_or_create(&Change { change }).inc();
    }

    pub(crate) fn presence_read(&self) {
        self.presence.reads.inc();
    }
}
