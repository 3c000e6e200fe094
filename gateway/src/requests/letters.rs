//! Dead letters in their stream: reading a page, one letter, redriving it, dropping it. `shared/src/dead.rs` decides what a letter
//! says and what follows from what the broker has; this file does it. Every step may be repeated, by any gateway.

use std::time::{Duration, SystemTime};

use async_nats::Message;
use bytes::{Bytes, BytesMut};
use tidegate_shared::{
    broker::{Broker, NotDone, Refusal, header_number, stored_at},
    dead::{self, Answered, Copy, Found, Letter, NoRequest, Reason, Rest, Step},
    envelope::{Answer, Request, get},
    header,
    id::RequestId,
    subject::Subjects,
    topology::{DEAD, PARK, REPLY, request_stream},
};

/// Messages read with one question.
const BATCH: usize = 256;
/// Messages that one page looks at; the next page goes on behind them.
const LOOKED_AT: usize = 2_000;
/// Bytes that one page reads.
const READ_BYTES: usize = 16 << 20;

/// Which letters a page has. `None` is every letter.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Filter {
    pub(crate) route: Option<String>,
    pub(crate) user: Option<String>,
    pub(crate) reason: Option<Reason>,
    /// Stored at this time or later.
    pub(crate) since: Option<SystemTime>,
    /// Stored before this time.
    pub(crate) until: Option<SystemTime>,
}

/// Some letters, oldest first.
#[derive(Debug)]
pub(crate) struct Page {
    pub(crate) letters: Vec<Letter>,
    /// Where the next page begins. `None` after the last letter.
    pub(crate) next: Option<u64>,
}

/// What became of a letter that is to be redriven.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// Its request is being worked on, and the letter is gone.
    Redriven,
    /// There is no such letter: it was redriven or dropped, or it was too old.
    Gone,
    /// Its request has an answer by now, so the letter is gone too.
    Answered,
    /// Its request is being worked on because it was sent again, or redriven from another letter.
    Alive,
    /// Its request failed again: this later letter is the one to redrive.
    Newer(u64),
}

/// Why a letter was not redriven or dropped.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    /// The broker did not do a step. Asking again is harmless.
    #[error("{0}")]
    Broker(#[from] Refusal),
    /// As above.
    #[error("{0}")]
    NotRemoved(#[from] NotDone),
    /// The letter can never become a request again.
    #[error("{0}")]
    NoRequest(#[from] NoRequest),
    /// Its worker may still be telling the client.
    #[error("the letter is new, and its worker may still be telling the client: ask again in {0:?}")]
    TooEarly(Duration),
}

/// Reads and changes dead letters.
pub(crate) struct Letters {
    broker: Broker,
    subjects: Subjects,
    /// How long a worker may take from the letter to the stored error.
    settling: Duration,
}

impl Letters {
    /// `ack_wait` is the workers': one that died between the letter and its error is followed by another after that time.
    pub(crate) fn new(broker: Broker, subjects: Subjects, ack_wait: Duration) -> Self {
        Self { broker, subjects, settling: ack_wait * 2 }
    }

    /// Reads up to `limit` letters from sequence `from` on.
    pub(crate) async fn page(&self, filter: &Filter, from: u64, limit: usize) -> Result<Page, Refusal> {
        let subject = dead::subjects_of(&self.subjects, filter.route.as_deref());
        let mut from = from;
        if let Some(since) = filter.since {
            let first = self.broker.first_since(DEAD, &subject, since).await?;
            let Some(first) = first.and_then(|message| header_number(&message, header::SEQUENCE)) else {
                return Ok(Page { letters: Vec::new(), next: None });
            };
            from = from.max(first);
        }
        let (mut letters, mut looked_at, mut bytes) = (Vec::new(), 0, 0);
        loop {
            let range = self
                .broker
                .range_within(DEAD, &subject, from, BATCH, READ_BYTES.saturating_sub(bytes))
                .await?;
            let more = range.more > 0;
            for message in &range.messages {
                from = header_number(message, header::SEQUENCE).unwrap_or(from).saturating_add(1);
                looked_at += 1;
                bytes += message.length;
                if filter.until.is_some_and(|until| stored_at(message).is_some_and(|stored| stored >= until))
                {
                    return Ok(Page { letters, next: None });
                }
                letters.extend(Letter::read(message).filter(|letter| filter.takes(letter)));
                if letters.len() >= limit {
                    return Ok(Page { letters, next: Some(from) });
                }
            }
            if !more || range.messages.is_empty() {
                return Ok(Page { letters, next: None });
            }
            if looked_at >= LOOKED_AT || bytes >= READ_BYTES {
                return Ok(Page { letters, next: Some(from) });
            }
        }
    }

    /// Reads one letter, and its whole body if that is there.
    pub(crate) async fn letter(&self, number: u64) -> Result<Option<(Letter, Option<Bytes>)>, Refusal> {
        let Some(letter) = self.message(number).await?.as_ref().and_then(Letter::read) else {
            return Ok(None);
        };
        let body = match letter.rest {
            Rest::Nothing => Some(letter.body.clone()),
            Rest::Somewhere => None,
            Rest::At(rest) => self.message(rest).await?.map(|rest| {
                let mut body = BytesMut::from(&letter.body[..]);
                body.extend_from_slice(&rest.payload);
                body.freeze()
            }),
        };
        Ok(Some((letter, body)))
    }

    async fn message(&self, seq: u64) -> Result<Option<Message>, Refusal> {
        let message = self.broker.first_from(DEAD, seq).await?;
        Ok(message.filter(|message| header_number(message, header::SEQUENCE) == Some(seq)))
    }

    /// Makes a letter a request again.
    pub(crate) async fn redrive(&self, number: u64) -> Result<Outcome, Failure> {
        let Some((letter, body)) = self.letter(number).await? else { return Ok(Outcome::Gone) };
        let now = SystemTime::now();
        let redriven = letter.redriven(body.ok_or(NoRequest::Incomplete)?, &self.subjects, now)?;
        let found = self.look(&letter, &redriven.request).await?;
        let age = letter.stored.and_then(|stored| now.duration_since(stored).ok()).unwrap_or_default();
        let outcome = match dead::step(&letter, redriven.request.answer_way(), &found, age, self.settling) {
            Step::Redrive { forget } => {
                if let Some(seq) = forget {
                    let reply = self.subjects.reply(&redriven.request.id);
                    self.broker.purge(REPLY, &reply, seq.saturating_add(1)).await?;
                }
                self.broker.store(redriven.subject, redriven.headers, redriven.request.body).await?;
                Outcome::Redriven
            }
            Step::Finish => Outcome::Redriven,
            Step::Answered => Outcome::Answered,
            Step::Newer(other) => return Ok(Outcome::Newer(other)),
            Step::Alive => return Ok(Outcome::Alive),
            Step::TooEarly => return Err(Failure::TooEarly(self.settling)),
        };
        self.remove(&letter).await?;
        tracing::info!(letter = number, request.id = %redriven.request.id, ?outcome, "a dead letter was redriven");
        Ok(outcome)
    }

    /// Removes a letter. `false` if there is none.
    pub(crate) async fn discard(&self, number: u64) -> Result<bool, Failure> {
        let Some((letter, _)) = self.letter(number).await? else { return Ok(false) };
        let removed = self.remove(&letter).await?;
        tracing::info!(letter = number, route = letter.route, "a dead letter was dropped");
        Ok(removed)
    }

    /// The letter itself goes last: as long as it is there, the removal can be repeated.
    async fn remove(&self, letter: &Letter) -> Result<bool, NotDone> {
        if let Rest::At(rest) = letter.rest {
            self.broker.remove(DEAD, rest).await?;
        }
        self.broker.remove(DEAD, letter.number).await
    }

    /// What the broker has of the letter's request. The answer is looked for last: a copy that is gone by then has left one.
    async fn look(&self, letter: &Letter, request: &Request) -> Result<Found, Refusal> {
        let (stream, subject) = (request_stream(&request.route), self.subjects.request(&request.address()));
        let due = self.subjects.due(&subject).unwrap_or_default();
        let park = self.subjects.park(&request.id);
        let waiting = self.broker.last(&stream, &subject).await?;
        // In the order in which a copy moves.
        let parked = self.broker.last(PARK, &park).await?;
        let due = self.broker.last(PARK, &due).await?;
        let parked = due.or(parked).map(|message| Copy { redriven: number(&message, header::REDRIVEN) });
        let answer = self.answer(&request.id, letter.number).await?;
        Ok(Found { answer, parked, waiting: waiting.as_ref().and_then(stored_at) })
    }

    async fn answer(&self, id: &RequestId, letter: u64) -> Result<Option<Answered>, Refusal> {
        let Some(message) = self.broker.last(REPLY, &self.subjects.reply(id)).await? else { return Ok(None) };
        let seq = header_number(&message, header::SEQUENCE).unwrap_or(0);
        let answer = Answer::read(&message.headers.unwrap_or_default(), message.payload);
        // An answer that cannot be read is one all the same.
        Ok(Some(answer.map_or(Answered { seq, letter: None }, |answer| Answered::of(&answer, seq, letter))))
    }
}

fn number(message: &Message, name: &'static str) -> Option<u64> {
    get(message.headers.as_ref()?, name)?.parse().ok()
}

impl Filter {
    fn takes(&self, letter: &Letter) -> bool {
        self.user.as_deref().is_none_or(|user| letter.header(header::USER) == Some(user))
            && self.reason.is_none_or(|reason| letter.reason == reason)
    }
}
