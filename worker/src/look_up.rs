//! Looking for what an earlier copy of a request has left, before the request runs: its answer, or a parked copy.
//!
//! Every request with a key is looked for, so these reads are most of what such a request costs the broker: they gather.

use async_nats::Message;
use tidegate_shared::{
    broker::{Broker, LastReads},
    envelope::Answer,
    id::RequestId,
    subject::Subjects,
    topology::{PARK, REPLY},
};

use crate::{
    backoff::Pauses,
    store::{self, FIRST_PAUSE},
};

/// Looks in the result cache and among parked requests. Clones share the reads.
#[derive(Debug, Clone)]
pub(crate) struct LookUps {
    replies: LastReads,
    parked: LastReads,
}

impl LookUps {
    /// Starts the readers on this runtime. They end with the last clone.
    pub(crate) fn start(broker: &Broker) -> Self {
        Self { replies: LastReads::start(broker, REPLY), parked: LastReads::start(broker, PARK) }
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
async fn last(reader: &LastReads, subject: &str) -> Option<Message> {
    let mut pauses = Pauses::new(FIRST_PAUSE);
    loop {
        match reader.last(subject.to_owned()).await {
            Ok(message) => return message,
            Err(refusal) => store::pause(&mut pauses, "look up", &refusal, subject).await,
        }
    }
}
