//! What settling publishes: subjects, headers and bodies.
//!
//! Builds them, never sends them, except publications, whose errors have to be told apart from the broker's absence.

use std::time::{Duration, SystemTime};

use async_nats::HeaderMap;
use tidegate_shared::{
    channel::Channel,
    envelope::{Answer, Outcome as Said, one_line},
    header,
};

use super::Task;
use crate::{answer::Publication, runner::Runner, store};

impl Runner {
    pub(super) fn answer_of(&self, task: &Task<'_>, said: Said) -> Answer {
        Answer::to(&task.request, task.attempts, &self.engine.name, said)
    }

    /// Nobody can ask again for the answer to a plain request, so it does not stay as long as the stream would keep it.
    pub(super) fn answer_headers(&self, task: &Task<'_>, answer: &Answer) -> HeaderMap {
        let plain = !task.request.id.is_keyed() && !task.request.later;
        answer.headers(plain.then_some(self.engine.config.streams.plain_result_ttl))
    }

    /// The headers of a request that waits: all it had, when it comes back, and where to.
    pub(super) fn park_headers(
        &self,
        task: &Task<'_>,
        delay: Duration,
        attempt: u32,
        mark: &str,
    ) -> Option<HeaderMap> {
        let target = self.engine.subjects.due(task.delivery.subject())?;
        let at = humantime::format_rfc3339_millis(SystemTime::now() + delay);
        let mut headers = task.delivery.headers();
        headers.insert(header::ATTEMPT, attempt.to_string());
        headers.insert(header::MSG_ID, format!("{}.{mark}", task.request.id));
        headers.insert(header::SCHEDULE, format!("@at {at}"));
        headers.insert(header::SCHEDULE_TARGET, target);
        Some(headers)
    }

    /// Stores one publication. The error says what is wrong with it.
    pub(super) async fn publish(
        &self,
        task: &Task<'_>,
        index: usize,
        publication: Publication,
    ) -> Result<(), String> {
        let channel = Channel::parse(&publication.channel)
            .map_err(|error| format!("cannot publish to {:?}: {error}", publication.channel))?;
        // No stream would take it, which looks like a broker that is away.
        if !self.engine.namespaces.iter().any(|namespace| namespace == channel.namespace()) {
            return Err(format!(
                "cannot publish to {:?}: there is no [[namespace]] {:?}",
                publication.channel,
                channel.namespace()
            ));
        }
        let mut headers = HeaderMap::new();
        headers.insert(header::MSG_ID, format!("{}.p{index}", task.request.id));
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
            let name = header::tag(name).map_err(|bad| bad.to_string())?;
            headers.insert(name, one_line(value));
        }
        let subject = self.engine.subjects.channel(&channel);
        let stored = store::store(&self.engine.broker, subject, headers, publication.data).await;
        stored.map(drop).map_err(|error| format!("cannot publish to {:?}: {error}", publication.channel))
    }
}
