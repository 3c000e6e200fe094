//! Reads publications from the streams of channels: the backlog behind a position, and pages for clients.
//!
//! A backlog counts as complete only if the streams prove it: the message at the position is still there; or the namespace's
//! stream reaches back to the position and no limit can have removed anything; or the stream of last messages shows that the
//! channel has had nothing newer. Every read is bounded in messages and bytes, and
//! takes one of a few turns of the gateway.

use std::time::Duration;

use async_nats::Message;
use tidegate_shared::{
    broker::{Refusal, header_number, stored_at},
    channel::Channel,
    protocol::{HistoryRequest, HistoryResult, Publication},
};
use tokio::{
    sync::{Semaphore, SemaphorePermit},
    time::timeout,
};

use super::{
    History, NamespaceStream, publication,
    tail::{Counted, TailSearch},
};
use crate::channels::{
    feed::{Backlog, Limit},
    message::is_removal,
};

/// Messages per request: a batch has no flow control.
const BATCH: usize = 500;
/// How long a client waits for a page, the wait for a turn included. SDKs give up after 5 s.
const PAGE_TIME: Duration = Duration::from_secs(4);

/// Messages of a channel, oldest first.
#[derive(Default)]
struct Messages {
    list: Vec<Message>,
    bytes: usize,
    /// How many follow.
    more: u64,
}

impl History {
    /// Reads a channel's backlog behind `after`: at most one publication more than `most`, so that the caller can see
    /// that there are too many.
    pub(crate) async fn behind(
        &self,
        channel: &Channel,
        after: u64,
        most: Limit,
    ) -> Result<Backlog, Refusal> {
        let nothing = Backlog {
            publications: Vec::new(),
            complete: false,
            removed: None,
            more: false,
            end: 0,
            oldest: None,
        };
        let Some(kept) = self.streams.get(channel.namespace()) else { return Ok(nothing) };
        let turn = turn(&self.backlogs).await?;
        // Reads from the position itself: if its message is still there, nothing behind it was trimmed.
        let most = Limit { publications: most.publications.saturating_add(2), ..most };
        let mut read = self.read(kept, channel, after, most).await?;
        let anchored = read.list.first().is_some_and(|first| sequence(first) == after);
        if anchored && read.list.len() == 1 && read.more > 0 {
            // It was as large as a read may be.
            read = self.read(kept, channel, after.saturating_add(1), most).await?;
        }
        let Messages { list: messages, more, .. } = read;
        // What follows reads little, and may wait.
        drop(turn);
        let count = messages.len() as u64 + more;
        let newer = || messages.iter().filter(|message| sequence(message) > after);
        let removed = newer().filter(|message| is_removal(message)).map(sequence).max();
        // A removal mark hides whether anything else was missing before it.
        let (complete, end) = match removed {
            _ if anchored => (true, 0),
            Some(_) => (false, 0),
            None => self.is_whole(kept, channel, after, count).await?,
        };
        let publications = newer().filter(|message| !is_removal(message)).map(publication).collect();
        let oldest = newer().next().and_then(stored_at);
        Ok(Backlog { publications, complete, removed, more: more > 0, end, oldest })
    }

    /// Whether the `count` messages behind a position whose own message is gone are all that the channel has had there. Returns the
    /// stream's last sequence too.
    async fn is_whole(
        &self,
        kept: &NamespaceStream,
        channel: &Channel,
        after: u64,
        count: u64,
    ) -> Result<(bool, u64), Refusal> {
        let facts = self.broker.stream_facts(&kept.stream).await?;
        if facts.last_seq < after {
            return Ok((false, facts.last_seq));
        }
        if facts.first_seq <= after.saturating_add(1) && count < facts.kept.since(after) {
            return Ok((true, facts.last_seq));
        }
        let Some(last) = kept.last.as_ref().filter(|_| count == 0) else {
            return Ok((false, facts.last_seq));
        };
        let subject = self.subjects.channel(channel);
        Ok((last.is_quiet(&self.broker, &subject, after, facts.last_seq).await, facts.last_seq))
    }

    /// Reads past publications, as many as `most` allows. `None` if the position belongs to another stream.
    pub(crate) async fn page(
        &self,
        channel: &Channel,
        ask: &HistoryRequest,
        most: Limit,
    ) -> Result<Option<HistoryResult>, Refusal> {
        let page = timeout(PAGE_TIME, self.read_page(channel, ask, most)).await;
        page.unwrap_or_else(|_| Err(Refusal::Unavailable("the history is not read in time".to_owned())))
    }

    async fn read_page(
        &self,
        channel: &Channel,
        ask: &HistoryRequest,
        most: Limit,
    ) -> Result<Option<HistoryResult>, Refusal> {
        let (Some(kept), Some(epoch)) = (self.streams.get(channel.namespace()), self.epoch(channel)) else {
            return Ok(None);
        };
        let since = ask.since.clone().unwrap_or_default();
        if !since.epoch.is_empty() && *since.epoch != *epoch {
            return Ok(None);
        }
        let publications = usize::try_from(ask.limit).unwrap_or(usize::MAX).min(most.publications);
        let most = Limit { publications, ..most };
        let mut publications = Vec::new();
        if most.publications > 0 {
            let _turn = turn(&self.pages).await?;
            if ask.reverse {
                let before = ask.since.as_ref().map(|since| since.offset);
                publications = self.newest_first(kept, channel, before, most).await?;
            } else {
                let read = self.read(kept, channel, since.offset.saturating_add(1), most).await?;
                publications = published(&read.list).collect();
            }
        }
        let offset = self.start_of(channel).await?.map_or(0, |start| start.position);
        Ok(Some(HistoryResult { publications, epoch: epoch.as_ref().to_owned(), offset }))
    }

    /// The newest publications before an offset, newest first: as many as fit.
    async fn newest_first(
        &self,
        kept: &NamespaceStream,
        channel: &Channel,
        before: Option<u64>,
        most: Limit,
    ) -> Result<Vec<Publication>, Refusal> {
        let Some((position, newest)) = self.last(kept, channel).await? else { return Ok(Vec::new()) };
        let end = before.unwrap_or(u64::MAX).min(position.saturating_add(1));
        if most.publications == 1 && end > position {
            return Ok(newest.iter().map(|stored| Publication::clone(&stored.publication)).collect());
        }
        let mut wanted = most.publications;
        let Some(all) = self.count(kept, channel, 1).await? else { return Ok(Vec::new()) };
        let behind = self.count(kept, channel, end).await?.map_or(0, |counted| counted.count);
        loop {
            let mut search = TailSearch::new(wanted as u64, all, end, behind);
            while let Some(guess) = search.guess() {
                search.note(guess, self.count(kept, channel, guess).await?);
            }
            let Counted { first, count } = search.start();
            let there = usize::try_from(count.saturating_sub(behind)).unwrap_or(usize::MAX);
            let Messages { list: messages, more, .. } =
                self.read(kept, channel, first, Limit { publications: there, ..most }).await?;
            let cut = messages.len() < there && more > 0;
            if cut && wanted > 1 {
                // Too large: the newest of them are further back.
                wanted = messages.len().min(wanted / 2).max(1);
                continue;
            }
            let older = published(&messages).filter(|publication| publication.offset < end);
            let mut publications: Vec<Publication> = older.collect();
            publications.reverse();
            publications.truncate(wanted);
            return Ok(publications);
        }
    }

    /// The first message of a channel at or behind a sequence, and how many there are from it on.
    async fn count(
        &self,
        kept: &NamespaceStream,
        channel: &Channel,
        from: u64,
    ) -> Result<Option<Counted>, Refusal> {
        let subject = self.subjects.channel(channel);
        let range = self.broker.range_within(&kept.stream, &subject, from, 1, 1).await?;
        Ok(range.messages.first().map(|first| Counted { first: sequence(first), count: range.more + 1 }))
    }

    /// Reads messages from a sequence on, up to and including the one that reaches a limit.
    async fn read(
        &self,
        kept: &NamespaceStream,
        channel: &Channel,
        from: u64,
        most: Limit,
    ) -> Result<Messages, Refusal> {
        let subject = self.subjects.channel(channel);
        let mut read = Messages::default();
        let mut from = from;
        if most.publications == 0 {
            // The broker takes 0 for a request without a batch.
            return Ok(read);
        }
        loop {
            let want = BATCH.min(most.publications.saturating_sub(read.list.len()));
            let room = most.bytes.saturating_sub(read.bytes);
            let range = self.broker.range_within(&kept.stream, &subject, from, want, room).await?;
            read.bytes += range.messages.iter().map(|message| message.length).sum::<usize>();
            read.more = range.more;
            let last = range.messages.last().map(sequence);
            read.list.extend(range.messages);
            match last {
                Some(last)
                    if read.more > 0 && read.list.len() < most.publications && read.bytes < most.bytes =>
                {
                    from = last + 1;
                }
                _ => return Ok(read),
            }
        }
    }
}

/// One of the gateway's turns to read.
async fn turn(turns: &Semaphore) -> Result<SemaphorePermit<'_>, Refusal> {
    turns.acquire().await.map_err(|error| Refusal::Unavailable(error.to_string()))
}

fn sequence(message: &Message) -> u64 {
    header_number(message, "Nats-Sequence").unwrap_or_default()
}

fn published(messages: &[Message]) -> impl Iterator<Item = Publication> {
    messages.iter().filter(|message| !is_removal(message)).map(publication)
}
