//! `publish` and `broadcast`: store publications in the streams of their channels.

use std::collections::BTreeMap;

use bytes::Bytes;
use data_encoding::BASE64;
use futures_util::{StreamExt, stream};
use serde::{Deserialize, Serialize};
use tidegate_shared::{
    channel::Channel,
    enqueue::Due,
    envelope::one_line,
    header,
    id::{publication_id, random_token},
    protocol::{Error, Publication, codes, json},
    schedule::{self, Overlap, Schedule, What},
};
use tokio::time::Instant;

use super::{Api, ApiResult, PARALLEL, call::milliseconds, enqueue::due, raw};

/// The parameters of both methods.
#[derive(Debug, Deserialize, Default)]
#[serde(default, deny_unknown_fields)]
pub(super) struct PublishParams {
    channel: String,
    channels: Vec<String>,
    #[serde(with = "json::raw")]
    data: Bytes,
    b64data: String,
    tags: BTreeMap<String, String>,
    idempotency_key: String,
    delay: String,
    at: String,
    skip_history: bool,
    version: u64,
    /// Ignored: it has no meaning without a version.
    #[serde(rename = "version_epoch")]
    _version_epoch: String,
    /// Ignored: clients ask for patches and namespaces allow them.
    #[serde(rename = "delta")]
    _delta: bool,
}

/// A publication without its channel.
struct Content {
    data: Bytes,
    tags: Vec<(String, String)>,
    idempotency_key: String,
    due: Due,
}

/// The position of a publication: 0 and empty in a channel without history, and while it waits for its time.
#[derive(Serialize)]
struct Published {
    offset: u64,
    epoch: String,
    /// The schedule of a publication that waits for its time.
    #[serde(skip_serializing_if = "Option::is_none")]
    schedule: Option<String>,
}

#[derive(Serialize)]
struct Broadcast {
    responses: Vec<Response>,
}

#[derive(Serialize)]
#[serde(rename_all = "snake_case")]
enum Response {
    Result(Published),
    Error(Error),
}

impl Api {
    pub(super) async fn publish(&self, request: PublishParams) -> ApiResult {
        if !request.channels.is_empty() {
            return Err(codes::BAD_REQUEST.because("publish takes one channel; broadcast takes several"));
        }
        let channel = request.channel.clone();
        raw(&self.publish_in(&channel, &request.content()?).await?)
    }

    pub(super) async fn broadcast(&self, request: PublishParams) -> ApiResult {
        if !request.channel.is_empty() || request.channels.is_empty() {
            return Err(codes::BAD_REQUEST.because("broadcast takes a list of channels, in `channels`"));
        }
        let channels = request.channels.clone();
        let content = &request.content()?;
        let publishing = channels.into_iter().map(|channel| async move {
            self.publish_in(&channel, content).await.map_or_else(Response::Error, Response::Result)
        });
        raw(&Broadcast { responses: stream::iter(publishing).buffered(PARALLEL).collect().await })
    }

    async fn publish_in(&self, channel: &str, content: &Content) -> Result<Published, Error> {
        let channel = self.publishable(channel, content)?;
        let key = &content.idempotency_key;
        let id = (!key.is_empty()).then(|| publication_id(channel.name(), key));
        let deadline = Instant::now() + self.answer_timeout;
        if content.due != Due::Now {
            return self.publish_later(channel, id, content, deadline).await;
        }
        let stored = self
            .store
            .store_publication(&channel, id.as_deref(), &content.tags, content.data.clone(), deadline)
            .await?;
        let epoch = self.channels.history.epoch(&channel);
        let offset = if epoch.is_some() { stored.seq } else { 0 };
        Ok(Published { offset, epoch: epoch.as_deref().unwrap_or_default().to_owned(), schedule: None })
    }

    /// Stores a publication that waits for its time: a schedule which fires once, with the publication's id as its name.
    async fn publish_later(
        &self,
        channel: Channel,
        id: Option<String>,
        content: &Content,
        deadline: Instant,
    ) -> Result<Published, Error> {
        let id = id.unwrap_or_else(|| format!("p.{}", random_token::<16>()));
        let when = self.once(content.due).await?;
        let (tags, data) = (content.tags.clone(), content.data.clone());
        let what = What::Publication(schedule::Publication { channel, id: Some(id.clone()), tags, data });
        let schedule = Schedule::new(id, when, Overlap::Allow, what);
        self.schedules.set(&schedule, true, deadline).await?;
        Ok(Published { offset: 0, epoch: String::new(), schedule: Some(schedule.name) })
    }

    /// The publication of a schedule, with all checks of one that is published now.
    pub(super) fn scheduled(&self, params: PublishParams) -> Result<schedule::Publication, Error> {
        let name = params.channel.clone();
        let content = params.content()?;
        let channel = self.publishable(&name, &content)?;
        Ok(schedule::Publication { channel, id: None, tags: content.tags, data: content.data })
    }

    /// The channel, if it can have this publication.
    fn publishable(&self, channel: &str, content: &Content) -> Result<Channel, Error> {
        let channel = self.channel(channel)?;
        let tags = content.tags.iter().filter_map(|(name, value)| {
            Some((name.strip_prefix(header::TAG_PREFIX)?.to_owned(), value.clone()))
        });
        let publication =
            Publication { data: content.data.clone(), tags: tags.collect(), ..Publication::default() };
        self.rules.deliverable(&channel, &publication)?;
        Ok(channel)
    }
}

impl PublishParams {
    /// The parameters of a schedule's publication.
    pub(super) fn of(
        channel: String,
        (data, b64data): (Bytes, String),
        tags: BTreeMap<String, String>,
    ) -> Self {
        Self { channel, data, b64data, tags, ..Self::default() }
    }

    fn content(self) -> Result<Content, Error> {
        let refuse = |problem: &str| Err(codes::BAD_REQUEST.because(problem));
        if self.skip_history {
            return refuse("skip_history: to publish is to store; use a namespace without history");
        }
        if self.version > 0 {
            return refuse("version: an older publication is stored behind a newer one like any other");
        }
        // `null` is a payload, unless there is another one.
        let plain = if self.b64data.is_empty() || self.data != "null" { self.data } else { Bytes::new() };
        let data = match (plain.is_empty(), self.b64data.is_empty()) {
            (true, true) => return refuse("a publication needs data"),
            (false, false) => return refuse("either data or b64data"),
            (false, true) => plain,
            (true, false) => match BASE64.decode(self.b64data.as_bytes()) {
                Ok(data) if !data.is_empty() => data.into(),
                Ok(_) => return refuse("a publication needs data"),
                Err(error) => return refuse(&format!("b64data: {error}")),
            },
        };
        let due = due(&self.delay, &self.at, milliseconds())?;
        let mut tags = Vec::with_capacity(self.tags.len());
        for (name, value) in self.tags {
            let header = header::tag(&name).map_err(|bad| codes::BAD_REQUEST.because(bad))?;
            tags.push((header, one_line(&value)));
        }
        Ok(Content { data, tags, idempotency_key: self.idempotency_key, due })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn content(request: &serde_json::Value) -> Result<Content, Error> {
        let request: PublishParams = super::super::read(request.to_string().as_bytes())?;
        request.content()
    }

    #[test]
    fn data_is_json_as_it_stands_or_bytes_in_base64() {
        assert_eq!(content(&serde_json::json!({"data": {"a": 1}})).unwrap().data, r#"{"a":1}"#);
        assert_eq!(content(&serde_json::json!({"b64data": "/wA="})).unwrap().data, [0xff, 0].as_slice());
    }

    #[test]
    fn parameters_that_have_no_effect_are_refused() {
        for request in [
            serde_json::json!({}),
            serde_json::json!({"data": 1, "b64data": "AA=="}),
            serde_json::json!({"b64data": "?"}),
            serde_json::json!({"data": 1, "skip_history": true}),
            serde_json::json!({"data": 1, "version": 1}),
            serde_json::json!({"data": 1, "tags": {"a b": "c"}}),
            serde_json::json!({"data": 1, "delay": "soon"}),
            serde_json::json!({"data": 1, "at": "tomorrow"}),
            serde_json::json!({"data": 1, "delay": "1s", "at": "2030-01-01T00:00:00Z"}),
        ] {
            assert_eq!(content(&request).err().map(|error| error.code), Some(107), "{request}");
        }
        assert!(content(&serde_json::json!({"data": 1, "delta": true})).is_ok());
    }
}
