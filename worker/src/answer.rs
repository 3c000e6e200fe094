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
pub struct Reply {
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
pub trait IntoReply {
    /// Makes the answer.
    fn into_reply(self) -> Result<Reply, Failure>;
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

impl IntoReply for Reply {
    fn into_reply(self) -> Result<Reply, Failure> {
        Ok(self)
    }
}

impl IntoReply for () {
    fn into_reply(self) -> Result<Reply, Failure> {
        Ok(Reply::default())
    }
}

impl IntoReply for Bytes {
    fn into_reply(self) -> Result<Reply, Failure> {
        Ok(Reply { body: self, publications: Vec::new() })
    }
}

impl<T: Serialize> IntoReply for Json<T> {
    fn into_reply(self) -> Result<Reply, Failure> {
        Bytes::from(serde_json::to_vec(&self.0)?).into_reply()
    }
}

impl<R: IntoReply> IntoReply for (R, Publications) {
    fn into_reply(self) -> Result<Reply, Failure> {
        let mut reply = self.0.into_reply()?;
        reply.publications.extend(self.1.0);
        Ok(reply)
    }
}

impl<R: IntoReply> IntoReply for Result<R, Failure> {
    fn into_reply(self) -> Result<Reply, Failure> {
        self?.into_reply()
    }
}
