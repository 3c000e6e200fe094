//! The counts of a run, their table and the verdict. Pure: it only evaluates counts.

use std::collections::BTreeSet;

use serde::Serialize;

use super::latency::Latency;

/// The counts of one run.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Counts {
    /// Events in the feed.
    pub events: usize,
    /// Events of the feed that are alerts.
    pub alerts_expected: usize,
    /// The processes killed during the run.
    pub kills: Vec<String>,
    /// The requests.
    pub requests: RequestCounts,
    /// The rows of the database.
    pub rows: RowCounts,
    /// The earthquakes the subscribers received.
    #[serde(rename = "heard")]
    pub deliveries: DeliveryCounts,
    /// The publications of the outside service.
    pub service: ServiceCounts,
    /// The probe requests, which measure the time to acceptance.
    pub probes: ProbeCounts,
    /// The time from a request's first try to its answer.
    pub answer_ms: Latency,
    /// The time from a probe to its receipt.
    pub accept_ms: Latency,
    /// The duration of the replay.
    pub replay_ms: u64,
}

/// The requests of the stations.
#[derive(Debug, Clone, Default, Serialize)]
pub struct RequestCounts {
    /// Requests sent.
    pub sent: usize,
    /// Requests known to be stored: answered, or reported as stored.
    pub accepted: usize,
    /// Requests with an answer.
    pub answered: usize,
    /// Requests that became dead letters, as reported to the station.
    pub dead: usize,
    /// Requests that the handler answered with an error.
    pub rejected: usize,
    /// Retries with the same key.
    pub retries: u64,
    /// Second replies to one call.
    pub stray_replies: u64,
    /// The errors of refused and unanswered requests.
    pub failures: Vec<String>,
}

/// The rows of the database.
#[derive(Debug, Clone, Default, Serialize)]
pub struct RowCounts {
    /// Rows in the table.
    pub stored: usize,
    /// Rows beyond one per event.
    pub twice: usize,
    /// Accepted requests, neither rejected nor dead letters, without a row.
    pub missing: BTreeSet<String>,
    /// Rows of events that no station reported.
    pub unknown: usize,
}

/// The earthquakes the subscribers received on their channels.
#[derive(Debug, Clone, Default, Serialize)]
pub struct DeliveryCounts {
    /// Distinct alerts that any subscriber received.
    pub alerts: usize,
    /// Publications a subscriber received more than once.
    pub twice: usize,
    /// Publications missed by subscribers that stayed connected.
    pub missed: usize,
    /// Publications whose event does not belong in their channel.
    pub unknown: usize,
    /// Connections the subscribers lost.
    pub interruptions: usize,
}

/// Publications of an outside service.
#[derive(Debug, Clone, Default, Serialize)]
pub struct ServiceCounts {
    /// Subscribers of the notice channel.
    pub listeners: usize,
    /// Subscribers that received the notice once.
    pub notices: usize,
    /// Whether the addressed user received the personal message once.
    pub personal: bool,
    /// Publications that reached the wrong client.
    pub misdelivered: usize,
}

/// The probe requests.
#[derive(Debug, Clone, Default, Serialize)]
pub struct ProbeCounts {
    /// Requests sent.
    pub sent: usize,
    /// Probes with a receipt.
    pub accepted: usize,
    /// Probes with an answer on the personal channel.
    pub answered: usize,
    /// Answers beyond one per probe.
    pub twice: usize,
}

impl Counts {
    /// Returns the number of accepted requests without an answer or dead letter, or without the row they must have.
    pub fn lost(&self) -> usize {
        let requests = &self.requests;
        let unsettled =
            requests.accepted.saturating_sub(requests.answered + requests.rejected + requests.dead);
        unsettled.max(self.rows.missing.len())
    }

    /// Returns the number of duplicate answers, rows and publications.
    pub fn duplicates(&self) -> u64 {
        let counted = self.rows.twice + self.deliveries.twice + self.probes.twice;
        self.requests.stray_replies + counted as u64
    }

    /// Returns the failed checks, one sentence each. Empty if the run passed.
    pub fn problems(&self) -> Vec<String> {
        let (requests, rows, deliveries, probes) =
            (&self.requests, &self.rows, &self.deliveries, &self.probes);
        let checks = [
            (requests.sent != self.events, format!("{} of {} events were sent", requests.sent, self.events)),
            (
                requests.accepted != requests.sent,
                format!("{} of {} requests were accepted", requests.accepted, requests.sent),
            ),
            (
                requests.answered != requests.sent,
                format!("{} of {} requests were answered", requests.answered, requests.sent),
            ),
            (
                rows.stored != self.events,
                format!("{} rows are stored for {} events", rows.stored, self.events),
            ),
            (rows.unknown > 0, format!("{} rows belong to no event", rows.unknown)),
            (
                deliveries.alerts != self.alerts_expected,
                format!("{} of {} alerts were received", deliveries.alerts, self.alerts_expected),
            ),
            (
                deliveries.unknown > 0,
                format!("{} publications do not belong in their channel", deliveries.unknown),
            ),
            (
                deliveries.missed > 0,
                format!("subscribers that stayed connected missed {} publications", deliveries.missed),
            ),
            (self.lost() > 0, format!("{} accepted requests are lost", self.lost())),
            (self.duplicates() > 0, format!("{} duplicates", self.duplicates())),
            (
                probes.accepted != probes.sent,
                format!("{} of {} probes were accepted", probes.accepted, probes.sent),
            ),
            (
                probes.answered != probes.accepted,
                format!("{} of {} probes were answered", probes.answered, probes.accepted),
            ),
            (
                self.service.notices != self.service.listeners,
                format!(
                    "{} of {} subscribers received the service's notice",
                    self.service.notices, self.service.listeners
                ),
            ),
            (
                !self.service.personal,
                "the addressed user did not receive the service's message exactly once".to_owned(),
            ),
            (
                self.service.misdelivered > 0,
                format!("{} publications reached the wrong client", self.service.misdelivered),
            ),
        ];
        let failed = checks.into_iter().filter_map(|(failed, text)| failed.then_some(text));
        failed.chain(requests.failures.iter().take(5).cloned()).collect()
    }

    /// Returns the table for the terminal.
    pub fn table(&self) -> String {
        let requests = &self.requests;
        let replay = std::time::Duration::from_millis(self.replay_ms);
        let mut rows = vec![
            ("killed", if self.kills.is_empty() { "nothing".to_owned() } else { self.kills.join(", ") }),
            ("sent", format!("{} of {} events in {:.1} s", requests.sent, self.events, replay.as_secs_f64())),
            ("accepted", requests.accepted.to_string()),
            ("answered", format!("{} ({} retried)", requests.answered, requests.retries)),
            ("dead letters", requests.dead.to_string()),
            ("rows stored", self.rows.stored.to_string()),
            ("alerts received", format!("{} of {}", self.deliveries.alerts, self.alerts_expected)),
            (
                "subscribers",
                format!(
                    "{} connections lost, {} publications missed by those that stayed",
                    self.deliveries.interruptions, self.deliveries.missed
                ),
            ),
            ("lost", self.lost().to_string()),
            ("duplicates", self.duplicates().to_string()),
            ("probes", format!("{} accepted, {} answered", self.probes.accepted, self.probes.answered)),
            ("accept time", self.accept_ms.to_string()),
            ("answer time", self.answer_ms.to_string()),
        ];
        let service = &self.service;
        let personal = if service.personal { "the addressed user" } else { "not by the addressed user" };
        rows.push((
            "outside service",
            format!("received by {} of {} subscribers, {personal}", service.notices, service.listeners),
        ));
        rows.iter().map(|(name, value)| format!("  {name:<18} {value}")).collect::<Vec<_>>().join("\n")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn good() -> Counts {
        Counts {
            events: 10,
            alerts_expected: 2,
            requests: RequestCounts { sent: 10, accepted: 10, answered: 10, ..RequestCounts::default() },
            rows: RowCounts { stored: 10, ..RowCounts::default() },
            deliveries: DeliveryCounts { alerts: 2, ..DeliveryCounts::default() },
            service: ServiceCounts { listeners: 4, notices: 4, personal: true, misdelivered: 0 },
            probes: ProbeCounts { sent: 5, accepted: 5, answered: 5, twice: 0 },
            ..Counts::default()
        }
    }

    #[test]
    fn a_run_without_losses_or_duplicates_passes() {
        assert_eq!(good().problems(), Vec::<String>::new());
        assert!(good().table().contains("10 of 10 events"));
    }

    #[test]
    fn an_accepted_request_without_answer_is_lost() {
        let mut counts = good();
        counts.requests.answered = 9;
        assert_eq!(counts.lost(), 1);
        counts.requests.dead = 1;
        assert_eq!(counts.lost(), 0);
        assert!(
            !counts.problems().is_empty(),
            "a dead letter is not lost, but not what the demo expects either"
        );
    }

    #[test]
    fn an_answered_request_without_its_row_is_lost() {
        let mut counts = good();
        counts.rows.missing.insert("us1".to_owned());
        assert_eq!(counts.lost(), 1);
        assert!(counts.problems().iter().any(|problem| problem.contains("lost")));
    }

    #[test]
    fn every_second_answer_row_or_publication_is_a_duplicate() {
        for spoil in [
            |counts: &mut Counts| counts.requests.stray_replies = 1,
            |counts: &mut Counts| counts.rows.twice = 1,
            |counts: &mut Counts| counts.deliveries.twice = 1,
            |counts: &mut Counts| counts.probes.twice = 1,
        ] {
            let mut counts = good();
            spoil(&mut counts);
            assert_eq!(counts.duplicates(), 1);
            assert!(!counts.problems().is_empty());
        }
    }

    #[test]
    fn each_further_shortfall_fails_the_run() {
        for spoil in [
            |counts: &mut Counts| counts.requests.sent = 9,
            |counts: &mut Counts| counts.deliveries.alerts = 1,
            |counts: &mut Counts| counts.deliveries.missed = 1,
            |counts: &mut Counts| counts.probes.answered = 4,
            |counts: &mut Counts| counts.service.notices = 3,
            |counts: &mut Counts| counts.service.personal = false,
            |counts: &mut Counts| counts.service.misdelivered = 1,
        ] {
            let mut counts = good();
            spoil(&mut counts);
            assert!(!counts.problems().is_empty());
        }
    }
}
