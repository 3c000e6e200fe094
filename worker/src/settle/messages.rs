//! The messages that a settlement stores: their headers, and the checks on a handler's publications.

use std::time::Duration;

use async_nats::HeaderMap;
use tidegate_shared::{
    channel::Channel,
    envelope::{self, one_line},
    header,
    topology::{IN, consumer_name},
};

use super::Settlement;
use crate::{answer::Publication, store};

impl Settlement {
    /// An answer to a plain request expires early: no client can ask for it again.
    pub(super) fn answer_headers(&self, answer: &envelope::Answer) -> HeaderMap {
        let plain = !self.request.id.is_keyed() && !self.request.later;
        answer.headers(plain.then_some(self.engine.config.streams.plain_result_ttl))
    }

    /// The headers of a parked request: its own, the time of its next delivery and the subject of that delivery. `None` when
    /// the request was delivered on a subject that is not a request's.
    pub(super) async fn park_headers(&self, delay: Duration, attempt: u32, mark: &str) -> Option<HeaderMap> {
        let target = self.engine.subjects.due(self.delivery.subject())?;
        let consumer = consumer_name(&self.route.config);
        let now = self.engine.clock.now(&self.engine.broker, IN, consumer).await;
        let at = humantime::format_rfc3339_millis(now + delay);
        let mut headers = self.delivery.headers();
        headers.insert(header::ATTEMPT, attempt.to_string());
        headers.insert(header::MSG_ID, format!("{}.{mark}", self.request.id));
        headers.insert(header::SCHEDULE, format!("@at {at}"));
        headers.insert(header::SCHEDULE_TARGET, target);
        Some(headers)
    }

    /// Stores the answer's publication number `index`. The error is the reason why this attempt fails.
    pub(super) async fn publish(&self, index: usize, publication: Publication) -> Result<(), String> {
        let cannot = |reason: &str| format!("cannot publish to {:?}: {reason}", publication.channel);
        let channel = Channel::parse(&publication.channel).map_err(|error| cannot(&error.to_string()))?;
        // No stream takes a channel of an unknown namespace, and the broker reports that as if it were unavailable.
        if !self.engine.namespaces.iter().any(|namespace| namespace == channel.namespace()) {
            return Err(cannot(&format!("there is no [[namespace]] {:?}", channel.namespace())));
        }
        let mut headers = HeaderMap::new();
        headers.insert(header::MSG_ID, format!("{}.p{index}", self.request.id));
        if let Some(sender) = &publication.sender {
            headers.insert(header::CLIENT, one_line(&sender.client));
            for (name, value) in [
                (header::USER, &sender.user),
                (header::INFO, &sender.info),
                (header::CHANNEL_INFO, &sender.channel_info),
            ] {
                if let Some(value) = value {
                    headers.insert(name, one_line(value));
                }
            }
        }
        for (name, value) in &publication.tags {
            let name = header::tag(name).map_err(|error| error.to_string())?;
            headers.insert(name, one_line(value));
        }
        let subject = self.engine.subjects.channel(&channel);
        let stored = store::store(&self.engine.broker, subject, headers, publication.data.clone()).await;
        stored.map(drop).map_err(|error| cannot(&error.to_string()))
    }
}
