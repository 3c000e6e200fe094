//! A subscriber that reconnects after every cut and records recoveries and publications.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::{Duration, SystemTime},
};

use parking_lot::Mutex;
use tidegate_cli::{
    client::{Client, Event, Events, Options},
    stack::Stack,
    token::connection_token,
};
use tidegate_shared::protocol::{Command, SubscribeRequest, SubscribeResult};
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use crate::stats::{Percentiles, Series};

/// Recovery counts and offsets of all subscribers.
pub(crate) struct SubscriberStats {
    begun: AtomicUsize,
    resumed: AtomicUsize,
    not_recovered: AtomicUsize,
    back: Mutex<Vec<Duration>>,
    /// The newest offset of each subscriber.
    newest: Vec<AtomicU64>,
}

/// Publications received without a failed recovery in between: all after `base`.
#[derive(Debug, Default)]
pub(crate) struct Segment {
    base: u64,
    offsets: Vec<u64>,
}

/// How long a client that is cut off waits before each try: from `min` on, doubling up to `max`, with full jitter.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ReconnectBackoff {
    pub(crate) min: Duration,
    pub(crate) max: Duration,
}

/// The settings of a subscriber.
pub(crate) struct Subscriber {
    /// Its number.
    pub(crate) number: usize,
    /// Tried in turn.
    pub(crate) urls: Vec<String>,
    pub(crate) token: String,
    pub(crate) channel: String,
    pub(crate) backoff: ReconnectBackoff,
    pub(crate) stats: Arc<SubscriberStats>,
}

/// A running subscriber.
struct ActiveSubscriber {
    settings: Subscriber,
    epoch: String,
    segments: Vec<Segment>,
}

impl From<u64> for Segment {
    /// An empty segment after this offset.
    fn from(base: u64) -> Self {
        Self { base, offsets: Vec::new() }
    }
}

impl Segment {
    /// Compares with what was stored: how many are missing, and how many came twice or out of order. A segment that was
    /// broken off ends where it ends; the last one has to reach the newest.
    pub(crate) fn compare(&self, stored: &[u64], last: bool) -> (usize, usize) {
        let end = if last { u64::MAX } else { self.offsets.last().copied().unwrap_or(self.base) };
        let expected: Vec<u64> =
            stored.iter().copied().filter(|seq| *seq > self.base && *seq <= end).collect();
        let wrong = self.offsets.windows(2).filter(|pair| matches!(pair, [a, b] if a >= b)).count();
        let missing = expected.iter().filter(|seq| !self.offsets.contains(seq)).count();
        (missing, wrong)
    }

    pub(crate) fn push(&mut self, offset: u64) {
        self.offsets.push(offset);
    }

    pub(crate) fn newest(&self) -> u64 {
        self.offsets.last().copied().unwrap_or(self.base)
    }
}

impl SubscriberStats {
    pub(crate) fn new(subscribers: usize) -> Self {
        Self {
            begun: AtomicUsize::new(0),
            resumed: AtomicUsize::new(0),
            not_recovered: AtomicUsize::new(0),
            back: Mutex::default(),
            newest: (0..subscribers).map(|_| AtomicU64::new(0)).collect(),
        }
    }

    /// A subscriber has everything up to this offset.
    pub(crate) fn note(&self, number: usize, offset: u64) {
        if let Some(newest) = self.newest.get(number) {
            newest.store(offset, Ordering::Relaxed);
        }
    }

    /// How many subscriptions were made afresh.
    pub(crate) fn begun(&self) -> usize {
        self.begun.load(Ordering::Relaxed)
    }

    pub(crate) fn resumed(&self) -> usize {
        self.resumed.load(Ordering::Relaxed)
    }

    pub(crate) fn not_recovered(&self) -> usize {
        self.not_recovered.load(Ordering::Relaxed)
    }

    pub(crate) fn times(&self) -> anyhow::Result<Percentiles> {
        let mut series = Series::new()?;
        for time in self.back.lock().iter() {
            series.record(*time)?;
        }
        Ok(series.times())
    }

    /// How many subscribers have the newest publication of their channel. The channels take turns at the subscribers.
    pub(crate) fn up_to_date(&self, newest: &[u64]) -> usize {
        let wanted = newest.iter().cycle();
        self.newest.iter().zip(wanted).filter(|(has, wanted)| has.load(Ordering::Relaxed) >= **wanted).count()
    }
}

impl ReconnectBackoff {
    /// That of the published JavaScript SDK.
    pub(crate) const SDK: Self = Self { min: Duration::from_millis(500), max: Duration::from_secs(20) };

    pub(crate) fn pause(self, failures: u32) -> Duration {
        let range = self.max.min(self.min * 2_u32.saturating_pow(failures.min(16)));
        self.max.min(self.min + range.mul_f64(rand::random()))
    }
}

/// A token for the subscriber of this number, a user of its own.
pub(crate) fn token(stack: &Stack, number: usize) -> anyhow::Result<String> {
    let (auth, user) = (&stack.config().auth, format!("u{number}"));
    connection_token(auth, &user, Duration::from_hours(1), SystemTime::now())
}

impl Subscriber {
    /// Subscribes, and reconnects after every cut, until `done`.
    pub(crate) async fn run(self, done: CancellationToken) -> Vec<Segment> {
        let mut listener = ActiveSubscriber { settings: self, epoch: String::new(), segments: Vec::new() };
        let (mut turn, mut failures, mut cut) = (0, 0, None);
        loop {
            let came_back = tokio::select! {
                () = done.cancelled() => return listener.segments,
                came_back = listener.live(turn, cut) => came_back,
            };
            turn += 1;
            if came_back {
                (failures, cut) = (0, None);
            }
            cut.get_or_insert_with(Instant::now);
            tokio::select! {
                () = done.cancelled() => return listener.segments,
                () = sleep(listener.settings.backoff.pause(failures)) => failures += 1,
            }
        }
    }
}

impl ActiveSubscriber {
    /// Runs one connection until it ends. Returns false if it never subscribed.
    async fn live(&mut self, turn: usize, cut: Option<Instant>) -> bool {
        let Some(url) = self.settings.urls.get(turn % self.settings.urls.len().max(1)) else { return false };
        let options = Options::new(url).token(self.settings.token.clone());
        let Ok((client, mut events)) = Client::connect(options).await else { return false };
        if self.subscribe(&client).await.is_none() {
            return false;
        }
        if let Some(cut) = cut {
            self.settings.stats.back.lock().push(cut.elapsed());
        }
        self.listen(&client, &mut events).await;
        true
    }

    async fn listen(&mut self, client: &Client, events: &mut Events) -> Option<()> {
        loop {
            match events.next().await? {
                Event::Publication { channel, offset, .. } if channel == self.settings.channel => {
                    self.got(offset);
                }
                Event::Unsubscribed { code: 2500.., .. } => self.subscribe(client).await?,
                Event::Disconnected(_) => return None,
                _ => {}
            }
        }
    }

    async fn subscribe(&mut self, client: &Client) -> Option<()> {
        let known = self.segments.last().map(Segment::newest);
        let request = SubscribeRequest {
            channel: self.settings.channel.clone(),
            recover: known.is_some(),
            offset: known.unwrap_or_default(),
            epoch: self.epoch.clone(),
            ..SubscribeRequest::default()
        };
        let reply = client.call(Command { subscribe: Some(request), ..Command::default() }).await.ok()?;
        self.subscribed(reply.subscribe?);
        Some(())
    }

    fn subscribed(&mut self, result: SubscribeResult) {
        let stats = Arc::clone(&self.settings.stats);
        self.epoch = result.epoch;
        if result.recovered {
            stats.resumed.fetch_add(1, Ordering::Relaxed);
            for publication in result.publications {
                self.got(publication.offset);
            }
            return;
        }
        let counter = if result.was_recovering { &stats.not_recovered } else { &stats.begun };
        counter.fetch_add(1, Ordering::Relaxed);
        self.segments.push(result.offset.into());
        self.note(result.offset);
    }

    fn got(&mut self, offset: u64) {
        if let Some(segment) = self.segments.last_mut() {
            segment.push(offset);
        }
        self.note(offset);
    }

    fn note(&self, offset: u64) {
        self.settings.stats.note(self.settings.number, offset);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missing_duplicate_and_disordered_publications_are_counted() {
        let segment = |base, offsets: &[u64]| Segment { base, offsets: offsets.to_vec() };
        let stored = [1, 3, 5, 7];
        assert_eq!(segment(1, &[3, 5, 7]).compare(&stored, true), (0, 0));
        assert_eq!(segment(1, &[3, 7]).compare(&stored, true), (1, 0));
        assert_eq!(segment(1, &[3, 5]).compare(&stored, true), (1, 0));
        assert_eq!(segment(1, &[3, 5]).compare(&stored, false), (0, 0));
        assert_eq!(segment(0, &[1, 3, 3, 7, 5]).compare(&stored, true), (0, 2));
    }

    #[test]
    fn pauses_grow_within_their_bounds() {
        let backoff = ReconnectBackoff::SDK;
        for failures in 0..100 {
            let most = backoff.min + backoff.min * 2_u32.pow(failures.min(6));
            let pause = backoff.pause(failures);
            assert!(pause >= backoff.min && pause <= most.min(backoff.max), "{failures}: {pause:?}");
        }
    }

    #[test]
    fn a_subscriber_with_the_newest_publication_of_its_channel_is_up_to_date() {
        let stats = SubscriberStats::new(4);
        for (number, offset) in [7, 8, 6, 9].into_iter().enumerate() {
            stats.newest[number].store(offset, Ordering::Relaxed);
        }
        assert_eq!(stats.up_to_date(&[7, 8]), 3);
    }
}
