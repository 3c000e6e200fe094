//! The answer that a handler's result becomes: a body, and publications that go with it.

use std::collections::BTreeMap;

use bytes::Bytes;
use serde::Serialize;

use crate::{
    extract::{Json, Sender},
    failure::Failure,
};

/// A handler's answer: what the client gets and what channels get.
///
/// Handlers seldom build one: every type that implements [`IntoAnswer`] becomes one.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Answer {
    /// The payload of the answer, as the client gets it.
    pub body: Bytes,
    /// Messages that are stored in their channels, in this order, before the answer is stored.
    pub publications: Vec<Publication>,
}

/// One message for one channel.
///
/// ```
/// use tidegate_worker::Publication;
///
/// let publication = Publication::bytes("chat:lobby", "\"hello\"").tag("kind", "greeting");
/// assert_eq!((publication.channel.as_str(), &publication.data[..]), ("chat:lobby", &b"\"hello\""[..]));
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Publication {
    /// The channel as clients write it, such as `chat:lobby`. If it is malformed or its namespace is not configured, the request becomes
    /// a dead letter at once, with this as its reason.
    pub channel: String,
    /// The payload as subscribers get it.
    pub data: Bytes,
    /// The client that subscribers see as the publisher. `None` for a publication of the back end.
    pub sender: Option<Sender>,
    /// Tags beside the payload. Names consist of letters, digits, `_` and `-`; any other name makes the request a dead letter. Values are
    /// put on one line.
    pub tags: BTreeMap<String, String>,
}

/// Publications that go with an answer. A handler returns them beside it:
///
/// ```
/// use tidegate_worker::{Json, Publication, Publications};
///
/// async fn join(Json(room): Json<String>) -> (Json<bool>, Publications) {
///     let joined = Publication::bytes(format!("room:{room}"), "\"joined\"");
///     (Json(true), Publications(vec![joined]))
/// }
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Publications(pub Vec<Publication>);

/// The result of a handler: `()` for an empty body, [`Bytes`], [`Json`], any of these with [`Publications`], a whole [`Answer`],
/// or a `Result` of one of them and [`Failure`].
#[diagnostic::on_unimplemented(
    message = "a handler cannot answer with `{Self}`",
    note = "answer with `()`, `Json<T>`, `Bytes`, `(answer, Publications)` or `Result<answer, Failure>`"
)]
pub trait IntoAnswer {
    /// Makes the answer. Fails with the handler's own failure, or when the result cannot be written as JSON.
    fn into_answer(self) -> Result<Answer, Failure>;
}

impl Publication {
    /// A publication with a JSON payload. Fails when `data` cannot be written as JSON.
    pub fn json(channel: impl Into<String>, data: &impl Serialize) -> Result<Self, serde_json::Error> {
        Ok(Self::bytes(channel, serde_json::to_vec(data)?))
    }

    /// A publication with any payload.
    pub fn bytes(channel: impl Into<String>, data: impl Into<Bytes>) -> Self {
        Self { channel: channel.into(), data: data.into(), sender: None, tags: BTreeMap::new() }
    }

    /// Sets the client that subscribers see as the publisher.
    #[must_use]
    pub fn sent_by(mut self, sender: Sender) -> Self {
        self.sender = Some(sender);
        self
    }

    /// Adds a tag, or replaces the tag of that name.
    #[must_use]
    pub fn tag(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.tags.insert(name.into(), value.into());
        self
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
        Ok(Answer { body: self, publications: Vec::new() })
    }
}

impl<T: Serialize> IntoAnswer for Json<T> {
    fn into_answer(self) -> Result<Answer, Failure> {
        Bytes::from(serde_json::to_vec(&self.0)?).into_answer()
    }
}

impl<R: IntoAnswer> IntoAnswer for (R, Publications) {
    fn into_answer(self) -> Result<Answer, Failure> {
        let mut answer = self.0.into_answer()?;
        answer.publications.extend(self.1.0);
        Ok(answer)
    }
}

impl<R: IntoAnswer> IntoAnswer for Result<R, Failure> {
    fn into_answer(self) -> Result<Answer, Failure> {
        self?.into_answer()
    }
}
