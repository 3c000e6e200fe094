//! A reporting station: sends its earthquakes, a few at a time, and asks again until each is answered.

use std::time::Duration;

use futures_util::{StreamExt, stream};
use serde::Deserialize;
use tokio::{sync::mpsc, time::Instant};

use super::plan::{Quake, StationPlan};
use crate::client::{KeyedAnswer, KeyedError, ReconnectingClient};

/// Unanswered requests of one station at a time.
const IN_FLIGHT: usize = 8;
/// The method that takes an earthquake.
const METHOD: &str = "quakes.report";

/// How one report ended.
#[derive(Debug)]
pub(super) struct ReportResult {
    /// The earthquake's id.
    pub(super) id: String,
    /// From the first try to the end.
    pub(super) elapsed: Duration,
    /// The answer, or why there is none.
    pub(super) result: Result<KeyedAnswer, KeyedError>,
}

impl ReportResult {
    /// Whether the answer is the answer to this report.
    pub(super) fn is_its_own(&self) -> bool {
        #[derive(Deserialize)]
        struct ReportAnswer {
            id: String,
        }
        self.result.as_ref().is_ok_and(|answered| {
            serde_json::from_slice::<ReportAnswer>(&answered.data)
                .is_ok_and(|reported| reported.id == self.id)
        })
    }
}

/// Reports everything of the plan; ends early when nobody listens to `settled`.
pub(super) async fn report(
    plan: StationPlan,
    session: ReconnectingClient,
    deadline: Instant,
    settled: mpsc::Sender<ReportResult>,
) {
    let reports = plan.quakes.into_iter().map(|quake| report_one(&session, quake, deadline));
    let mut reports = stream::iter(reports).buffer_unordered(IN_FLIGHT);
    while let Some(report) = reports.next().await {
        if settled.send(report).await.is_err() {
            return;
        }
    }
}

async fn report_one(session: &ReconnectingClient, quake: Quake, deadline: Instant) -> ReportResult {
    let begun = Instant::now();
    let result = session.call_keyed(METHOD, &quake.id, quake.body, deadline).await;
    ReportResult { id: quake.id, elapsed: begun.elapsed(), result }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_to_another_report_is_noticed() {
        let settled = |data: &'static str| ReportResult {
            id: "us1".to_owned(),
            elapsed: Duration::ZERO,
            result: Ok(KeyedAnswer { data: data.into(), tries: 1 }),
        };
        assert!(settled(r#"{"id":"us1","stored":true}"#).is_its_own());
        assert!(!settled(r#"{"id":"us2","stored":true}"#).is_its_own());
        assert!(!settled("null").is_its_own());
    }
}
