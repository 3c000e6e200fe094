//! Sends the reports of a station, a few at a time, and retries each until it is answered.

use std::time::Duration;

use futures_util::{StreamExt, stream};
use serde::Deserialize;
use tokio::{sync::mpsc, time::Instant};

use super::plan::{Quake, StationPlan};
use crate::client::{KeyedAnswer, KeyedError, ReconnectingClient};

/// Unanswered requests of one station at a time.
const IN_FLIGHT: usize = 8;
/// The method that stores an earthquake.
const METHOD: &str = "quakes.report";

/// The result of one report.
#[derive(Debug)]
pub(super) struct ReportResult {
    /// The earthquake's id.
    pub(super) id: String,
    /// The time from the first try to the result.
    pub(super) elapsed: Duration,
    /// The answer, or why there is none.
    pub(super) result: Result<KeyedAnswer, KeyedError>,
}

impl ReportResult {
    /// Whether the answer belongs to this report.
    pub(super) fn answers_this_report(&self) -> bool {
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

/// Sends every report of the plan; ends early when the receiver of `settled` is dropped.
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
    fn an_answer_to_another_report_is_detected() {
        let settled = |data: &'static str| ReportResult {
            id: "us1".to_owned(),
            elapsed: Duration::ZERO,
            result: Ok(KeyedAnswer { data: data.into(), tries: 1 }),
        };
        assert!(settled(r#"{"id":"us1","stored":true}"#).answers_this_report());
        assert!(!settled(r#"{"id":"us2","stored":true}"#).answers_this_report());
        assert!(!settled("null").answers_this_report());
    }
}
