//! Reading the streams of channels: where a channel stands, and what is behind a position.
//!
//! Says that something is complete only when the stream shows it: the position's own message is still there, or the stream
//! reaches back to it and no limit can have taken anything. Never delivers to anybody.

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

/// Messages read at a time: a batch has no flow control.
const BATCH: usize = 500;
/// How old a stream's end may be for a channel that begins. Older is no harm, only what follows it is looked at.
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
    /// Messages kept of each channel.
    size: usize,
    ttl: Duration,
    /// Whether clients are brought the newest publication alone.
    cache: bool,
    epoch: RwLock<Arc<str>>,
    /// The newest sequence this gateway has seen of the whole stream, where it receives all of it.
    seen: AtomicU64,
    /// Where it ended, and when it was asked.
    end: tokio::sync::Mutex<Option<(u64, Instant)>>,
}

/// From where a channel's stream is followed.
pub(crate) struct ChannelStart {
    pub(crate) position: u64,
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

    /// How many publications one reply may bring.
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

    /// Reads every stream's epoch and newest sequence; returns the namespaces whose stream is another one than before.
    pub(crate) async fn refresh(&self) -> Result<Vec<(String, u64)>, Refusal> {
        let mut changed = Vec::new();
        for (namespace, kept) in &self.streams {
            // Before the question: what comes while it is under way may be newer than the answer.
            let seen = kept.seen.load(Ordering::Acquire);
            let facts = self.broker.stream_facts(&kept.stream).await?;
            let epoch: Arc<str> = facts.epoch.into();
            let mut known = kept.epoch.write();
            let first = known.is_empty();
            if *known != epoch {
                *known = epoch;
                kept.seen.store(facts.last_seq, Ordering::Release);
                if !first {
                    changed.push((namespace.clone(), facts.last_seq));
                }
            } else if facts.last_seq < seen {
                // The stream ends before what was seen of it: an older copy was restored.
                kept.seen.store(facts.last_seq, Ordering::Release);
                changed.push((namespace.clone(), facts.last_seq));
            } else {
                // What was missed while the broker was away is not in front of channels that begin now.
                kept.seen.fetch_max(facts.last_seq, Ordering::AcqRel);
            }
        }
        Ok(changed)
    }

    /// The stream that a channel's offsets belong to.
    pub(crate) fn epoch(&self, channel: &Channel) -> Option<Arc<str>> {
        let kept = self.streams.get(channel.namespace())?;
        Some(Arc::clone(&kept.epoch.read()))
    }

    /// Notes the sequence of a message of a namespace that this gateway receives as a whole.
    pub(crate) fn see(&self, namespace: &str, seq: u64) {
        if let Some(kept) = self.streams.get(namespace) {
            kept.seen.fetch_max(seq, Ordering::AcqRel);
        }
    }

    /// The beginning of a channel of such a namespace.
    pub(crate) fn start_from_seen(&self, channel: &Channel) -> Option<ChannelStart> {
        let kept = self.streams.get(channel.namespace())?;
        let position = kept.seen.load(Ordering::Acquire);
        Some(ChannelStart { position, newest: kept.cache.then_some(Newest::Unknown) })
    }

    /// The beginning of a channel: its newest message, or the end of the stream if it has none.
    pub(crate) async fn start_of(&self, channel: &Channel) -> Result<Option<ChannelStart>, Refusal> {
        let Some(kept) = self.streams.get(channel.namespace()) else { return Ok(None) };
        let (position, newest) = match self.last(kept, channel).await? {
            Some(last) => last,
            None => (self.end(kept).await?, None),
        };
        Ok(Some(ChannelStart { position, newest: kept.cache.then_some(Newest::Known(newest)) }))
    }

    /// Where the stream ends, or ended a moment ago: one question for all channels that begin now and keep nothing.
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

    /// Where clients are brought the newest publication alone: what was stored before this may not be kept any more.
    pub(crate) fn cache_reaches_back_to(&self, channel: &Channel) -> Option<SystemTime> {
        let kept = self.streams.get(channel.namespace()).filter(|kept| kept.cache)?;
        Some(SystemTime::now().checked_sub(kept.ttl).unwrap_or(SystemTime::UNIX_EPOCH))
    }

    /// A channel's newest message, and the publication it is, unless it marks that those before it have been removed.
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

    /// Which of these channels have newer messages than their positions.
    pub(crate) async fn behind_schedule(
        &self,
        namespace: &str,
        channels: &[(u64, Arc<Feed>)],
    ) -> Result<Vec<Arc<Feed>>, Refusal> {
        let Some(kept) = self.streams.get(namespace) else { return Ok(Vec::new()) };
        let subjects: Vec<String> =
            channels.iter().map(|(_, feed)| self.subjects.channel(feed.channel())).collect();
        let newest: HashMap<_, _> = self.broker.newest(&kept.stream, &subjects).await?.into_iter().collect();
        let behind = channels.iter().zip(&subjects);
        let behind =
            behind.filter(|((position, _), subject)| newest.get(*subject).is_some_and(|seq| seq > position));
        Ok(behind.map(|((_, feed), _)| Arc::clone(feed)).collect())
    }

    /// Whether the stream reaches as far as this position.
    pub(crate) async fn reaches(&self, channel: &Channel, position: u64) -> Result<bool, Refusal> {
        let Some(kept) = self.streams.get(channel.namespace()) else { return Ok(false) };
        Ok(self.broker.stream_facts(&kept.stream).await?.last_seq >= position)
    }

    /// What the stream holds of a channel behind `after`: at most one more than `most`, so that too much can be told.
    pub(crate) async fn behind(
        &self,
        channel: &Channel,
        after: u64,
        most: usize,
    ) -> Result<Backlog, Refusal> {
        let nothing = Backlog { publications: Vec::new(), complete: false, removed: None };
        let Some(kept) = self.streams.get(channel.namespace()) else { return Ok(nothing) };
        // From the position itself: its own message still being there shows that nothing behind it was trimmed.
        let messages = self.read(kept, channel, after, most.saturating_add(2)).await?;
        let count = messages.len();
        let sequence = |message: &Message| header_number(message, "Nats-Sequence").unwrap_or_default();
        let anchored = messages.first().is_some_and(|first| sequence(first) == after);
        let newer = || messages.iter().filter(|message| sequence(message) > after);
        let publications = newer().filter(|message| !is_removal(message)).map(publication).collect();
        let removed = newer().filter(|message| is_removal(message)).map(sequence).max();
        // Behind a removal nobody can tell what was there.
        let complete = anchored
            || removed.is_none() && {
                let facts = self.broker.stream_facts(&kept.stream).await?;
                facts.first_seq <= after.saturating_add(1) && facts.last_seq >= after && count < kept.size
            };
        Ok(Backlog { publications, complete, removed })
    }

    /// Removes what a channel holds before a sequence.
    pub(crate) async fn remove_before(&self, channel: &Channel, seq: u64) -> Result<(), Refusal> {
        let Some(kept) = self.streams.get(channel.namespace()) else { return Ok(()) };
        self.broker.purge(&kept.stream, &self.subjects.channel(channel), seq).await
    }

    /// Answers a client's question for past publications; nothing if its position is not of this stream.
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

    /// The stream reads forward only, so everything before the position is read and the end of it kept.
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
