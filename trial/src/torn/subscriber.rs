//! One subscriber that comes back from wherever it is cut, and writes down what it was told and what it got.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use tidegate_cli::client::{Client, Event, Events, Options};
use tidegate_shared::protocol::{Command, SubscribeRequest, SubscribeResult};
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use crate::stats::{Series, Times};

/// What all subscribers were told.
#[derive(Default)]
pub(super) struct Told {
    resumed: AtomicUsize,
    not_recovered: AtomicUsize,
    back: Mutex<Vec<Duration>>,
    /// The newest offset each subscriber has, by its token.
    newest: Mutex<HashMap<String, (usize, u64)>>,
}

/// Publications a subscriber got in one go: everything behind `base` that it was not told to have missed.
#[derive(Debug, Default)]
pub(super) struct Segment {
    base: u64,
    offsets: Vec<u64>,
}

pub(super) struct Subscriber {
    url: String,
    token: String,
    channel: String,
    told: Arc<Told>,
    epoch: String,
    segments: Vec<Segment>,
}

impl Segment {
    /// Compares with what was stored: how many are missing, and how many came twice or out of order. A segment that was
    /// broken off ends where it ends; the last one has to reach the newest.
    pub(super) fn compare(&self, stored: &[u64], last: bool) -> (usize, usize) {
        let end = if last { u64::MAX } else { self.offsets.last().copied().unwrap_or(self.base) };
        let expected: Vec<u64> =
            stored.iter().copied().filter(|seq| *seq > self.base && *seq <= end).collect();
        let wrong = self.offsets.windows(2).filter(|pair| matches!(pair, [a, b] if a >= b)).count();
        let missing = expected.iter().filter(|seq| !self.offsets.contains(seq)).count();
        (missing, wrong)
    }

    fn newest(&self) -> u64 {
        self.offsets.last().copied().unwrap_or(self.base)
    }
}

impl Told {
    pub(super) fn resumed(&self) -> usize {
        self.resumed.load(Ordering::Relaxed)
    }

    pub(super) fn not_recovered(&self) -> usize {
        self.not_recovered.load(Ordering::Relaxed)
    }

    pub(super) fn times(&self) -> anyhow::Result<Times> {
        let mut series = Series::new()?;
        for time in self.back.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            series.record(*time)?;
        }
        Ok(series.times())
    }

    /// How many subscribers have the newest publication of their channel.
    pub(super) fn up_to_date(&self, newest: &[u64]) -> usize {
        let known = self.newest.lock().unwrap_or_else(PoisonError::into_inner);
        known
            .values()
            .filter(|(channel, offset)| newest.get(*channel).is_some_and(|newest| offset >= newest))
            .count()
    }
}

impl Subscriber {
    pub(super) fn new(url: String, token: String, channel: String, told: Arc<Told>) -> Self {
        Self { url, token, channel, told, epoch: String::new(), segments: Vec::new() }
    }

    /// Subscribes, and comes back whenever it is cut, until everything is over.
    pub(super) async fn run(mut self, done: CancellationToken) -> Vec<Segment> {
        let mut cut: Option<Instant> = None;
        loop {
            tokio::select! {
                () = done.cancelled() => return self.segments,
                _ = self.live(cut) => cut = Some(Instant::now()),
            }
            sleep(Duration::from_millis(20 + rand::random_range(0..80))).await;
        }
    }

    /// One connection, until it ends.
    async fn live(&mut self, cut: Option<Instant>) -> Option<()> {
        let options = Options::new(self.url.clone()).token(self.token.clone());
        let (client, mut events) = Client::connect(options).await.ok()?;
        self.subscribe(&client).await?;
        if let Some(cut) = cut {
            self.told.back.lock().unwrap_or_else(PoisonError::into_inner).push(cut.elapsed());
        }
        self.listen(&client, &mut events).await
    }

    async fn listen(&mut self, client: &Client, events: &mut Events) -> Option<()> {
        loop {
            match events.next().await? {
                Event::Publication { channel, offset, .. } if channel == self.channel => self.got(offset),
                Event::Unsubscribed { code: 2500.., .. } => self.subscribe(client).await?,
                Event::Disconnected(_) => return None,
                _ => {}
            }
        }
    }

    async fn subscribe(&mut self, client: &Client) -> Option<()> {
        let known = self.segments.last().map(Segment::newest);
        let request = SubscribeRequest {
            channel: self.channel.clone(),
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
        self.epoch = result.epoch;
        if result.recovered {
            self.told.resumed.fetch_add(1, Ordering::Relaxed);
            for publication in result.publications {
                self.got(publication.offset);
            }
            return;
        }
        if result.was_recovering {
            self.told.not_recovered.fetch_add(1, Ordering::Relaxed);
        }
        self.segments.push(Segment { base: result.offset, offsets: Vec::new() });
        self.note(result.offset);
    }

    fn got(&mut self, offset: u64) {
        if let Some(segment) = self.segments.last_mut() {
            segment.offsets.push(offset);
        }
        self.note(offset);
    }

    fn note(&self, offset: u64) {
        let channel = self.channel.rsplit('c').next().and_then(|n| n.parse().ok()).unwrap_or(usize::MAX);
        self.told
            .newest
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(self.token.clone(), (channel, offset));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_twice_or_out_of_order_is_counted() {
        let segment = |base, offsets: &[u64]| Segment { base, offsets: offsets.to_vec() };
        let stored = [1, 3, 5, 7];
        assert_eq!(segment(1, &[3, 5, 7]).compare(&stored, true), (0, 0));
        assert_eq!(segment(1, &[3, 7]).compare(&stored, true), (1, 0));
        assert_eq!(segment(1, &[3, 5]).compare(&stored, true), (1, 0));
        assert_eq!(segment(1, &[3, 5]).compare(&stored, false), (0, 0));
        assert_eq!(segment(0, &[1, 3, 3, 7, 5]).compare(&stored, true), (0, 2));
    }
}
