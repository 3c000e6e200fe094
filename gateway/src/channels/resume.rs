//! Fills gaps of a channel on this gateway, and prepares what clients missed while they were away.
//!
//! Clients that come back to one channel at the same time share one read of its stream.

use std::{future::Future, sync::Arc, time::Duration};

use tidegate_shared::{broker::Refusal, channel::Channel, lifecycle::Lifecycle};
use tokio::{
    sync::oneshot,
    time::{Instant, sleep, timeout, timeout_at},
};

use super::feed::{Backlog, Feed, Gap, Healed, Limit, Opened, Part, Resume, Start, newest::Loaded};
use super::history::History;
use super::window_budget::WindowBudget;
use crate::metrics::Metrics;

/// The most publications that fill a gap, and how much of them one read may hold.
const HEAL_LIMIT: Limit = Limit { publications: 1000, bytes: 4 << 20 };
/// How often a gap is read, while each read leaves something missing.
const HEAL_TRIES: u32 = 12;
/// How long a gap is filled while the broker can be reached. Then the subscribers are let go, and subscribe again.
const HEAL_TIME: Duration = Duration::from_secs(10);
/// Pause between two reads while the broker is away.
const HEAL_PAUSE: Duration = Duration::from_millis(200);
/// How often a stream is read for a window or a newest publication, while the read does not agree with the live messages.
const LOAD_TRIES: u32 = 8;
/// How long a client waits until its backlog is at hand. SDKs give up after 5 s.
const PREPARE_TIME: Duration = Duration::from_secs(4);

/// Fills in missed publications from the streams of channels.
pub(crate) struct Recovery {
    history: Arc<History>,
    metrics: Metrics,
    lifecycle: Lifecycle,
    windows: WindowBudget,
}

/// A gap being filled, as its undo value: if the task ends too early, the subscribers are let go.
struct Filling {
    feed: Arc<Feed>,
    gap: Gap,
    lifecycle: Lifecycle,
}

impl Recovery {
    pub(super) fn new(history: Arc<History>, metrics: Metrics, lifecycle: Lifecycle) -> Self {
        Self { history, metrics, lifecycle, windows: WindowBudget::default() }
    }

    /// Fills the gap of a channel from its stream. If that fails, the subscribers are removed and their clients resume.
    /// A task of its own does it, which goes on if the caller loses interest. The result completes when it is done.
    pub(super) fn heal(self: &Arc<Self>, feed: Arc<Feed>, gap: Gap) -> impl Future<Output = ()> + use<> {
        let (done, healed) = oneshot::channel::<()>();
        let this = Arc::clone(self);
        let lifecycle = self.lifecycle.clone();
        self.lifecycle.spawn(async move {
            let _done = done;
            this.fill(Filling { feed, gap, lifecycle }).await;
        });
        async move {
            // An error means that the task has ended too.
            let _ = healed.await;
        }
    }

    async fn fill(&self, mut filling: Filling) {
        let (mut tries, mut deadline) = (0, Instant::now() + HEAL_TIME);
        while tries < HEAL_TRIES && Instant::now() < deadline {
            let feed = &filling.feed;
            let read = self.history.behind(feed.channel(), filling.gap.after, HEAL_LIMIT);
            let mut pause = HEAL_PAUSE;
            match timeout_at(deadline, read).await {
                Ok(Ok(backlog)) => match self.fill_with(feed, &filling.gap, backlog) {
                    Some(left) => {
                        tries += 1;
                        // A replica may be some milliseconds behind. What was lost meanwhile is there at once.
                        pause = if left.after > filling.gap.after { Duration::ZERO } else { lag(tries) };
                        filling.gap = left;
                    }
                    None => return,
                },
                Ok(Err(refusal)) => tracing::debug!(%refusal, "a gap cannot be filled yet"),
                Err(_) => tracing::debug!("a gap cannot be filled yet: the broker is silent"),
            }
            if !self.history.is_connected() {
                deadline = Instant::now() + HEAL_TIME;
            }
            tokio::select! {
                () = sleep(pause) => {}
                () = self.lifecycle.finishing() => return,
            }
        }
        tracing::warn!(
            channel = filling.feed.name(),
            "a gap could not be filled in time: its clients resume"
        );
        self.metrics.healed(false);
    }

    /// Fills a gap with what was read. Returns the gap that is left.
    fn fill_with(&self, feed: &Feed, gap: &Gap, backlog: Backlog) -> Option<Gap> {
        let complete = backlog.complete && backlog.publications.len() <= HEAL_LIMIT.publications;
        match feed.heal(gap, Backlog { complete, ..backlog }) {
            Healed::Again(left) => return Some(left),
            Healed::Filled => self.metrics.healed(true),
            Healed::Lost(outboxes) => {
                self.metrics.healed(false);
                for outbox in outboxes {
                    outbox.lose(feed.name());
                }
            }
        }
        None
    }

    /// Prepares the backlog for a client that resumes. It stays at hand as long as the returned value lives. Returns
    /// `Start::Fresh` if the client cannot recover.
    pub(crate) async fn prepare(
        self: &Arc<Self>,
        channel: &Channel,
        feed: &Arc<Feed>,
        resume: &Resume,
    ) -> Result<Start, Refusal> {
        let prepared = timeout(PREPARE_TIME, self.prepare_start(channel, feed, resume)).await;
        prepared.unwrap_or_else(|_| Err(Refusal::Unavailable("the history is not read in time".to_owned())))
    }

    async fn prepare_start(
        self: &Arc<Self>,
        channel: &Channel,
        feed: &Arc<Feed>,
        resume: &Resume,
    ) -> Result<Start, Refusal> {
        if self.history.cache_reaches_back_to(channel).is_some() {
            self.load_newest(channel, feed).await?;
            let same = self.history.epoch(channel).is_some_and(|epoch| *epoch == *resume.epoch);
            let seen = same && self.keeps_up_with(channel, feed, resume.offset).await?;
            return Ok(Start::Newest { seen: seen.then_some(resume.offset) });
        }
        self.start_behind(channel, feed, resume).await
    }

    /// Reads a channel's newest publication, unless it is known. Concurrent requests share one read.
    async fn load_newest(self: &Arc<Self>, channel: &Channel, feed: &Arc<Feed>) -> Result<(), Refusal> {
        let known =
            || self.history.cache_reaches_back_to(channel).is_none_or(|oldest| feed.knows_newest(oldest));
        if known() {
            return Ok(());
        }
        let _turn = feed.reading.lock().await;
        for tries in 1..=LOAD_TRIES {
            if known() {
                return Ok(());
            }
            let newest = self.history.newest(channel).await?;
            self.metrics.window_read();
            let seq = newest.as_ref().map_or(0, |stored| stored.publication.offset);
            if feed.load_newest(newest) == Loaded::Yes {
                return Ok(());
            }
            match feed.begin_heal(seq) {
                Some(gap) => self.heal(Arc::clone(feed), gap).await,
                None => sleep(lag(tries)).await,
            }
        }
        Ok(())
    }

    /// Keeps the backlog behind a client's position at hand, or its beginning if it is too long. `Start::Fresh` if it is incomplete.
    async fn start_behind(
        self: &Arc<Self>,
        channel: &Channel,
        feed: &Arc<Feed>,
        resume: &Resume,
    ) -> Result<Start, Refusal> {
        let Some(epoch) = self.history.epoch(channel) else { return Ok(Start::Fresh) };
        if !resume.epoch.is_empty() && *resume.epoch != *epoch {
            return Ok(Start::Fresh);
        }
        let offset = resume.offset;
        feed.received_on(self.history.connection_number());
        if !self.keeps_up_with(channel, feed, offset).await? {
            return Ok(Start::Fresh);
        }
        let limit = self.history.limit();
        let pinned = || feed.pin(offset, limit, self.history.kept(channel)?).map(Start::Behind);
        let had_window = feed.has_window();
        let mut start = pinned();
        if start.is_none() {
            let mut last = feed.reading.lock().await;
            start = pinned().or_else(|| {
                let part = last.upgrade().filter(|part| part.continues(&epoch, offset))?;
                Some(Start::Part(part))
            });
            if start.is_none() {
                start = match self.open_window(channel, feed, (&epoch, offset)).await? {
                    Some(part) => {
                        *last = Arc::downgrade(&part);
                        Some(Start::Part(part))
                    }
                    None => pinned(),
                };
            }
        }
        if !had_window && feed.has_window() {
            self.close_window_later(Arc::clone(feed));
        }
        Ok(start.unwrap_or_default())
    }

    /// Whether a client's position is one of the stream. A client that is ahead of this gateway shows that another one
    /// was faster, or that this one has missed something. It keeps its position, and the gateway catches up.
    async fn keeps_up_with(
        self: &Arc<Self>,
        channel: &Channel,
        feed: &Arc<Feed>,
        offset: u64,
    ) -> Result<bool, Refusal> {
        if feed.position().is_none_or(|position| position >= offset) {
            return Ok(true);
        }
        if !self.history.reaches(channel, offset).await? {
            return Ok(false);
        }
        if let Some(gap) = feed.begin_heal(0) {
            drop(self.heal(Arc::clone(feed), gap));
        }
        Ok(true)
    }

    /// Opens a window with the backlog behind a position. Returns the beginning of one that is too long.
    async fn open_window(
        &self,
        channel: &Channel,
        feed: &Feed,
        (epoch, after): (&Arc<str>, u64),
    ) -> Result<Option<Arc<Part>>, Refusal> {
        let limit = self.history.limit();
        for tries in 1..=LOAD_TRIES {
            feed.record();
            let backlog = self.history.behind(channel, after, limit).await?;
            self.metrics.window_read();
            match feed.open_window((epoch, after), backlog, limit) {
                Opened::Part(part) => return Ok(Some(part)),
                Opened::Stale => sleep(lag(tries)).await,
                Opened::Yes | Opened::No => break,
            }
        }
        Ok(None)
    }

    fn close_window_later(&self, feed: Arc<Feed>) {
        let lifecycle = self.lifecycle.clone();
        let share = self.windows.hold(feed.window_bytes());
        self.lifecycle.spawn(async move {
            loop {
                tokio::select! {
                    () = sleep(share.time()) => {}
                    () = lifecycle.finishing() => return,
                }
                if feed.close_window() {
                    return;
                }
            }
        });
    }
}

/// How long to wait for a replica that is behind.
fn lag(tries: u32) -> Duration {
    Duration::from_millis(5 << tries.min(6))
}

impl Drop for Filling {
    fn drop(&mut self) {
        if !self.lifecycle.is_finishing() {
            for outbox in self.feed.give_up(&self.gap) {
                outbox.lose(self.feed.name());
            }
        }
    }
}
