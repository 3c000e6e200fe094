//! How a dead letter becomes a request again.
//!
//! Redriving has three steps, and each may be repeated: the stored error of the letter is forgotten, the request is parked so
//! that it is due at once, the letter is removed. Before the first step the broker is looked at; [`step`] decides what it shows.
//! The request is parked, not put into its route's stream: there its subject may still be taken by the acknowledged message.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use async_nats::HeaderMap;
use bytes::Bytes;

use super::{Letter, NOT_THE_REQUESTS};
use crate::{
    envelope::{Answer, AnswerWay, Request, Unreadable},
    header,
    id::RequestId,
    moment,
    subject::Subjects,
};

/// A time that is over, for the broker's schedules: due at once, whatever the clocks say.
const OVER: &str = "@at 2020-01-01T00:00:00Z";

/// Why a letter cannot become a request again.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoRequest {
    /// It never was one.
    #[error("the message was never a request: {0}")]
    Unreadable(#[from] Unreadable),
    /// It has no subject that workers take.
    #[error("the letter has no subject of a request")]
    NoSubject,
    /// Its second part is unknown or gone.
    #[error("the letter's second part is not there")]
    Incomplete,
}

/// A request that was a dead letter.
#[derive(Debug, Clone, PartialEq)]
pub struct Redriven {
    /// The request. An rpc is a "later" request from now on: nobody waits for its answer, which goes to the user's personal
    /// channel.
    pub request: Request,
    /// Where it is parked.
    pub subject: String,
    /// The headers of the parked message.
    pub headers: HeaderMap,
}

impl Letter {
    /// Makes the letter a request again, which is accepted `now`. `body` is its whole body.
    pub fn redriven(&self, body: Bytes, subjects: &Subjects, now: SystemTime) -> Result<Redriven, NoRequest> {
        let mut request = Request::read(&self.headers, body)?;
        request.attempt = 0;
        request.later |= request.method.is_some();
        request.accepted_at = milliseconds(now);
        let delivered = self.subject.clone().unwrap_or_else(|| subjects.request(&request.address()));
        let target = subjects.due(&delivered).or_else(|| subjects.due(&subjects.request(&request.address())));
        let mut headers = request.headers();
        for (name, values) in self.headers.iter() {
            let text: &str = name.as_ref();
            let other = |known: &HeaderMap| {
                known.iter().all(|(given, _)| !AsRef::<str>::as_ref(given).eq_ignore_ascii_case(text))
            };
            let over = NOT_THE_REQUESTS.iter().any(|over| over.eq_ignore_ascii_case(text));
            if !over && !text.eq_ignore_ascii_case(header::ATTEMPT) && other(&headers) {
                for value in values {
                    headers.append(name.clone(), value.clone());
                }
            }
        }
        headers.insert(header::MSG_ID, self.redrive_id(&request.id));
        headers.insert(header::REDRIVEN, self.number.to_string());
        headers.insert(header::DEAD_REDRIVES, self.redrives.saturating_add(1).to_string());
        if let Some(first) = self.first_seen {
            headers.insert(header::DEAD_FIRST_SEEN, moment::text(first));
        }
        headers.insert(header::SCHEDULE, OVER);
        headers.insert(header::SCHEDULE_TARGET, target.ok_or(NoRequest::NoSubject)?);
        Ok(Redriven { subject: subjects.park(&request.id), request, headers })
    }

    /// The id of the parked message: the broker takes a repetition of the same redrive once, and no other redrive for one.
    fn redrive_id(&self, id: &RequestId) -> String {
        format!("{id}.d{}", self.number)
    }
}

fn milliseconds(time: SystemTime) -> u64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// What the broker has of a letter's request.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Found {
    /// Its stored answer.
    pub answer: Option<Answered>,
    /// A copy that is parked, or due and not done.
    pub parked: Option<Copy>,
    /// When the copy in the route's stream was stored, which may be acknowledged.
    pub waiting: Option<SystemTime>,
}

/// A stored answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Answered {
    /// Its sequence in `TIDE_REPLY`.
    pub seq: u64,
    /// The letter whose error it is. `None` for any other answer.
    pub letter: Option<u64>,
}

impl Answered {
    /// What a stored answer says about letters. Errors of earlier versions name no letter: they are the error of `letter`.
    pub fn of(answer: &Answer, seq: u64, letter: u64) -> Self {
        Self { seq, letter: answer.letter.or_else(|| answer.is_unnamed_death().then_some(letter)) }
    }
}

/// Whether an answer is the error of this letter, or of an older one.
pub fn is_death_before(answer: &Answer, letter: u64) -> bool {
    Answered::of(answer, 0, letter).letter.is_some_and(|other| other <= letter)
}

/// A parked copy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Copy {
    /// The letter that it was redriven from.
    pub redriven: Option<u64>,
}

/// What to do with a letter that is to be redriven.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Forget the stored error up to this sequence, park the request, remove the letter.
    Redrive {
        /// The sequence of the stored error.
        forget: Option<u64>,
    },
    /// An earlier call has parked the request: remove the letter.
    Finish,
    /// The request has an answer by now: remove the letter.
    Answered,
    /// The request failed again later: that letter is the one to redrive.
    Newer(u64),
    /// The request was sent or redriven again, and is being worked on.
    Alive,
    /// Its worker may still be telling the client that the request failed: ask again.
    TooEarly,
}

/// Decides what to do with a letter that is to be redriven. `age` is how long the broker has had the letter, `settling` how long
/// a worker may take to store the error after the letter.
pub fn step(letter: &Letter, way: AnswerWay, found: &Found, age: Duration, settling: Duration) -> Step {
    match (found.answer, found.parked) {
        (Some(Answered { letter: None, .. }), _) => Step::Answered,
        (Some(Answered { letter: Some(other), .. }), _) if other > letter.number => Step::Newer(other),
        (_, Some(Copy { redriven: Some(number) })) if number == letter.number => Step::Finish,
        (_, Some(_)) => Step::Alive,
        (Some(Answered { seq, .. }), None) => Step::Redrive { forget: Some(seq) },
        (None, None) if is_newer(found.waiting, letter) => Step::Alive,
        (None, None) if way == AnswerWay::Stored && age < settling => Step::TooEarly,
        (None, None) => Step::Redrive { forget: None },
    }
}

/// Whether a copy was stored after the letter. Both times are the broker's.
fn is_newer(waiting: Option<SystemTime>, letter: &Letter) -> bool {
    waiting.zip(letter.stored).is_some_and(|(waiting, stored)| waiting > stored)
}
