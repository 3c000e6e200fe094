//! Knows the streams of channels: their epochs and ends, a channel's position and newest message. Never delivers to subscribers.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant, SystemTime},
};

use async_nats::Message;
use parking_lot::RwLock;
use tidegate_shared::{
    broker::{Broker, Refusal, header_number, stored_at},
    channel::Channel,
    config::Namespace,
    protocol::Publication,
    subject::Subjects,
    topology::channel_stream,
};
use tokio::sync::Semaphore;

use self::last::LastMessages;
use super::message::{is_removal, read_publication};
use crate::channels::feed::{
    Feed, Kept, Limit, Standing,
    newest::{Newest, StoredPublication},
    standing,
};

/// Reads of backlogs at the same time, and of pages: clients that read pages must not delay others that resume. Each read may
/// hold a few megabytes.
const READS: usize = 16;
/// How long a stream's end is reused for channels that begin. A stale end is safe: messages behind it arrive live.
const END_AGE: Duration = Duration::from_millis(200);

mod last;
mod milestones;
mod quiet;
mod read;
mod tail;

/// The namespaces with history.
pub(crate) struct History {
    broker: Broker,
    subjects: Subjects,
    limit: Limit,
    backlogs: Semaphore,
    pages: Semaphore,
    streams: HashMap<String, NamespaceStream>,
}

/// One namespace's stream.
struct NamespaceStream {
    stream: String,
    ttl: Duration,
    size: usize,
    /// Cache mode: clients recover the newest publication only.
    cache: bool,
    /// What proves that a quiet channel has had nothing newer than its history shows. `None` in cache mode.
    last: Option<LastMessages>,
    epoch: RwLock<Arc<str>>,
    /// The newest sequence this gateway has seen in the stream, where it receives all of it.
    seen: AtomicU64,
    /// The number of the connection to the broker over which the stream's end was last read.
    seen_on: AtomicU64,
    /// The stream's last sequence, and when it was read.
    end: tokio::sync::Mutex<Option<(u64, Instant)>>,
}

/// The position at which a channel begins on this gateway.
pub(crate) struct ChannelStart {
    pub(crate) position: u64,
    /// Whether this is the sequence of a message of the channel.
    pub(crate) is_message: bool,
    pub(crate) newest: Option<Newest>,
}

impl NamespaceStream {
    fn expired_before(&self) -> SystemTime {
        SystemTime::now().checked_sub(self.ttl).unwrap_or(SystemTime::UNIX_EPOCH)
    }
}

impl History {
    pub(crate) fn new(
        broker: Broker,
        subjects: Subjects,
        namespaces: &[Namespace],
        last_ttl: Duration,
        limit: Limit,
    ) -> Self {
        let kept = namespaces.iter().filter(|namespace| namespace.has_history()).map(|namespace| {
            let kept = NamespaceStream {
                stream: channel_stream(&namespace.name),
                ttl: namespace.history_ttl,
                size: usize::try_from(namespace.history_size).unwrap_or(usize::MAX),
                cache: namespace.is_cache(),
                last: namespace.proves_quiet().then(|| {
                    LastMessages::new(&subjects, &namespace.name, last_ttl.max(namespace.history_ttl))
                }),
                epoch: RwLock::new("".into()),
                seen: AtomicU64::new(0),
                seen_on: AtomicU64::new(0),
                end: tokio::sync::Mutex::default(),
            };
            (namespace.name.clone(), kept)
        });
        let streams = kept.collect();
        Self {
            broker,
            subjects,
            limit,
            backlogs: Semaphore::new(READS),
            pages: Semaphore::new(READS),
            streams,
        }
    }

    /// How much one reply may hold.
    pub(crate) fn limit(&self) -> Limit {
        self.limit
    }

    /// What the stream keeps of a channel now. `None` without history.
    pub(crate) fn kept(&self, channel: &Channel) -> Option<Kept> {
        let kept = self.streams.get(channel.namespace())?;
        Some(Kept { publications: kept.size.saturating_sub(1), since: kept.expired_before() })
    }

    /// The namespaces with history.
    pub(crate) fn namespaces(&self) -> impl Iterator<Item = &str> {
        self.streams.keys().map(String::as_str)
    }

    /// Whether a channel has history.
    pub(crate) fn keeps(&self, channel: &Channel) -> bool {
        self.streams.contains_key(channel.namespace())
    }

    /// The number of the connection to the broker.
    pub(crate) fn connection_number(&self) -> u64 {
        self.broker.connection_number()
    }

    /// Whether the broker can be reached.
    pub(crate) fn is_connected(&self) -> bool {
        self.broker.is_connected()
    }

    /// Reads the epoch and the last sequence of a namespace's stream. Returns the last sequence if the stream was replaced
    /// or lost its end. That is reported once: the caller must act on it.
    pub(crate) async fn refresh(&self, namespace: &str) -> Result<Option<u64>, Refusal> {
        let Some(kept) = self.streams.get(namespace) else { return Ok(None) };
        // Read before the request: messages that arrive meanwhile may be newer than the answer.
        let seen = kept.seen.load(Ordering::Acquire);
        let connection = self.broker.connection_number();
        let facts = self.broker.stream_facts(&kept.stream).await?;
        let epoch: Arc<str> = facts.epoch.into();
        let mut known = kept.epoch.write();
        let first = known.is_empty();
        let replaced = *known != epoch;
        // It ends before what was seen of it: an older copy was restored.
        let cut = facts.last_seq < seen;
        if replaced || cut {
            *known = epoch;
            kept.seen.store(facts.last_seq, Ordering::Release);
        } else {
            // A channel that begins now starts behind what was missed while the broker was away.
            kept.seen.fetch_max(facts.last_seq, Ordering::AcqRel);
        }
        kept.seen_on.fetch_max(connection, Ordering::AcqRel);
        Ok(((replaced || cut) && !first).then_some(facts.last_seq))
    }

    /// Stores a milestone in a namespace's stream, if one is due.
    pub(crate) async fn milestone(&self, namespace: &str) {
        if let Some(last) = self.streams.get(namespace).and_then(|kept| kept.last.as_ref()) {
            last.milestone(&self.broker).await;
        }
    }

    /// The epoch of a channel's offsets.
    pub(crate) fn epoch(&self, channel: &Channel) -> Option<Arc<str>> {
        let kept = self.streams.get(channel.namespace())?;
        Some(Arc::clone(&kept.epoch.read()))
    }

    /// Notes the sequence of a live message of a namespace with `fanout = "wildcard"`. Returns whether the namespace has history:
    /// otherwise no stream numbers its messages.
    pub(crate) fn see(&self, namespace: &str, seq: u64) -> bool {
        let kept = self.streams.get(namespace);
        if let Some(kept) = kept {
            kept.seen.fetch_max(seq, Ordering::AcqRel);
        }
        kept.is_some()
    }

    /// The start of a channel in a namespace with `fanout = "wildcard"`: the newest sequence seen.
    pub(crate) fn start_from_seen(&self, channel: &Channel) -> Option<ChannelStart> {
        let kept = self.streams.get(channel.namespace())?;
        let position = kept.seen.load(Ordering::Acquire);
        Some(ChannelStart { position, is_message: false, newest: kept.cache.then_some(Newest::Unknown) })
    }

    /// The number of the connection to the broker over which [`Self::start_from_seen`] is known to hold.
    pub(crate) fn seen_on(&self, channel: &Channel) -> u64 {
        self.streams.get(channel.namespace()).map_or(0, |kept| kept.seen_on.load(Ordering::Acquire))
    }

    /// The start of a channel: its newest message, or the end of the stream if it has none.
    pub(crate) async fn start_of(&self, channel: &Channel) -> Result<Option<ChannelStart>, Refusal> {
        let Some(kept) = self.streams.get(channel.namespace()) else { return Ok(None) };
        let last = self.last(kept, channel).await?;
        let is_message = last.is_some();
        let (position, newest) = match last {
            Some(last) => last,
            None => (self.end(kept).await?, None),
        };
        Ok(Some(ChannelStart { position, is_message, newest: kept.cache.then_some(Newest::Known(newest)) }))
    }

    /// The stream's last sequence, at most `END_AGE` old: one read serves all channels that begin at that time.
    async fn end(&self, kept: &NamespaceStream) -> Result<u64, Refusal> {
        let mut end = kept.end.lock().await;
        match *end {
            Some((seq, read_at)) if read_at.elapsed() < END_AGE => Ok(seq),
            _ => {
                let seq = self.broker.stream_facts(&kept.stream).await?.last_seq;
                *end = Some((seq, Instant::now()));
                Ok(seq)
            }
        }
    }

    /// The newest publication of a channel, if the stream keeps one.
    pub(crate) async fn newest(&self, channel: &Channel) -> Result<Option<StoredPublication>, Refusal> {
        match self.streams.get(channel.namespace()) {
            Some(kept) => Ok(self.last(kept, channel).await?.and_then(|(_, newest)| newest)),
            None => Ok(None),
        }
    }

    /// In cache mode, the time before which stored publications have expired.
    pub(crate) fn cache_reaches_back_to(&self, channel: &Channel) -> Option<SystemTime> {
        self.streams.get(channel.namespace()).filter(|kept| kept.cache).map(NamespaceStream::expired_before)
    }

    /// The sequence of a channel's newest message, and its publication unless it is a removal mark.
    async fn last(
        &self,
        kept: &NamespaceStream,
        channel: &Channel,
    ) -> Result<Option<(u64, Option<StoredPublication>)>, Refusal> {
        let message = self.broker.last(&kept.stream, &self.subjects.channel(channel)).await?;
        Ok(message.and_then(|message| {
            let seq = header_number(&message, "Nats-Sequence")?;
            let newest = (!is_removal(&message)).then(|| StoredPublication {
                publication: Arc::new(publication(&message)),
                stored_at: stored_at(&message).unwrap_or(SystemTime::UNIX_EPOCH),
            });
            Some((seq, newest))
        }))
    }

    /// How the positions of channels compare with the stream. `whole` says that everything is still there that was stored since
    /// they were last compared.
    pub(crate) async fn compare<'c>(
        &self,
        namespace: &str,
        channels: &'c [(u64, Arc<Feed>)],
        whole: bool,
    ) -> Result<Vec<(Standing, &'c Arc<Feed>)>, Refusal> {
        let Some(kept) = self.streams.get(namespace) else { return Ok(Vec::new()) };
        let subjects: Vec<String> =
            channels.iter().map(|(_, feed)| self.subjects.channel(feed.channel())).collect();
        let newest: HashMap<_, _> = self.broker.newest(&kept.stream, &subjects).await?.into_iter().collect();
        let compared = channels.iter().zip(&subjects).map(|((position, feed), subject)| {
            (standing(*position, newest.get(subject).copied(), whole), feed)
        });
        Ok(compared.collect())
    }

    /// How long a namespace's stream keeps messages.
    pub(crate) fn ttl(&self, namespace: &str) -> Duration {
        self.streams.get(namespace).map_or(Duration::MAX, |kept| kept.ttl)
    }

    /// Whether the stream's end is at or behind this position.
    pub(crate) async fn reaches(&self, channel: &Channel, position: u64) -> Result<bool, Refusal> {
        let Some(kept) = self.streams.get(channel.namespace()) else { return Ok(false) };
        Ok(self.broker.stream_facts(&kept.stream).await?.last_seq >= position)
    }

    /// Purges a channel's messages before a sequence.
    pub(crate) async fn remove_before(&self, channel: &Channel, seq: u64) -> Result<(), Refusal> {
        let Some(kept) = self.streams.get(channel.namespace()) else { return Ok(()) };
        self.broker.purge(&kept.stream, &self.subjects.channel(channel), seq).await
    }
}

fn publication(message: &Message) -> Publication {
    Publication {
        offset: header_number(message, "Nats-Sequence").unwrap_or_default(),
        ..read_publication(message)
    }
}
