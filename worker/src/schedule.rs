//! Schedules that a handler sets and removes: when one fires, what it brings, and the checks that need no broker.

use std::time::{Duration, SystemTime};

pub use tidegate_shared::schedule::Change as ScheduleChange;
use tidegate_shared::{
    enqueue::{self, Due},
    schedule::{self, Overlap, milliseconds},
};

use crate::{follow_up::FollowUp, publication::Publication};

/// When a schedule fires. What is wrong with it, [`Schedules::set`](crate::Schedules::set) says.
///
/// ```
/// use std::time::Duration;
/// use tidegate_worker::When;
///
/// let mornings = When::cron("30 7 * * mon-fri").zone("America/New_York");
/// let often = When::every(Duration::from_secs(300)).skip_overlap();
/// let once = When::after(Duration::from_secs(3600));
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct When {
    times: Times,
    zone: Option<String>,
    overlap: Overlap,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Times {
    Cron(String),
    Every(Duration),
    Once(Due),
}

/// What a schedule brings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Scheduled {
    /// A request. It acts for the user of the request that sets the schedule, unless it says otherwise. Each firing is a request of
    /// its own: the follow-up has no key, no name and no time.
    Request(FollowUp),
    /// A publication of the back end: it has no sender, no name and no time.
    Publication(Publication),
}

/// A schedule as a handler sets it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SetSchedule {
    pub(crate) name: String,
    pub(crate) when: When,
    pub(crate) what: Scheduled,
}

impl When {
    fn new(times: Times) -> Self {
        Self { times, zone: None, overlap: Overlap::Allow }
    }

    /// At the times of a cron line: five fields as in crontab, or six with the second first, or a word such as `@daily`. In UTC,
    /// unless it has a [`zone`](Self::zone).
    pub fn cron(line: impl Into<String>) -> Self {
        Self::new(Times::Cron(line.into()))
    }

    /// Again and again, so long after it was set and after each firing. Whole seconds, at least one.
    pub fn every(interval: Duration) -> Self {
        Self::new(Times::Every(interval))
    }

    /// Once, at this time by the broker's clock. A time that is over is now.
    pub fn at(time: SystemTime) -> Self {
        Self::new(Times::Once(Due::At(time)))
    }

    /// Once, so long after it was set. A repeated attempt does not count anew.
    pub fn after(delay: Duration) -> Self {
        Self::new(Times::Once(Due::After(delay)))
    }

    /// The time zone of a cron line, such as `Europe/Berlin`.
    #[must_use]
    pub fn zone(mut self, zone: impl Into<String>) -> Self {
        self.zone = Some(zone.into());
        self
    }

    /// Leaves a firing out while the request of an earlier one is not done.
    #[must_use]
    pub fn skip_overlap(mut self) -> Self {
        self.overlap = Overlap::Skip;
        self
    }

    /// The time of what waits for one.
    pub(crate) fn once(due: Due) -> Option<Self> {
        (due != Due::Now).then(|| Self::new(Times::Once(due)))
    }

    pub(crate) fn overlap(&self) -> Overlap {
        self.overlap
    }

    /// Whether it is counted from the moment at which it is set.
    pub(crate) fn is_relative(&self) -> bool {
        matches!(self.times, Times::Once(Due::After(_)))
    }

    /// A single time as the handler said it. Empty for what repeats.
    pub(crate) fn said(&self) -> String {
        match self.times {
            Times::Once(Due::At(time)) => format!("at {}", milliseconds(time)),
            Times::Once(Due::After(delay)) => format!("after {}", delay.as_millis()),
            Times::Once(Due::Now) | Times::Cron(_) | Times::Every(_) => String::new(),
        }
    }

    /// What the broker is told if it is set at this time. The error is a sentence.
    pub(crate) fn from(&self, now: SystemTime) -> Result<schedule::When, String> {
        match &self.times {
            Times::Cron(line) => schedule::When::cron(line, self.zone.as_deref()),
            _ if self.zone.is_some() => Err("time_zone: only a cron line has a time zone".to_owned()),
            Times::Every(interval) => schedule::When::interval(*interval),
            Times::Once(due) => {
                enqueue::check_due(*due, now).map_err(|refused| refused.to_string())?;
                Ok(schedule::When::once(match due {
                    Due::Now => now,
                    Due::After(delay) => now + *delay,
                    Due::At(time) => *time,
                }))
            }
        }
    }
}

impl SetSchedule {
    /// Checks what needs no broker and no configuration, as `schedule_set` of the server API does. The error is a sentence.
    pub(crate) fn check(&self, now: SystemTime) -> Result<(), String> {
        schedule::check_name(&self.name)?;
        self.when.from(now)?;
        let refuse = |why: &str| Err(why.to_owned());
        match &self.what {
            Scheduled::Request(follow_up) if follow_up.key.is_some() => {
                refuse("a schedule's request has no key: each firing is a request of its own")
            }
            Scheduled::Request(FollowUp { due, name, .. })
            | Scheduled::Publication(Publication { due, name, .. })
                if *due != Due::Now || name.is_some() =>
            {
                refuse("the time and the name are those of the schedule: give what it brings none of its own")
            }
            Scheduled::Publication(_) if self.when.overlap == Overlap::Skip => {
                refuse("only requests can overlap: skip_overlap is not for publications")
            }
            Scheduled::Publication(publication) => publication.can_wait(),
            Scheduled::Request(_) => Ok(()),
        }
    }
}

impl From<FollowUp> for Scheduled {
    fn from(follow_up: FollowUp) -> Self {
        Self::Request(follow_up)
    }
}

impl From<Publication> for Scheduled {
    fn from(publication: Publication) -> Self {
        Self::Publication(publication)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checked(name: &str, when: When, what: impl Into<Scheduled>) -> Result<(), String> {
        SetSchedule { name: name.to_owned(), when, what: what.into() }.check(SystemTime::UNIX_EPOCH)
    }

    #[test]
    fn what_could_not_be_set_on_any_attempt_is_refused_with_a_sentence() {
        let (request, publication) = (FollowUp::bytes("a", "1"), Publication::bytes("chat:a", "1"));
        let often = When::every(Duration::from_secs(1));
        let far = When::after(Duration::from_hours(24 * 3660));
        for (refused, why) in [
            (checked("", often.clone(), request.clone()), "name: a schedule's name has 1 to 128 bytes"),
            (checked("a", When::cron("60 * * * *"), request.clone()), "cron: "),
            (checked("a", When::cron("* * * * *").zone("+02:00"), request.clone()), "time_zone: \"+02:00\""),
            (checked("a", often.clone().zone("UTC"), request.clone()), "only a cron line has a time zone"),
            (checked("a", When::every(Duration::from_millis(1500)), request.clone()), "whole seconds"),
            (checked("a", far, request.clone()), "ten years"),
            (checked("a", often.clone(), request.clone().key("k")), "has no key"),
            (checked("a", often.clone(), request.clone().named("n")), "those of the schedule"),
            (checked("a", often.clone(), request.after(Duration::from_secs(1))), "those of the schedule"),
            (checked("a", often.clone().skip_overlap(), publication), "only requests can overlap"),
            (checked("a", often, Publication::bytes("chat:a", "")), "needs data"),
        ] {
            let refused = refused.unwrap_err();
            assert!(refused.contains(why), "{refused}");
        }
    }
}
