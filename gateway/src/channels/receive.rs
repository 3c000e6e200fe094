//! Receives publications, joins, leaves and pushes from NATS, and hands them to feeds and outboxes.
//!
//! One task per subscription. None of them waits for a client.

use std::sync::Arc;

use async_nats::Message;
use tidegate_shared::{
    broker::{Broker, header_number, stored_at},
    config::{Fanout, Namespace},
    header::SEQUENCE,
    id::{ClientId, GatewayId},
    lifecycle::Lifecycle,
    listener::listen,
    sparse::Sparse,
    subject::Subjects,
};

use super::{
    confirm::Confirmations,
    feed::{Applied, Live},
    history::History,
    hub::Hub,
    message::{has_odd_info, is_removal, read_publication},
    resume::Recovery,
};
use crate::{metrics::Metrics, presence::Presence};

/// Receives everything that is published or pushed to clients of this gateway.
pub(crate) struct Receiver {
    pub(super) confirmations: Confirmations,
    pub(super) broker: Broker,
    pub(super) subjects: Subjects,
    pub(super) hub: Arc<Hub>,
    pub(super) history: Arc<History>,
    pub(super) recovery: Arc<Recovery>,
    pub(super) metrics: Metrics,
    pub(super) lifecycle: Lifecycle,
    /// Something unreadable.
    pub(super) warned: Sparse,
}

/// Handles a message of one subscription. Returns to how many clients it was delivered.
type Handler = fn(&Receiver, &Message) -> usize;

impl Receiver {
    /// Subscribes to pushes and to the namespaces with `fanout = "wildcard"`. Returns once the broker has the
    /// subscriptions and all epochs are known.
    pub(super) async fn start(
        self: &Arc<Self>,
        gateway: &GatewayId,
        namespaces: &[Namespace],
    ) -> anyhow::Result<()> {
        let mut subjects: Vec<(&'static str, String, Handler)> = vec![
            ("pushes to one connection", self.subjects.pushes_of(gateway), Self::on_push),
            ("pushes to the connections of a user", self.subjects.pushes_to_users(), Self::on_push_user),
            ("pushes to all connections", self.subjects.push_all(), Self::on_push_all),
        ];
        for namespace in namespaces.iter().filter(|namespace| namespace.fanout() == Fanout::Wildcard) {
            subjects.push(("publications", self.subjects.all_live(&namespace.name), Self::on_publication));
            if namespace.join_leave {
                subjects.push(("joins and leaves", self.subjects.all_here(&namespace.name), Self::on_change));
            }
        }
        let mut subscriptions = Vec::with_capacity(subjects.len());
        for (name, subject, handler) in subjects {
            subscriptions.push((name, self.broker.client().subscribe(subject).await?, handler));
        }
        self.broker.settled().await?;
        // Read before the first message is handled: this also sets the end of each stream.
        for namespace in self.history.namespaces() {
            self.history.refresh(namespace).await?;
            self.history.milestone(namespace).await;
        }
        for (name, messages, handler) in subscriptions {
            let this = Arc::clone(self);
            self.lifecycle.spawn_essential(name, async move {
                let handle = |message| {
                    handler(&this, &message);
                };
                listen(messages, &this.lifecycle, handle).await;
            });
        }
        Ok(())
    }

    /// Delivers a live publication, and fills the gap if it shows one.
    pub(super) fn on_publication(&self, message: &Message) -> usize {
        let Some(key) = self.subjects.live_key(&message.subject) else { return 0 };
        let number = |name| header_number(message, name).unwrap_or_default();
        let seq = number(SEQUENCE);
        // Noted before the channel is looked up: a subscriber that joins in between starts at this position.
        let stored = key.split_once('.').is_some_and(|(namespace, _)| self.history.see(namespace, seq));
        if !stored && let Some(reply) = &message.reply {
            self.confirmations.confirm(reply);
        }
        let Some(feed) = self.hub.feed(key) else { return 0 };
        let publication = (!is_removal(message)).then(|| read_publication(message));
        if has_odd_info(message) {
            self.metrics.unreadable("info");
            self.warn(
                &message.subject,
                "a publication's Tide-Info or Tide-Channel-Info is not JSON: clients get it as text",
            );
        }
        let live = if stored {
            Live { seq, previous: number("Nats-Last-Sequence"), publication, stored_at: stored_at(message) }
        } else {
            // What its publisher wrote into such headers has no meaning.
            Live { seq: 0, previous: 0, publication, stored_at: None }
        };
        feed.received_on(self.broker.connection_number());
        match feed.live(live) {
            Applied::Delivered(subscribers) => self.delivered(subscribers),
            Applied::Known => 0,
            Applied::Gap(gap) => {
                drop(self.recovery.heal(feed, gap));
                0
            }
        }
    }

    /// Delivers a join or a leave to the channel's subscribers.
    pub(super) fn on_change(&self, message: &Message) -> usize {
        let feed = self.subjects.here_key(&message.subject).and_then(|key| self.hub.feed(key));
        let Some(feed) = feed else { return 0 };
        match Presence::change(message) {
            Ok(Some(change)) => self.delivered(feed.deliver_change(&change)),
            Ok(None) => 0,
            Err(error) => {
                self.metrics.unreadable("member");
                self.warn(
                    &message.subject,
                    &format!("dropped a join or a leave that cannot be read: {error}"),
                );
                0
            }
        }
    }

    fn delivered(&self, clients: usize) -> usize {
        self.metrics.delivered(clients);
        clients
    }

    /// Warns of what publishers write, rarely: they may write it often.
    fn warn(&self, subject: &str, what: &str) {
        if let Some(skipped) = self.warned.due() {
            tracing::warn!(subject, skipped, "{what}");
        }
    }

    fn on_push(&self, message: &Message) -> usize {
        let Some(client) = Subjects::id_in(&message.subject).and_then(ClientId::parse) else { return 0 };
        self.delivered(self.hub.push_client(&client, &message.payload))
    }

    fn on_push_user(&self, message: &Message) -> usize {
        // The last two words are those of the user's personal channel.
        let Some(key) = Subjects::id_in(&message.subject) else { return 0 };
        self.delivered(self.hub.push_user(key, &message.payload))
    }

    fn on_push_all(&self, message: &Message) -> usize {
        self.delivered(self.hub.push_all(&message.payload))
    }
}
