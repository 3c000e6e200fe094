//! The headers of a parked request.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use async_nats::HeaderMap;
use tidegate_shared::{envelope::schedule_once, header, topology::PARK};

use super::{Parked, Settlement, Suspicion};
use crate::inquiry;

impl Settlement {
    /// The headers of a parked request: its own, the time of its next delivery and the subject of that delivery. `None` when
    /// the request was delivered on a subject that is not a request's.
    pub(super) async fn park_headers(&self, parked: &Parked) -> Option<HeaderMap> {
        let now = self.engine.clock.now(&self.engine.broker, PARK, self.route.name()).await;
        self.headers_until(parked, now + parked.delay)
    }

    /// Whether the request was stored longer ago than the route allows. Both times are the broker's.
    pub(super) async fn is_too_old(&self) -> bool {
        let route = &self.route.config;
        let Some(stored) = self.delivery.stored_at().filter(|_| !route.max_age.is_zero()) else {
            return false;
        };
        let now = self.engine.clock.now(&self.engine.broker, PARK, &route.name).await;
        now.duration_since(stored).is_ok_and(|age| age > route.max_age)
    }

    /// Whether a parked copy of the request is short enough for the broker.
    pub(super) fn can_be_parked(&self) -> bool {
        let mark = format!("s{}", self.delivery.place());
        let parked = Parked {
            delay: Duration::ZERO,
            attempt: u32::MAX,
            mark,
            suspicion: Suspicion::Alone,
            snoozes: u32::MAX,
        };
        let headers = self.headers_until(&parked, UNIX_EPOCH);
        headers
            .is_some_and(|headers| self.engine.broker.check_size(&headers, self.request.body.len()).is_ok())
    }

    /// Adds the newest report of the handler, if there is room for it.
    pub(super) fn with_progress(&self, headers: HeaderMap) -> HeaderMap {
        let report = self.progress.get(inquiry::now(&self.engine));
        let Some(report) = report.and_then(|report| serde_json::to_string(&report).ok()) else {
            return headers;
        };
        let mut more = headers.clone();
        more.insert(header::PROGRESS, report);
        let fits = self.engine.broker.check_size(&more, self.request.body.len()).is_ok();
        if fits { more } else { headers }
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
        if parked.snoozes > 0 {
            headers.insert(header::SNOOZES, parked.snoozes.to_string());
        }
        // The copy has a new time in its stream. The age of the request is needed only where it is limited.
        if let Some(stored) = self.delivery.stored_at().filter(|_| !self.route.config.max_age.is_zero()) {
            let since = stored.duration_since(UNIX_EPOCH).unwrap_or_default();
            headers.insert(header::STORED_AT, since.as_millis().to_string());
        }
        if let Some(trace) = &self.request.trace {
            trace.write(&mut headers);
        }
        headers.insert(header::MSG_ID, format!("{}.{}", self.request.id, parked.mark));
        schedule_once(&mut headers, due, target);
        Some(self.with_progress(headers))
    }
}
