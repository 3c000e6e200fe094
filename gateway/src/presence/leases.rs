//! Which gateways live, as far as this one knows. Pure.
//!
//! What is read and what comes live is put in order by the sequences of the leases.

use std::collections::HashMap;

use tidegate_shared::id::GatewayId;

/// The leases this gateway has seen.
pub(super) struct Leases {
    own: GatewayId,
    known: HashMap<GatewayId, Lease>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Lease {
    /// The sequence of the newest sign of life, or of its end.
    pub(super) seq: u64,
    pub(super) live: bool,
}

impl Leases {
    pub(super) fn new(own: GatewayId) -> Self {
        Self { own, known: HashMap::new() }
    }

    /// Whether a gateway lives. This one does, whatever others think of it.
    pub(super) fn is_live(&self, gateway: &GatewayId) -> bool {
        *gateway == self.own || self.known.get(gateway).is_some_and(|lease| lease.live)
    }

    /// The gateways that live.
    pub(super) fn live(&self) -> impl Iterator<Item = &GatewayId> {
        let others = self.known.iter().filter(|(gateway, lease)| lease.live && **gateway != self.own);
        others.map(|(gateway, _)| gateway).chain([&self.own])
    }

    /// A lease was renewed, or has ended. Returns whether this ends a gateway.
    pub(super) fn see(&mut self, gateway: GatewayId, lease: Lease) -> bool {
        let before = self.known.get(&gateway);
        if before.is_some_and(|before| before.seq >= lease.seq) {
            return false;
        }
        let ends = !lease.live && gateway != self.own && before.is_none_or(|before| before.live);
        self.known.insert(gateway, lease);
        ends
    }

    /// What is known now, to be compared with a reading that begins after it.
    pub(super) fn known(&self) -> HashMap<GatewayId, Lease> {
        self.known.clone()
    }

    /// Takes a reading of all leases, except where something newer has come since `before`. Returns the gateways that
    /// turn out to have ended.
    pub(super) fn read(
        &mut self,
        before: &HashMap<GatewayId, Lease>,
        found: HashMap<GatewayId, Lease>,
    ) -> Vec<GatewayId> {
        let mut ended = Vec::new();
        self.known.retain(|gateway, lease| {
            if before.get(gateway) != Some(lease) || found.get(gateway).is_some_and(|found| found.live) {
                return true;
            }
            if lease.live && *gateway != self.own {
                ended.push(gateway.clone());
            }
            false
        });
        for (gateway, lease) in found.into_iter().filter(|(_, lease)| lease.live) {
            // After a crash the broker may count from an earlier sequence on.
            if self.known.get(&gateway) == before.get(&gateway) {
                self.known.insert(gateway, lease);
            }
        }
        ended
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lease(seq: u64, live: bool) -> Lease {
        Lease { seq, live }
    }

    #[test]
    fn a_gateway_lives_until_its_lease_ends_and_again_when_it_is_renewed() {
        let (own, other) = (GatewayId::random(), GatewayId::random());
        let mut leases = Leases::new(own.clone());
        assert!(leases.is_live(&own) && !leases.is_live(&other));
        assert!(!leases.see(other.clone(), lease(1, true)));
        assert!(leases.is_live(&other));
        assert_eq!(leases.live().count(), 2);
        assert!(leases.see(other.clone(), lease(5, false)));
        assert!(!leases.see(other.clone(), lease(5, false)), "it ends once");
        assert!(!leases.see(other.clone(), lease(3, true)), "older news");
        assert!(!leases.is_live(&other));
        assert!(!leases.see(other.clone(), lease(7, true)));
        assert!(leases.is_live(&other));
        assert!(!leases.see(own.clone(), lease(8, false)) && leases.is_live(&own));
    }

    #[test]
    fn a_reading_is_believed_where_nothing_newer_has_come() {
        let ids: Vec<_> = (0..4).map(|_| GatewayId::random()).collect();
        let mut leases = Leases::new(GatewayId::random());
        for (index, id) in ids.iter().enumerate().take(3) {
            leases.see(id.clone(), lease(10 + index as u64, true));
        }
        let before = leases.known();
        // While it is read: the second is renewed, the third ends, and a fourth comes.
        leases.see(ids[1].clone(), lease(20, true));
        leases.see(ids[2].clone(), lease(21, false));
        leases.see(ids[3].clone(), lease(22, true));
        let found = [(ids[2].clone(), lease(12, true))].into();
        assert_eq!(leases.read(&before, found), [ids[0].clone()]);
        let live: Vec<bool> = ids.iter().map(|id| leases.is_live(id)).collect();
        assert_eq!(live, [false, true, false, true]);
    }

    #[test]
    fn a_broker_that_has_lost_its_end_counts_again() {
        let other = GatewayId::random();
        let mut leases = Leases::new(GatewayId::random());
        leases.see(other.clone(), lease(100, false));
        let before = leases.known();
        assert!(leases.read(&before, [(other.clone(), lease(50, true))].into()).is_empty());
        assert!(leases.is_live(&other));
        assert!(leases.see(other.clone(), lease(51, false)));
    }
}
