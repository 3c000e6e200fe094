//! Whether messages gather: seen from how long the broker takes for each of many that are stored one by one, and for batches.
//! Pure; time is an argument.

use std::time::Duration;

use tokio::time::Instant;

use super::FEWEST;

/// A broker that takes longer than this for each of many messages waits for its disk.
const DISK: Duration = Duration::from_micros(150);
/// How many messages are measured.
pub(super) const MEASURED: u32 = 64;
/// As long as nothing is measured, further messages gather when so many are under way: on a slow disk all that a burst brings would
/// be stored one by one.
const MANY: usize = 4 * MEASURED as usize;
/// How long messages gather before they are measured again.
const GATHERING: Duration = Duration::from_secs(10);
/// How long they go on to gather while too few come together to be measured.
const GRACE: Duration = Duration::from_secs(2);
/// How long they do not gather after batches that were no gain.
const REST: Duration = Duration::from_secs(20);
/// So many batches are judged together: a single one may meet a slow moment of the disk.
const JUDGED: u32 = 16;
/// After batches that were no gain, messages gather again when so many times as many are under way as those had.
const LARGER: usize = 4;

/// How fast the broker stores messages.
#[derive(Debug, Default)]
pub(super) struct Pace {
    under_way: usize,
    /// Since when enough have been under way, and how many have ended since then.
    busy: Option<(Instant, u32)>,
    gathers_until: Option<Instant>,
    /// When they were last measured.
    measured: Option<Instant>,
    /// How long each of them took when that began.
    alone: Duration,
    batches: Batches,
    rest: Option<Rest>,
}

/// Batches that are not judged yet.
#[derive(Debug, Default)]
struct Batches {
    number: u32,
    messages: u32,
    took: Duration,
}

/// Batches of about this size were no gain.
#[derive(Debug)]
struct Rest {
    until: Instant,
    size: usize,
}

impl Pace {
    /// Whether messages gather now.
    pub(super) fn gathers(&self, now: Instant) -> bool {
        self.gathers_until.is_some_and(|until| now < until + GRACE)
            || self.under_way >= MANY && self.measured.is_none_or(|at| now >= at + GATHERING)
    }

    /// Whether the next round should show how long its messages take alone.
    pub(super) fn is_due(&self, now: Instant) -> bool {
        self.gathers(now) && self.gathers_until.is_some_and(|until| now >= until)
    }

    /// So many of a round were sent alone, together, and took so long.
    pub(super) fn round_took(&mut self, count: usize, took: Duration, now: Instant) {
        let each = took / u32::try_from(count.max(1)).unwrap_or(u32::MAX);
        self.gathers_until = (each >= DISK).then_some(now + GATHERING);
        self.measured = Some(now);
        self.alone = each;
    }

    /// A message is sent alone.
    pub(super) fn begin(&mut self, now: Instant) {
        self.under_way += 1;
        if self.under_way >= FEWEST && self.busy.is_none() {
            self.busy = Some((now, 0));
        }
    }

    /// The broker has answered for one of them.
    pub(super) fn end(&mut self, now: Instant) {
        let under_way = self.under_way;
        self.under_way = under_way.saturating_sub(1);
        let Some((since, ended)) = &mut self.busy else { return };
        *ended += 1;
        if *ended >= MEASURED {
            let each = now.saturating_duration_since(*since) / *ended;
            self.measured = Some(now);
            let rests =
                self.rest.as_ref().is_some_and(|rest| now < rest.until && under_way < rest.size * LARGER);
            if each >= DISK && !rests {
                self.gathers_until = Some(now + GATHERING);
                self.alone = each;
                self.batches = Batches::default();
            }
            self.busy = None;
        } else if self.under_way < FEWEST / 2 {
            self.busy = None;
        }
    }

    /// So many were stored together.
    pub(super) fn together(&mut self, count: usize, took: Duration, now: Instant) {
        let gathers = self.gathers(now);
        let batches = &mut self.batches;
        batches.number += 1;
        batches.messages = batches.messages.saturating_add(u32::try_from(count).unwrap_or(u32::MAX));
        batches.took += took;
        if batches.number < JUDGED {
            return;
        }
        if gathers && batches.took >= self.alone.saturating_mul(batches.messages) {
            self.gathers_until = None;
            let size = usize::try_from(batches.messages / batches.number).unwrap_or(usize::MAX);
            self.rest = Some(Rest { until: now + REST, size });
        }
        self.batches = Batches::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Ends so many messages, each after this time, while as many as given are under way.
    fn measure(pace: &mut Pace, mut now: Instant, each: Duration, under_way: usize, messages: u32) -> bool {
        for _ in 0..under_way {
            pace.begin(now);
        }
        for _ in 0..messages {
            now += each;
            pace.end(now);
            pace.begin(now);
        }
        for _ in 0..under_way {
            pace.end(now);
        }
        pace.gathers(now)
    }

    fn gathers_after(each: Duration, under_way: usize, messages: u32) -> bool {
        measure(&mut Pace::default(), Instant::now(), each, under_way, messages)
    }

    #[test]
    fn messages_gather_where_each_of_many_waits_for_the_disk() {
        assert!(gathers_after(DISK * 2, FEWEST, MEASURED));
        assert!(!gathers_after(DISK * 2, FEWEST, MEASURED - 20), "too few were measured");
        assert!(!gathers_after(DISK / 2, FEWEST, 1000), "the broker is fast");
        assert!(!gathers_after(DISK * 2, FEWEST / 2, 1000), "few are under way");
    }

    #[test]
    fn a_pause_between_messages_is_not_taken_for_a_slow_broker() {
        let (mut pace, mut now) = (Pace::default(), Instant::now());
        for _ in 0..10 {
            for _ in 0..FEWEST {
                pace.begin(now);
            }
            for _ in 0..FEWEST {
                now += DISK / 4;
                pace.end(now);
            }
            now += Duration::from_secs(1);
        }
        assert!(!pace.gathers(now));
    }

    #[test]
    fn of_a_burst_a_few_hundred_are_sent_alone_until_they_are_measured() {
        let (mut pace, mut now) = (Pace::default(), Instant::now());
        for _ in 1..MANY {
            pace.begin(now);
        }
        assert!(!pace.gathers(now));
        pace.begin(now);
        assert!(pace.gathers(now));
        for _ in 0..MEASURED {
            now += DISK / 2;
            pace.end(now);
            pace.begin(now);
        }
        assert!(!pace.gathers(now), "the broker is fast");
        assert!(pace.gathers(now + GATHERING), "that was long ago");
    }

    /// A pace whose batches of this size have each taken so long.
    fn after_batches(size: usize, took: Duration, now: Instant) -> Pace {
        let mut pace = Pace { alone: DISK, gathers_until: Some(now + GATHERING), ..Pace::default() };
        for _ in 1..JUDGED {
            pace.together(size, took, now);
            assert!(pace.gathers(now), "one slow batch says nothing");
        }
        pace.together(size, took, now);
        pace
    }

    #[test]
    fn batches_that_take_longer_than_their_messages_alone_end_the_gathering_for_a_while() {
        let now = Instant::now();
        assert!(after_batches(100, DISK * 99, now).gathers(now));
        let mut pace = after_batches(100, DISK * 100, now);
        assert!(!pace.gathers(now));
        assert!(!measure(&mut pace, now, DISK * 2, FEWEST, MEASURED));
        assert!(measure(&mut pace, now + REST, DISK * 2, FEWEST, MEASURED));
    }

    #[test]
    fn a_much_larger_load_gathers_again_at_once() {
        let now = Instant::now();
        let mut pace = after_batches(FEWEST, DISK * 100, now);
        assert!(!measure(&mut pace, now, DISK * 2, FEWEST * LARGER - 1, MEASURED));
        assert!(measure(&mut pace, now, DISK * 2, FEWEST * LARGER, MEASURED));
    }

    #[test]
    fn after_a_while_a_round_is_measured_or_the_gathering_ends() {
        let (mut pace, now) = (Pace::default(), Instant::now());
        pace.gathers_until = Some(now + GATHERING);
        assert!(pace.gathers(now) && !pace.is_due(now));
        let then = now + GATHERING;
        assert!(pace.gathers(then) && pace.is_due(then));
        assert!(!pace.gathers(then + GRACE) && !pace.is_due(then + GRACE), "too few came");
        pace.round_took(64, DISK * 64, then);
        assert!(pace.gathers(then + GATHERING) && !pace.is_due(then), "the disk is as slow as before");
        pace.round_took(64, DISK * 63, then);
        assert!(!pace.gathers(then), "the broker is fast now");
    }
}
