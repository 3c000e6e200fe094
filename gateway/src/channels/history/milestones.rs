//! When a gateway puts a milestone into a namespace's stream. Pure.
//!
//! The stream of last messages forgets its oldest copies. How far back it reaches is shown by the oldest one that is left. In
//! a busy namespace that one may be new, because each channel's next message replaces its copy. So a gateway stores a
//! milestone from time to time: a message without content, under a subject that no other message has for longer than copies are kept.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// How many milestones fall into the time that copies are kept.
const COUNT: u32 = 24;
/// How many subjects the milestones take in turn. More than `COUNT`, so that no milestone is replaced before its time is over.
const SUBJECTS: u64 = 32;
/// Milestones are not closer than this.
const SHORTEST: Duration = Duration::from_secs(1);

/// A milestone that is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Milestone {
    /// Counts the intervals since 1970.
    pub(super) interval: u64,
    /// When its interval began.
    pub(super) since: SystemTime,
}

impl Milestone {
    /// The milestone that is due now, where copies are kept for `kept`.
    pub(super) fn due(now: SystemTime, kept: Duration) -> Self {
        let length = (kept / COUNT).max(SHORTEST).as_secs();
        let interval = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs() / length;
        Self { interval, since: UNIX_EPOCH + Duration::from_secs(interval * length) }
    }

    /// The number of its subject.
    pub(super) fn subject(self) -> u64 {
        self.interval % SUBJECTS
    }

    /// The numbers of all subjects.
    pub(super) fn subjects() -> impl Iterator<Item = u64> {
        0..SUBJECTS
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_milestone_is_replaced_while_copies_of_its_age_are_kept() {
        for kept in [Duration::from_hours(1), Duration::from_hours(24 * 7), Duration::from_secs(100)] {
            let now = UNIX_EPOCH + Duration::from_hours(500_000);
            let milestone = Milestone::due(now, kept);
            assert!(milestone.since <= now && now < milestone.since + kept / 12 + SHORTEST);
            let later = Milestone::due(milestone.since + kept, kept);
            assert!(later.interval - milestone.interval < SUBJECTS, "{kept:?}");
        }
    }
}
