//! What a connection occupies in the gateway: its entry in the hub, its place among the subscribers of its channels, its
//! memberships, and its count in the metrics.
//!
//! All of it is undone when the registration is dropped, so that a panic in the connection's task leaves nothing behind.
//! Never decides which channels a connection has.

use std::sync::Arc;

use tidegate_shared::{channel::Channel, id::ClientId};

use crate::{
    channels::hub::{ChannelRef, Hub},
    metrics::{Metrics, connections::OpenConnection},
    outbox::Outbox,
    presence::Membership,
};

/// A connection's entries. Dropping it removes them.
pub(super) struct Registration {
    hub: Arc<Hub>,
    _open: OpenConnection,
    client: ClientId,
    /// The session name of a client that posts its commands.
    session: Option<Box<str>>,
    registered: bool,
    /// The channels it has joined, each with its membership where the namespace keeps members.
    channels: Vec<(ChannelRef, Option<Box<Membership>>)>,
}

impl Registration {
    /// Adds the connection to the hub and counts it as open.
    pub(super) fn new(
        hub: Arc<Hub>,
        metrics: &Metrics,
        (client, session): (ClientId, Option<&str>),
        outbox: Arc<Outbox>,
    ) -> Self {
        let open = metrics.opened();
        hub.register(client.clone(), outbox);
        if let Some(session) = session {
            hub.name_session(session, client.clone());
        }
        let session = session.map(Box::from);
        Self { hub, _open: open, client, session, registered: true, channels: Vec::new() }
    }

    /// Makes room for exactly this many more channels.
    pub(super) fn reserve(&mut self, channels: usize) {
        self.channels.reserve_exact(channels);
    }

    /// Keeps a channel that the connection has joined.
    pub(super) fn add(&mut self, channel: ChannelRef, membership: Option<Box<Membership>>) {
        self.channels.push((channel, membership));
    }

    /// Leaves one channel.
    pub(super) fn leave(&mut self, channel: &Channel) {
        let client = &self.client;
        self.channels.retain(|(joined, _)| {
            let left = joined.feed.channel() == channel;
            if left {
                joined.feed.leave(client);
            }
            !left
        });
    }

    /// Leaves all channels and the hub, before the transport closes: no order or publication follows.
    pub(super) fn leave_all(&mut self) {
        for (joined, _) in self.channels.drain(..) {
            joined.feed.leave(&self.client);
        }
        if std::mem::take(&mut self.registered) {
            self.hub.unregister(&self.client);
            if let Some(session) = &self.session {
                self.hub.forget_session(session);
            }
        }
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        self.leave_all();
    }
}

#[cfg(test)]
mod tests {
    use tidegate_shared::{id::GatewayId, protocol::Encoding};
    use tokio::task::JoinSet;

    use super::*;
    use crate::channels::feed::{FirstFrame, Start};

    fn joined(hub: &Arc<Hub>, metrics: &Metrics) -> (ClientId, Registration) {
        let client = ClientId::random(&GatewayId::random());
        let outbox = Arc::new(Outbox::new(Encoding::Json, 1000));
        let mut registration =
            Registration::new(Arc::clone(hub), metrics, (client.clone(), Some("s")), Arc::clone(&outbox));
        let channel = hub.hold(&Channel::parse("chat:lobby").unwrap(), |_| {});
        channel.feed.join(client.clone(), &outbox, None, &Start::Fresh, |_| FirstFrame::Nothing);
        registration.add(channel, None);
        (client, registration)
    }

    #[tokio::test]
    async fn a_panic_in_a_connections_task_leaves_nothing_behind() {
        let (hub, metrics) = (Arc::new(Hub::new()), Metrics::new());
        let (client, registration) = joined(&hub, &metrics);
        assert_eq!((hub.len(), hub.feed("chat.lobby").unwrap().len()), (1, 1));
        assert!(metrics.page().contains("tidegate_gateway_connections 1"));
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let _registration = registration;
            panic!("planted");
        });
        assert!(tasks.join_next().await.unwrap().unwrap_err().is_panic());
        assert!(hub.session("s").is_none());
        assert!(hub.client(&client).is_none() && hub.feed("chat.lobby").is_none());
        assert_eq!(hub.len(), 0, "the drain does not wait for it");
        assert!(metrics.page().contains("tidegate_gateway_connections 0"));
    }

    #[test]
    fn a_connection_leaves_one_channel_and_keeps_the_others() {
        let (hub, metrics) = (Arc::new(Hub::new()), Metrics::new());
        let (_, mut registration) = joined(&hub, &metrics);
        registration.leave(&Channel::parse("chat:other").unwrap());
        assert_eq!(hub.feed("chat.lobby").unwrap().len(), 1);
        registration.leave(&Channel::parse("chat:lobby").unwrap());
        assert!(hub.feed("chat.lobby").is_none() && hub.len() == 1);
    }
}
