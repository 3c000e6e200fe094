//! What services order: to end a connection, to begin or end a subscription, to
//! change how long a connection may last.

use bytes::Bytes;
use tidegate_shared::{channel::Channel, protocol::Unsubscribe};

use super::{Effects, Now, Phase, Session};
use crate::outbox::order::{Action, Order, disconnect_of};

impl Session {
    /// A service has ordered something of this connection.
    pub(crate) fn ordered(&mut self, order: &Order, now: Now) -> Effects {
        match &order.action {
            Action::Disconnect { code, reason } => self.close(disconnect_of(*code, reason)),
            Action::Subscribe { channel, info, data } => Channel::parse(channel)
                .map_or_else(|_| Vec::new(), |channel| self.place(channel, info.clone(), data.clone())),
            Action::Unsubscribe { channel, code, reason } => {
                let why = Unsubscribe { code: *code, reason: reason.clone() };
                Channel::parse(channel).map_or_else(|_| Vec::new(), |channel| self.displace(&channel, why))
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
