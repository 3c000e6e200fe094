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
    milestones::Milestone,
    quiet::{Copied, best, is_quiet},
};

/// How long to wait for the copies. A client waits meanwhile.
const CATCH_UP: Duration = Duration::from_secs(2);
/// The pause between two looks at the copies.
const PAUSE: Duration = Duration::from_millis(10);
/// How long the copies of milestones are reused. Whether the one that matters is still there is asked again.
const PASSED_AGE: Duration = Duration::from_secs(1);
/// After the copies were waited for in vain, for how long nobody else waits for them.
const NO_WAIT: Duration = Duration::from_secs(5);

/// The stream of a namespace's last messages.
pub(super) struct LastMessages {
    namespace: String,
    stream: String,
    origin: String,
    /// The newest copy. Channels that are asked about at the same time share a read.
    newest: Read<Option<Arc<Newest>>>,
    /// The copies of milestones, oldest first, with their subjects.
    passed: Read<Arc<Vec<(String, Copied)>>>,
    /// The subjects of milestones, and for which interval one is stored last.
    milestones: Vec<String>,
    stored: AtomicU64,
    /// How long copies are kept.
    kept: Duration,
    /// When the copies were last waited for in vain.
    gave_up: Mutex<Option<Instant>>,
}

/// What was read, and when the read began.
type Read<T> = tokio::sync::Mutex<Option<(Instant, T)>>;

/// The newest copy of all.
struct Newest {
    copied: Copied,
    subject: String,
}

impl LastMessages {
    pub(super) fn new(subjects: &Subjects, namespace: &str, kept: Duration) -> Self {
        Self {
            namespace: namespace.to_owned(),
            stream: last_stream(namespace),
            origin: channel_stream(namespace),
            milestones: Milestone::subjects().map(|number| subjects.milestone(namespace, number)).collect(),
            stored: AtomicU64::new(0),
            kept,
            newest: Read::default(),
            passed: Read::default(),
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
            let newest = self.newest(broker, Instant::now()).await?;
            if let Some(newest) = newest.filter(|newest| newest.copied.origin >= until) {
                let passed = self.passed(broker).await?;
                let milestone =
                    best(since, newest.copied, passed.iter().map(|(subject, copied)| (subject, *copied)));
                // All are read at once, from one replica. The newest one is always found, and the answer then says how far that
                // replica has come.
                let mut subjects = vec![subject, &newest.subject];
                subjects.extend(milestone.map(String::as_str));
                subjects.sort_unstable();
                subjects.dedup();
                let read = broker.last_of_each(&self.stream, &subjects).await?;
                if read.up_to >= newest.copied.seq {
                    let find =
                        |subject| read.messages.iter().find(|message| subject_of(message) == Some(subject));
                    let milestone = milestone.and_then(|subject| self.copied(find(subject)?));
                    let last = find(subject).map(|last| self.copied(last));
                    return Ok(Some(match last {
                        // A copy that cannot be read proves nothing.
                        Some(None) => false,
                        last => is_quiet(since, newest.copied, last.flatten(), milestone),
                    }));
                }
            }
            if !waits {
                return Ok(None);
            }
            sleep(PAUSE).await;
        }
    }

    /// The newest copy, read after `begin`. `None` if there is none, or if it is one of another stream.
    async fn newest(&self, broker: &Broker, begin: Instant) -> Result<Option<Arc<Newest>>, Refusal> {
        let mut known = self.newest.lock().await;
        if let Some((read_at, newest)) = &*known
            && *read_at >= begin
        {
            return Ok(newest.clone());
        }
        let read_at = Instant::now();
        let newest = self.read_newest(broker).await?.map(Arc::new);
        *known = Some((read_at, newest.clone()));
        Ok(newest)
    }

    async fn read_newest(&self, broker: &Broker) -> Result<Option<Newest>, Refusal> {
        let facts = broker.stream_facts(&self.stream).await?;
        let Some(message) = broker.first_from(&self.stream, facts.last_seq).await? else { return Ok(None) };
        let origin = broker.stream_facts(&self.origin).await?;
        let Some((copied, subject)) = self.copied(&message).zip(subject_of(&message)) else {
            return Ok(None);
        };
        // A copy of something that the namespace's stream has never had: an older state of that stream was restored.
        let follows = facts.origin_epoch.as_ref() == Some(&origin.epoch) && copied.origin <= origin.last_seq;
        Ok(follows.then(|| Newest { copied, subject: subject.to_owned() }))
    }

    /// The copies of milestones, as they were a moment ago.
    async fn passed(&self, broker: &Broker) -> Result<Arc<Vec<(String, Copied)>>, Refusal> {
        let mut known = self.passed.lock().await;
        if let Some((read_at, passed)) = &*known
            && read_at.elapsed() < PASSED_AGE
        {
            return Ok(Arc::clone(passed));
        }
        let read_at = Instant::now();
        let subjects: Vec<&str> = self.milestones.iter().map(String::as_str).collect();
        let read = broker.last_of_each(&self.stream, &subjects).await?;
        let passed = read.messages.iter();
        let passed =
            passed.filter_map(|message| Some((subject_of(message)?.to_owned(), self.copied(message)?)));
        let passed = Arc::new(passed.collect());
        *known = Some((read_at, Arc::clone(&passed)));
        Ok(passed)
    }

    /// Stores a milestone in the namespace's stream, if one is due. Without it less can be proven, and nothing else is lost.
    pub(super) async fn milestone(&self, broker: &Broker) {
        let milestone = Milestone::due(SystemTime::now(), self.kept);
        if self.stored.load(Ordering::Relaxed) == milestone.interval {
            return;
        }
        let stored = timeout(CATCH_UP, self.store(broker, milestone)).await;
        match stored.unwrap_or_else(|_| Err(Refusal::Unavailable("the broker is silent".to_owned()))) {
            Ok(()) => self.stored.store(milestone.interval, Ordering::Relaxed),
            Err(refusal) => tracing::debug!(stream = self.origin, %refusal, "a milestone is not stored yet"),
        }
    }

    async fn store(&self, broker: &Broker, milestone: Milestone) -> Result<(), Refusal> {
        let Some(subject) = usize::try_from(milestone.subject()).ok().and_then(|n| self.milestones.get(n))
        else {
            return Ok(());
        };
        let there = broker.last_of_each(&self.stream, &[subject]).await?.messages;
        if there.iter().filter_map(stored_at).any(|at| at >= milestone.since) {
            return Ok(());
        }
        let mut headers = HeaderMap::new();
        // Other gateways store it too.
        headers.insert("Nats-Msg-Id", format!("milestone.{}", milestone.interval));
        broker.store(subject.clone(), headers, Bytes::new()).await.map(|_| ())
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
