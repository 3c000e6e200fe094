//! The answer that a handler's result becomes: a body, and publications and follow-ups that go with it.

use bytes::Bytes;
use serde::{Serialize, de::DeserializeOwned};

use crate::{
    extract::Json,
    failure::{Failure, NotJson},
    follow_up::{FollowUp, FollowUps},
    publication::{Publication, Publications},
};

/// A handler's answer: what the client gets, what channels get, and what is enqueued.
///
/// Handlers seldom build one: every type that implements [`IntoAnswer`] becomes one.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Answer {
    /// The payload of the answer, as the client gets it.
    pub body: Bytes,
    /// Messages that are stored in their channels, in this order, behind the follow-ups and before the answer.
    pub publications: Vec<Publication>,
    /// Requests that are stored for their routes, in this order, before the publications and the answer.
    pub follow_ups: Vec<FollowUp>,
}

/// The result of a handler: `()` for an empty body, [`Bytes`], [`Json`], a whole [`Answer`], a [`Publication`],
/// [`Publications`], a [`FollowUp`] or [`FollowUps`] with an empty body, a tuple of any of these and up to four [`AnswerPart`]s that are committed with it,
/// or a `Result` of one of them and an error that is a [`Failure`] or [`IntoFailure`](crate::IntoFailure).
///
/// ```
/// use tidegate_worker::{Failure, Json, Publication, Publications};
///
/// async fn place(Json(order): Json<u32>) -> Result<(Json<u32>, Publication, Option<Publication>), Failure> {
///     let placed = Publication::json("orders:all", &order)?;
///     let large = (order > 100).then(|| Publication::json("orders:large", &order)).transpose()?;
///     Ok((Json(order), placed, large))
/// }
/// # tidegate_worker::Router::new().route("place", tidegate_worker::on(place));
/// ```
#[diagnostic::on_unimplemented(
    message = "a handler cannot answer with `{Self}`",
    label = "not an answer",
    note = "answer with `()`, `Json<T>`, `Bytes`, `Publication`, `(answer, Publications)` or `Result<answer, error>`, where the error is a `Failure` or `IntoFailure`"
)]
pub trait IntoAnswer {
    /// Makes the answer. Fails with the handler's own failure, or when the result cannot be written as JSON.
    fn into_answer(self) -> Result<Answer, Failure>;
}

/// What a handler returns beside its answer: a [`Publication`], [`Publications`], a [`FollowUp`], [`FollowUps`], or an `Option` or
/// a `Vec` of parts.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot go with an answer",
    label = "not a part of an answer",
    note = "the first of a tuple is the answer; behind it come `Publication`, `Publications`, `FollowUp`, `FollowUps`, or an `Option` or `Vec` of these"
)]
pub trait AnswerPart {
    /// Adds the part to the answer. Fails with the handler's own failure.
    fn add_to(self, answer: &mut Answer) -> Result<(), Failure>;
}

impl Answer {
    /// An answer with any payload.
    pub fn bytes(body: impl Into<Bytes>) -> Self {
        Self { body: body.into(), publications: Vec::new(), follow_ups: Vec::new() }
    }

    /// An answer with a JSON payload. Fails when `body` cannot be written as JSON.
    pub fn json(body: &impl Serialize) -> Result<Self, NotJson> {
        Ok(Self::bytes(serde_json::to_vec(body)?))
    }

    /// Adds a publication.
    #[must_use]
    pub fn publish(mut self, publication: Publication) -> Self {
        self.publications.push(publication);
        self
    }

    /// Adds a follow-up.
    #[must_use]
    pub fn enqueue(mut self, follow_up: FollowUp) -> Self {
        self.follow_ups.push(follow_up);
        self
    }

    /// Reads the payload as JSON: for the tests of an application. The error says where it is not JSON of this type.
    pub fn to_json<T: DeserializeOwned>(&self) -> Result<T, serde_json::Error> {
        serde_json::from_slice(&self.body)
    }
}

impl AnswerPart for Publication {
    fn add_to(self, answer: &mut Answer) -> Result<(), Failure> {
        answer.publications.push(self);
        Ok(())
    }
}

impl AnswerPart for Publications {
    fn add_to(self, answer: &mut Answer) -> Result<(), Failure> {
        answer.publications.extend(self.0);
        Ok(())
    }
}

impl AnswerPart for FollowUp {
    fn add_to(self, answer: &mut Answer) -> Result<(), Failure> {
        answer.follow_ups.push(self);
        Ok(())
    }
}

impl AnswerPart for FollowUps {
    fn add_to(self, answer: &mut Answer) -> Result<(), Failure> {
        answer.follow_ups.extend(self.0);
        Ok(())
    }
}

impl<P: AnswerPart> AnswerPart for Option<P> {
    fn add_to(self, answer: &mut Answer) -> Result<(), Failure> {
        self.map_or(Ok(()), |part| part.add_to(answer))
    }
}

impl<P: AnswerPart> AnswerPart for Vec<P> {
    fn add_to(self, answer: &mut Answer) -> Result<(), Failure> {
        self.into_iter().try_for_each(|part| part.add_to(answer))
    }
}

impl IntoAnswer for Answer {
    fn into_answer(self) -> Result<Answer, Failure> {
        Ok(self)
    }
}

impl IntoAnswer for () {
    fn into_answer(self) -> Result<Answer, Failure> {
        Ok(Answer::default())
    }
}

impl IntoAnswer for Bytes {
    fn into_answer(self) -> Result<Answer, Failure> {
        Ok(Answer::bytes(self))
    }
}

impl<T: Serialize> IntoAnswer for Json<T> {
    fn into_answer(self) -> Result<Answer, Failure> {
        Ok(Answer::json(&self.0)?)
    }
}

impl<R: IntoAnswer, E: Into<Failure>> IntoAnswer for Result<R, E> {
    fn into_answer(self) -> Result<Answer, Failure> {
        self.map_err(Into::into)?.into_answer()
    }
}

macro_rules! parts {
    ($($part:ty),*) => {$(
        impl IntoAnswer for $part {
            fn into_answer(self) -> Result<Answer, Failure> {
                ((), self).into_answer()
            }
        }
    )*};
}

parts!(Publication, Publications, FollowUp, FollowUps);

macro_rules! tuples {
    ($([$($part:ident),*];)*) => {$(
        #[expect(non_snake_case, reason = "the macro has only the types' names to give to the values")]
        impl<R: IntoAnswer, $($part: AnswerPart),*> IntoAnswer for (R, $($part),*) {
            fn into_answer(self) -> Result<Answer, Failure> {
                let (answer, $($part),*) = self;
                let mut answer = answer.into_answer()?;
                $($part.add_to(&mut answer)?;)*
                Ok(answer)
            }
        }
    )*};
}

tuples! {
    [A];
    [A, B];
    [A, B, C];
    [A, B, C, D];
}
