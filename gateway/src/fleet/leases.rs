//! The leases this gateway knows. Pure.
//!
//! Reads and live messages are merged by the sequences of the leases.

use std::collections::HashMap;

use tidegate_shared::id::GatewayId;

/// The leases this gateway has seen.
pub(super) struct Leases {
    own: GatewayId,
    known: HashMap<GatewayId, Lease>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Lease {
    /// The sequence of the newest renewal, or of the end.
    pub(super) seq: u64,
    pub(super) live: bool,
    /// False if it did not answer since its last renewal.
    pub(super) reachable: bool,
}

impl Leases {
    pub(super) fn new(own: GatewayId) -> Self {
        Self { own, known: HashMap::new() }
    }

    /// Whether a gateway is live. This one always is.
    pub(super) fn is_live(&self, gateway: &GatewayId) -> bool {
        *gateway == self.own || self.known.get(gateway).is_some_and(|lease| lease.live)
    }

    /// The live gateways.
    pub(super) fn live(&self) -> impl Iterator<Item = &GatewayId> {
        let others = self.known.iter().filter(|(gateway, lease)| lease.live && **gateway != self.own);
        others.map(|(gateway, _)| gateway).chain([&self.own])
    }

    /// The other live and reachable gateways, each with the sequence of its newest lease.
    pub(super) fn others(&self) -> Vec<(GatewayId, u64)> {
        let others = self.known.iter().filter(|(gateway, lease)| lease.reachable && **gateway != self.own);
        others.map(|(gateway, lease)| (gateway.clone(), lease.seq)).collect()
    }

    /// Marks a gateway as unreachable until its next renewal, unless it renewed after `seq`.
    pub(super) fn unreachable(&mut self, gateway: &GatewayId, seq: u64) {
        if let Some(lease) = self.known.get_mut(gateway).filter(|lease| lease.seq == seq) {
            lease.reachable = false;
        }
    }

    /// Applies a live message: a lease was renewed, or has ended.
    pub(super) fn see(&mut self, gateway: GatewayId, lease: Lease) {
        if self.known.get(&gateway).is_none_or(|before| before.seq < lease.seq) {
            self.known.insert(gateway, lease);
        }
    }

    /// A copy of the known leases, taken before a read.
    pub(super) fn known(&self) -> HashMap<GatewayId, Lease> {
        self.known.clone()
    }

    /// Applies a read of all leases, except where a newer live message came since `before`.
    pub(super) fn read(&mut self, before: &HashMap<GatewayId, Lease>, found: HashMap<GatewayId, Lease>) {
        self.known.retain(|gateway, lease| {
            before.get(gateway) != Some(lease) || found.get(gateway).is_some_and(|found| found.live)
        });
        for (gateway, lease) in found.into_iter().filter(|(_, lease)| lease.live) {
            // After a crash the broker may continue from an earlier sequence.
            if self.known.get(&gateway) == before.get(&gateway) {
                self.known.insert(gateway, lease);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lease(seq: u64, live: bool) -> Lease {
        Lease { seq, live, reachable: live }
    }

    #[test]
    fn a_gateway_lives_until_its_lease_ends_and_again_when_it_is_renewed() {
        let (own, other) = (GatewayId::random(), GatewayId::random());
        let mut leases = Leases::new(own.clone());
        assert!(leases.is_live(&own) && !leases.is_live(&other));
        leases.see(other.clone(), lease(1, true));
        assert!(leases.is_live(&other));
        assert_eq!(leases.live().count(), 2);
        leases.see(other.clone(), lease(5, false));
        assert!(!leases.is_live(&other));
        leases.see(other.clone(), lease(3, true));
        assert!(!leases.is_live(&other), "older news");
        leases.see(other.clone(), lease(7, true));
        assert!(leases.is_live(&other));
        leases.see(own.clone(), lease(8, false));
        assert!(leases.is_live(&own));
    }

    #[test]
    fn an_unreachable_gateway_is_not_asked_until_its_next_renewal() {
        let (own, other) = (GatewayId::random(), GatewayId::random());
        let mut leases = Leases::new(own.clone());
        leases.see(own, lease(1, true));
        leases.see(other.clone(), lease(2, true));
        assert_eq!(leases.others(), [(other.clone(), 2)]);
        leases.see(other.clone(), lease(3, true));
        leases.unreachable(&other, 2);
        assert_eq!(leases.others(), [(other.clone(), 3)], "it has been heard of since");
        leases.unreachable(&other, 3);
        assert!(leases.others().is_empty() && leases.is_live(&other));
        leases.see(other.clone(), lease(4, true));
        assert_eq!(leases.others(), [(other.clone(), 4)]);
        leases.see(other, lease(5, false));
        assert!(leases.others().is_empty());
    }

    #[test]
    fn a_read_counts_unless_a_newer_live_message_came() {
        let ids: Vec<_> = (0..4).map(|_| GatewayId::random()).collect();
        let mut leases = Leases::new(GatewayId::random());
        for (index, id) in ids.iter().enumerate().take(3) {
            leases.see(id.clone(), lease(10 + index as u64, true));
        }
        let before = leases.known();
        // During the read the second is renewed, the third ends, and a fourth comes.
        leases.see(ids[1].clone(), lease(20, true));
        leases.see(ids[2].clone(), lease(21, false));
        leases.see(ids[3].clone(), lease(22, true));
        leases.read(&before, [(ids[2].clone(), lease(12, true))].into());
        let live: Vec<bool> = ids.iter().map(|id| leases.is_live(id)).collect();
        assert_eq!(live, [false, true, false, true]);
    }

    #[test]
    fn a_broker_that_lost_its_end_may_reuse_sequences() {
        let other = GatewayId::random();
        let mut leases = Leases::new(GatewayId::random());
        leases.see(other.clone(), lease(100, false));
        let before = leases.known();
        leases.read(&before, [(other.clone(), lease(50, true))].into());
        assert!(leases.is_live(&other));
        leases.see(other.clone(), lease(51, false));
        assert!(!leases.is_live(&other));
    }
}
