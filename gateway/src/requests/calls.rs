//! Calls: a request is stored, unless the broker has it already, and its answer is awaited.
//!
//! A call has two stages: until it is settled (stored or refused, which bounds what may be in flight) and until it has
//! ended (answered, or timed out).

use std::time::SystemTime;

use tidegate_shared::{
    broker::{Refusal, Stored},
    config::AnswerMode,
    enqueue::Due,
    envelope::{Answer, Request},
    id::random_token,
    protocol::{Error, codes},
    topology::PARK,
    trace::Trace,
};
use tokio::time::{Instant, sleep, sleep_until};
use tracing::{Level, enabled};

use super::{
    CallEnd,
    earlier::{Earlier, differs},
    store::{RETRY_PAUSE, Store},
    turn::{Turn, Turns},
    waiting::AnswerSlot,
};

/// The result of the first stage of a call.
pub(crate) enum Settled {
    /// The call has ended.
    Ended(CallEnd),
    /// The request is stored and its answer is awaited.
    Stored(Wait),
}

/// The second stage of a call: where its answer comes from.
pub(crate) struct Wait {
    request: Request,
    source: Source,
    deadline: Instant,
    /// Whether this call has stored the request; else an earlier one has.
    pub(crate) is_new: bool,
}

enum Source {
    Plain(AnswerSlot),
    Keyed(async_nats::Subscriber),
}

/// What became of a request whose answer is stored.
enum Placed {
    /// It was stored now.
    Stored(Stored),
    /// It was stored before, and will be answered.
    Before,
    /// It is answered already.
    Answered(Box<Answer>),
}

impl Store {
    /// First stage: stores a request, unless its answer is stored already.
    pub(crate) async fn call(
        &self,
        request: Request,
        mode: AnswerMode,
        turn: Turn,
        deadline: Instant,
    ) -> Settled {
        let started = Instant::now();
        let route = request.route.clone();
        let (turn, _held) = match self.in_order(&request, turn, deadline).await {
            Ok(turns) => turns,
            Err(error) => return Settled::Ended(CallEnd::Failed(error)),
        };
        let shown =
            enabled!(Level::DEBUG).then(|| (request.id.clone(), request.trace.as_ref().map(Trace::id)));
        let settled = match (mode, request.id.is_keyed()) {
            (AnswerMode::Later, _) => Settled::Ended(self.accept(&request, None, turn, deadline).await),
            (AnswerMode::Wait, false) => self.call_plain(request, turn, deadline).await,
            (AnswerMode::Wait, true) => self.call_keyed(request, turn, deadline).await,
        };
        let outcome = outcome_of(&settled);
        if let Some((id, trace)) = shown {
            tracing::debug!(request.id = %id, trace.id = trace.map(display), route, outcome, "request");
        }
        self.metrics.accepted(&route, started.elapsed(), outcome);
        settled
    }

    async fn call_plain(&self, request: Request, turn: Turn, deadline: Instant) -> Settled {
        let mut slot = self.waiting.wait_for(request.id.clone());
        let stored = tokio::select! {
            biased;
            // The acknowledgement may be slower than the round trip through a worker.
            answer = slot.answer() => return Settled::Ended(CallEnd::Answered(answer)),
            stored = self.store_request(&request, None, request.id.as_str(), turn, deadline) => stored,
        };
        match stored {
            Ok(_) => Settled::Stored(Wait { request, source: Source::Plain(slot), deadline, is_new: true }),
            Err(error) => Settled::Ended(CallEnd::Failed(error)),
        }
    }

    async fn call_keyed(&self, request: Request, turn: Turn, deadline: Instant) -> Settled {
        // Subscribed before the look-up, on the same NATS connection: an answer that the look-up misses comes live.
        let Ok(answers) = self.broker.client().subscribe(self.subjects.answer(&request.id)).await else {
            return Settled::Ended(CallEnd::Failed(codes::NOT_ACCEPTED.error()));
        };
        match self.place(&request, None, turn, deadline).await {
            Ok(Placed::Answered(answer)) => Settled::Ended(CallEnd::Answered(*answer)),
            Ok(placed @ (Placed::Stored(_) | Placed::Before)) => {
                let is_new = matches!(placed, Placed::Stored(_));
                Settled::Stored(Wait { request, source: Source::Keyed(answers), deadline, is_new })
            }
            Err(error) => Settled::Ended(CallEnd::Failed(error)),
        }
    }

    /// Stores a request of a service, unless the broker has it already.
    pub(crate) async fn enqueue(&self, request: Request, due: Due, deadline: Instant) -> CallEnd {
        let started = Instant::now();
        // A service has no earlier message that it would have to wait for.
        let turn = Turns::default().next();
        let end = match self.time_of(due).await {
            Ok(due) => self.accept(&request, due, turn, deadline).await,
            Err(refusal) => CallEnd::Failed(codes::NOT_ACCEPTED.because(refusal)),
        };
        let settled = Settled::Ended(end);
        self.metrics.accepted(&request.route, started.elapsed(), outcome_of(&settled));
        let Settled::Ended(end) = settled else { unreachable!("nobody waits for it") };
        end
    }

    /// The time of day by the broker's clock, which carries the schedule out. `None` for now.
    pub(crate) async fn time_of(&self, due: Due) -> Result<Option<SystemTime>, Refusal> {
        Ok(match due {
            Due::Now => None,
            Due::At(time) => Some(time),
            Due::After(delay) => Some(self.broker.time(&format!("STREAM.INFO.{PARK}")).await? + delay),
        })
    }

    async fn accept(
        &self,
        request: &Request,
        due: Option<SystemTime>,
        turn: Turn,
        deadline: Instant,
    ) -> CallEnd {
        let id = request.id.to_string();
        match self.place(request, due, turn, deadline).await {
            Ok(Placed::Stored(stored)) => {
                let seq = (stored.seq > 0).then_some(stored.seq);
                CallEnd::Accepted { id, seq, duplicate: false, answer: None }
            }
            Ok(Placed::Before) => CallEnd::Accepted { id, seq: None, duplicate: true, answer: None },
            Ok(Placed::Answered(answer)) => {
                CallEnd::Accepted { id, seq: None, duplicate: true, answer: Some(*answer) }
            }
            Err(error) => CallEnd::Failed(error),
        }
    }

    /// Stores a request whose answer is stored, unless the broker has it already.
    async fn place(
        &self,
        request: &Request,
        due: Option<SystemTime>,
        turn: Turn,
        deadline: Instant,
    ) -> Result<Placed, Error> {
        let id = request.id.as_str();
        if !request.id.is_keyed() {
            self.cache.admit()?;
            return self.store_request(request, due, id, turn, deadline).await.map(Placed::Stored);
        }
        // The stream of waiting requests takes no second copy. That of parked ones would.
        let earlier = if due.is_none() {
            self.look_for_earlier(request).await
        } else {
            self.look_everywhere(request).await
        };
        let earlier = earlier.map_err(|refusal| not_looked_up(&refusal))?;
        if let Some(placed) = before(earlier)? {
            return Ok(placed);
        }
        self.cache.admit()?;
        let stored = self.store_request(request, due, id, turn, deadline).await?;
        if !stored.duplicate {
            return Ok(Placed::Stored(stored));
        }
        // The broker knows the id or has the subject taken, which does not mean that the request will be answered.
        if let Some(placed) = before(self.look_after(request, deadline).await?)? {
            return Ok(placed);
        }
        let fresh = format!("{id}.{}", random_token::<8>());
        let again = self.store_request(request, due, &fresh, Turns::default().next(), deadline).await?;
        // Only a copy that was stored in this moment can have taken the subject.
        Ok(if again.duplicate { Placed::Before } else { Placed::Stored(again) })
    }

    /// Looks everywhere for a request that the broker called stored, until it says where it is.
    async fn look_after(&self, request: &Request, deadline: Instant) -> Result<Earlier, Error> {
        loop {
            match self.look_everywhere(request).await {
                Ok(earlier) => return Ok(earlier),
                Err(refusal @ Refusal::Rejected(_)) => return Err(not_looked_up(&refusal)),
                Err(refusal) if Instant::now() + RETRY_PAUSE >= deadline => {
                    return Err(Error { temporary: true, ..codes::OUTCOME_UNKNOWN.because(refusal) });
                }
                Err(_) => sleep(RETRY_PAUSE).await,
            }
        }
    }

    /// Second stage: waits for the answer.
    pub(crate) async fn finish(&self, wait: Wait) -> CallEnd {
        let Wait { request, mut source, deadline, .. } = wait;
        let found = tokio::select! {
            biased;
            answer = source.next() => return same_request(&request, answer),
            found = self.look_up(&request, deadline) => found,
        };
        let Some(answer) = found else { return CallEnd::Failed(late(&request)) };
        if let Source::Plain(_) = source {
            // Before the slot is dropped: a copy that comes now is not late.
            self.waiting.answered_from_store(&request.id);
        }
        same_request(&request, answer)
    }

    /// Looks a request's answer up whenever messages may have been missed, and at the deadline: the live copy may be one of them.
    /// `None` if there is none at the deadline.
    async fn look_up(&self, request: &Request, deadline: Instant) -> Option<Answer> {
        let mut losses = self.broker.losses();
        loop {
            tokio::select! {
                () = losses.next() => {
                    if let Ok(Some(answer)) = self.stored_answer(request).await {
                        return Some(answer);
                    }
                }
                () = sleep_until(deadline) => return self.stored_answer(request).await.ok().flatten(),
            }
        }
    }
}

impl Source {
    async fn next(&mut self) -> Answer {
        match self {
            Self::Plain(slot) => slot.answer().await,
            Self::Keyed(answers) => next_answer(answers).await,
        }
    }
}

async fn next_answer(answers: &mut async_nats::Subscriber) -> Answer {
    use futures_util::StreamExt;
    while let Some(message) = answers.next().await {
        match Answer::read(&message.headers.unwrap_or_default(), message.payload) {
            Ok(answer) => return answer,
            Err(error) => {
                tracing::warn!(%error, subject = %message.subject, "dropped an answer that cannot be read");
            }
        }
    }
    std::future::pending().await
}

/// What an earlier copy says about a request. `None` if it has to be stored.
fn before(earlier: Earlier) -> Result<Option<Placed>, Error> {
    match earlier {
        Earlier::Answered(answer) => Ok(Some(Placed::Answered(answer))),
        Earlier::Alive => Ok(Some(Placed::Before)),
        Earlier::AnotherBody => Err(codes::KEY_REUSED.error()),
        Earlier::Nothing => Ok(None),
    }
}

fn same_request(request: &Request, answer: Answer) -> CallEnd {
    if differs(request, answer.digest.as_deref()) {
        CallEnd::Failed(codes::KEY_REUSED.error())
    } else {
        CallEnd::Answered(answer)
    }
}

/// The look-up of a stored answer failed. An answer that cannot be read stays so: asking again does not help.
fn not_looked_up(refusal: &Refusal) -> Error {
    let error = codes::NOT_ACCEPTED.because(refusal);
    Error { temporary: !matches!(refusal, Refusal::Rejected(_)), ..error }
}

/// Only a keyed request may be retried: it is the same request.
fn late(request: &Request) -> Error {
    let error = codes::STILL_WORKING.because(&request.id);
    Error { temporary: request.id.is_keyed(), ..error }
}

fn outcome_of(settled: &Settled) -> &'static str {
    match settled {
        Settled::Stored(_) | Settled::Ended(CallEnd::Accepted { duplicate: false, .. }) => "stored",
        Settled::Ended(
            CallEnd::Accepted { duplicate: true, .. } | CallEnd::Answered(_) | CallEnd::Told(_),
        ) => "already_there",
        Settled::Ended(CallEnd::Failed(error)) if error.code == codes::OUTCOME_UNKNOWN.code => "unknown",
        Settled::Ended(CallEnd::Failed(_)) => "refused",
    }
}
