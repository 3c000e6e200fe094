//! What is remembered of a schedule's newest firing. It is a message beside the schedule's.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

/// What became of a firing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FiringOutcome {
    /// Its request is being stored. Written before that for a schedule that says `overlap = "skip"`.
    Storing,
    /// Its request or publication is stored.
    Stored,
    /// The request of an earlier firing was not done, and the schedule says `overlap = "skip"`.
    Skipped,
    /// It could not be stored yet, and is tried again.
    Failing,
}

/// The newest firing of a schedule. Times are in milliseconds since 1970.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// The version of the schedule that fired.
    pub version: String,
    /// The firing's id: the id of its request, or of its publication.
    pub id: String,
    /// When it fired.
    pub at: u64,
    /// What became of it.
    pub outcome: FiringOutcome,
    /// Why it is failing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// When the next firing is due. `None` if it was the only one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<u64>,
    /// The id of the newest firing that was stored, or was about to be: of the one before, nothing was left then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stored: Option<String>,
}

impl Record {
    /// Whether the firing is done. If not, it waits and is tried again, and what it brings may be stored already.
    pub fn is_settled(&self) -> bool {
        matches!(self.outcome, FiringOutcome::Stored | FiringOutcome::Skipped)
    }

    /// Whether it says that the firing with this id is stored.
    pub fn has_stored(&self, id: &str) -> bool {
        let unsettled = self.id == id && !self.is_settled();
        self.stored.as_deref() == Some(id) && !unsettled
    }
}

/// A time in milliseconds since 1970.
pub fn milliseconds(time: SystemTime) -> u64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// The time so many milliseconds after 1970.
pub fn time_at(milliseconds: u64) -> SystemTime {
    UNIX_EPOCH.checked_add(Duration::from_millis(milliseconds)).unwrap_or(UNIX_EPOCH)
}
