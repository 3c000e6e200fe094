//! Schedules in the broker: setting, listing, showing and removing them. The broker fires them; `firings` does the rest.

use std::{collections::HashMap, sync::Arc, time::SystemTime};

use async_nats::Message;
use bytes::Bytes;
use tidegate_shared::{
    broker::{Broker, Refusal, broker_header, header_number, stored_at},
    header,
    protocol::{Error, codes},
    schedule::{self, Before, Change, Firing, Record, Schedule, When, time_at},
    subject::Subjects,
    topology::PARK,
};
use tokio::time::Instant;

use super::{store::Store, turn::Turns};

/// How often a change is tried again whose schedule was changed by somebody else meanwhile.
const TRIES: usize = 5;

/// Sets, lists, shows and removes schedules.
pub(crate) struct Schedules {
    broker: Broker,
    subjects: Subjects,
    store: Arc<Store>,
}

/// A schedule in the broker.
#[derive(Debug)]
pub(crate) struct Kept {
    pub(crate) schedule: Schedule,
    /// When it was set.
    pub(crate) since: Option<SystemTime>,
    /// Its newest firing.
    pub(crate) record: Option<Record>,
}

/// What there is of a schedule.
#[derive(Debug)]
pub(crate) enum Found {
    Waiting(Box<Kept>),
    /// It has fired for the only time, and that is not stored yet; with what is known of it.
    Firing(Box<Firing>, Option<Record>),
    /// It is over, and this is known of its last firing.
    Over(Record),
    Nothing,
}

/// Some schedules, the oldest first.
#[derive(Debug)]
pub(crate) struct Page {
    pub(crate) schedules: Vec<Kept>,
    /// Where the next page begins. `None` after the last schedule.
    pub(crate) next: Option<u64>,
}

impl Schedules {
    pub(crate) fn new(broker: Broker, subjects: Subjects, store: Arc<Store>) -> Self {
        Self { broker, subjects, store }
    }

    /// Stores a schedule in the place of the one of its name. With `keep`, one that waits already stays as it is.
    pub(crate) async fn set(
        &self,
        schedule: &Schedule,
        keep: bool,
        deadline: Instant,
    ) -> Result<Change, Error> {
        let subject = self.subjects.schedule(&schedule.name);
        let mut change = Change::Created;
        for _ in 0..TRIES {
            let before = self.last(&subject).await?.map_or_else(Before::default, before);
            // An acknowledgement was lost: this is what an earlier round has stored.
            if before.is(schedule) {
                self.drop_fired(schedule, deadline).await?;
                return Ok(change);
            }
            let before = before.fired(self.waiting(&schedule.name).await?.is_some());
            change = schedule.change(&before, keep);
            if change == Change::Unchanged {
                return Ok(change);
            }
            let headers = schedule.setting(&self.subjects, &before);
            let message = || (subject.clone(), headers.clone(), schedule.body());
            let stored = self.store.store(message, Turns::default().next(), deadline, true).await;
            // Without a sequence, another message has taken the subject.
            if stored.map_err(refused)?.seq > 0 {
                self.drop_fired(schedule, deadline).await?;
                return Ok(change);
            }
        }
        Err(codes::NOT_ACCEPTED.because("the schedule is changed by others all the time"))
    }

    /// Drops what the schedule of this name that was there before has fired, if it waits for a gateway.
    async fn drop_fired(&self, schedule: &Schedule, deadline: Instant) -> Result<(), Error> {
        let subject = self.subjects.firing(&schedule.name);
        let Some(waits) = self.waiting(&schedule.name).await? else { return Ok(()) };
        if broker_header(&waits, header::SCHEDULE_VERSION) == Some(&schedule.version) {
            return Ok(());
        }
        let mut gone = schedule::gone();
        gone.insert(header::EXPECTED_LAST, header_number(&waits, header::SEQUENCE).unwrap_or(0).to_string());
        let message = || (subject.clone(), gone.clone(), Bytes::new());
        // If it is another one by now, a gateway has taken it, or the new schedule has fired.
        self.store.store(message, Turns::default().next(), deadline, true).await.map(drop)
    }

    /// The firing of a schedule that waits for a gateway.
    async fn waiting(&self, name: &str) -> Result<Option<Message>, Error> {
        let firing = self.last(&self.subjects.firing(name)).await?;
        Ok(firing.filter(|message| broker_header(message, header::REMOVED).is_none()))
    }

    /// Removes a schedule, and a firing of it that waits for a gateway. `false` if there is neither.
    pub(crate) async fn remove(&self, name: &str, deadline: Instant) -> Result<bool, Error> {
        let (schedule, firing) = (self.subjects.schedule(name), self.subjects.firing(name));
        let there = self.last(&schedule).await?.is_some() || self.waiting(name).await?.is_some();
        let removal = schedule::removal(&self.subjects, name);
        let message = || (firing.clone(), removal.clone(), Bytes::new());
        self.store.store(message, Turns::default().next(), deadline, true).await?;
        if self.last(&self.subjects.fired(name)).await?.is_some() {
            let message = || (self.subjects.fired(name), schedule::gone(), Bytes::new());
            self.store.store(message, Turns::default().next(), deadline, true).await?;
        }
        Ok(there)
    }

    /// Reads up to `limit` schedules from sequence `from` on.
    pub(crate) async fn page(&self, from: u64, limit: usize) -> Result<Page, Error> {
        let range = self.broker.range(PARK, &self.subjects.all_schedules(), from, limit).await;
        let range = range.map_err(unread)?;
        let last = range.messages.last().and_then(|message| header_number(message, header::SEQUENCE));
        let next = last.filter(|_| range.more > 0).map(|last| last.saturating_add(1));
        let mut schedules: Vec<Kept> = range.messages.into_iter().filter_map(Kept::read).collect();
        let fired: Vec<String> =
            schedules.iter().map(|kept| self.subjects.fired(&kept.schedule.name)).collect();
        let mut records = self.records(&fired).await?;
        for (kept, fired) in schedules.iter_mut().zip(&fired) {
            kept.record = records.remove(fired).filter(|record| record.version == kept.schedule.version);
        }
        Ok(Page { schedules, next })
    }

    /// The records under these subjects.
    async fn records(&self, subjects: &[String]) -> Result<HashMap<String, Record>, Error> {
        if subjects.is_empty() {
            return Ok(HashMap::new());
        }
        let subjects: Vec<&str> = subjects.iter().map(String::as_str).collect();
        let found = self.broker.last_of_each(PARK, &subjects).await.map_err(unread)?;
        let records = found.messages.iter().filter_map(|message| {
            let subject = broker_header(message, header::SUBJECT)?.to_owned();
            Some((subject, serde_json::from_slice(&message.payload).ok()?))
        });
        Ok(records.collect())
    }

    /// Reads what there is of one schedule.
    pub(crate) async fn find(&self, name: &str) -> Result<Found, Error> {
        // In the order in which it moves: it waits, it fires, it is over.
        let kept = self.last(&self.subjects.schedule(name)).await?.and_then(Kept::read);
        let firing = self.waiting(name).await?.and_then(firing);
        let record = self.last(&self.subjects.fired(name)).await?;
        let record: Option<Record> = record.and_then(|found| serde_json::from_slice(&found.payload).ok());
        Ok(match (kept, firing, record) {
            (Some(mut kept), _, record) => {
                kept.record = record.filter(|record| record.version == kept.schedule.version);
                Found::Waiting(Box::new(kept))
            }
            (None, Some(firing), record) => {
                let record = record.filter(|record| record.version == firing.version);
                Found::Firing(Box::new(firing), record)
            }
            (None, None, Some(record)) => Found::Over(record),
            (None, None, None) => Found::Nothing,
        })
    }

    async fn last(&self, subject: &str) -> Result<Option<Message>, Error> {
        self.broker.last(PARK, subject).await.map_err(unread)
    }
}

impl Kept {
    /// When it fires next. `None` if only the broker knows.
    pub(crate) fn next(&self) -> Option<SystemTime> {
        let told = self.record.as_ref().and_then(|record| record.next).map(time_at);
        let fired = self.record.as_ref().map(|record| time_at(record.at)).or(self.since);
        told.or_else(|| self.schedule.when.following(fired?))
    }

    fn read(message: Message) -> Option<Self> {
        let since = stored_at(&message);
        Some(Self { since, schedule: read(message)?, record: None })
    }
}

fn before(message: Message) -> Before {
    let seq = header_number(&message, header::SEQUENCE).unwrap_or(0);
    Before::read(seq, &message.headers.unwrap_or_default(), message.payload)
}

fn read(message: Message) -> Option<Schedule> {
    Schedule::read(&message.headers.unwrap_or_default(), message.payload).ok()
}

fn firing(message: Message) -> Option<Firing> {
    let (seq, at) = (header_number(&message, header::SEQUENCE)?, stored_at(&message)?);
    Firing::read(&message.headers.unwrap_or_default(), message.payload, seq, at).ok()
}

fn unread(refusal: Refusal) -> Error {
    codes::NOT_ACCEPTED.because(refusal)
}

/// What the broker says about a time that no check here finds wrong, in the words of the parameters.
fn refused(error: Error) -> Error {
    When::refused(&error.message).map_or(error, |why| codes::BAD_REQUEST.because(why))
}
