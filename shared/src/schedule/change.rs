//! What setting a schedule changes, and the message that stores it. Gateways and workers set schedules in the same way.

use async_nats::HeaderMap;
use bytes::Bytes;

use super::{Schedule, When};
use crate::{header, id::random_token, subject::Subjects};

/// What setting a schedule did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// There was none of this name.
    Created,
    /// It took the place of another one.
    Replaced,
    /// It was there before as it is, and goes on undisturbed.
    Unchanged,
}

impl Change {
    /// The word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Replaced => "replaced",
            Self::Unchanged => "unchanged",
        }
    }
}

/// What there is under the subject of a schedule that is to be set.
#[derive(Debug, Default)]
pub struct Before {
    /// The sequence of its message. 0 if there is none.
    seq: u64,
    /// The schedule. `None` if there is none, or one that cannot be read.
    schedule: Option<Schedule>,
    /// Whether one of this name has fired, and its firing waits for a gateway.
    fired: bool,
}

impl Before {
    /// Reads the message that has this sequence.
    pub fn read(seq: u64, headers: &HeaderMap, body: Bytes) -> Self {
        Self { seq, schedule: Schedule::read(headers, body).ok(), fired: false }
    }

    /// The same, with a firing that waits or without one.
    #[must_use]
    pub fn fired(self, fired: bool) -> Self {
        Self { fired, ..self }
    }

    /// Whether it is this very schedule: the acknowledgement of an earlier try was lost.
    pub fn is(&self, schedule: &Schedule) -> bool {
        self.schedule.as_ref().is_some_and(|there| there.version == schedule.version)
    }
}

impl Schedule {
    /// What it changes to set this schedule. With `keep`, one that waits already stays as it is.
    pub fn change(&self, before: &Before, keep: bool) -> Change {
        match &before.schedule {
            _ if before.seq == 0 && !before.fired => Change::Created,
            // One that fires once goes when it has fired: what it brings is still to come.
            None if before.seq == 0 && keep => Change::Unchanged,
            Some(there) if keep || self.is_same(there) || self.was_set_as(there) => Change::Unchanged,
            Some(_) | None => Change::Replaced,
        }
    }

    /// Whether the other one was set by an earlier attempt of the same request. Its time, which is counted from that attempt, stands.
    fn was_set_as(&self, there: &Self) -> bool {
        let both_once = self.when.is_once() && there.when.is_once();
        let Self { name, version, when: _, overlap, what } = self;
        both_once
            && (name, version, overlap, what) == (&there.name, &there.version, &there.overlap, &there.what)
    }

    /// The headers of the message that stores it, unless somebody else has changed what was there before.
    pub fn setting(&self, subjects: &Subjects, before: &Before) -> HeaderMap {
        let mut headers = self.headers(subjects);
        headers.insert(header::EXPECTED_LAST, before.seq.to_string());
        headers.insert(header::MSG_ID, format!("{}.{}", self.version, random_token::<4>()));
        headers
    }
}

impl When {
    /// What the broker says about a time that no check here finds wrong, in a sentence. `None` if it speaks of something else.
    pub fn refused(words: &str) -> Option<&'static str> {
        if words.contains("time zone is invalid") {
            return Some(
                "time_zone: the broker does not know this time zone: use a name such as Europe/Berlin, and give its machine tzdata",
            );
        }
        let never = words.contains("pattern is invalid");
        never.then_some("cron: the broker finds no such time within the next five years")
    }
}
