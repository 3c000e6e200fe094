//! What is remembered of the newest firing of each schedule: reading it, and writing it unless it is of a newer one.

use async_nats::Message;
use tidegate_shared::{
    broker::{Broker, Refusal, broker_header, header_number},
    envelope::get,
    header,
    schedule::{self, Firing, FiringOutcome, Record},
    subject::Subjects,
    topology::PARK,
};
use tokio::time::sleep;

use super::store::RETRY_PAUSE;

/// How often the record is written again if another gateway was faster.
const TRIES: usize = 3;

/// Reads and writes records.
pub(crate) struct Records {
    broker: Broker,
    subjects: Subjects,
}

impl Records {
    pub(crate) fn new(broker: Broker, subjects: Subjects) -> Self {
        Self { broker, subjects }
    }

    /// The record of a schedule.
    pub(super) async fn of(&self, name: &str) -> Result<Option<Record>, Refusal> {
        Ok(self.broker.last(PARK, &self.subjects.fired(name)).await?.as_ref().and_then(read))
    }

    /// The version of the schedule that there is now. `None` if there is none.
    pub(super) async fn version(&self, name: &str) -> Result<Option<String>, Refusal> {
        let schedule = self.broker.last(PARK, &self.subjects.schedule(name)).await?;
        let headers = schedule.map(|message| message.headers.unwrap_or_default());
        Ok(headers.map(|headers| get(&headers, header::SCHEDULE_VERSION).unwrap_or_default().to_owned()))
    }

    /// Whether a firing of the schedule waits.
    async fn waits(&self, name: &str) -> Result<bool, Refusal> {
        let waits = self.broker.last(PARK, &self.subjects.firing(name)).await?;
        Ok(waits.is_some_and(|message| broker_header(&message, header::REMOVED).is_none()))
    }

    /// Writes the record of a firing. `false` if there is one of a newer firing, which stays.
    pub(super) async fn write(
        &self,
        firing: &Firing,
        outcome: FiringOutcome,
        error: Option<&str>,
    ) -> Result<bool, Refusal> {
        let subject = self.subjects.fired(&firing.name);
        for _ in 0..TRIES {
            let last = self.broker.last(PARK, &subject).await?;
            let seq = last.as_ref().and_then(|message| header_number(message, header::SEQUENCE)).unwrap_or(0);
            let before = last.as_ref().and_then(read);
            if before.as_ref().is_some_and(|before| before.at > schedule::milliseconds(firing.at)) {
                return Ok(false);
            }
            if before.as_ref().is_some_and(|before| is_known(before, firing, outcome)) {
                return Ok(true);
            }
            let record = firing.record(outcome, error.map(str::to_owned), before.as_ref());
            if before.as_ref() == Some(&record) {
                return Ok(true);
            }
            let mut headers = firing.record_headers(outcome);
            headers.insert(header::EXPECTED_LAST, seq.to_string());
            let body = serde_json::to_vec(&record).unwrap_or_default();
            match self.broker.store(subject.clone(), headers, body.into()).await {
                Err(Refusal::Taken) => sleep(RETRY_PAUSE).await,
                stored => {
                    self.remove_if_unneeded(firing, stored?.seq).await?;
                    return Ok(true);
                }
            }
        }
        Err(Refusal::Taken)
    }

    /// Removes a record that was written under this sequence, if its schedule was removed meanwhile. Whoever removes the schedule
    /// removes a record that is written before.
    async fn remove_if_unneeded(&self, firing: &Firing, written: u64) -> Result<(), Refusal> {
        let needed = if firing.repeats {
            self.version(&firing.name).await?.is_some()
        } else {
            self.waits(&firing.name).await?
        };
        if needed {
            return Ok(());
        }
        let mut headers = schedule::gone();
        headers.insert(header::EXPECTED_LAST, written.to_string());
        match self.broker.store(self.subjects.fired(&firing.name), headers, bytes::Bytes::new()).await {
            Ok(_) | Err(Refusal::Taken) => Ok(()),
            Err(refusal) => Err(refusal),
        }
    }
}

fn read(message: &Message) -> Option<Record> {
    serde_json::from_slice(&message.payload).ok()
}

/// Whether the record of the same firing need not say this: it says more.
fn is_known(record: &Record, firing: &Firing, outcome: FiringOutcome) -> bool {
    record.id == firing.id.as_str()
        && match outcome {
            FiringOutcome::Storing => record.stored.as_deref() == Some(firing.id.as_str()),
            FiringOutcome::Failing => record.outcome == FiringOutcome::Stored,
            FiringOutcome::Stored | FiringOutcome::Skipped => false,
        }
}
