//! Reading the newest message of many subjects of one stream. Reads that gather while one is under way go as the next one; a read that
//! nothing else waits with is not delayed. One that takes long holds up no other.

use std::{collections::HashMap, sync::Arc, time::Duration};

use async_nats::Message;
use tokio::{
    sync::{mpsc, oneshot},
    task::JoinSet,
    time::timeout,
};

use super::{Broker, Refusal, broker_header};
use crate::header;

/// The most subjects of one read.
const MOST: usize = 256;
/// How long the next read gathers while one is under way.
const PATIENCE: Duration = Duration::from_millis(100);
/// The most reads under way.
const AT_ONCE: usize = 16;
/// Reads that may wait. Further ones wait to be taken.
const QUEUE: usize = 1024;

/// What a read finds: the newest message of its subject.
type Found = Result<Option<Message>, Refusal>;

/// Reads the newest messages of subjects of one stream. Clones share the reads.
#[derive(Debug, Clone)]
pub struct LastReads {
    asks: mpsc::Sender<Ask>,
    _reading: Arc<JoinSet<()>>,
}

#[derive(Debug)]
struct Ask {
    subject: String,
    found: oneshot::Sender<Found>,
}

impl LastReads {
    /// Starts on this runtime. It ends with the last clone.
    pub fn start(broker: &Broker, stream: &'static str) -> Self {
        let (asks, asked) = mpsc::channel(QUEUE);
        let mut reading = JoinSet::new();
        reading.spawn(read_all(broker.clone(), stream, asked));
        Self { asks, _reading: Arc::new(reading) }
    }

    /// As [`Broker::last`].
    pub async fn last(&self, subject: String) -> Result<Option<Message>, Refusal> {
        let (found, finds) = oneshot::channel();
        let ended = || Refusal::Unavailable("the reader has ended".to_owned());
        self.asks.send(Ask { subject, found }).await.map_err(|_| ended())?;
        finds.await.unwrap_or_else(|_| Err(ended()))
    }
}

async fn read_all(broker: Broker, stream: &'static str, mut asked: mpsc::Receiver<Ask>) {
    let mut reads = JoinSet::new();
    loop {
        let mut batch = Vec::new();
        if asked.recv_many(&mut batch, MOST).await == 0 {
            return;
        }
        let broker = broker.clone();
        reads.spawn(async move { read(&broker, stream, batch).await });
        // One whose answer is lost with the connection holds up no other.
        let _ = timeout(PATIENCE, reads.join_next()).await;
        while reads.try_join_next().is_some() {}
        while reads.len() >= AT_ONCE {
            reads.join_next().await;
        }
    }
}

/// One read for all of these. Whoever no longer waits is left out.
async fn read(broker: &Broker, stream: &str, batch: Vec<Ask>) {
    let mut waiting: HashMap<String, Vec<oneshot::Sender<Found>>> = HashMap::new();
    for Ask { subject, found } in batch.into_iter().filter(|ask| !ask.found.is_closed()) {
        waiting.entry(subject).or_default().push(found);
    }
    let subjects: Vec<&str> = waiting.keys().map(String::as_str).collect();
    let rest = match subjects[..] {
        [] | [_] => Ok(true),
        _ => match broker.last_of_each(stream, &subjects).await {
            Ok(range) => {
                let partial = range.more > 0;
                for message in range.messages {
                    let subject = broker_header(&message, header::SUBJECT).unwrap_or_default();
                    let Some(all) = waiting.remove(subject) else { continue };
                    tell(all, &Ok(Some(message)));
                }
                Ok(partial)
            }
            Err(refusal) => Err(refusal),
        },
    };
    for (subject, all) in waiting {
        let found = match &rest {
            Ok(true) => broker.last(stream, &subject).await,
            Ok(false) => Ok(None),
            Err(refusal) => Err(refusal.clone()),
        };
        tell(all, &found);
    }
}

fn tell(all: Vec<oneshot::Sender<Found>>, found: &Found) {
    for one in all {
        // It may have gone meanwhile.
        let _ = one.send(found.clone());
    }
}
