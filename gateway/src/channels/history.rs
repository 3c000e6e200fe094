//! Reads the streams of channels: a channel's position, and its backlog behind a position.
//!
//! A backlog counts as complete only if the stream proves it: the message at the position is still there, or the stream
//! reaches back to the position and no limit can have removed anything. Never delivers to subscribers.

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
    protocol::{HistoryRequest, HistoryResult, Publication},
    subject::Subjects,
    topology::channel_stream,
};

use super::message::{is_removal, read_publication};
use crate::channels::feed::{
    Backlog, Feed,
    newest::{Newest, StoredPublication},
};

/// Messages per read: a batch has no flow control.
const BATCH: usize = 500;
/// How long a stream's end is reused for channels that begin. A stale end is safe: messages behind it arrive live.
const END_AGE: Duration = Duration::from_millis(200);

/// The namespaces with history.
pub(crate) struct History {
    broker: Broker,
    subjects: Subjects,
    limit: usize,
    streams: HashMap<String, NamespaceStream>,
}

/// One namespace's stream.
struct NamespaceStream {
    stream: String,
    /// Messages kept per channel.
    size: usize,
    ttl: Duration,
    /// Cache mode: clients recover the newest publication only.
    cache: bool,
    epoch: RwLock<Arc<str>>,
    /// The newest sequence this gateway has seen in the stream, where it receives all of it.
    seen: AtomicU64,
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

impl History {
    pub(crate) fn new(broker: Broker, subjects: Subjects, namespaces: &[Namespace], limit: usize) -> Self {
        let kept = namespaces.iter().filter(|namespace| namespace.has_history()).map(|namespace| {
            let kept = NamespaceStream {
                stream: channel_stream(&namespace.name),
                size: namespace.history_size as usize,
                ttl: namespace.history_ttl,
                cache: namespace.is_cache(),
                epoch: RwLock::new("".into()),
                seen: AtomicU64::new(0),
                end: tokio::sync::Mutex::default(),
            };
            (namespace.name.clone(), kept)
        });
        Self { broker, subjects, limit, streams: kept.collect() }
    }

    /// The most publications in one reply.
    pub(crate) fn limit(&self) -> usize {
        self.limit
    }

    /// The namespaces with history.
    pub(crate) fn namespaces(&self) -> impl Iterator<Item = &str> {
        self.streams.keys().map(String::as_str)
    }

    /// Whether a channel has history.
    pub(crate) fn keeps(&self, channel: &Channel) -> bool {
        self.streams.contains_key(channel.namespace())
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
        Ok(((replaced || cut) && !first).then_some(facts.last_seq))
    }

    /// The epoch of a channel's offsets.
    pub(crate) fn epoch(&self, channel: &Channel) -> Option<Arc<str>> {
        let kept = self.streams.get(channel.namespace())?;
        Some(Arc::clone(&kept.epoch.read()))
    }

    /// Notes the sequence of a live message of a namespace with `fanout = "wildcard"`.
    pub(crate) fn see(&self, namespace: &str, seq: u64) {
        if let Some(kept) = self.streams.get(namespace) {
            kept.seen.fetch_max(seq, Ordering::AcqRel);
        }
    }

    /// The start of a channel in a namespace with `fanout = "wildcard"`: the newest sequence seen.
    pub(crate) fn start_from_seen(&self, channel: &Channel) -> Option<ChannelStart> {
        let kept = self.streams.get(channel.namespace())?;
        let position = kept.seen.load(Ordering::Acquire);
        Some(ChannelStart { position, is_message: false, newest: kept.cache.then_some(Newest::Unknown) })
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
        let kept = self.streams.get(channel.namespace()).filter(|kept| kept.cache)?;
        Some(SystemTime::now().checked_sub(kept.ttl).unwrap_or(SystemTime::UNIX_EPOCH))
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

    /// The channels that have messages behind their positions, each with the sequence of its newest message.
    pub(crate) async fn behind_schedule(
        &self,
        namespace: &str,
        channels: &[(u64, Arc<Feed>)],
    ) -> Result<Vec<(u64, Arc<Feed>)>, Refusal> {
        let Some(kept) = self.streams.get(namespace) else { return Ok(Vec::new()) };
        let subjects: Vec<String> =
            channels.iter().map(|(_, feed)| self.subjects.channel(feed.channel())).collect();
        let newest: HashMap<_, _> = self.broker.newest(&kept.stream, &subjects).await?.into_iter().collect();
        let behind = channels.iter().zip(&subjects).filter_map(|((position, feed), subject)| {
            let newest = newest.get(subject).filter(|seq| *seq > position)?;
            Some((*newest, Arc::clone(feed)))
        });
        Ok(behind.collect())
    }

    /// Whether the stream's end is at or behind this position.
    pub(crate) async fn reaches(&self, channel: &Channel, position: u64) -> Result<bool, Refusal> {
        let Some(kept) = self.streams.get(channel.namespace()) else { return Ok(false) };
        Ok(self.broker.stream_facts(&kept.stream).await?.last_seq >= position)
    }

    /// Reads a channel's backlog behind `after`: at most `most` + 1 publications, so that the caller can see that there
    /// are too many.
    pub(crate) async fn behind(
        &self,
        channel: &Channel,
        after: u64,
        most: usize,
    ) -> Result<Backlog, Refusal> {
        let nothing = Backlog { publications: Vec::new(), complete: false, removed: None };
        let Some(kept) = self.streams.get(channel.namespace()) else { return Ok(nothing) };
        // Reads from the position itself: if its message is still there, nothing behind it was trimmed.
        let messages = self.read(kept, channel, after, most.saturating_add(2)).await?;
        let count = messages.len();
        let sequence = |message: &Message| header_number(message, "Nats-Sequence").unwrap_or_default();
        let anchored = messages.first().is_some_and(|first| sequence(first) == after);
        let newer = || messages.iter().filter(|message| sequence(message) > after);
        let publications = newer().filter(|message| !is_removal(message)).map(publication).collect();
        let removed = newer().filter(|message| is_removal(message)).map(sequence).max();
        // A removal mark hides whether anything else was missing before it.
        let complete = anchored
            || removed.is_none() && {
                let facts = self.broker.stream_facts(&kept.stream).await?;
                facts.first_seq <= after.saturating_add(1) && facts.last_seq >= after && count < kept.size
            };
        Ok(Backlog { publications, complete, removed })
    }

    /// Purges a channel's messages before a sequence.
    pub(crate) async fn remove_before(&self, channel: &Channel, seq: u64) -> Result<(), Refusal> {
        let Some(kept) = self.streams.get(channel.namespace()) else { return Ok(()) };
        self.broker.purge(&kept.stream, &self.subjects.channel(channel), seq).await
    }

    /// Reads past publications for a client. `None` if its position belongs to another stream.
    pub(crate) async fn page(
        &self,
        channel: &Channel,
        ask: &HistoryRequest,
    ) -> Result<Option<HistoryResult>, Refusal> {
        let (Some(kept), Some(epoch)) = (self.streams.get(channel.namespace()), self.epoch(channel)) else {
            return Ok(None);
        };
        let since = ask.since.clone().unwrap_or_default();
        if !since.epoch.is_empty() && *since.epoch != *epoch {
            return Ok(None);
        }
        let limit = usize::try_from(ask.limit).map_or(self.limit, |limit| limit.min(self.limit));
        let mut publications = Vec::new();
        if limit > 0 && ask.reverse {
            publications =
                self.newest_first(kept, channel, ask.since.as_ref().map(|since| since.offset), limit).await?;
        } else if limit > 0 {
            let messages = self.read(kept, channel, since.offset.saturating_add(1), limit).await?;
            publications = published(&messages).collect();
        }
        let offset = self.start_of(channel).await?.map_or(0, |start| start.position);
        Ok(Some(HistoryResult { publications, epoch: epoch.as_ref().to_owned(), offset }))
    }

    /// JetStream reads forward only, so this reads the whole channel and keeps the newest publications.
    async fn newest_first(
        &self,
        kept: &NamespaceStream,
        channel: &Channel,
        before: Option<u64>,
        limit: usize,
    ) -> Result<Vec<Publication>, Refusal> {
        let messages = self.read(kept, channel, 1, kept.size).await?;
        let older = published(&messages).filter(|p| before.is_none_or(|before| p.offset < before));
        let mut publications: Vec<Publication> = older.collect();
        publications.reverse();
        publications.truncate(limit);
        Ok(publications)
    }

    async fn read(
        &self,
        kept: &NamespaceStream,
        channel: &Channel,
        from: u64,
        most: usize,
    ) -> Result<Vec<Message>, Refusal> {
        let subject = self.subjects.channel(channel);
        let mut messages: Vec<Message> = Vec::new();
        let mut from = from;
        loop {
            let want = BATCH.min(most.saturating_sub(messages.len()));
            let range = self.broker.range(&kept.stream, &subject, from, want).await?;
            let last = range.messages.last().and_then(|message| header_number(message, "Nats-Sequence"));
            messages.extend(range.messages);
            match last {
                Some(last) if range.more > 0 && messages.len() < most => from = last + 1,
                _ => return Ok(messages),
            }
        }
    }
}

fn published(messages: &[Message]) -> impl Iterator<Item = Publication> {
    messages.iter().filter(|message| !is_removal(message)).map(publication)
}

fn publication(message: &Message) -> Publication {
    Publication {
        offset: header_number(message, "Nats-Sequence").unwrap_or_default(),
        ..read_publication(message)
    }
}
