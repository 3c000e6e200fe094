//! A service that publishes at a fixed rate and records the stream sequence of every publication.

use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use tidegate_cli::stack::Stack;
use tokio::{
    task::JoinSet,
    time::{Instant, MissedTickBehavior, interval, sleep},
};

use crate::subscriber::{Segment, SubscriberStats};

/// How long the last publications may take to reach all subscribers.
const SETTLE: Duration = Duration::from_secs(30);

/// Connects as the NATS user of services.
pub(crate) async fn connect_as_service(stack: &Stack) -> anyhow::Result<async_nats::Client> {
    let user = &stack.config().nats.service;
    let password = user.password.expose().to_owned();
    let options = async_nats::ConnectOptions::with_user_and_password(user.user.clone(), password)
        .custom_inbox_prefix(format!("_INBOX_{}", user.user))
        .reconnect_delay_callback(|_| Duration::from_millis(100));
    Ok(options.connect(stack.nats_url()).await?)
}

/// A publisher, and the sequences of what it has published, by channel.
pub(crate) struct Publisher {
    jetstream: async_nats::jetstream::Context,
    /// Subjects without their number.
    subject: String,
    stored: Vec<Mutex<Vec<u64>>>,
}

impl Publisher {
    /// Connects as a service. Its channels are `<namespace>:c0` and so on.
    pub(crate) async fn connect(stack: &Stack, namespace: &str, channels: usize) -> anyhow::Result<Self> {
        let mut jetstream = async_nats::jetstream::new(connect_as_service(stack).await?);
        jetstream.set_timeout(Duration::from_millis(500));
        let stored = (0..channels).map(|_| Mutex::default()).collect();
        Ok(Self { jetstream, subject: format!("tide.ch.{namespace}.c"), stored })
    }

    /// Publishes to the channels in turn, `rate` times a second, until `end`. Retries each publication until it is acknowledged.
    pub(crate) async fn run(&self, rate: u32, end: impl Future<Output = ()>) -> usize {
        let mut ticks = interval(Duration::from_secs(1) / rate.max(1));
        ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
        let mut count = 0_usize;
        tokio::pin!(end);
        loop {
            tokio::select! {
                biased;
                () = &mut end => return count,
                _ = ticks.tick() => {}
            }
            let channel = count % self.stored.len().max(1);
            let seq = self.store(channel, count).await;
            if let Some(list) = self.stored.get(channel) {
                list.lock().push(seq);
            }
            count += 1;
        }
    }

    async fn store(&self, channel: usize, n: usize) -> u64 {
        self.store_in(format!("{}{channel}", self.subject), n).await
    }

    /// Publishes a number until it is acknowledged. Returns the sequence it is stored at.
    pub(crate) async fn store_in(&self, subject: String, n: usize) -> u64 {
        loop {
            let mut headers = async_nats::HeaderMap::new();
            headers.insert("Nats-Msg-Id", format!("n-{n}"));
            let data = Bytes::from(n.to_string());
            let sent = self.jetstream.publish_with_headers(subject.clone(), headers, data).await;
            if let Ok(sent) = sent
                && let Ok(ack) = sent.await
            {
                return ack.sequence;
            }
            sleep(Duration::from_millis(50)).await;
        }
    }

    /// Waits until every subscriber has the newest publication of its channel, or until the limit.
    pub(crate) async fn settle(&self, stats: &SubscriberStats, subscribers: usize) {
        let channels = 0..self.stored.len();
        let newest: Vec<u64> =
            channels.map(|channel| self.stored(channel).last().copied().unwrap_or(0)).collect();
        let deadline = Instant::now() + SETTLE;
        while stats.up_to_date(&newest) < subscribers && Instant::now() < deadline {
            sleep(Duration::from_millis(100)).await;
        }
    }

    /// Compares received with stored publications. Returns how many are missing, and how many are duplicates or out of order.
    pub(crate) async fn compare_all(
        &self,
        mut subscribers: JoinSet<(usize, Vec<Segment>)>,
    ) -> anyhow::Result<(usize, usize)> {
        let (mut missing, mut wrong) = (0, 0);
        while let Some(subscriber) = subscribers.join_next().await {
            let (channel, segments) = subscriber?;
            let (less, more) = self.compare(channel, &segments);
            missing += less;
            wrong += more;
        }
        Ok((missing, wrong))
    }

    /// The same for one subscriber.
    pub(crate) fn compare(&self, channel: usize, segments: &[Segment]) -> (usize, usize) {
        let stored = self.stored(channel);
        let (mut missing, mut wrong) = (0, 0);
        for (index, segment) in segments.iter().enumerate() {
            let (less, more) = segment.compare(&stored, index + 1 == segments.len());
            missing += less;
            wrong += more;
        }
        (missing, wrong)
    }

    fn stored(&self, channel: usize) -> Vec<u64> {
        let list = self.stored.get(channel);
        list.map(|list| list.lock().clone()).unwrap_or_default()
    }
}
