//! The connections of this gateway by client id, and its channels by name. Handles only, never sockets.
//!
//! Methods are short and never wait.

use std::{
    collections::{HashMap, HashSet},
    hash::{BuildHasher, RandomState},
    sync::{
        Arc, OnceLock,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use parking_lot::{Mutex, MutexGuard};
use tidegate_shared::{
    channel::Channel,
    id::ClientId,
    protocol::{Encoding, Reply, json::Payload},
};
use tokio::{sync::Notify, time::Instant};

use self::arriving::Arriving;
use crate::{
    channels::feed::Feed,
    outbox::{
        Drain, Outbox,
        encoded::{Encoded, Form},
    },
};

pub(crate) mod arriving;

/// How many locks the maps are spread over.
const SHARDS: usize = 64;

/// The connections and channels of this gateway.
pub(crate) struct Hub {
    hasher: RandomState,
    clients: Vec<Mutex<HashMap<ClientId, Arc<Outbox>>>>,
    channels: Vec<Mutex<HashMap<Box<str>, Arc<Feed>>>>,
    /// Channels whose references have become a single one.
    single: Mutex<HashSet<Channel>>,
    /// The connections of clients that post their commands, by session name.
    sessions: Mutex<HashMap<Box<str>, ClientId>>,
    count: AtomicUsize,
    empty: Notify,
    draining: OnceLock<DrainPace>,
    pub(crate) arriving: Arc<Arriving>,
}

/// How fast connections end when the gateway drains.
#[derive(Debug, Clone, Copy)]
struct DrainPace {
    settle_until: Instant,
    close_from: Instant,
    window: Duration,
}

/// A counted reference to a channel. The hub forgets the channel when the last one is dropped.
pub(crate) struct ChannelRef {
    hub: Arc<Hub>,
    pub(crate) feed: Arc<Feed>,
}

impl Hub {
    pub(crate) fn new() -> Self {
        Self {
            hasher: RandomState::new(),
            clients: (0..SHARDS).map(|_| Mutex::default()).collect(),
            channels: (0..SHARDS).map(|_| Mutex::default()).collect(),
            single: Mutex::default(),
            sessions: Mutex::default(),
            count: AtomicUsize::new(0),
            empty: Notify::new(),
            draining: OnceLock::new(),
            arriving: Arc::default(),
        }
    }

    /// Adds a connection, authenticated or not. If the gateway drains, the connection learns it at once.
    pub(crate) fn register(&self, client: ClientId, outbox: Arc<Outbox>) {
        self.count.fetch_add(1, Ordering::AcqRel);
        let mut shard = self.client_shard(&client);
        if let Some(pace) = self.draining.get() {
            outbox.drain(pace.draw());
        }
        shard.insert(client, outbox);
    }

    /// Removes a connection.
    pub(crate) fn unregister(&self, client: &ClientId) {
        self.client_shard(client).remove(client);
        if self.count.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.empty.notify_waiters();
        }
    }

    /// Adds the session name of a connection.
    pub(crate) fn name_session(&self, session: &str, client: ClientId) {
        self.sessions.lock().insert(session.into(), client);
    }

    /// Removes a session name.
    pub(crate) fn forget_session(&self, session: &str) {
        self.sessions.lock().remove(session);
    }

    /// Returns the connection with this session name.
    pub(crate) fn session(&self, session: &str) -> Option<(ClientId, Arc<Outbox>)> {
        let client = self.sessions.lock().get(session)?.clone();
        let outbox = self.client(&client)?;
        Some((client, outbox))
    }

    /// Completes when no connection is left.
    pub(crate) async fn emptied(&self) {
        loop {
            let empty = self.empty.notified();
            if self.len() == 0 {
                return;
            }
            empty.await;
        }
    }

    /// Returns one connection.
    pub(crate) fn client(&self, client: &ClientId) -> Option<Arc<Outbox>> {
        self.client_shard(client).get(client).map(Arc::clone)
    }

    /// Returns every connection.
    pub(crate) fn clients(&self) -> Vec<Arc<Outbox>> {
        self.clients
            .iter()
            .flat_map(|shard| shard.lock().values().map(Arc::clone).collect::<Vec<_>>())
            .collect()
    }

    /// Returns a reference to a channel. `begin` sets up a new channel before others can find it.
    pub(crate) fn hold(self: &Arc<Self>, channel: &Channel, begin: impl FnOnce(&Feed)) -> ChannelRef {
        let key = key_of(channel);
        let mut shard = self.channel_shard(&key);
        let feed = shard.entry(key).or_insert_with(|| {
            let feed = Feed::new(channel.clone());
            begin(&feed);
            Arc::new(feed)
        });
        feed.hold();
        ChannelRef { hub: Arc::clone(self), feed: Arc::clone(feed) }
    }

    /// Returns the channel `<namespace>.<token>`, if it has references.
    pub(crate) fn feed(&self, key: &str) -> Option<Arc<Feed>> {
        self.channel_shard(key).get(key).map(Arc::clone)
    }

    /// Returns all channels whose key begins with `prefix`.
    pub(crate) fn feeds(&self, prefix: &str) -> Vec<Arc<Feed>> {
        let mut found = Vec::new();
        for shard in &self.channels {
            let shard = shard.lock();
            let some = shard.iter().filter(|(key, _)| key.starts_with(prefix));
            found.extend(some.map(|(_, feed)| Arc::clone(feed)));
        }
        found
    }

    /// Releases a reference, and forgets the channel if it was the last.
    fn release(&self, feed: &Feed) {
        let key = key_of(feed.channel());
        let mut shard = self.channel_shard(&key);
        match feed.release() {
            0 => drop(shard.remove(&key)),
            1 => drop(self.single.lock().insert(feed.channel().clone())),
            _ => {}
        }
    }

    /// The channels whose references have become a single one since the last call. Some of them may have more by now.
    pub(crate) fn take_single(&self) -> HashSet<Channel> {
        std::mem::take(&mut *self.single.lock())
    }

    /// Delivers a message to one connection.
    pub(crate) fn push_client(&self, client: &ClientId, data: &Bytes) -> usize {
        let outbox = self.client(client);
        outbox.map_or(0, |outbox| push(data).deliver(&outbox, Form::Plain).count())
    }

    /// Delivers a message to the connections of one user, which are in its personal channel. `key` is that channel's.
    pub(crate) fn push_user(&self, key: &str, data: &Bytes) -> usize {
        let Some(feed) = self.feed(key) else { return 0 };
        let mut message = push(data);
        let connections = feed.subscribers().into_iter();
        connections.map(|(_, outbox)| message.deliver(&outbox, Form::Plain).count()).sum()
    }

    /// Delivers a message to every connection.
    pub(crate) fn push_all(&self, data: &Bytes) -> usize {
        let mut message = push(data);
        let shards = self.clients.iter().map(Mutex::lock);
        shards
            .map(|shard| {
                shard.values().map(|outbox| message.deliver(outbox, Form::Plain).count()).sum::<usize>()
            })
            .sum()
    }

    /// Tells every connection that the gateway drains. Their ends are spread over `window`.
    pub(crate) fn drain(&self, settle: Duration, window: Duration) {
        let now = Instant::now();
        let pace =
            *self.draining.get_or_init(|| DrainPace { settle_until: now + settle, close_from: now, window });
        for shard in &self.clients {
            for outbox in shard.lock().values() {
                outbox.drain(pace.draw());
            }
        }
    }

    /// Whether the gateway drains.
    pub(crate) fn is_draining(&self) -> bool {
        self.draining.get().is_some()
    }

    /// How many connections there are.
    pub(crate) fn len(&self) -> usize {
        self.count.load(Ordering::Acquire)
    }

    #[expect(clippy::indexing_slicing, reason = "the index is taken modulo the length")]
    fn client_shard(&self, client: &ClientId) -> MutexGuard<'_, HashMap<ClientId, Arc<Outbox>>> {
        self.clients[self.shard(client.as_str())].lock()
    }

    #[expect(clippy::indexing_slicing, reason = "the index is taken modulo the length")]
    fn channel_shard(&self, key: &str) -> MutexGuard<'_, HashMap<Box<str>, Arc<Feed>>> {
        self.channels[self.shard(key)].lock()
    }

    #[expect(clippy::cast_possible_truncation, reason = "only the low bits are used")]
    fn shard(&self, key: &str) -> usize {
        self.hasher.hash_one(key) as usize % SHARDS
    }
}

impl ChannelRef {
    /// Whether this is the only reference.
    pub(crate) fn is_only(&self) -> bool {
        self.feed.refs() == 1
    }
}

impl Drop for ChannelRef {
    fn drop(&mut self) {
        self.hub.release(&self.feed);
    }
}

impl DrainPace {
    /// Draws the time at which one connection ends.
    fn draw(&self) -> Drain {
        Drain {
            settle_until: self.settle_until,
            close_at: self.close_from + self.window.mul_f64(rand::random()),
        }
    }
}

fn key_of(channel: &Channel) -> Box<str> {
    format!("{}.{}", channel.namespace(), channel.token()).into()
}

fn push(data: &Bytes) -> Encoded<impl Fn(Encoding, Form) -> Reply> {
    Encoded::new(|encoding, _| {
        Reply::message(match encoding {
            Encoding::Json => Payload::from_any(data).into_bytes(),
            Encoding::Protobuf => data.clone(),
        })
    })
}

#[cfg(test)]
mod tests {
    use futures_util::{FutureExt, future::poll_fn};
    use tidegate_shared::id::GatewayId;

    use tidegate_shared::protocol::Publication;

    use super::*;
    use crate::{
        channels::feed::{Applied, FirstFrame, Kept, Limit, Live, Start},
        outbox::{OutboxItem, dialect::Dialect, frame::Frame},
    };

    fn member(hub: &Hub, gateway: &GatewayId, dialect: impl Into<Dialect>) -> (ClientId, Arc<Outbox>) {
        let client = ClientId::random(gateway);
        let outbox = Arc::new(Outbox::new(dialect, 1 << 20));
        outbox.open();
        hub.register(client.clone(), Arc::clone(&outbox));
        (client, outbox)
    }

    fn received(outbox: &Outbox) -> Vec<Bytes> {
        match poll_fn(|cx| outbox.poll_take(cx, usize::MAX)).now_or_never() {
            Some(OutboxItem::Frames(frames)) => frames.iter().map(Frame::payload).collect(),
            _ => Vec::new(),
        }
    }

    fn publish(hub: &Hub, key: &str, data: impl Into<Bytes>) -> Applied {
        let publication = Publication { data: data.into(), ..Publication::default() };
        let live = Live { seq: 0, previous: 0, publication: Some(publication), stored_at: None };
        hub.feed(key).map_or(Applied::Delivered(0), |feed| feed.live(live))
    }

    fn join(hub: &Arc<Hub>, channel: &Channel, client: &ClientId, outbox: &Arc<Outbox>) -> ChannelRef {
        let held = hub.hold(channel, |_| {});
        held.feed.join(client.clone(), outbox, None, &Start::Fresh, |_| FirstFrame::Nothing);
        held
    }

    #[test]
    fn a_publication_reaches_the_channels_subscribers_and_no_other_connection() {
        let (hub, gateway) = (Arc::new(Hub::new()), GatewayId::random());
        let members: Vec<_> = (0..3).map(|_| member(&hub, &gateway, Encoding::Json)).collect();
        let (_, stranger) = member(&hub, &gateway, Encoding::Json);
        let channel = Channel::parse("chat:lobby").unwrap();
        let joined: Vec<_> =
            members.iter().map(|(client, outbox)| join(&hub, &channel, client, outbox)).collect();
        assert_eq!(publish(&hub, "chat.lobby", "1"), Applied::Delivered(3));
        for (_, outbox) in &members {
            assert_eq!(received(outbox), [r#"{"push":{"channel":"chat:lobby","pub":{"data":1}}}"#]);
        }
        assert!(received(&stranger).is_empty());
        drop(joined);
        assert!(hub.feed("chat.lobby").is_none(), "an empty channel leaves nothing behind");
    }

    #[test]
    fn a_channel_exists_as_long_as_there_is_a_reference_to_it() {
        let (hub, gateway) = (Arc::new(Hub::new()), GatewayId::random());
        let channel = Channel::personal("42");
        let (client, outbox) = member(&hub, &gateway, Encoding::Json);
        let joined = hub.hold(&channel, |feed| feed.track(5, None));
        joined.feed.join(client.clone(), &outbox, None, &Start::Fresh, |_| FirstFrame::Nothing);
        // A second join is being prepared while the only subscriber leaves.
        let preparing = hub.hold(&channel, |feed| feed.track(0, None));
        let pin = preparing
            .feed
            .pin(
                5,
                Limit { publications: 10, bytes: 1000 },
                Kept { publications: 10, since: std::time::SystemTime::UNIX_EPOCH },
            )
            .unwrap();
        joined.feed.leave(&client);
        drop((joined, pin));
        let found = hub.feed("user.42").unwrap();
        assert!(Arc::ptr_eq(&found, &preparing.feed) && found.position() == Some(5) && preparing.is_only());
        drop(preparing);
        assert!(hub.feed("user.42").is_none());
    }

    #[test]
    fn bytes_that_are_not_json_reach_json_clients_marked_and_protobuf_clients_as_they_are() {
        let (hub, gateway) = (Arc::new(Hub::new()), GatewayId::random());
        let channel = Channel::parse("c").unwrap();
        let (json, json_outbox) = member(&hub, &gateway, Encoding::Json);
        let (protobuf, protobuf_outbox) = member(&hub, &gateway, Encoding::Protobuf);
        let _joined =
            (join(&hub, &channel, &json, &json_outbox), join(&hub, &channel, &protobuf, &protobuf_outbox));
        publish(&hub, "default.c", Bytes::from_static(&[0xff, 0]));
        assert_eq!(
            received(&json_outbox),
            [r#"{"push":{"channel":"c","pub":{"data":"/wA=","tags":{"encoding":"base64"}}}}"#]
        );
        let [frame] = received(&protobuf_outbox).try_into().unwrap();
        assert!(frame.windows(2).any(|w| w == [0xff, 0]));
        publish(&hub, "default.c", "hello");
        assert_eq!(received(&json_outbox), [r#"{"push":{"channel":"c","pub":{"data":"hello"}}}"#]);
    }

    #[test]
    fn one_way_clients_get_the_push_alone() {
        let (hub, gateway) = (Arc::new(Hub::new()), GatewayId::random());
        let (client, outbox) = member(&hub, &gateway, Dialect::OneWay);
        let _joined = join(&hub, &Channel::parse("c").unwrap(), &client, &outbox);
        publish(&hub, "default.c", "hello");
        assert_eq!(received(&outbox), [r#"{"channel":"c","pub":{"data":"hello"}}"#]);
    }

    #[test]
    fn a_message_can_go_to_one_or_to_all() {
        let (hub, gateway) = (Arc::new(Hub::new()), GatewayId::random());
        let (one, first) = member(&hub, &gateway, Encoding::Json);
        let (_, second) = member(&hub, &gateway, Encoding::Json);
        assert_eq!(hub.push_client(&one, &Bytes::from("{}")), 1);
        assert_eq!(hub.push_all(&Bytes::from("1")), 2);
        assert_eq!(received(&first).len(), 2);
        assert_eq!(received(&second), [r#"{"push":{"message":{"data":1}}}"#]);
        hub.unregister(&one);
        assert_eq!(hub.push_client(&one, &Bytes::from("{}")), 0);
        assert_eq!(hub.len(), 1);
    }
}
