//! From what was counted to a table and a verdict. Pure: nothing here is measured, nothing assumed.

use std::collections::BTreeSet;

use serde::Serialize;

use super::latency::Latency;

/// What one run counted.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Counts {
    /// Events in the feed.
    pub events: usize,
    /// Events of the feed that are alerts.
    pub alerts_expected: usize,
    /// What was killed on the way.
    pub kills: Vec<String>,
    /// The requests.
    pub requests: RequestCounts,
    /// The database.
    pub rows: RowCounts,
    /// What the listeners heard of the earthquakes.
    pub heard: DeliveryCounts,
    /// What the listeners heard of the outside service.
    pub service: ServiceCounts,
    /// The further requests that measure the way to acceptance.
    pub probes: ProbeCounts,
    /// From a request's first try to its answer.
    pub answer_ms: Latency,
    /// From a probe to its receipt.
    pub accept_ms: Latency,
    /// How long the replay took.
    pub replay_ms: u64,
}

/// The requests of the stations.
#[derive(Debug, Clone, Default, Serialize)]
pub struct RequestCounts {
    /// Begun.
    pub sent: usize,
    /// Known to be stored: answered, or said to be stored.
    pub accepted: usize,
    /// Requests with an answer.
    pub answered: usize,
    /// Given up by the workers, and the station told so.
    pub dead: usize,
    /// Requests that the handler answered with an error.
    pub rejected: usize,
    /// Asked for again, with the same key.
    pub retries: u64,
    /// Replies to a call that had its reply.
    pub stray_replies: u64,
    /// What was refused or never answered.
    pub failures: Vec<String>,
}

/// The database.
#[derive(Debug, Clone, Default, Serialize)]
pub struct RowCounts {
    /// Rows in the table.
    pub stored: usize,
    /// Rows beyond one per event.
    pub twice: usize,
    /// Accepted requests that were neither rejected nor given up, and have no row.
    pub missing: BTreeSet<String>,
    /// Rows of events that no station reported.
    pub unknown: usize,
}

/// What the listeners heard of the earthquakes, in the channels they subscribed to.
#[derive(Debug, Clone, Default, Serialize)]
pub struct DeliveryCounts {
    /// Distinct alerts that some listener heard.
    pub alerts: usize,
    /// Publications a listener heard more than once.
    pub twice: usize,
    /// Publications that a listener which was connected all the time did not hear.
    pub missed: usize,
    /// Publications of events that do not belong into their channel.
    pub unknown: usize,
    /// Connections that listeners lost on the way.
    pub interruptions: usize,
}

/// Publications of an outside service.
#[derive(Debug, Clone, Default, Serialize)]
pub struct ServiceCounts {
    /// Listeners that have to hear the notice.
    pub listeners: usize,
    /// Listeners that heard it once.
    pub notices: usize,
    /// Whether the addressed user heard the personal message once.
    pub personal: bool,
    /// Frames that reached somebody they were not meant for.
    pub misdelivered: usize,
}

/// The further requests.
#[derive(Debug, Clone, Default, Serialize)]
pub struct ProbeCounts {
    /// Begun.
    pub sent: usize,
    /// With a receipt.
    pub accepted: usize,
    /// Whose answer came on the personal channel.
    pub answered: usize,
    /// Answers beyond one.
    pub twice: usize,
}

impl Counts {
    /// Accepted, and then neither answered nor a dead letter, or answered without a row.
    pub fn lost(&self) -> usize {
        let requests = &self.requests;
        let unsettled =
            requests.accepted.saturating_sub(requests.answered + requests.rejected + requests.dead);
        unsettled.max(self.rows.missing.len())
    }

    /// Answers beyond one a request, rows beyond one an event, publications beyond one a listener.
    pub fn duplicates(&self) -> u64 {
        let counted = self.rows.twice + self.heard.twice + self.probes.twice;
        self.requests.stray_replies + counted as u64
    }

    /// Returns what is not as it has to be, a sentence each. Empty means that the run passed.
    pub fn problems(&self) -> Vec<String> {
        let (requests, rows, heard, probes) = (&self.requests, &self.rows, &self.heard, &self.probes);
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
                heard.alerts != self.alerts_expected,
                format!("{} of {} alerts were heard", heard.alerts, self.alerts_expected),
            ),
            (heard.unknown > 0, format!("{} publications do not belong into their channel", heard.unknown)),
            (
                heard.missed > 0,
                format!("listeners that stayed connected missed {} publications", heard.missed),
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
                format!("{} of {} listeners heard the service", self.service.notices, self.service.listeners),
            ),
            (!self.service.personal, "the addressed user did not hear the service exactly once".to_owned()),
            (
                self.service.misdelivered > 0,
                format!("{} frames reached the wrong client", self.service.misdelivered),
            ),
        ];
        let failed = checks.into_iter().filter_map(|(failed, text)| failed.then_some(text));
        failed.chain(requests.failures.iter().take(5).cloned()).collect()
    }

    /// Returns the table a person reads.
    pub fn table(&self) -> String {
        let requests = &self.requests;
        let replay = std::time::Duration::from_millis(self.replay_ms);
        let mut rows = vec![
            (
                "killed on the way",
                if self.kills.is_empty() { "nothing".to_owned() } else { self.kills.join(", ") },
            ),
            ("sent", format!("{} of {} events in {:.1} s", requests.sent, self.events, replay.as_secs_f64())),
            ("accepted", requests.accepted.to_string()),
            ("answered", format!("{} ({} asked for again)", requests.answered, requests.retries)),
            ("dead letters", requests.dead.to_string()),
            ("rows stored", self.rows.stored.to_string()),
            ("alerts heard", format!("{} of {}", self.heard.alerts, self.alerts_expected)),
            (
                "listeners",
                format!(
                    "{} connections lost, {} publications missed by those that stayed",
                    self.heard.interruptions, self.heard.missed
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
            format!("heard by {} of {} listeners, {personal}", service.notices, service.listeners),
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
            heard: DeliveryCounts { alerts: 2, ..DeliveryCounts::default() },
            service: ServiceCounts { listeners: 4, notices: 4, personal: true, misdelivered: 0 },
            probes: ProbeCounts { sent: 5, accepted: 5, answered: 5, twice: 0 },
            ..Counts::default()
        }
    }

    #[test]
    fn a_run_in_which_everything_adds_up_passes() {
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
    fn whatever_comes_twice_is_a_duplicate() {
        for spoil in [
            |counts: &mut Counts| counts.requests.stray_replies = 1,
            |counts: &mut Counts| counts.rows.twice = 1,
            |counts: &mut Counts| counts.heard.twice = 1,
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
            |counts: &mut Counts| counts.heard.alerts = 1,
            |counts: &mut Counts| counts.heard.missed = 1,
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
