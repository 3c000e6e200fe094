//! What the broker has of a request that may have been sent before: its answer, a copy that will be answered, or nothing.
//!
//! A message id that the broker remembers says nothing: the message may be gone.

use async_nats::Message;
use tidegate_shared::{
    broker::Refusal,
    envelope::{Answer, Request, get},
    header,
    id::body_digest,
    route::Priority,
    topology::request_stream,
};

use super::store::Store;

/// What there is of a keyed request.
#[derive(Debug, PartialEq)]
pub(super) enum Earlier {
    /// Its answer is stored.
    Answered(Box<Answer>),
    /// It waits for a worker or for its next attempt, or is being worked on.
    Alive,
    /// Its key belongs to a request with another body.
    AnotherBody,
    /// Nothing.
    Nothing,
}

impl Earlier {
    /// An answer decides, then any copy of the request.
    fn of(request: &Request, answer: Option<Answer>, copies: &[Option<Message>]) -> Self {
        if let Some(answer) = answer {
            return if differs(request, answer.digest.as_deref()) {
                Self::AnotherBody
            } else {
                Self::Answered(Box::new(answer))
            };
        }
        let Some(copy) = copies.iter().flatten().next() else { return Self::Nothing };
        let digest = copy.headers.as_ref().and_then(|headers| get(headers, header::DIGEST));
        if differs(request, digest) { Self::AnotherBody } else { Self::Alive }
    }
}

/// Whether the digest is of another body than the request's. Plain requests have none.
pub(super) fn differs(request: &Request, digest: Option<&str>) -> bool {
    request.id.is_keyed() && digest.is_some_and(|digest| digest != body_digest(&request.body))
}

impl Store {
    /// Looks for the answer to a keyed request and for a parked copy of it: while it is parked, its subject among the waiting
    /// requests is free.
    pub(super) async fn look_for_earlier(&self, request: &Request) -> Result<Earlier, Refusal> {
        let (answer, parked, due) = self.answer_or_parked(request).await?;
        Ok(Earlier::of(request, answer, &[parked, due]))
    }

    /// As [`Store::look_for_earlier`], among the waiting requests too.
    pub(super) async fn look_everywhere(&self, request: &Request) -> Result<Earlier, Refusal> {
        let stream = request_stream(&request.route);
        let lanes = [Priority::Normal, Priority::High].map(|lane| request.address().with(lane));
        let [normal, first] = lanes.map(|address| self.subjects.request(&address));
        // A request is parked, or its answer is stored, before it leaves the stream of waiting requests.
        let (normal, first) =
            tokio::try_join!(self.broker.last(&stream, &normal), self.broker.last(&stream, &first))?;
        let (answer, parked, due) = self.answer_or_parked(request).await?;
        Ok(Earlier::of(request, answer, &[normal, first, parked, due]))
    }

    async fn answer_or_parked(
        &self,
        request: &Request,
    ) -> Result<(Option<Answer>, Option<Message>, Option<Message>), Refusal> {
        let parked = self.subjects.park(&request.id);
        let due = self.subjects.due(&self.subjects.request(&request.address())).unwrap_or_default();
        tokio::try_join!(self.stored_answer(request), self.parked.last(parked), self.parked.last(due),)
    }

    /// The stored answer to a request.
    pub(super) async fn stored_answer(&self, request: &Request) -> Result<Option<Answer>, Refusal> {
        let message = self.answers.last(self.subjects.reply(&request.id)).await?;
        let answer = message.map(|m| Answer::read(&m.headers.unwrap_or_default(), m.payload));
        let unreadable = |error| Refusal::Rejected(format!("the stored answer cannot be read: {error}"));
        answer.transpose().map_err(unreadable)
    }
}
