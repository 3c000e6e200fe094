//! `history`, `history_remove`, `presence`, `presence_stats`, `channels`, `info`: what channels hold, and who has them.

use std::collections::BTreeMap;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tidegate_shared::{
    header,
    id::random_token,
    protocol::{Encoding, Error, HistoryRequest, PresenceResult, StreamPosition, codes},
};
use tokio::time::Instant;

use super::{
    Answer, Api, Nothing,
    local::{Ask, Node, Told},
    raw, read_owned, silence,
};

#[derive(Deserialize, Default)]
#[serde(default, deny_unknown_fields)]
pub(super) struct HistoryAsk {
    channel: String,
    limit: i32,
    since: Option<StreamPosition>,
    reverse: bool,
}

#[derive(Deserialize, Default)]
#[serde(default, deny_unknown_fields)]
pub(super) struct ChannelAsk {
    channel: String,
}

#[derive(Deserialize, Default)]
#[serde(default, deny_unknown_fields)]
pub(super) struct ChannelsAsk {
    pattern: String,
}

#[derive(Deserialize, Default)]
#[serde(default, deny_unknown_fields)]
pub(super) struct InfoAsk {}

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
    pub(super) async fn history(&self, ask: HistoryAsk) -> Answer {
        let channel = self.channel(&ask.channel)?;
        let HistoryAsk { channel: name, limit, since, reverse } = ask;
        if reverse && since.as_ref().is_some_and(|since| since.offset == 0) {
            return Err(codes::BAD_REQUEST.because("nothing is before the beginning"));
        }
        if !self.channels.history.keeps(&channel) {
            return Err(codes::NOT_AVAILABLE.because("this namespace keeps no history"));
        }
        let ask = HistoryRequest { channel: name, limit, since, reverse };
        let page = self.channels.history.page(&channel, &ask).await;
        let page = page.map_err(|refusal| codes::INTERNAL.because(refusal))?;
        let mut page = page.ok_or_else(|| codes::UNRECOVERABLE.error())?;
        page.publications = page.publications.into_iter().map(|p| p.suited_to(Encoding::Json)).collect();
        raw(&page)
    }

    pub(super) async fn presence(&self, ask: ChannelAsk) -> Answer {
        raw(&self.members(&ask).await?.suited_to(Encoding::Json))
    }

    pub(super) async fn presence_stats(&self, ask: ChannelAsk) -> Answer {
        raw(&self.members(&ask).await?.stats())
    }

    async fn members(&self, ask: &ChannelAsk) -> Result<PresenceResult, Error> {
        let channel = self.channel(&ask.channel)?;
        if !self.rules.has_presence(&channel) {
            return Err(codes::NOT_AVAILABLE.because("this namespace keeps no presence"));
        }
        self.presence.members(&channel).await.map_err(|refusal| codes::INTERNAL.because(refusal))
    }

    /// First a mark, then everything before it: whoever comes back from before the mark can be told that something is gone.
    pub(super) async fn history_remove(&self, ask: ChannelAsk) -> Answer {
        let channel = self.channel(&ask.channel)?;
        if !self.channels.history.keeps(&channel) {
            return Err(codes::NOT_AVAILABLE.because("this namespace keeps no history"));
        }
        let mark = [(header::REMOVED.to_owned(), "1".to_owned())];
        let id = random_token::<16>();
        let deadline = Instant::now() + self.answer_timeout;
        let mark = self.store.store_publication(&channel, &id, &mark, Bytes::new(), deadline).await?;
        let removed = self.channels.history.remove_before(&channel, mark.seq).await;
        removed.map_err(|refusal| codes::INTERNAL.because(refusal))?;
        raw(&Nothing {})
    }

    pub(super) async fn channels(&self, ask: ChannelsAsk) -> Answer {
        let mut channels = BTreeMap::<String, ChannelFacts>::new();
        let (all, silent) = self.survey(&Ask::Channels { pattern: ask.pattern }).await?;
        if silent > 0 {
            return Err(silence(silent));
        }
        for told in all {
            let Told::Channels { channels: some, more } = told else { continue };
            if more {
                return Err(codes::LIMIT_EXCEEDED.because("too many channels: narrow the pattern"));
            }
            for (name, clients) in some {
                channels.entry(name).or_default().num_clients += clients;
            }
        }
        raw(&Channels { channels })
    }

    pub(super) async fn info(&self, _: InfoAsk) -> Answer {
        // Who is missing is seen from who is there.
        let (told, _) = self.survey(&Ask::Info).await?;
        let nodes = told.into_iter().filter_map(|told| match told {
            Told::Info(node) => Some(node),
            Told::Channels { .. } | Told::Done => None,
        });
        raw(&Info { nodes: nodes.collect() })
    }

    /// What this gateway and the others say, and how many said nothing that can be read.
    async fn survey(&self, ask: &Ask) -> Result<(Vec<Told>, usize), Error> {
        let others = self.peers.ask(raw(ask)?).await.map_err(|refusal| codes::INTERNAL.because(refusal))?;
        let asked = others.answers.len() + others.silent;
        let read: Vec<Told> = others.answers.iter().filter_map(|answer| read_owned(answer)).collect();
        let silent = asked - read.len();
        Ok((std::iter::once(self.local.answer(ask)).chain(read).collect(), silent))
    }
}
