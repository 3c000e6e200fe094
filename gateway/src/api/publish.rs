//! `publish` and `broadcast`: store publications in the streams of their channels.

use std::collections::BTreeMap;

use bytes::Bytes;
use data_encoding::BASE64;
use futures_util::{StreamExt, stream};
use serde::{Deserialize, Serialize};
use tidegate_shared::{
    envelope::one_line,
    header,
    id::{publication_id, random_token},
    protocol::{Error, Publication, codes, json},
};
use tokio::time::Instant;

use super::{Api, ApiResult, PARALLEL, raw};

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
}

/// The position of a publication: 0 and empty in a channel without history.
#[derive(Serialize)]
struct Published {
    offset: u64,
    epoch: String,
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
        let channel = self.channel(channel)?;
        let id = if content.idempotency_key.is_empty() {
            random_token::<16>()
        } else {
            publication_id(channel.name(), &content.idempotency_key)
        };
        let tags = content.tags.iter().filter_map(|(name, value)| {
            Some((name.strip_prefix(header::TAG_PREFIX)?.to_owned(), value.clone()))
        });
        let publication =
            Publication { data: content.data.clone(), tags: tags.collect(), ..Publication::default() };
        self.rules.deliverable(&channel, &publication)?;
        let deadline = Instant::now() + self.answer_timeout;
        let stored = self
            .store
            .store_publication(&channel, &id, &content.tags, content.data.clone(), deadline)
            .await?;
        let epoch = self.channels.history.epoch(&channel);
        let offset = if epoch.is_some() { stored.seq } else { 0 };
        Ok(Published { offset, epoch: epoch.as_deref().unwrap_or_default().to_owned() })
    }
}

impl PublishParams {
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
        let mut tags = Vec::with_capacity(self.tags.len());
        for (name, value) in self.tags {
            let header = header::tag(&name).map_err(|bad| codes::BAD_REQUEST.because(bad))?;
            tags.push((header, one_line(&value)));
        }
        Ok(Content { data, tags, idempotency_key: self.idempotency_key })
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
        ] {
            assert_eq!(content(&request).err().map(|error| error.code), Some(107), "{request}");
        }
        assert!(content(&serde_json::json!({"data": 1, "delta": true})).is_ok());
    }
}
