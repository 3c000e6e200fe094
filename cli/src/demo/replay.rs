//! The replay: every station sends its reports while processes are killed.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant as Clock},
};

use tidegate_shared::protocol::codes;
use tokio::{sync::mpsc, task::JoinSet, time::Instant};

use super::{
    plan::Plan,
    reports::{self, ReportResult},
    verdict::RequestCounts,
};
use crate::{
    client::{KeyedError, ReconnectingClient},
    progress::Progress,
    stack::Stack,
};

/// The processes killed after a third and after two thirds of the answers: one of two workers, one of two gateways.
const VICTIMS: [&str; 2] = ["worker-1", "gateway-2"];
/// The capacity of the queue of report results.
const REPORTS: usize = 256;

/// The results of all stations.
#[derive(Debug, Default)]
pub(super) struct Replay {
    pub(super) requests: RequestCounts,
    /// Events whose request was accepted, not rejected and not a dead letter: each must have a row.
    pub(super) rows_expected: BTreeSet<String>,
    /// The time from the first try to the answer, per request.
    pub(super) elapsed: Vec<Duration>,
    /// The killed processes.
    pub(super) kills: Vec<String>,
    /// The time of the last kill.
    pub(super) last_kill: Option<Instant>,
    /// The duration of the replay.
    pub(super) duration: Duration,
}

impl Replay {
    /// Sends every report through `sessions`, one per station. Without `victims` no process is killed.
    pub(super) async fn run(
        plan: &Plan,
        sessions: &[ReconnectingClient],
        victims: Option<&Stack>,
        deadline: Instant,
    ) -> anyhow::Result<Self> {
        let begun = Clock::now();
        let (settled, mut reports) = mpsc::channel(REPORTS);
        let mut stations = JoinSet::new();
        for (station, session) in plan.stations.iter().zip(sessions) {
            stations.spawn(reports::report(station.clone(), session.clone(), deadline, settled.clone()));
        }
        drop(settled);
        let total = plan.events();
        let mut progress = Progress::new(total, "answered")?;
        let mut replay = Self::default();
        let mut count = 0;
        while let Some(report) = reports.recv().await {
            replay.take(report);
            count += 1;
            progress.at(count);
            if let (Some(stack), Some(name)) = (victims, victim(count, total)) {
                stack.kill(name).await?;
                progress.say(format!("killed {name} (SIGKILL) after {count} answers"));
                replay.kills.push(name.to_owned());
                replay.last_kill = Some(Instant::now());
            }
        }
        replay.duration = begun.elapsed();
        Ok(replay)
    }

    fn take(&mut self, settled: ReportResult) {
        let requests = &mut self.requests;
        let own = settled.answers_this_report();
        let (tries, accepted) = match &settled.result {
            Ok(answered) => (answered.tries, true),
            Err(unanswered) => (unanswered.tries, unanswered.accepted),
        };
        requests.sent += usize::from(tries > 0);
        requests.accepted += usize::from(accepted);
        requests.retries += u64::from(tries.saturating_sub(1));
        let mut without_row = false;
        match &settled.result {
            Ok(_) if own => {
                requests.answered += 1;
                self.elapsed.push(settled.elapsed);
            }
            Ok(answered) => {
                let answer = String::from_utf8_lossy(&answered.data);
                requests
                    .failures
                    .push(format!("{}: the answer belongs to another request: {answer}", settled.id));
            }
            Err(KeyedError { last, .. }) => {
                let dead = last.code() == Some(codes::DEAD_LETTER.code);
                requests.dead += usize::from(dead);
                requests.rejected += usize::from(last.is_applications());
                without_row = dead || last.is_applications();
                requests.failures.push(format!("{}: {last}", settled.id));
            }
        }
        if accepted && !without_row {
            self.rows_expected.insert(settled.id);
        }
    }
}

/// Returns the process to kill after `count` answers.
fn victim(count: usize, total: usize) -> Option<&'static str> {
    let [worker, gateway] = VICTIMS;
    match count {
        _ if count == total / 3 => Some(worker),
        _ if count == total * 2 / 3 => Some(gateway),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::{CallError, KeyedAnswer};

    fn settled(id: &str, result: Result<KeyedAnswer, KeyedError>) -> ReportResult {
        ReportResult { id: id.to_owned(), elapsed: Duration::from_millis(1), result }
    }

    fn answered(tries: u32) -> KeyedAnswer {
        KeyedAnswer { data: r#"{"id":"a"}"#.into(), tries }
    }

    #[test]
    fn a_report_is_counted_by_how_it_ended() {
        let mut replay = Replay::default();
        replay.take(settled("a", Ok(answered(3))));
        replay.take(settled("b", Ok(answered(1))));
        let dead = CallError::from(codes::DEAD_LETTER.error());
        replay.take(settled("c", Err(KeyedError { last: dead, accepted: true, tries: 1 })));
        replay.take(settled("d", Err(KeyedError { last: CallError::Timeout, accepted: true, tries: 2 })));
        replay.take(settled("e", Err(KeyedError { last: CallError::Timeout, accepted: false, tries: 0 })));
        let rejected = CallError::Server { code: 422, message: "mag: missing".into(), temporary: false };
        replay.take(settled("f", Err(KeyedError { last: rejected, accepted: true, tries: 1 })));
        let requests = &replay.requests;
        // The answer to "b" names another event: it was answered, but not for its own report.
        assert_eq!((requests.sent, requests.accepted, requests.answered), (5, 5, 1));
        assert_eq!(
            (requests.dead, requests.rejected, requests.retries, requests.failures.len()),
            (1, 1, 3, 5)
        );
        assert_eq!(replay.rows_expected.into_iter().collect::<Vec<_>>(), ["a", "b", "d"]);
    }

    #[test]
    fn each_victim_is_killed_once() {
        let killed: Vec<_> = (1..=1707).filter_map(|count| victim(count, 1707)).collect();
        assert_eq!(killed, VICTIMS);
    }
}
