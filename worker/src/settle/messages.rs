//! The messages that a settlement stores: their headers, and the checks on a handler's publications.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use async_nats::HeaderMap;
use tidegate_shared::{
    channel::Channel,
    envelope::one_line,
    header,
    topology::{consumer_name, request_stream},
};

use super::{Parked, Settlement, Suspicion};
use crate::{answer::Publication, store};

impl Settlement {
    /// The headers of a parked request: its own, the time of its next delivery and the subject of that delivery. `None` when
    /// the request was delivered on a subject that is not a request's.
    pub(super) async fn park_headers(&self, parked: &Parked) -> Option<HeaderMap> {
        let consumer = consumer_name(&self.route.config);
        let stream = request_stream(&self.route.config.name);
        let now = self.engine.clock.now(&self.engine.broker, &stream, consumer).await;
        self.headers_until(parked, now + parked.delay)
    }

    /// Whether the request was stored longer ago than the route allows. Both times are the broker's.
    pub(super) async fn is_too_old(&self) -> bool {
        let route = &self.route.config;
        let Some(stored) = self.delivery.stored_at().filter(|_| !route.max_age.is_zero()) else {
            return false;
        };
        let stream = request_stream(&route.name);
        let now = self.engine.clock.now(&self.engine.broker, &stream, consumer_name(route)).await;
        now.duration_since(stored).is_ok_and(|age| age > route.max_age)
    }

    /// Whether a parked copy of the request is short enough for the broker.
    pub(super) fn can_be_parked(&self) -> bool {
        let mark = format!("s{}", self.delivery.place());
        let parked = Parked { delay: Duration::ZERO, attempt: u32::MAX, mark, suspicion: Suspicion::Alone };
        let headers = self.headers_until(&parked, UNIX_EPOCH);
        headers
            .is_some_and(|headers| self.engine.broker.check_size(&headers, self.request.body.len()).is_ok())
    }

    fn headers_until(&self, parked: &Parked, due: SystemTime) -> Option<HeaderMap> {
        let target = self.engine.subjects.due(self.delivery.subject())?;
        let kept = self.delivery.headers();
        let kept = kept
            .iter()
            .filter(|(name, _)| !AsRef::<str>::as_ref(*name).eq_ignore_ascii_case(header::SUSPECT));
        let mut headers: HeaderMap = kept
            .flat_map(|(name, values)| values.iter().map(|value| (name.clone(), value.clone())))
            .collect();
        headers.insert(header::ATTEMPT, parked.attempt.to_string());
        if let Some(suspicion) = parked.suspicion.header() {
            headers.insert(header::SUSPECT, suspicion);
        }
        // The copy has a new time in its stream. The age of the request is needed only where it is limited.
        if let Some(stored) = self.delivery.stored_at().filter(|_| !self.route.config.max_age.is_zero()) {
            let since = stored.duration_since(UNIX_EPOCH).unwrap_or_default();
            headers.insert(header::STORED_AT, since.as_millis().to_string());
        }
        headers.insert(header::MSG_ID, format!("{}.{}", self.request.id, parked.mark));
        headers.insert(header::SCHEDULE, format!("@at {}", humantime::format_rfc3339_millis(due)));
        headers.insert(header::SCHEDULE_TARGET, target);
        Some(headers)
    }

    /// Stores the answer's publication number `index`. The error is the reason why it cannot be stored, which another attempt
    /// would meet too.
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
