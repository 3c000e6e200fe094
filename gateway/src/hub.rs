//! Who is here: connections by client id, and channels with their members. Handles only, never sockets.
//!
//! Methods are short and never wait. A message is encoded once per encoding and shared by everyone who gets it.

use std::{
    collections::HashMap,
    hash::{BuildHasher, RandomState},
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use tidegate_shared::{
    channel::Channel,
    id::ClientId,
    protocol::{Encoding, Publication, Reply, encode_reply, json::Payload},
};
use tokio::{sync::Notify, time::Instant};

use crate::connection::outbox::{Drain, Outbox};

/// How many locks the maps are spread over.
const SHARDS: usize = 64;

/// Everybody this gateway holds.
pub(crate) struct Hub {
    hasher: RandomState,
    clients: Vec<Mutex<HashMap<ClientId, Arc<Outbox>>>>,
    channels: Vec<Mutex<HashMap<Box<str>, Members>>>,
    count: AtomicUsize,
    empty: Notify,
    draining: OnceLock<Pace>,
}

/// How fast connections end when the gateway drains.
#[derive(Debug, Clone, Copy)]
struct Pace {
    settle_until: Instant,
    close_from: Instant,
    window: Duration,
}

/// A channel's members. Most channels are personal and have one.
struct Members {
    name: Box<str>,
    first: Option<(ClientId, Arc<Outbox>)>,
    more: HashMap<ClientId, Arc<Outbox>>,
}

/// How many a message went to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Reach(pub(crate) usize);

impl Hub {
    pub(crate) fn new() -> Self {
        Self {
            hasher: RandomState::new(),
            clients: (0..SHARDS).map(|_| Mutex::default()).collect(),
            channels: (0..SHARDS).map(|_| Mutex::default()).collect(),
            count: AtomicUsize::new(0),
            empty: Notify::new(),
            draining: OnceLock::new(),
        }
    }

    /// Adds a connection, authenticated or not. One that comes while the gateway drains is told at once.
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

    /// Adds a connection to a channel.
    pub(crate) fn join(&self, channel: &Channel, client: ClientId, outbox: Arc<Outbox>) {
        let key = key_of(channel);
        let mut shard = self.channel_shard(&key);
        let members = shard.entry(key).or_insert_with(|| Members {
            name: channel.name().into(),
            first: None,
            more: HashMap::new(),
        });
        match &members.first {
            None => members.first = Some((client, outbox)),
            Some((first, _)) if *first == client => {}
            Some(_) => {
                members.more.insert(client, outbox);
            }
        }
    }

    /// Removes a connection from a channel.
    pub(crate) fn leave(&self, channel: &Channel, client: &ClientId) {
        let key = key_of(channel);
        let mut shard = self.channel_shard(&key);
        let Some(members) = shard.get_mut(&key) else { return };
        match &members.first {
            Some((first, _)) if first == client => members.first = None,
            _ => {
                members.more.remove(client);
            }
        }
        if members.first.is_none() && members.more.is_empty() {
            shard.remove(&key);
        }
    }

    /// Delivers a publication to the members of `<namespace>.<token>`.
    pub(crate) fn publish(&self, key: &str, publication: &Publication) -> Reach {
        let shard = self.channel_shard(key);
        let Some(members) = shard.get(key) else { return Reach::default() };
        let mut message = Shared::new(|encoding| {
            Reply::publication(&*members.name, publication.clone().suited_to(encoding))
        });
        let mut reach = 0;
        for (_, outbox) in members.first.iter().map(|(c, o)| (c, o)).chain(&members.more) {
            reach += message.deliver(outbox);
        }
        Reach(reach)
    }

    /// Delivers a message to one connection.
    pub(crate) fn push_client(&self, client: &ClientId, data: &Bytes) -> Reach {
        let outbox = self.client_shard(client).get(client).map(Arc::clone);
        Reach(outbox.map_or(0, |outbox| push(data).deliver(&outbox)))
    }

    /// Delivers a message to every connection.
    pub(crate) fn push_all(&self, data: &Bytes) -> Reach {
        let mut message = push(data);
        let shards = self.clients.iter().map(lock);
        Reach(shards.map(|shard| shard.values().map(|outbox| message.deliver(outbox)).sum::<usize>()).sum())
    }

    /// Tells every connection that the gateway drains; their ends are spread over `window`.
    pub(crate) fn drain(&self, settle: Duration, window: Duration) {
        let now = Instant::now();
        let pace =
            *self.draining.get_or_init(|| Pace { settle_until: now + settle, close_from: now, window });
        for shard in &self.clients {
            for outbox in lock(shard).values() {
                outbox.drain(pace.draw());
            }
        }
    }

    /// How many connections there are.
    pub(crate) fn len(&self) -> usize {
        self.count.load(Ordering::Acquire)
    }

    #[expect(clippy::indexing_slicing, reason = "the index is taken modulo the length")]
    fn client_shard(&self, client: &ClientId) -> MutexGuard<'_, HashMap<ClientId, Arc<Outbox>>> {
        lock(&self.clients[self.shard(client.as_str())])
    }

    #[expect(clippy::indexing_slicing, reason = "the index is taken modulo the length")]
    fn channel_shard(&self, key: &str) -> MutexGuard<'_, HashMap<Box<str>, Members>> {
        lock(&self.channels[self.shard(key)])
    }

    #[expect(clippy::cast_possible_truncation, reason = "only the low bits are used")]
    fn shard(&self, key: &str) -> usize {
        self.hasher.hash_one(key) as usize % SHARDS
    }
}

impl Pace {
    /// Draws one connection's moment.
    fn draw(&self) -> Drain {
        Drain {
            settle_until: self.settle_until,
            close_at: self.close_from + self.window.mul_f64(rand::random()),
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn key_of(channel: &Channel) -> Box<str> {
    format!("{}.{}", channel.namespace(), channel.token()).into()
}

fn push(data: &Bytes) -> Shared<impl Fn(Encoding) -> Reply> {
    Shared::new(|encoding| {
        Reply::message(match encoding {
            Encoding::Json => Payload::from_any(data).into_bytes(),
            Encoding::Protobuf => data.clone(),
        })
    })
}

/// One message for many, encoded when the first client of an encoding needs it.
struct Shared<F> {
    build: F,
    json: Option<Bytes>,
    protobuf: Option<Bytes>,
}

impl<F: Fn(Encoding) -> Reply> Shared<F> {
    fn new(build: F) -> Self {
        Self { build, json: None, protobuf: None }
    }

    fn deliver(&mut self, outbox: &Outbox) -> usize {
        let encoding = outbox.encoding();
        let slot = match encoding {
            Encoding::Json => &mut self.json,
            Encoding::Protobuf => &mut self.protobuf,
        };
        if slot.is_none() {
            match encode_reply(encoding, &(self.build)(encoding)) {
                Ok(bytes) => *slot = Some(bytes),
                Err(error) => {
                    tracing::error!(%error, "a message could not be encoded");
                    return 0;
                }
            }
        }
        if let Some(bytes) = slot {
            outbox.deliver(bytes.clone());
        }
        1
    }
}

#[cfg(test)]
mod tests {
    use futures_util::{FutureExt, future::poll_fn};
    use tidegate_shared::id::GatewayId;

    use super::*;
    use crate::connection::outbox::Mail;

    fn member(hub: &Hub, gateway: &GatewayId, encoding: Encoding) -> (ClientId, Arc<Outbox>) {
        let client = ClientId::random(gateway);
        let outbox = Arc::new(Outbox::new(encoding, 1 << 20));
        outbox.open();
        hub.register(client.clone(), Arc::clone(&outbox));
        (client, outbox)
    }

    fn received(outbox: &Outbox) -> Vec<Bytes> {
        match poll_fn(|cx| outbox.poll_take(cx, usize::MAX)).now_or_never() {
            Some(Mail::Frames(frames)) => frames,
            _ => Vec::new(),
        }
    }

    fn publication(data: &'static str) -> Publication {
        Publication { data: Bytes::from(data), ..Publication::default() }
    }

    #[test]
    fn a_publication_reaches_the_channels_members_and_nobody_else() {
        let (hub, gateway) = (Hub::new(), GatewayId::random());
        let members: Vec<_> = (0..3).map(|_| member(&hub, &gateway, Encoding::Json)).collect();
        let (_, stranger) = member(&hub, &gateway, Encoding::Json);
        let channel = Channel::parse("chat:lobby").unwrap();
        for (client, outbox) in &members {
            hub.join(&channel, client.clone(), Arc::clone(outbox));
        }
        assert_eq!(hub.publish("chat.lobby", &publication("1")), Reach(3));
        for (_, outbox) in &members {
            assert_eq!(received(outbox), [r#"{"push":{"channel":"chat:lobby","pub":{"data":1}}}"#]);
        }
        assert!(received(&stranger).is_empty());
        for (client, _) in &members {
            hub.leave(&channel, client);
        }
        assert_eq!(hub.publish("chat.lobby", &publication("2")), Reach(0));
        assert!(
            hub.channels.iter().all(|shard| lock(shard).is_empty()),
            "an empty channel leaves nothing behind"
        );
    }

    #[test]
    fn bytes_that_are_not_json_reach_json_clients_marked_and_protobuf_clients_as_they_are() {
        let (hub, gateway) = (Hub::new(), GatewayId::random());
        let channel = Channel::parse("c").unwrap();
        let (json, json_outbox) = member(&hub, &gateway, Encoding::Json);
        let (protobuf, protobuf_outbox) = member(&hub, &gateway, Encoding::Protobuf);
        hub.join(&channel, json, Arc::clone(&json_outbox));
        hub.join(&channel, protobuf, Arc::clone(&protobuf_outbox));
        hub.publish(
            "default.c",
            &Publication { data: Bytes::from_static(&[0xff, 0]), ..Publication::default() },
        );
        assert_eq!(
            received(&json_outbox),
            [r#"{"push":{"channel":"c","pub":{"data":"/wA=","tags":{"encoding":"base64"}}}}"#]
        );
        let [frame] = received(&protobuf_outbox).try_into().unwrap();
        assert!(frame.windows(2).any(|w| w == [0xff, 0]));
        hub.publish("default.c", &publication("hello"));
        assert_eq!(received(&json_outbox), [r#"{"push":{"channel":"c","pub":{"data":"hello"}}}"#]);
    }

    #[test]
    fn a_message_can_go_to_one_or_to_all() {
        let (hub, gateway) = (Hub::new(), GatewayId::random());
        let (one, first) = member(&hub, &gateway, Encoding::Json);
        let (_, second) = member(&hub, &gateway, Encoding::Json);
        assert_eq!(hub.push_client(&one, &Bytes::from("{}")), Reach(1));
        assert_eq!(hub.push_all(&Bytes::from("1")), Reach(2));
        assert_eq!(received(&first).len(), 2);
        assert_eq!(received(&second), [r#"{"push":{"message":{"data":1}}}"#]);
        hub.unregister(&one);
        assert_eq!(hub.push_client(&one, &Bytes::from("{}")), Reach(0));
        assert_eq!(hub.len(), 1);
    }
}
