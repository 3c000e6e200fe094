//! The channels this gateway receives. In a namespace with `fanout = "channel"` it holds one NATS subscription for each
//! channel with local subscribers, and keeps it a few seconds longer, since clients that reconnect subscribe again at
//! once. In a namespace with `fanout = "wildcard"` it receives all channels.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use async_nats::{Message, SinkSubscription};
use parking_lot::Mutex;
use tidegate_shared::{
    channel::Channel,
    config::{Fanout, Namespace},
};
use tokio::{
    sync::{OnceCell, Semaphore},
    time::{Instant, MissedTickBehavior, interval, timeout},
};

use super::{
    feed::Feed,
    hub::ChannelRef,
    readers::{Handle, Readers, early::Early},
    receive::Receiver,
};
use crate::presence::Presence;

/// How long a NATS subscription outlives its last subscriber.
const LINGER: Duration = Duration::from_secs(5);
/// NATS subscriptions begun at the same time. More would queue in the broker, where requests time out.
const AT_A_TIME: usize = 256;
/// How long a channel may wait for its turn.
const TURN_LIMIT: Duration = Duration::from_secs(4);
/// How long a client waits until a channel is received. SDKs give up after 5 s.
const READY_LIMIT: Duration = Duration::from_millis(4500);

/// The channels this gateway receives.
pub(crate) struct Interests {
    receiver: Arc<Receiver>,
    presence: Arc<Presence>,
    /// The namespaces with `fanout = "wildcard"`.
    whole: HashSet<String>,
    received: Arc<Received>,
    readers: Readers,
    turns: Semaphore,
}

/// The channels with a NATS subscription of their own.
struct Received {
    receiver: Arc<Receiver>,
    channels: Mutex<HashMap<Channel, Interest>>,
    early: Early,
}

/// A channel with a NATS subscription of its own.
struct Interest {
    /// Keeps the channel in the hub while it is received.
    held: ChannelRef,
    subscription: Arc<Subscription>,
    idle_since: Option<Instant>,
}

#[derive(Default)]
struct Subscription {
    ready: OnceCell<()>,
    /// Publications, and joins and leaves where the namespace has them.
    running: Mutex<Option<(SinkSubscription, Option<SinkSubscription>)>>,
}

/// The channel is not received: the broker did not accept its subscription.
#[derive(Debug, thiserror::Error)]
#[error("the broker did not accept the channel's subscription: {0}")]
pub(crate) struct NotReceived(String);

impl Interests {
    pub(super) fn new(
        receiver: Arc<Receiver>,
        presence: Arc<Presence>,
        namespaces: &[Namespace],
    ) -> Arc<Self> {
        let whole = namespaces.iter().filter(|namespace| namespace.fanout() == Fanout::Wildcard);
        let whole = whole.map(|namespace| namespace.name.clone()).collect();
        let received =
            Received { receiver: Arc::clone(&receiver), channels: Mutex::default(), early: Early::default() };
        let received = Arc::new(received);
        let readers = Readers::start(&received, &receiver.lifecycle);
        let turns = Semaphore::new(AT_A_TIME);
        let this = Arc::new(Self { receiver, presence, whole, received, readers, turns });
        let sweeper = Arc::clone(&this);
        this.receiver
            .lifecycle
            .spawn_essential("ending unused subscriptions", async move { sweeper.sweep().await });
        this
    }

    /// Returns a reference to a channel once its publications reach this gateway.
    pub(crate) async fn hold(&self, channel: &Channel) -> Result<ChannelRef, NotReceived> {
        if let Some(held) = self.hold_received(channel) {
            return Ok(held);
        }
        let (held, subscription) = self.take(channel);
        let ready = subscription.ready.get_or_try_init(|| self.subscribe(&held.feed, &subscription));
        let ready = timeout(READY_LIMIT, ready).await;
        ready.map_err(|_| NotReceived("it did not answer in time".to_owned()))??;
        Ok(held)
    }

    /// Returns a reference to a channel of a namespace with `fanout = "wildcard"`, at once: its position is known.
    /// `None` for other channels.
    pub(crate) fn hold_received(&self, channel: &Channel) -> Option<ChannelRef> {
        let Receiver { hub, history, .. } = &*self.receiver;
        self.whole.contains(channel.namespace()).then(|| {
            hub.hold(channel, |feed| {
                feed.received_on(history.seen_on(channel));
                if let Some(start) = history.start_from_seen(channel) {
                    feed.track(start.position, start.newest);
                }
            })
        })
    }

    fn take(&self, channel: &Channel) -> (ChannelRef, Arc<Subscription>) {
        let hold = || self.receiver.hub.hold(channel, |_| {});
        let mut channels = self.received.channels.lock();
        let interest = channels.entry(channel.clone()).or_insert_with(|| Interest::new(hold()));
        interest.idle_since = None;
        (hold(), Arc::clone(&interest.subscription))
    }

    async fn subscribe(&self, feed: &Arc<Feed>, subscription: &Subscription) -> Result<(), NotReceived> {
        let failed = |error: &dyn std::error::Error| NotReceived(error.to_string());
        let turn = timeout(TURN_LIMIT, self.turns.acquire()).await;
        let _turn =
            turn.map_err(|_| NotReceived("too many subscriptions are waiting for the broker".to_owned()))?;
        let (broker, channel) = (&self.receiver.broker, feed.channel());
        let (subject, connection) = (self.receiver.subjects.live(channel), broker.connection_number());
        let reader =
            || self.readers.of(feed.name()).ok_or_else(|| NotReceived("nothing reads it".to_owned()));
        let key = self.receiver.subjects.live_key(&subject).unwrap_or_default().to_owned();
        let waiting = self.receiver.history.keeps(channel).then(|| self.received.early.open(&key));
        let publications =
            broker.client().subscribe_into(subject, reader()?).await.map_err(|e| failed(&e))?;
        let mut changes = None;
        if self.presence.has_join_leave(channel) {
            let subject = self.receiver.subjects.here(channel);
            changes = Some(broker.client().subscribe_into(subject, reader()?).await.map_err(|e| failed(&e))?);
        }
        // Flushing would only empty our own buffer: the barrier's answer shows that the server has read the SUB.
        broker.settled().await.map_err(|e| failed(&e))?;
        if let Some(start) = self.receiver.history.start_of(channel).await.map_err(|e| failed(&e))? {
            let position = start.position;
            feed.received_on(connection);
            feed.track(position, start.newest);
            let known = if start.is_message { position } else { 0 };
            feed.know(known);
            // A feed from before an earlier subscription failed.
            if feed.position() < Some(position)
                && let Some(gap) = feed.begin_heal(known)
            {
                drop(self.receiver.recovery.heal(Arc::clone(feed), gap));
            }
        }
        if let Some(waiting) = waiting
            && !waiting.apply(|message| {
                self.receiver.on_publication(message);
            })
        {
            let many = "more publications arrived than can wait until its position is known";
            return Err(NotReceived(many.to_owned()));
        }
        let channels = self.received.channels.lock();
        if !is_taken(&channels, channel, subscription) {
            return Err(NotReceived("it was given up meanwhile: a message could not be handled".to_owned()));
        }
        *subscription.running.lock() = Some((publications, changes));
        Ok(())
    }

    /// Ends the NATS subscriptions of channels without subscribers. Looks only at channels that may have lost the last one.
    async fn sweep(&self) {
        let mut idle = HashSet::new();
        let mut ticks = interval(Duration::from_secs(1));
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = ticks.tick() => {}
                () = self.receiver.lifecycle.finishing() => return,
            }
            idle.extend(self.receiver.hub.take_single());
            let over = take_over(&mut self.received.channels.lock(), &mut idle, Instant::now());
            // After the lock is released: the last reference takes the hub's lock.
            drop(over);
        }
    }
}

/// Whether this is still the channel's subscription. One that was given up while it began would never end.
fn is_taken(channels: &HashMap<Channel, Interest>, channel: &Channel, subscription: &Subscription) -> bool {
    channels
        .get(channel)
        .is_some_and(|interest| std::ptr::eq(Arc::as_ptr(&interest.subscription), subscription))
}

/// Takes the channels out that had no subscriber for `LINGER`. `idle` has those that may have none, and keeps those that have none.
fn take_over(
    channels: &mut HashMap<Channel, Interest>,
    idle: &mut HashSet<Channel>,
    now: Instant,
) -> Vec<Interest> {
    let mut over = Vec::new();
    idle.retain(|channel| {
        let Some(interest) = channels.get_mut(channel) else { return false };
        if interest.is_over(now) {
            interest.subscription.end();
            over.extend(channels.remove(channel));
            return false;
        }
        interest.idle_since.is_some()
    });
    over
}

impl Interest {
    fn new(held: ChannelRef) -> Self {
        Self { held, subscription: Arc::default(), idle_since: None }
    }

    /// Whether the channel has had no subscriber for `LINGER`.
    fn is_over(&mut self, now: Instant) -> bool {
        if !self.held.is_only() {
            self.idle_since = None;
            return false;
        }
        now >= *self.idle_since.get_or_insert(now) + LINGER
    }
}

impl Subscription {
    /// Ends it at the broker. Called while the channels are locked, so that no later subscription to the channel is sent before.
    fn end(&self) {
        drop(self.running.lock().take());
    }
}

impl Handle for Received {
    fn handle(&self, message: Message) -> usize {
        let Some(key) = self.receiver.subjects.live_key(&message.subject) else {
            return self.receiver.on_change(&message);
        };
        if self.early.is_empty() {
            return self.receiver.on_publication(&message);
        }
        let key = key.to_owned();
        self.early.keep(&key, message).map_or(0, |message| self.receiver.on_publication(&message))
    }

    fn failed(&self, subject: &str) {
        let subjects = &self.receiver.subjects;
        let key = subjects.live_key(subject).or_else(|| subjects.here_key(subject));
        if let Some(feed) = key.and_then(|key| self.receiver.hub.feed(key)) {
            give_up(&self.channels, &feed);
        }
    }
}

/// Gives a channel up whose messages cannot be handled: its subscribers are removed, and their clients resume, which subscribes
/// again.
fn give_up(channels: &Mutex<HashMap<Channel, Interest>>, feed: &Feed) {
    tracing::error!(channel = feed.name(), "a message of a channel was not handled: its clients resume");
    let removed = {
        let mut channels = channels.lock();
        let removed = channels.remove(feed.channel());
        if let Some(interest) = &removed {
            interest.subscription.end();
        }
        removed
    };
    // Dropped after the lock is released: the last reference takes the hub's lock.
    drop(removed);
    let position = feed.position().unwrap_or_default();
    for outbox in feed.restart(position, true) {
        outbox.lose(feed.name());
    }
}

#[cfg(test)]
mod tests {
    use futures_util::{FutureExt, future::poll_fn};
    use tidegate_shared::{
        id::{ClientId, GatewayId},
        protocol::Encoding,
    };

    use super::*;
    use crate::{
        channels::{feed::Start, hub::Hub},
        outbox::{Outbox, OutboxItem},
    };

    fn lost(outbox: &Outbox) -> bool {
        matches!(poll_fn(|cx| outbox.poll_take(cx, 100)).now_or_never(), Some(OutboxItem::Lost(_)))
    }

    #[test]
    fn the_clients_of_a_channel_whose_messages_cannot_be_handled_resume() {
        let hub = Arc::new(Hub::new());
        let channel = Channel::parse("chat:lobby").unwrap();
        let held = hub.hold(&channel, |feed| feed.track(5, None));
        let feed = Arc::clone(&held.feed);
        let outbox = Arc::new(Outbox::new(Encoding::Json, 1000));
        outbox.open();
        feed.join(ClientId::random(&GatewayId::random()), &outbox, None, &Start::Fresh, |_| {
            crate::channels::feed::FirstFrame::Nothing
        });
        let interest = Interest::new(held);
        let begun = Arc::clone(&interest.subscription);
        let channels = Mutex::new(HashMap::from([(channel.clone(), interest)]));
        assert!(!lost(&outbox) && is_taken(&channels.lock(), &channel, &begun));
        give_up(&channels, &feed);
        assert!(!is_taken(&channels.lock(), &channel, &begun), "one that was begun before joins nobody");
        assert!(lost(&outbox) && feed.len() == 0);
        assert!(channels.lock().is_empty(), "the next subscriber subscribes again");
    }

    #[test]
    fn channels_with_subscribers_are_not_looked_at() {
        let hub = Arc::new(Hub::new());
        let hold = |name: &str| hub.hold(&Channel::parse(name).unwrap(), |_| {});
        let (mut channels, mut idle) = (HashMap::new(), HashSet::new());
        let mut subscribers: Vec<_> = (0..1000)
            .map(|n| {
                let name = format!("chat:{n}");
                channels.insert(Channel::parse(&name).unwrap(), Interest::new(hold(&name)));
                hold(&name)
            })
            .collect();
        let now = Instant::now();
        assert!(hub.take_single().is_empty(), "all have a subscriber");
        subscribers.truncate(998);
        let back = hold("chat:999");
        idle.extend(hub.take_single());
        assert_eq!(idle.len(), 2);
        assert!(take_over(&mut channels, &mut idle, now).is_empty());
        assert_eq!(idle.len(), 1, "the other one has a subscriber again");
        drop(back);
        idle.extend(hub.take_single());
        assert_eq!(take_over(&mut channels, &mut idle, now + LINGER).len(), 1);
        assert_eq!(take_over(&mut channels, &mut idle, now + 2 * LINGER).len(), 1);
        assert_eq!((channels.len(), idle.len()), (998, 0));
    }

    #[test]
    fn a_subscription_ends_when_its_channel_had_no_subscriber_for_a_while() {
        let hub = Arc::new(Hub::new());
        let hold = || hub.hold(&Channel::parse("chat:lobby").unwrap(), |_| {});
        let mut interest = Interest::new(hold());
        let start = Instant::now();
        let (first, second) = (hold(), hold());
        assert!(!interest.is_over(start + 2 * LINGER));
        drop(first);
        assert!(!interest.is_over(start + 3 * LINGER));
        drop(second);
        assert!(!interest.is_over(start + 4 * LINGER), "idle from now on");
        let back = hold();
        assert!(!interest.is_over(start + 6 * LINGER));
        drop(back);
        assert!(!interest.is_over(start + 7 * LINGER));
        assert!(interest.is_over(start + 8 * LINGER));
        drop(interest);
        assert!(hub.feed("chat.lobby").is_none());
    }
}
