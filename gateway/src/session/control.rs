//! Orders from services: disconnect, subscribe, unsubscribe, refresh.

use bytes::Bytes;
use tidegate_shared::{channel::Channel, protocol::Unsubscribe};

use super::{Effects, Now, Phase, Session};
use crate::outbox::order::{Action, Order, disconnect_of};

impl Session {
    /// Carries out an order from a service.
    pub(crate) fn ordered(&mut self, order: &Order, now: Now) -> Effects {
        match &order.action {
            Action::Disconnect { code, reason } => self.close(disconnect_of(*code, reason)),
            Action::Subscribe { channel, info, data } => Channel::parse(channel).map_or_else(
                |_| Vec::new(),
                |channel| self.add_subscription(channel, info.clone(), data.clone()),
            ),
            Action::Unsubscribe { channel, code, reason } => {
                let why = Unsubscribe { code: *code, reason: reason.clone() };
                Channel::parse(channel)
                    .map_or_else(|_| Vec::new(), |channel| self.end_subscription_by_order(&channel, why))
            }
            Action::Refresh { expire_at, info } => self.refreshed(*expire_at, info, now),
        }
    }

    fn refreshed(&mut self, expire_at: Option<u64>, info: &Bytes, now: Now) -> Effects {
        let validity = self.validity(expire_at, self.renewer_after_token(), now);
        let Phase::Connected(connected) = &mut self.phase else { return Vec::new() };
        if expire_at.is_some() {
            connected.validity = validity;
        }
        if !info.is_empty() {
            connected.info = info.clone();
        }
        Vec::new()
    }
}
