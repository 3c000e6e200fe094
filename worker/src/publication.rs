//! Publications that a handler makes, and the names by which they are told apart.

use std::{
    collections::BTreeMap,
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use serde::Serialize;
use tidegate_shared::enqueue::Due;

use crate::{failure::NotJson, sender::Sender};

/// One message for one channel.
///
/// Each publication of an answer has a name, from which its id is made. A repeated attempt gives the publication of the same
/// name the same id, by which the broker knows it for `streams.duplicate_window` (no longer than its namespace keeps messages,
/// and not at all without a history). Within that time it is stored once. The usual name is made of the channel and the number of publications before it
/// in the same channel. That is right for a handler that makes the same publications in the same order on every attempt. Where
/// that may change between attempts, give names with [`Self::named`].
///
/// ```
/// use tidegate_worker::Publication;
///
/// let publication = Publication::bytes("chat:lobby", "\"hello\"").tag("kind", "greeting").named("greeting");
/// assert_eq!((publication.channel.as_str(), &publication.data[..]), ("chat:lobby", &b"\"hello\""[..]));
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
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
    /// When it is published.
    pub due: Due,
    /// Tells it apart from the other publications of the answer, on every attempt. `None` for the usual name.
    pub name: Option<String>,
}

/// Publications that go with an answer. A handler returns them beside it:
///
/// ```
/// use tidegate_worker::{Json, Publication, Publications};
///
/// async fn join(Json(rooms): Json<Vec<String>>) -> (Json<bool>, Publications) {
///     let joined = rooms.iter().map(|room| Publication::bytes(format!("room:{room}"), "\"joined\""));
///     (Json(true), joined.collect())
/// }
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Publications(pub Vec<Publication>);

impl Publication {
    /// A publication with a JSON payload. Fails when `data` cannot be written as JSON.
    pub fn json(channel: impl Into<String>, data: &impl Serialize) -> Result<Self, NotJson> {
        Ok(Self::bytes(channel, serde_json::to_vec(data)?))
    }

    /// A publication with any payload.
    pub fn bytes(channel: impl Into<String>, data: impl Into<Bytes>) -> Self {
        let (channel, data) = (channel.into(), data.into());
        Self { channel, data, sender: None, tags: BTreeMap::new(), due: Due::Now, name: None }
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

    /// Waits so long before it is published, by the broker's clock. What waits has no sender and is not empty; anything else makes the
    /// request a dead letter.
    #[must_use]
    pub fn after(mut self, delay: Duration) -> Self {
        self.due = if delay.is_zero() { Due::Now } else { Due::After(delay) };
        self
    }

    /// Waits until this time before it is published, as [`Self::after`]. A time that is over is now.
    #[must_use]
    pub fn at(mut self, time: SystemTime) -> Self {
        self.due = Due::At(time);
        self
    }

    /// Whether it can wait for its time, or be repeated. The error is a sentence.
    pub(crate) fn can_wait(&self) -> Result<(), String> {
        if self.sender.is_some() {
            return Err(
                "a publication that is published later has no sender: it is one of the back end".to_owned()
            );
        }
        if self.data.is_empty() {
            return Err("a publication that is published later needs data".to_owned());
        }
        Ok(())
    }

    /// Gives it a name: 1 to 64 letters, digits, `_`, `-` and `.`. Any other name, or the name of another publication of the
    /// same attempt, makes the request a dead letter, with this as its reason.
    #[must_use]
    pub fn named(mut self, name: impl Into<String>) -> Self {
        self.name = Some(name.into());
        self
    }
}

impl FromIterator<Publication> for Publications {
    fn from_iter<I: IntoIterator<Item = Publication>>(publications: I) -> Self {
        Self(publications.into_iter().collect())
    }
}
