//! Schedules: a request that is repeated, or a publication that is repeated or comes at a time.
//!
//! The broker carries them out. The message of a schedule is in `TIDE_PARK`; when it is due, the broker stores a copy there under
//! another subject: a firing. A gateway makes the firing a request or a publication. Pure: the messages, built and read.

mod change;
mod cron;
mod record;
mod when;

use std::time::SystemTime;

use async_nats::HeaderMap;
use bytes::Bytes;

use self::when::{ROLLUP_SUBJECT, time_of_day};
pub use self::{
    change::{Before, Change},
    record::{FiringOutcome, Record, milliseconds, time_at},
    when::When,
};
use crate::{
    channel::Channel,
    envelope::{Request, Unreadable, get},
    header,
    id::{RequestId, random_token, schedule_version},
    subject::Subjects,
};

/// The longest name of a schedule, in bytes.
pub const MAX_NAME: usize = 128;
/// How long the broker keeps the messages that remove a schedule.
const REMOVAL_TTL: &str = "1s";
/// How long the record of a schedule stays that fires once.
const RECORD_TTL: &str = "1h";
/// The value of the header of a schedule whose requests do not overlap.
const SKIP: &str = "skip";

/// What happens to a firing while the request of an earlier one is not done.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Overlap {
    /// It becomes a request all the same.
    #[default]
    Allow,
    /// It is left out.
    Skip,
}

/// What a schedule brings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum What {
    /// A request. Its id is that of the schedule; each firing has one of its own.
    Request(Box<Request>),
    /// A publication.
    Publication(Publication),
}

/// A publication to come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Publication {
    /// Its channel.
    pub channel: Channel,
    /// The id by which the broker stores it once. Without one, the firing's.
    pub id: Option<String>,
    /// Its tags, as headers.
    pub tags: Vec<(String, String)>,
    /// Its data.
    pub data: Bytes,
}

/// A schedule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Schedule {
    /// Its name. A schedule with the same name takes its place.
    pub name: String,
    /// Tells it from others of this name.
    pub version: String,
    /// When it fires.
    pub when: When,
    /// What happens while an earlier firing is not done.
    pub overlap: Overlap,
    /// What it brings.
    pub what: What,
}

/// One firing of a schedule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Firing {
    /// The schedule's name.
    pub name: String,
    /// The version of the schedule that fired.
    pub version: String,
    /// Its id, the same on every delivery.
    pub id: RequestId,
    /// When the broker stored it.
    pub at: SystemTime,
    /// When the next one is due. `None` if the schedule is over, or if the broker did not say so.
    pub next: Option<SystemTime>,
    /// Whether the schedule goes on.
    pub repeats: bool,
    /// What happens while an earlier firing is not done.
    pub overlap: Overlap,
    /// What it brings. A request has the firing's id.
    pub what: What,
}

/// Whether this can be a schedule's name. The error is a sentence.
pub fn check_name(name: &str) -> Result<(), String> {
    if name.is_empty() || name.len() > MAX_NAME || !header::carries(name) {
        return Err(format!(
            "name: a schedule's name has 1 to {MAX_NAME} bytes, no control characters, and no white space at its ends"
        ));
    }
    Ok(())
}

impl Schedule {
    /// A new schedule.
    pub fn new(name: String, when: When, overlap: Overlap, what: What) -> Self {
        Self { name, version: random_token::<8>(), when, overlap, what }
    }

    /// The schedule, set by the request with this id, at such a `time` in the words of its handler. A repeated attempt makes the same
    /// version.
    #[must_use]
    pub fn set_by(self, of: &RequestId, time: &str) -> Self {
        Self { version: schedule_version(of, &self.name, time, &self.body()), ..self }
    }

    /// Whether this is the same schedule as another one of its name.
    pub fn is_same(&self, other: &Self) -> bool {
        let Self { name, version: _, when, overlap, what } = self;
        (name, when, overlap, what) == (&other.name, &other.when, &other.overlap, &other.what)
    }

    /// The headers of its message.
    pub fn headers(&self, subjects: &Subjects) -> HeaderMap {
        let mut headers = self.own_headers();
        self.when.write(&mut headers);
        headers.insert(header::SCHEDULE_TARGET, subjects.firing(&self.name));
        headers
    }

    /// The headers that its firings have too.
    fn own_headers(&self) -> HeaderMap {
        let mut headers = match &self.what {
            What::Request(request) => request.headers(),
            What::Publication(publication) => publication.headers(),
        };
        headers.insert(header::SCHEDULE_NAME, self.name.as_str());
        headers.insert(header::SCHEDULE_VERSION, self.version.as_str());
        if self.overlap == Overlap::Skip {
            headers.insert(header::SCHEDULE_OVERLAP, SKIP);
        }
        headers
    }

    /// The headers of a firing that was due at this time, in milliseconds since 1970, and that the broker has left out. It has the
    /// same id whoever stores it.
    pub fn missed(&self, due: u64) -> HeaderMap {
        let mut headers = self.own_headers();
        headers.insert(header::SCHEDULE_MISSED, due.to_string());
        headers.insert(header::MSG_ID, format!("{}.missed.{due}", self.version));
        headers
    }

    /// The body of its message.
    pub fn body(&self) -> Bytes {
        self.what.body()
    }

    /// Reads the message of a schedule.
    pub fn read(headers: &HeaderMap, body: Bytes) -> Result<Self, Unreadable> {
        Ok(Self {
            name: text(headers, header::SCHEDULE_NAME)?,
            version: text(headers, header::SCHEDULE_VERSION)?,
            when: When::read(headers).ok_or(Unreadable(header::SCHEDULE))?,
            overlap: overlap(headers),
            what: What::read(headers, body)?,
        })
    }
}

impl What {
    /// A request of the schedule with this name.
    pub fn request(schedule: &str, request: Request) -> Self {
        let id = RequestId::fired(schedule, 0, 0);
        let mut request = Request { id, accepted_at: 0, trace: None, ..request };
        if request.user.is_none() && request.key.is_none() {
            // On a route with an order the requests of a schedule come one after the other.
            request.key = Some(schedule.to_owned());
        }
        Self::Request(Box::new(request))
    }

    fn body(&self) -> Bytes {
        match self {
            Self::Request(request) => request.body.clone(),
            Self::Publication(publication) => publication.data.clone(),
        }
    }

    fn read(headers: &HeaderMap, body: Bytes) -> Result<Self, Unreadable> {
        if get(headers, header::ROUTE).is_some() {
            return Request::read(headers, body).map(|request| Self::Request(Box::new(request)));
        }
        let channel = get(headers, header::CHANNEL).and_then(|name| Channel::parse(name).ok());
        let tags = headers.iter().filter(|(name, _)| {
            let name: &str = name.as_ref();
            name.starts_with(header::TAG_PREFIX)
        });
        let tags =
            tags.filter_map(|(name, values)| Some((name.to_string(), values.first()?.as_str().to_owned())));
        let mut tags: Vec<_> = tags.collect();
        tags.sort();
        Ok(Self::Publication(Publication {
            channel: channel.ok_or(Unreadable(header::CHANNEL))?,
            id: get(headers, header::PUBLICATION_ID).map(str::to_owned),
            tags,
            data: body,
        }))
    }
}

impl Publication {
    fn headers(&self) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(header::CHANNEL, self.channel.name());
        if let Some(id) = &self.id {
            headers.insert(header::PUBLICATION_ID, id.as_str());
        }
        for (name, value) in &self.tags {
            headers.insert(name.as_str(), value.as_str());
        }
        headers
    }
}

impl Firing {
    /// Reads a firing, which the broker stored at this time under this sequence.
    pub fn read(headers: &HeaderMap, body: Bytes, seq: u64, at: SystemTime) -> Result<Self, Unreadable> {
        let name = text(headers, header::SCHEDULE_NAME)?;
        let id = RequestId::fired(&name, seq, milliseconds(at));
        let what = match What::read(headers, body)? {
            What::Request(request) => {
                What::Request(Box::new(Request { id: id.clone(), accepted_at: milliseconds(at), ..*request }))
            }
            publication @ What::Publication(_) => publication,
        };
        let next = get(headers, header::SCHEDULE_NEXT).and_then(time_of_day);
        Ok(Self {
            version: text(headers, header::SCHEDULE_VERSION)?,
            repeats: next.is_some() || get(headers, header::SCHEDULE_MISSED).is_some(),
            next,
            overlap: overlap(headers),
            name,
            id,
            at,
            what,
        })
    }

    /// Whether the broker fired too early. After a crash it may repeat the firing before: it has forgotten that one. The firing is
    /// then left out, if that one is done or stored.
    pub fn is_early(&self, record: &Record) -> bool {
        let earlier = record.version == self.version && record.id != self.id.as_str();
        let due = record.next.filter(|_| earlier);
        due.is_some_and(|due| milliseconds(self.at) + EARLY < due)
    }

    /// The firing of the same schedule that a record is of. `None` if the record's id is none.
    pub fn recorded(&self, record: &Record) -> Option<Self> {
        let (id, mut earlier) = (RequestId::parse(&record.id)?, self.clone());
        if let What::Request(request) = &mut earlier.what {
            (request.id, request.accepted_at) = (id.clone(), record.at);
        }
        Some(Self { id, at: time_at(record.at), next: record.next.map(time_at), ..earlier })
    }

    /// The headers of this firing's record, which takes the place of the one before. While a firing waits, its record stays.
    pub fn record_headers(&self, outcome: FiringOutcome) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(header::ROLLUP, ROLLUP_SUBJECT);
        let waits = matches!(outcome, FiringOutcome::Storing | FiringOutcome::Failing);
        if !self.repeats && !waits {
            headers.insert(header::TTL, RECORD_TTL);
        }
        headers
    }

    /// The record of this firing, which follows another one.
    pub fn record(&self, outcome: FiringOutcome, error: Option<String>, before: Option<&Record>) -> Record {
        let id = self.id.to_string();
        let stored = match outcome {
            FiringOutcome::Storing | FiringOutcome::Stored => Some(id.clone()),
            FiringOutcome::Skipped | FiringOutcome::Failing => {
                before.and_then(|before| before.stored.clone())
            }
        };
        Record {
            version: self.version.clone(),
            id,
            at: milliseconds(self.at),
            outcome,
            error,
            next: self.next.map(milliseconds),
            stored,
        }
    }
}

/// By how many milliseconds a firing may be early: the clocks of a cluster's servers differ.
const EARLY: u64 = 250;

/// The headers of the message that removes a schedule. Stored under the subject of its firings, it also takes the place of one
/// that waits.
pub fn removal(subjects: &Subjects, name: &str) -> HeaderMap {
    let mut headers = gone();
    headers.insert(header::SCHEDULER, subjects.schedule(name));
    headers.insert(header::SCHEDULE_NEXT, "purge");
    headers
}

/// The headers of the message that removes a record.
pub fn gone() -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert(header::ROLLUP, ROLLUP_SUBJECT);
    headers.insert(header::TTL, REMOVAL_TTL);
    headers.insert(header::REMOVED, "1");
    headers
}

fn text(headers: &HeaderMap, name: &'static str) -> Result<String, Unreadable> {
    get(headers, name).map(str::to_owned).ok_or(Unreadable(name))
}

fn overlap(headers: &HeaderMap) -> Overlap {
    if get(headers, header::SCHEDULE_OVERLAP) == Some(SKIP) { Overlap::Skip } else { Overlap::Allow }
}

#[cfg(test)]
mod tests;
