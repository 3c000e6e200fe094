//! What a handler's result becomes: the answer's body and the publications that go with it.

use std::collections::BTreeMap;

use bytes::Bytes;
use serde::Serialize;

use crate::{
    extract::{Json, Sender},
    failure::Failure,
};

/// A handler's answer, ready to be stored.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Answer {
    /// The payload of the answer.
    pub body: Bytes,
    /// What is published before the answer is stored.
    pub publications: Vec<Publication>,
}

/// One message into one channel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Publication {
    /// The channel as clients write it, such as `chat:lobby`.
    pub channel: String,
    /// The payload.
    pub data: Bytes,
    /// Whom clients see as the one who published; nobody, unless said otherwise.
    pub sender: Option<Sender>,
    /// Small facts beside the payload. Names are letters, digits, `_` and `-`.
    pub tags: BTreeMap<String, String>,
}

/// Publications beside an answer: `(Json(answer), Publications(vec![..]))`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Publications(pub Vec<Publication>);

/// A result that can be an answer.
#[diagnostic::on_unimplemented(
    message = "a handler cannot answer with `{Self}`",
    note = "answer with `()`, `Json<T>`, `Bytes`, `(answer, Publications)` or `Result<answer, Failure>`"
)]
pub trait IntoAnswer {
    /// Makes the answer.
    fn into_answer(self) -> Result<Answer, Failure>;
}

impl Publication {
    /// A message with a JSON payload.
    pub fn json(channel: impl Into<String>, data: &impl Serialize) -> Result<Self, serde_json::Error> {
        Ok(Self::bytes(channel, serde_json::to_vec(data)?))
    }

    /// A message with any payload.
    pub fn bytes(channel: impl Into<String>, data: impl Into<Bytes>) -> Self {
        Self { channel: channel.into(), data: data.into(), sender: None, tags: BTreeMap::new() }
    }

    /// The message as one that this client has published.
    #[must_use]
    pub fn sent_by(mut self, sender: Sender) -> Self {
        self.sender = Some(sender);
        self
    }

    /// The message with one tag more.
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
