//! Looking for what an earlier copy of a request has left, before the request runs: its answer, or a parked copy.
//!
//! Every request with a key is looked for, so these reads are most of what such a request costs the broker. Those that gather
//! while one read is under way go as the next one. A look-up that nothing else waits with is not delayed.

use std::{collections::HashMap, sync::Arc};

use async_nats::Message;
use tidegate_shared::{
    broker::{Broker, Refusal, broker_header},
    envelope::Answer,
    header,
    id::RequestId,
    subject::Subjects,
    topology::{PARK, REPLY},
};
use tokio::{
    sync::{mpsc, oneshot},
    task::JoinSet,
};

use crate::{
    backoff::Pauses,
    store::{self, FIRST_PAUSE},
};

/// The most subjects of one read.
const MOST: usize = 256;
/// Look-ups that may wait for their read. Further ones wait to be taken.
const QUEUE: usize = 1024;

/// What a look-up finds: the newest message of its subject.
type Found = Result<Option<Message>, Refusal>;

/// Looks in the result cache and among parked requests. Clones share the reads.
#[derive(Debug, Clone)]
pub(crate) struct LookUps {
    replies: mpsc::Sender<LookUp>,
    parked: mpsc::Sender<LookUp>,
    _readers: Arc<JoinSet<()>>,
}

#[derive(Debug)]
struct LookUp {
    subject: String,
    found: oneshot::Sender<Found>,
}

impl LookUps {
    /// Starts the readers on this runtime. They end with the last clone.
    pub(crate) fn start(broker: &Broker) -> Self {
        let mut readers = JoinSet::new();
        let mut reader = |stream: &'static str| {
            let (asks, asked) = mpsc::channel(QUEUE);
            readers.spawn(read_all(broker.clone(), stream, asked));
            asks
        };
        let (replies, parked) = (reader(REPLY), reader(PARK));
        Self { replies, parked, _readers: Arc::new(readers) }
    }

    /// Returns the stored answer to a request. `None` when there is none or it cannot be read.
    pub(crate) async fn answer(&self, subjects: &Subjects, id: &RequestId) -> Option<Answer> {
        store::read_answer(last(&self.replies, &subjects.reply(id)).await?, id)
    }

    /// Whether a copy of a request is parked, or was and is due. `delivered` is the subject that the request was delivered on.
    pub(crate) async fn is_parked(&self, subjects: &Subjects, id: &RequestId, delivered: &str) -> bool {
        self.parked(subjects, id, delivered).await.is_some()
    }

    /// The copy of a request that is parked, or was and is due. `delivered` as above.
    pub(crate) async fn parked(
        &self,
        subjects: &Subjects,
        id: &RequestId,
        delivered: &str,
    ) -> Option<Message> {
        let (parked, due) = (subjects.park(id), subjects.due(delivered).unwrap_or_default());
        let (parked, due) = tokio::join!(last(&self.parked, &parked), last(&self.parked, &due));
        parked.or(due)
    }
}

/// The newest message of a subject. Asks until the broker answers.
async fn last(reader: &mpsc::Sender<LookUp>, subject: &str) -> Option<Message> {
    let mut pauses = Pauses::new(FIRST_PAUSE);
    loop {
        let (found, finds) = oneshot::channel();
        let asked = reader.send(LookUp { subject: subject.to_owned(), found }).await;
        let found = match asked {
            Ok(()) => finds.await.ok(),
            Err(_) => None,
        };
        match found.unwrap_or_else(|| Err(Refusal::Unavailable("the reader has ended".to_owned()))) {
            Ok(message) => return message,
            Err(refusal) => store::pause(&mut pauses, "look up", &refusal, subject).await,
        }
    }
}

async fn read_all(broker: Broker, stream: &'static str, mut asked: mpsc::Receiver<LookUp>) {
    let mut batch = Vec::new();
    while asked.recv_many(&mut batch, MOST).await > 0 {
        read(&broker, stream, &mut batch).await;
    }
}

/// One read for all of these. Whoever no longer waits is left out.
async fn read(broker: &Broker, stream: &str, batch: &mut Vec<LookUp>) {
    let mut waiting: HashMap<String, Vec<oneshot::Sender<Found>>> = HashMap::new();
    for LookUp { subject, found } in batch.drain(..).filter(|look_up| !look_up.found.is_closed()) {
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
        // It may have been cut off meanwhile.
        let _ = one.send(found.clone());
    }
}
