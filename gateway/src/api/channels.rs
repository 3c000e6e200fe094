//! `history`, `history_remove`, `presence`, `presence_stats`, `channels`, `info`: the content of channels, their
//! members and subscribers.

use std::collections::BTreeMap;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tidegate_shared::{
    channel::Channel,
    header,
    protocol::{Encoding, Error, HistoryRequest, StreamPosition, codes},
};
use tokio::time::Instant;

use crate::channels::{MAX_READ, feed::Limit};

use super::{
    Api, ApiResult, EmptyResult, incomplete,
    local::{Node, PeerAnswer, PeerQuestion},
    raw, read_owned,
};

#[derive(Debug, Deserialize, Default)]
#[serde(default, deny_unknown_fields)]
pub(super) struct HistoryParams {
    channel: String,
    limit: i32,
    since: Option<StreamPosition>,
    reverse: bool,
}

#[derive(Debug, Deserialize, Default)]
#[serde(default, deny_unknown_fields)]
pub(super) struct ChannelParams {
    channel: String,
}

#[derive(Debug, Deserialize, Default)]
#[serde(default, deny_unknown_fields)]
pub(super) struct ChannelsParams {
    pattern: String,
}

#[derive(Debug, Deserialize, Default)]
#[serde(default, deny_unknown_fields)]
pub(super) struct InfoParams {}

#[derive(Serialize)]
struct Channels {
    channels: BTreeMap<String, ChannelFacts>,
}

#[derive(Serialize, Default)]
struct ChannelFacts {
    num_clients: usize,
}

#[derive(Serialize)]
struct Info {
    nodes: Vec<Node>,
}

impl Api {
    pub(super) async fn history(&self, request: HistoryParams) -> ApiResult {
        let channel = self.channel(&request.channel)?;
        let HistoryParams { channel: name, limit, since, reverse } = request;
        if reverse && since.as_ref().is_some_and(|since| since.offset == 0) {
            return Err(codes::BAD_REQUEST.because("nothing is before the beginning"));
        }
        if !self.channels.history.keeps(&channel) {
            return Err(codes::NOT_AVAILABLE.because("this namespace keeps no history"));
        }
        let request = HistoryRequest { channel: name, limit, since, reverse };
        let most = Limit { bytes: MAX_READ, ..self.channels.history.limit() };
        let page = self.channels.history.page(&channel, &request, most).await;
        let page = page.map_err(|refusal| codes::INTERNAL.because(refusal))?;
        let mut page = page.ok_or_else(|| codes::UNRECOVERABLE.error())?;
        page.publications = page.publications.into_iter().map(|p| p.suited_to(Encoding::Json)).collect();
        raw(&page)
    }

    pub(super) async fn presence(&self, request: ChannelParams) -> ApiResult {
        let channel = self.channel_with_presence(&request)?;
        let members = self.presence.members(&channel).await;
        raw(&members.map_err(|refusal| codes::INTERNAL.because(refusal))?.suited_to(Encoding::Json))
    }

    pub(super) async fn presence_stats(&self, request: ChannelParams) -> ApiResult {
        let channel = self.channel_with_presence(&request)?;
        raw(&self.presence.count(&channel).await.map_err(|refusal| codes::INTERNAL.because(refusal))?)
    }

    fn channel_with_presence(&self, request: &ChannelParams) -> Result<Channel, Error> {
        let channel = self.channel(&request.channel)?;
        if !self.rules.has_presence(&channel) {
            return Err(codes::NOT_AVAILABLE.because("this namespace keeps no presence"));
        }
        Ok(channel)
    }

    /// Stores a removal mark, then purges everything before it. A client that resumes from before the mark learns that
    /// it has not recovered.
    pub(super) async fn history_remove(&self, request: ChannelParams) -> ApiResult {
        let channel = self.channel(&request.channel)?;
        if !self.channels.history.keeps(&channel) {
            return Err(codes::NOT_AVAILABLE.because("this namespace keeps no history"));
        }
        let mark = [(header::REMOVED.to_owned(), "1".to_owned())];
        let deadline = Instant::now() + self.answer_timeout;
        let mark = self.store.store_publication(&channel, None, &mark, Bytes::new(), deadline).await?;
        let removed = self.channels.history.remove_before(&channel, mark.seq).await;
        removed.map_err(|refusal| codes::INTERNAL.because(refusal))?;
        raw(&EmptyResult {})
    }

    pub(super) async fn channels(&self, request: ChannelsParams) -> ApiResult {
        let mut channels = BTreeMap::<String, ChannelFacts>::new();
        let (all, silent) = self.survey(&PeerQuestion::Channels { pattern: request.pattern }).await?;
        if silent > 0 {
            return Err(incomplete(silent));
        }
        for told in all {
            let PeerAnswer::Channels { channels: some, more } = told else { continue };
            if more {
                return Err(codes::LIMIT_EXCEEDED.because("too many channels: narrow the pattern"));
            }
            for (name, clients) in some {
                channels.entry(name).or_default().num_clients += clients;
            }
        }
        raw(&Channels { channels })
    }

    pub(super) async fn info(&self, _: InfoParams) -> ApiResult {
        // A gateway that did not answer is missing in the list.
        let (told, _) = self.survey(&PeerQuestion::Info).await?;
        let nodes = told.into_iter().filter_map(|told| match told {
            PeerAnswer::Info(node) => Some(node),
            PeerAnswer::Channels { .. } | PeerAnswer::Done => None,
        });
        raw(&Info { nodes: nodes.collect() })
    }

    /// The answers of this gateway and of the others, and how many others did not answer.
    async fn survey(&self, request: &PeerQuestion) -> Result<(Vec<PeerAnswer>, usize), Error> {
        let others =
            self.peers.ask(raw(request)?).await.map_err(|refusal| codes::INTERNAL.because(refusal))?;
        let asked = others.answers.len() + others.silent;
        let read: Vec<PeerAnswer> = others.answers.iter().filter_map(|answer| read_owned(answer)).collect();
        let silent = asked - read.len();
        Ok((std::iter::once(self.local.answer(request)).chain(read).collect(), silent))
    }
}
