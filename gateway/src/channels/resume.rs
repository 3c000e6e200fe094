//! Fills gaps of a channel on this gateway, and prepares what clients missed while they were away.
//!
//! Clients that come back to one channel at the same time share one read of its stream.

use std::{sync::Arc, time::Duration};

use tidegate_shared::{broker::Refusal, channel::Channel, lifecycle::Lifecycle};
use tokio::time::sleep;

use super::feed::{Backlog, Feed, Pin, Resume, Start, newest::Loaded};
use super::history::History;
use crate::metrics::Metrics;

/// The most publications that fill a gap.
const HEAL_LIMIT: usize = 1000;
/// Pause between two reads while the broker is away.
const HEAL_PAUSE: Duration = Duration::from_millis(200);
/// How often the newest publication is read while it is ahead of the live ones.
const LOAD_TRIES: usize = 10;
/// How long a window stays open for other clients that come back.
const WINDOW_TIME: Duration = Duration::from_secs(10);

/// Fills in missed publications from the streams of channels.
pub(crate) struct Recovery {
    history: Arc<History>,
    metrics: Metrics,
    lifecycle: Lifecycle,
}

impl Recovery {
    pub(super) fn new(history: Arc<History>, metrics: Metrics, lifecycle: Lifecycle) -> Self {
        Self { history, metrics, lifecycle }
    }

    /// Fills the gap of a channel behind `after` from its stream. If that fails, the subscribers are removed and their
    /// clients resume.
    pub(super) async fn heal(&self, feed: &Feed, after: u64) {
        let backlog = loop {
            match self.history.behind(feed.channel(), after, HEAL_LIMIT).await {
                Ok(backlog) => break backlog,
                Err(refusal) => tracing::debug!(%refusal, "a gap cannot be filled yet"),
            }
            tokio::select! {
                () = sleep(HEAL_PAUSE) => {}
                () = self.lifecycle.finishing() => return,
            }
        };
        let complete = backlog.complete && backlog.publications.len() <= HEAL_LIMIT;
        self.metrics.healed(complete);
        let lost = feed.heal(Backlog { complete, ..backlog });
        for outbox in lost {
            outbox.lose(feed.name());
        }
    }

    /// Prepares the backlog for a client that resumes. It stays at hand as long as the returned value lives. Returns
    /// `Start::Fresh` if the client cannot recover.
    pub(crate) async fn prepare(
        &self,
        channel: &Channel,
        feed: &Arc<Feed>,
        resume: &Resume,
    ) -> Result<Start, Refusal> {
        if self.history.cache_reaches_back_to(channel).is_some() {
            self.load_newest(channel, feed).await?;
            let same = self.history.epoch(channel).is_some_and(|epoch| *epoch == *resume.epoch);
            return Ok(Start::Newest { seen: same.then_some(resume.offset) });
        }
        let pin = self.pin(channel, feed, resume).await?;
        Ok(pin.map_or(Start::Fresh, Start::Behind))
    }

    /// Reads a channel's newest publication, unless it is known. Concurrent requests share one read.
    async fn load_newest(&self, channel: &Channel, feed: &Feed) -> Result<(), Refusal> {
        let known =
            || self.history.cache_reaches_back_to(channel).is_none_or(|oldest| feed.knows_newest(oldest));
        if known() {
            return Ok(());
        }
        let _turn = feed.reading.lock().await;
        for _ in 0..LOAD_TRIES {
            if known() {
                return Ok(());
            }
            let newest = self.history.newest(channel).await?;
            self.metrics.window_read();
            if feed.load_newest(newest) == Loaded::Yes {
                return Ok(());
            }
            match feed.begin_heal() {
                Some(after) => self.heal(feed, after).await,
                None => sleep(HEAL_PAUSE).await,
            }
        }
        Ok(())
    }

    /// Keeps the backlog behind a client's position at hand. `None` if it is incomplete or too long.
    async fn pin(
        &self,
        channel: &Channel,
        feed: &Arc<Feed>,
        resume: &Resume,
    ) -> Result<Option<Pin>, Refusal> {
        let Some(epoch) = self.history.epoch(channel) else { return Ok(None) };
        if !resume.epoch.is_empty() && *resume.epoch != *epoch {
            return Ok(None);
        }
        let offset = resume.offset;
        if feed.position().is_some_and(|position| position < offset) {
            // The client is ahead of this gateway: another gateway was faster, or the stream has lost its end.
            if !self.history.reaches(channel, offset).await? {
                return Ok(None);
            }
            if let Some(after) = feed.begin_heal() {
                self.heal(feed, after).await;
            }
            feed.advance_to(offset);
        }
        let limit = self.history.limit();
        let had_window = feed.has_window();
        let mut pin = feed.pin(offset, limit);
        if pin.is_none() {
            let _turn = feed.reading.lock().await;
            pin = feed.pin(offset, limit);
            if pin.is_none() {
                self.open_window(channel, feed, offset).await?;
                pin = feed.pin(offset, limit);
            }
        }
        if !had_window {
            self.close_window_later(Arc::clone(feed));
        }
        Ok(pin)
    }

    async fn open_window(&self, channel: &Channel, feed: &Feed, after: u64) -> Result<(), Refusal> {
        let limit = self.history.limit();
        feed.record();
        let backlog = self.history.behind(channel, after, limit).await?;
        self.metrics.window_read();
        feed.open_window(after, backlog, limit);
        Ok(())
    }

    fn close_window_later(&self, feed: Arc<Feed>) {
        let lifecycle = self.lifecycle.clone();
        self.lifecycle.spawn(async move {
            loop {
                tokio::select! {
                    () = sleep(WINDOW_TIME) => {}
                    () = lifecycle.finishing() => return,
                }
                if feed.close_window() {
                    return;
                }
            }
        });
    }
}
