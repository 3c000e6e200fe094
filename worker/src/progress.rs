//! How far a handler is, by its own account: the newest report of a request, which whoever asks about the request is told.

use std::{
    sync::Arc,
    time::{Duration, UNIX_EPOCH},
};

use tidegate_shared::{header, job::Report};
use tokio::{sync::watch, time::Instant};

/// The most bytes of a stage's name.
const MAX_STAGE: usize = 64;
/// The most bytes of a note.
const MAX_NOTE: usize = 256;

/// Says how far the handler is, as an argument of a handler. Nothing of it waits or fails, and it may be called as often as there is
/// something new: the newest report counts.
///
/// Whoever asks about the running request is told the newest report (`rpc("tide.status", ...)`, `job` of the server API,
/// `tidegate job show`). On a route with `progress = true` the client gets it live, at most four times a second.
///
/// ```
/// use tidegate_worker::Progress;
///
/// async fn import(progress: Progress) {
///     progress.stage("read").note("orders.csv");
///     for percent in 0..=100 {
///         progress.set(percent);
///     }
/// }
/// ```
#[derive(Debug, Clone)]
pub struct Progress(pub(crate) Newest);

/// The newest report of a request, shared by its handler and the worker.
#[derive(Debug, Clone)]
pub(crate) struct Newest(Arc<watch::Sender<Reported>>);

/// A report, and when it was made.
#[derive(Debug, Clone, Default)]
pub(crate) struct Reported {
    report: Report,
    /// `None` for a report of an earlier attempt, which says by itself when.
    at: Option<Instant>,
}

impl Progress {
    /// Sets how much is done, in percent. More than 100 is 100.
    pub fn set(&self, percent: u8) -> &Self {
        self.update(|report| report.percent = Some(percent.min(100)))
    }

    /// Sets the name of what is being done: one line of at most 64 bytes; a longer one is cut. It stays until the next one.
    pub fn stage(&self, stage: impl AsRef<str>) -> &Self {
        self.update(|report| report.stage = header::text_within(stage.as_ref(), MAX_STAGE))
    }

    /// Sets a text for people: one line of at most 256 bytes; a longer one is cut. It stays until the next one.
    pub fn note(&self, note: impl AsRef<str>) -> &Self {
        self.update(|report| report.note = header::text_within(note.as_ref(), MAX_NOTE))
    }

    fn update(&self, change: impl FnOnce(&mut Report)) -> &Self {
        self.0.0.send_modify(|reported| {
            // What an earlier attempt said does not hold for this one.
            if reported.at.is_none() {
                reported.report = Report::default();
            }
            change(&mut reported.report);
            reported.at = Some(Instant::now());
        });
        self
    }
}

impl Default for Newest {
    fn default() -> Self {
        Self(Arc::new(watch::Sender::new(Reported::default())))
    }
}

impl Newest {
    /// Begins with the report of an earlier attempt, as its header has it.
    pub(crate) fn after(earlier: Option<&str>) -> Self {
        let report = earlier.and_then(|json| serde_json::from_str(json).ok()).unwrap_or_default();
        Self(Arc::new(watch::Sender::new(Reported { report, at: None })))
    }

    /// The newest report, with its time of day; `now` is that of the broker. `None` if there is none.
    pub(crate) fn get(&self, now: Duration) -> Option<Report> {
        let Reported { report, at } = self.0.borrow().clone();
        match at {
            Some(at) => {
                let at = UNIX_EPOCH.checked_add(now.saturating_sub(at.elapsed())).unwrap_or(UNIX_EPOCH);
                let at = humantime::format_rfc3339_millis(at).to_string();
                Some(Report { at, ..report })
            }
            None if report == Report::default() => None,
            None => Some(report),
        }
    }

    /// Follows the reports that are made from now on.
    pub(crate) fn follow(&self) -> watch::Receiver<Reported> {
        self.0.subscribe()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_newest_report_counts_and_replaces_that_of_an_earlier_attempt() {
        let newest = Newest::after(Some(r#"{"percent":90,"stage":"write","at":"2026-01-01T00:00:00.000Z"}"#));
        let earlier = newest.get(Duration::ZERO).unwrap();
        assert_eq!((earlier.percent, &*earlier.stage, &*earlier.note), (Some(90), "write", ""));
        let progress = Progress(newest.clone());
        progress.set(200).note("a\nb");
        tokio::time::advance(Duration::from_secs(2)).await;
        let report = newest.get(Duration::from_secs(5)).unwrap();
        let at = "1970-01-01T00:00:03.000Z".to_owned();
        assert_eq!(report, Report { percent: Some(100), stage: String::new(), note: "a b".to_owned(), at });
        progress.stage("s".repeat(1000)).note("n".repeat(1000));
        let report = newest.get(Duration::ZERO).unwrap();
        assert!(report.stage.len() <= MAX_STAGE && report.note.len() <= MAX_NOTE);
        assert_eq!(report.percent, Some(100), "it stays");
    }

    #[test]
    fn without_a_report_there_is_none_and_an_unreadable_one_is_none() {
        for earlier in [None, Some(""), Some("{\"percent\":-1}")] {
            assert_eq!(Newest::after(earlier).get(Duration::ZERO), None);
        }
    }
}
