//! Asks the stream of a namespace's last messages whether a channel has been quiet since a position.
//!
//! The broker copies messages into that stream a moment after they are stored, so the question waits until the copies have
//! reached what the namespace's stream had. Without an answer in time nothing is proven.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant, SystemTime},
};

use async_nats::{HeaderMap, Message};
use bytes::Bytes;
use parking_lot::Mutex;
use tidegate_shared::{
    broker::{Broker, Refusal, header_number, stored_at},
    subject::Subjects,
    topology::{channel_stream, last_stream},
};
use tokio::time::{sleep, timeout};

use super::{
    marks::Mark,
    quiet::{Copied, is_quiet},
};

/// How long to wait for the copies. A client waits meanwhile.
const CATCH_UP: Duration = Duration::from_secs(1);
/// The pause between two looks at the copies.
const PAUSE: Duration = Duration::from_millis(10);
/// After the copies were waited for in vain, for how long nobody else waits for them.
const NO_WAIT: Duration = Duration::from_secs(5);

/// The stream of a namespace's last messages.
pub(super) struct LastMessages {
    namespace: String,
    stream: String,
    origin: String,
    /// The ends of the stream, and when their read began: channels that are asked about at the same time share one.
    ends: tokio::sync::Mutex<Option<(Instant, Option<Arc<Ends>>)>>,
    /// The subjects of marks, and for which interval one is stored.
    marks: Vec<String>,
    marked: AtomicU64,
    /// How long copies are kept.
    kept: Duration,
    /// When the copies were last waited for in vain.
    gave_up: Mutex<Option<Instant>>,
}

/// The oldest and the newest copy.
struct Ends {
    oldest: Copied,
    newest: Copied,
    /// The subject of the newest copy.
    subject: String,
}

impl LastMessages {
    pub(super) fn new(subjects: &Subjects, namespace: &str, kept: Duration) -> Self {
        Self {
            namespace: namespace.to_owned(),
            stream: last_stream(namespace),
            origin: channel_stream(namespace),
            marks: Mark::subjects().map(|number| subjects.mark(namespace, number)).collect(),
            marked: AtomicU64::new(0),
            kept,
            ends: tokio::sync::Mutex::default(),
            gave_up: Mutex::default(),
        }
    }

    /// Whether the channel with this subject has had no message between `since` and `until`.
    pub(super) async fn is_quiet(&self, broker: &Broker, subject: &str, since: u64, until: u64) -> bool {
        let waits = self.gave_up.lock().is_none_or(|at| at.elapsed() > NO_WAIT);
        match timeout(CATCH_UP, self.prove(broker, subject, (since, until), waits)).await {
            Ok(Ok(Some(quiet))) => return quiet,
            Ok(Ok(None)) => tracing::debug!(stream = self.stream, "the copies are behind"),
            Ok(Err(refusal)) => tracing::debug!(stream = self.stream, %refusal, "the copies cannot be read"),
            Err(_) => {}
        }
        if waits {
            *self.gave_up.lock() = Some(Instant::now());
            tracing::warn!(
                namespace = self.namespace,
                stream = self.stream,
                "the last messages of channels are not known in time: clients of quiet channels are told recovered: false. \
                 Does the stream follow its source, and may the gateway read it?"
            );
        }
        false
    }

    /// `None` if the copies are behind and nobody waits for them.
    async fn prove(
        &self,
        broker: &Broker,
        subject: &str,
        (since, until): (u64, u64),
        waits: bool,
    ) -> Result<Option<bool>, Refusal> {
        loop {
            let ends = self.ends(broker, Instant::now()).await?;
            if let Some(ends) = ends.filter(|ends| ends.newest.origin >= until) {
                // The newest copy is asked for too, so that the answer always says how far the replica has come.
                let subjects = [subject, &ends.subject];
                let subjects = if subject == ends.subject { &subjects[..1] } else { &subjects };
                let read = broker.last_of_each(&self.stream, subjects).await?;
                if read.up_to >= ends.newest.seq {
                    let last = read.messages.iter().find(|message| subject_of(message) == Some(subject));
                    let Some(last) = last else {
                        return self.prove_by_others(broker, since, ends.newest).await.map(Some);
                    };
                    let last = self.copied(last);
                    return Ok(Some(last.is_some() && is_quiet(since, ends.newest, last, &[])));
                }
            }
            if !waits {
                return Ok(None);
            }
            sleep(PAUSE).await;
        }
    }

    /// For a channel without a copy: by the oldest copy, or by the marks.
    async fn prove_by_others(&self, broker: &Broker, since: u64, newest: Copied) -> Result<bool, Refusal> {
        let oldest = self.ends(broker, Instant::now()).await?.map(|ends| ends.oldest);
        if is_quiet(since, newest, None, oldest.as_slice()) {
            return Ok(true);
        }
        let subjects: Vec<&str> = self.marks.iter().map(String::as_str).collect();
        let marks = broker.last_of_each(&self.stream, &subjects).await?.messages;
        let marks: Vec<Copied> = marks.iter().filter_map(|mark| self.copied(mark)).collect();
        Ok(is_quiet(since, newest, None, &marks))
    }

    /// Stores a mark in the namespace's stream, if one is due. Without it less can be proven, and nothing else is lost.
    pub(super) async fn mark(&self, broker: &Broker) {
        let mark = Mark::due(SystemTime::now(), self.kept);
        if self.marked.load(Ordering::Relaxed) == mark.interval {
            return;
        }
        let stored = timeout(CATCH_UP, self.store(broker, mark)).await;
        match stored.unwrap_or_else(|_| Err(Refusal::Unavailable("the broker is silent".to_owned()))) {
            Ok(()) => self.marked.store(mark.interval, Ordering::Relaxed),
            Err(refusal) => tracing::debug!(stream = self.origin, %refusal, "a mark is not stored yet"),
        }
    }

    async fn store(&self, broker: &Broker, mark: Mark) -> Result<(), Refusal> {
        let Some(subject) = usize::try_from(mark.subject()).ok().and_then(|n| self.marks.get(n)) else {
            return Ok(());
        };
        let there = broker.last_of_each(&self.stream, &[subject]).await?.messages;
        if there.iter().filter_map(stored_at).any(|at| at >= mark.since) {
            return Ok(());
        }
        let mut headers = HeaderMap::new();
        // Other gateways store it too.
        headers.insert("Nats-Msg-Id", format!("mark.{}", mark.interval));
        broker.store(subject.clone(), headers, Bytes::new()).await.map(|_| ())
    }

    /// The ends of the stream, read after `begin`. `None` if it has no copies, or copies of another stream.
    async fn ends(&self, broker: &Broker, begin: Instant) -> Result<Option<Arc<Ends>>, Refusal> {
        let mut known = self.ends.lock().await;
        if let Some((read_at, ends)) = &*known
            && *read_at >= begin
        {
            return Ok(ends.clone());
        }
        let read_at = Instant::now();
        let ends = self.read_ends(broker).await?.map(Arc::new);
        *known = Some((read_at, ends.clone()));
        Ok(ends)
    }

    async fn read_ends(&self, broker: &Broker) -> Result<Option<Ends>, Refusal> {
        let facts = broker.stream_facts(&self.stream).await?;
        if facts.first_seq > facts.last_seq {
            return Ok(None);
        }
        let oldest = broker.first_from(&self.stream, facts.first_seq).await?;
        let newest = broker.first_from(&self.stream, facts.last_seq).await?;
        let origin = broker.stream_facts(&self.origin).await?;
        let ends = oldest.zip(newest).and_then(|(oldest, newest)| {
            let subject = subject_of(&newest)?.to_owned();
            Some(Ends { oldest: self.copied(&oldest)?, newest: self.copied(&newest)?, subject })
        });
        // A copy of something that the namespace's stream has never had: an older state of that stream was restored.
        let follows = facts.origin_epoch.as_ref() == Some(&origin.epoch);
        Ok(ends.filter(|ends| follows && ends.newest.origin <= origin.last_seq))
    }

    /// Reads the two numbers of a copy. The broker writes `<stream> <sequence> ...` into the header, and refuses messages that
    /// come with it.
    fn copied(&self, message: &Message) -> Option<Copied> {
        let source = message.headers.as_ref()?.get("Nats-Stream-Source")?.as_str();
        let mut words = source.split(' ');
        let from_origin = words.next() == Some(self.origin.as_str());
        let origin = words.next()?.parse().ok().filter(|_| from_origin)?;
        Some(Copied { seq: header_number(message, "Nats-Sequence")?, origin })
    }
}

fn subject_of(message: &Message) -> Option<&str> {
    Some(message.headers.as_ref()?.get("Nats-Subject")?.as_str())
}
