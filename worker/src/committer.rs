//! Storing answers, publications and follow-ups: one by one, or behind a slow disk in the batches of
//! [`tidegate_shared::broker::Committer`], one for each stream.

use std::collections::HashMap;

use async_nats::HeaderMap;
use bytes::Bytes;
use tidegate_shared::{
    broker::{Broker, Committer, Refusal, ToCommit},
    channel::Channel,
    config::{Config, Match},
    topology::{REPLY, channel_stream, request_stream},
};

use crate::{
    backoff::Pauses,
    store::{self, FIRST_PAUSE, Rejected, Stored},
};

/// Stores what one worker makes.
#[derive(Debug)]
pub(crate) struct Committers {
    broker: Broker,
    answers: Committer,
    /// By namespace.
    publications: HashMap<String, Committer>,
    /// By route.
    follow_ups: HashMap<String, Committer>,
}

impl Committers {
    /// Starts on this runtime. It ends with the value.
    pub(crate) fn start(broker: &Broker, config: &Config) -> Self {
        let start = |name: &String, stream| (name.clone(), Committer::start(broker, stream));
        let namespaces = config.all_namespaces();
        let kept = namespaces.iter().filter(|namespace| namespace.has_history());
        let stored = config.routes.iter().filter(|route| !matches!(route.matches, Match::Hook(_)));
        Self {
            broker: broker.clone(),
            answers: Committer::start(broker, REPLY.to_owned()),
            publications: kept.map(|kept| start(&kept.name, channel_stream(&kept.name))).collect(),
            follow_ups: stored.map(|route| start(&route.name, request_stream(&route.name))).collect(),
        }
    }

    /// Lets messages gather from now on, however fast the broker is.
    #[cfg(feature = "testing")]
    pub(crate) fn gather_always(&self) {
        let others = self.publications.values().chain(self.follow_ups.values());
        others.chain([&self.answers]).for_each(Committer::gather_always);
    }

    /// Stores an answer, as [`store::store_unless_full`] does.
    pub(crate) async fn answer(
        &self,
        subject: String,
        headers: &HeaderMap,
        body: Bytes,
    ) -> Result<Option<Stored>, Rejected> {
        self.commit(Some(&self.answers), true, &subject, headers, body).await
    }

    /// Stores a publication in a channel, as [`store::store`] does.
    pub(crate) async fn publish(
        &self,
        channel: &Channel,
        subject: String,
        headers: &HeaderMap,
        body: Bytes,
    ) -> Result<Stored, Rejected> {
        let committer = self.publications.get(channel.namespace());
        let mut pauses = Pauses::new(FIRST_PAUSE);
        loop {
            match self.commit(committer, false, &subject, headers, body.clone()).await? {
                Some(stored) => return Ok(stored),
                None => store::pause(&mut pauses, "store", &Refusal::Full, &subject).await,
            }
        }
    }

    /// Stores a follow-up for a route, as [`store::store_unless_full`] does.
    pub(crate) async fn enqueue(
        &self,
        route: &str,
        subject: &str,
        headers: &HeaderMap,
        body: Bytes,
    ) -> Result<Option<Stored>, Rejected> {
        self.commit(self.follow_ups.get(route), true, subject, headers, body).await
    }

    async fn commit(
        &self,
        committer: Option<&Committer>,
        once: bool,
        subject: &str,
        headers: &HeaderMap,
        body: Bytes,
    ) -> Result<Option<Stored>, Rejected> {
        if let Some(committer) = committer {
            let message = (subject.to_owned(), headers.clone(), body.clone());
            let handed = committer.hand_over(ToCommit { message, once, drawn: false, deadline: None }).await;
            let stored = match handed {
                Ok(handed) => handed.stored().await,
                Err(refusal) => Err(refusal),
            };
            if !stored.as_ref().is_err_and(Refusal::may_pass) {
                return store::told(stored);
            }
        }
        store::store_unless_full(&self.broker, subject, headers, &body).await
    }
}
