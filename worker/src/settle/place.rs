//! Requests of routes that keep their requests in line: in a strict order a request that waits keeps its place, and one that was
//! parked all the same takes a place behind the waiting ones.
//!
//! In a strict order a request is given back to its consumer, which delivers nothing else meanwhile. The broker counts that as a
//! delivery, as it counts one that was lost with its worker. A record says how many deliveries were given back, so what exceeds
//! them was lost. The first two losses in a row count no attempt: the request may have been beside the one that ended its worker.

use std::time::Duration;

use async_nats::HeaderMap;
use serde::{Deserialize, Serialize};
use tidegate_shared::{
    broker::Refusal,
    config::Order,
    envelope::get,
    header,
    topology::{ATTEMPT, request_stream},
};

use super::{Parked, Settlement, Suspicion, bury::bury_unreadable};
use crate::{
    backoff::Pauses,
    delivery::Delivery,
    engine::{BoundRoute, Engine},
    metrics::Ending,
    store,
};

/// Losses in a row that count no attempt.
pub(super) const FREE_LOSSES: u32 = 2;
/// The pause after the first time that a request could not take its new place.
const FIRST_PAUSE: Duration = Duration::from_millis(50);

/// What is remembered of a request that was given back.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Record {
    /// Which copy of the request it is about.
    place: String,
    /// Attempts that count.
    attempts: u32,
    /// Losses in a row that count no attempt yet.
    losses: u32,
    /// How often it had been delivered when it was given back.
    deliveries: u32,
    /// How often it was snoozed.
    snoozes: u32,
}

impl Settlement {
    /// Whether the request keeps its place while it waits.
    pub(super) fn keeps_its_place(&self) -> bool {
        self.route.config.order == Order::Strict
    }

    /// Gives the request back, which is delivered again after the delay and before everything behind it.
    pub(super) async fn keep_place(&self, parked: &Parked, ending: Ending) -> Ending {
        // As a parked copy elsewhere, it is not exposed at its next delivery.
        let losses = if parked.suspicion == Suspicion::None { 0 } else { self.losses.min(FREE_LOSSES - 1) };
        let record = Record {
            place: self.delivery.place().to_owned(),
            attempts: parked.attempt,
            losses,
            deliveries: self.delivery.earlier_deliveries().saturating_add(1),
            snoozes: parked.snoozes,
        };
        let body = serde_json::to_vec(&record).unwrap_or_default();
        let subject = self.engine.subjects.attempt(&self.request.id);
        if let Err(error) = store::store(&self.engine.broker, subject, HeaderMap::new(), body.into()).await {
            tracing::error!(request.id = %self.request.id, %error, "the attempts of a request cannot be remembered");
        }
        self.delivery.nak(parked.delay).await;
        ending
    }

    /// Reads what is remembered of a request that was delivered before.
    pub(crate) async fn recall(&mut self) {
        if !self.keeps_its_place() || self.delivery.earlier_deliveries() == 0 {
            return;
        }
        let subject = self.engine.subjects.attempt(&self.request.id);
        let found = store::look_up(&self.engine.broker, ATTEMPT, &subject).await;
        let record = found.and_then(|message| serde_json::from_slice::<Record>(&message.payload).ok());
        let record = record.filter(|record| record.place == self.delivery.place());
        let record = record.unwrap_or_else(|| Record {
            attempts: self.request.attempt,
            snoozes: self.snoozes,
            ..Record::default()
        });
        self.count_losses(&record);
    }

    fn count_losses(&mut self, record: &Record) {
        let lost = self.delivery.earlier_deliveries().saturating_sub(record.deliveries);
        (self.attempts, self.losses) = counted(record, lost);
        self.snoozes = record.snoozes;
        self.suspicion = if self.losses > 0 { Suspicion::Alone } else { Suspicion::None };
    }
}

/// The attempts that count, and the losses in a row, after so many more losses.
fn counted(record: &Record, lost: u32) -> (u32, u32) {
    let losses = record.losses.saturating_add(lost);
    (record.attempts.saturating_add(losses.saturating_sub(FREE_LOSSES)), losses)
}

/// Stores a request that was due among the waiting requests of its route, and removes it from the parked ones.
pub(crate) async fn queue_again(engine: &Engine, route: &BoundRoute, delivery: &Delivery) -> Ending {
    let Some(subject) = engine.subjects.again(delivery.subject()) else {
        let error = "it came on a subject that is not a request's";
        return bury_unreadable(engine, route.name(), delivery, error).await;
    };
    let stream = request_stream(route.name());
    let id = delivery.header(header::ID).unwrap_or("unknown");
    let message_id = format!("{id}.q{}", delivery.place());
    let mut headers = delivery.headers();
    headers.insert(header::MSG_ID, message_id.as_str());
    headers.insert(header::QUEUED_AGAIN, "1");
    let mut pauses = Pauses::new(FIRST_PAUSE);
    loop {
        match engine.broker.store(subject.clone(), headers.clone(), delivery.body()).await {
            Ok(_) => break,
            // The subject is taken by this copy, or by one that is acknowledged and not purged yet.
            Err(Refusal::Taken) => {
                let there = store::look_up(&engine.broker, &stream, &subject).await;
                let headers = there.and_then(|message| message.headers);
                if headers.is_some_and(|headers| get(&headers, header::MSG_ID) == Some(&message_id)) {
                    break;
                }
            }
            Err(refusal) => {
                tracing::debug!(%refusal, nats.subject = subject, "a due request cannot be queued: trying again");
            }
        }
        tokio::time::sleep(pauses.failed()).await;
    }
    delivery.ack(&engine.acks).await;
    Ending::Queued
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_losses_in_a_row_count_nothing_and_each_further_one_an_attempt() {
        let record = |attempts, losses| Record { attempts, losses, ..Record::default() };
        assert_eq!(counted(&record(0, 0), 0), (0, 0));
        assert_eq!(counted(&record(1, 0), 2), (1, 2));
        assert_eq!(counted(&record(1, 0), 5), (4, 5));
        // It was given back between two losses.
        assert_eq!(counted(&record(1, 2), 1), (2, 3));
    }
}
